"""What this machine can do at best, which no program can beat. Run by hand.

    python tests/benchmarks/bench_limits.py [--models demucs clap muq] [--json FILE]

Memory: gigabytes a second of summing up and of copying one gigabyte of float32, which a scan of all items cannot beat.
Arithmetic: floating-point operations a second of a product of two matrices. Models: operations of one clip of 5 s, as
`torch.utils.flop_counter` counts products and convolutions, and the seconds that it takes, of the models at real size
with random weights. Start: seconds until a new process has imported things, the least of some.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench_models import make
from signals import make_signal

SIZE = 2048  # of the matrices
STARTS = {
    "python": "pass",
    "numpy": "import numpy",
    "torch": "import torch",
    "stemsim": "import stemsim",
    "stemsim --help": "import sys, runpy; sys.argv[1:] = ['--help']; runpy.run_module('stemsim.cli')",
}


def best(action, repeats=5):
    """Return the least of the seconds that an action takes, after one to warm up."""
    action()
    taken = []
    for _ in range(repeats):
        begun = time.perf_counter()
        action()
        taken.append(time.perf_counter() - begun)
    return min(taken)


def memory():
    """Return gigabytes a second: of reading, and of reading and writing."""
    values = torch.ones(250_000_000)
    other, size = torch.empty_like(values), 4e-9 * len(values)
    return {"sum, GB/s": size / best(values.sum), "copy, GB/s": 2 * size / best(lambda: other.copy_(values))}


def arithmetic():
    """Return billions of operations a second."""
    one = torch.randn(SIZE, SIZE)
    return {"GFLOP/s": 2e-9 * SIZE**3 / best(lambda: one @ one)}


def cost(name, folder):
    """Return billions of operations, and seconds, of one clip."""
    build, rate, channels = make(name, folder)
    model = build("float32", 1)
    clip = torch.from_numpy(make_signal(0, 5.0, rate, channels=channels))[None]
    torch.backends.mha.set_fastpath_enabled(False)  # its fused operation is not counted
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(clip)
    torch.backends.mha.set_fastpath_enabled(True)
    with torch.inference_mode():
        return {"GFLOP": counter.get_total_flops() / 1e9, "s": best(lambda: model(clip), repeats=3)}


def start(code):
    """Return the seconds of a new process."""
    return best(lambda: subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", choices=["demucs", "clap", "muq"], default=["demucs", "clap", "muq"])
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    given = parser.parse_args()
    figures = {"cores": os.cpu_count(), "threads": torch.get_num_threads(), **memory(), **arithmetic()}
    figures["start, s"] = {name: start(code) for name, code in STARTS.items()}
    figures["models"] = {}
    for name in given.models:
        with tempfile.TemporaryDirectory() as folder:
            figures["models"][name] = cost(name, Path(folder))
    print(json.dumps(figures, indent=2))
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
