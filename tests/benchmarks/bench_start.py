"""Processor seconds and number of our own files that each command takes to start and to do a small job.

python tests/benchmarks/bench_start.py --data ../shared/data [--tree OLD_CHECKOUT]

With --tree, the same commands are run from another checkout in the same run, and ratios are printed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parents[2]
# Counts the files of the package that a command has imported by its end.
TRACE = """
import atexit, os, runpy, sys
def count():
    files = {getattr(m, "__file__", None) or "" for n, m in list(sys.modules.items()) if n.split(".")[0] == "stemsim"}
    with open(os.environ["STEMSIM_TRACE"], "w") as file:
        file.write(str(len(files - {""})))
atexit.register(count)
sys.argv = sys.argv[1:]
if sys.argv[0] == "train.py":
    sys.path.insert(0, os.getcwd())
    runpy.run_path("train.py", run_name="__main__")
else:
    runpy.run_module("stemsim.cli", run_name="__main__", alter_sys=True)
"""


def commands(data, library):
    """Return the commands by name."""
    sounds = data / "samples" / "sonic-pi"
    return {
        "stemsim --help": ["stemsim", "--help"],
        "stemsim compare": ["stemsim", "compare", sounds / "loop_amen.flac", sounds / "loop_breakbeat.flac"],
        "stemsim search": ["stemsim", "search", sounds / "loop_amen.flac", "--library", library],
        "stemsim votes": ["stemsim", "votes", data / "inst-sim-abx"],
        "train.py fit --help": ["train.py", "fit", "--help"],
        "train.py fit": ["train.py", "fit", "-c", "configs/demo.yaml"],
        "train.py test": ["train.py", "test", "-c", "configs/demo.yaml", "--ckpt_path", "LAST"],
        "train.py crossval": ["train.py", "crossval", "-c", "configs/demo.yaml"],
    }


def run(tree, arguments, folder):
    """Run a command in a checkout; return processor seconds and the number of our files."""
    trace = folder / "trace"
    runs = folder / "runs"
    last = str(runs / "checkpoints" / "last.ckpt")
    given = [str(last if part == "LAST" else part) for part in arguments]
    if given[0] == "train.py" and "--help" not in given:
        given += ["--trainer.default_root_dir", str(runs)]
    environment = {**os.environ, "PYTHONPATH": str(tree), "STEMSIM_TRACE": str(trace), "WANDB_SILENT": "true"}
    process = subprocess.Popen(
        [sys.executable, "-c", TRACE, *given],
        cwd=tree,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(given)} failed in {tree}")
    return usage.ru_utime + usage.ru_stime, int(trace.read_text())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=HERE.parent / "shared" / "data")
    parser.add_argument("--tree", type=Path, help="another checkout to run the same commands from")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    given = parser.parse_args()
    trees = {"ours": HERE, **({"other": given.tree.resolve()} if given.tree else {})}
    table = Table(title="processor seconds, number of files of the package")
    table.add_column("command")
    for name in trees:
        table.add_column(name, justify="right")
    if len(trees) > 1:
        table.add_column("ratio", justify="right")
    with tempfile.TemporaryDirectory() as place:
        found = {}
        for name, tree in trees.items():
            folder = Path(place) / name
            folder.mkdir()
            library, data = folder / "library", given.data.resolve()
            run(tree, ["stemsim", "index", data / "samples", "--library", library, "--no-progress"], folder)
            run(tree, commands(data, library)["train.py fit"], folder)  # songs and embeddings are made once
            found[name] = {what: run(tree, line, folder) for what, line in commands(data, library).items()}
    for what in found["ours"]:
        cells = [f"{found[name][what][0]:.2f} s, {found[name][what][1]}" for name in trees]
        if len(trees) > 1:
            cells.append(f"{found['ours'][what][0] / found['other'][what][0]:.2f}")
        table.add_row(what, *cells)
    Console().print(table)
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
