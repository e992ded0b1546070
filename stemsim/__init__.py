"""Music similarity as a weighted sum of stem similarities, with weights learned from listeners (arXiv:2601.19109)."""

from importlib.metadata import version

__version__ = version("stemsim")
