"""Batch sizes and precisions of the models at real size, with random weights. Run by hand.

    python tests/benchmarks/bench_models.py [--device cuda:0] [--models demucs clap muq]

For each model and clips of 5 s: seconds a clip one by one and in batches, and for bfloat16 and float16 (automatic mixed
precision) the time beside that of float32, and the error: for encoders the largest difference of a component and the
smallest cosine to the float32 vector, for Demucs the ratio of stem to error in dB. Random weights say how much rounding
there is; how much of it trained weights let through may differ.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))


def make(name, folder):
    """Write a model's random weights; return what builds it at a precision, its rate, and its channels."""
    import random_models as models

    from stemsim.encoders import LaionClap, MuQMuLan
    from stemsim.separators import Demucs

    if name == "demucs":
        path = models.write_htdemucs(folder / "htdemucs", **models.REAL_DEMUCS[4])
        return lambda precision, batch: Demucs(str(path), precision=precision, batch_size=batch), 44_100, 2
    if name == "clap":
        upstream = models.upstream_clap(models.write_roberta(folder / "roberta-base"))
        path = models.write_clap(folder / "clap.pt", upstream)
        return lambda precision, _: LaionClap(str(path), precision=precision), 48_000, None
    models.upstream_muq_mulan(folder, models.REAL_MUQ)
    return lambda precision, _: MuQMuLan(str(folder / "MuQ-MuLan-large"), precision=precision), 24_000, None


def seconds_a_clip(model, clips, batch, device, repeats=3):
    """Return the median of the seconds for one clip, given `batch` at once, and what the model gives."""
    import torch

    synchronize = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    times = []
    with torch.inference_mode():
        outputs = torch.cat([model(part).cpu() for part in torch.split(clips, batch)])
        for _ in range(repeats):
            synchronize()
            start = time.perf_counter()
            for part in torch.split(clips, batch):
                model(part)
            synchronize()
            times.append((time.perf_counter() - start) / len(clips))
    return statistics.median(times), outputs


def error(name, exact, lower):
    """Say how far a lower precision is from float32."""
    import torch

    if name == "demucs":
        difference = (lower - exact)[:, :-1]
        ratios = 20 * torch.log10(exact[:, :-1].std((0, 2, 3)) / difference.std((0, 2, 3)))
        return f"stem / error {ratios.min():.0f} dB at least"
    cosine = torch.nn.functional.cosine_similarity(exact.double(), lower.double(), dim=1).min()
    return f"difference {(lower - exact).abs().max():.1e}, 1 - cosine {1 - cosine:.1e}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=["demucs", "clap", "muq"], default=["demucs", "clap", "muq"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()

    import numpy as np
    import torch
    from signals import make_signal

    figures = []
    for name in arguments.models:
        with tempfile.TemporaryDirectory() as temporary:
            build, rate, channels = make(name, Path(temporary))
            clips = [make_signal(seed, 5.0, rate, channels=channels) for seed in range(arguments.clips)]
            inputs = torch.from_numpy(np.stack(clips)).to(arguments.device if name != "demucs" else "cpu")
            base, exact = None, None
            for batch in arguments.batches:
                seconds, exact = seconds_a_clip(
                    build("float32", batch).to(arguments.device), inputs, batch, arguments.device
                )
                base = base or seconds
                figures.append({"model": name, "precision": "float32", "at once": batch, "s a clip": seconds})
                print(f"{name}: float32, {batch} at once: {seconds:.3f} s a clip ({base / seconds:.2f} x)", flush=True)
            for precision in ("bfloat16", "float16"):
                model = build(precision, arguments.batches[0]).to(arguments.device)
                seconds, lower = seconds_a_clip(model, inputs, arguments.batches[0], arguments.device)
                off = error(name, exact, lower)
                figures.append({"model": name, "precision": precision, "at once": arguments.batches[0]})
                figures[-1] |= {"s a clip": seconds, "error": off}
                print(f"{name}: {precision}: {base / seconds:.2f} x, {off}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
