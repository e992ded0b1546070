"""`python -m stemsim.cli`: the command `stemsim` where it is not on the PATH."""

from stemsim.cli import app

app()
