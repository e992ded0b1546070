"""Stem embeddings of 60 triplets over 100 distinct segments: our pipeline beside upstream's own calls. Run by hand.

    python tests/benchmarks/bench_extraction.py --data ../shared/data/everything-is-free

Both run in this process, on models of real size with random weights, loaded once: htdemucs and LAION-CLAP (HTSAT-tiny)
unless told otherwise. *Upstream* is what one would write from the README files: for every member of every triplet, as
it comes, read the segment, `Separator.separate_tensor(shifts=0)`, and for each stem `get_audio_embedding_from_data` or
`MuQMuLan(wavs=...)`. *Ours* embeds each distinct segment once, writes a store, and reads it. Upstream has all cores
for each operation, as torch has by default. It prints seconds, their ratio, the largest difference between the vectors,
and the share of our time that is spent outside the models.
"""

import argparse
import json
import logging
import os
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))


def make_triplets(segments, triplets, seed=0):
    """Return `(triplet, 3)` numbers of segments in which every segment occurs."""
    import numpy as np

    rng = np.random.default_rng(seed)
    members = np.concatenate([rng.permutation(segments), rng.integers(segments, size=max(0, 3 * triplets - segments))])
    return rng.permutation(members[: 3 * triplets]).reshape(triplets, 3)


def write_models(folder, encoder, separator):
    """Write models of real size with random weights; return upstream's encoder, and a maker of ours."""
    import random_models as models

    from stemsim.encoders import LaionClap, MuQMuLan

    sources = models.SIX if separator.endswith("6s") else models.FOUR
    models.write_htdemucs(folder / separator, separator, sources, **models.REAL_DEMUCS[len(sources)])
    if encoder == "clap":
        upstream = models.upstream_clap(models.write_roberta(folder / "roberta-base"))
        path = models.write_clap(folder / "clap.pt", upstream)
        return upstream, lambda: LaionClap(str(path))
    upstream = models.upstream_muq_mulan(folder, models.REAL_MUQ)
    return upstream, lambda: MuQMuLan(str(folder / "MuQ-MuLan-large"))


def run_upstream(members, folder, separator_name, upstream, encoder, stems, device):
    """Embed every member by upstream's own calls; return `(member, stem, dim)`."""
    import numpy as np
    import soundfile
    import soxr
    import torch
    from demucs.api import Separator

    rate = 48_000 if encoder == "clap" else 24_000
    separator = Separator(separator_name, repo=folder / separator_name, shifts=0, device=device)
    upstream.to(device)
    vectors = []
    for number, segment in enumerate(members):
        start, frames = round(segment.start * 44_100), round(segment.duration * 44_100)
        waveform, _ = soundfile.read(segment.path, frames=frames, start=start, dtype="float32", always_2d=True)
        mix, sources = separator.separate_tensor(torch.from_numpy(waveform.T.copy()), 44_100)
        by_name = {**sources, "residuals": sources["other"], "mix": mix}
        by_name = {stem: waveform.cpu() for stem, waveform in by_name.items()}
        row = []
        for stem in stems:
            mono = soxr.resample(by_name[stem].mean(dim=0).numpy(), 44_100, rate)
            clip = np.pad(mono, (0, max(0, round(segment.duration * rate) - len(mono))))[None]
            if encoder == "clap":
                row.append(upstream.get_audio_embedding_from_data(clip.astype(np.float32))[0])
            else:
                with torch.inference_mode():
                    clip = torch.from_numpy(clip.astype(np.float32)).to(device)
                    row.append(upstream(wavs=clip)[0].cpu().numpy())
        vectors.append(row)
        if number % 10 == 9:
            print(f"  upstream: {number + 1} of {len(members)} members", file=sys.stderr)
    array = np.array(vectors)
    return array / np.linalg.norm(array, axis=2, keepdims=True)


@contextmanager
def timed(*modules):
    """Add up the seconds that all threads spend in the models."""
    lock, spent, hooks = threading.Lock(), [0.0], []
    begun = threading.local()

    def before(*_):
        begun.at = time.perf_counter()

    def after(*_):
        with lock:
            spent[0] += time.perf_counter() - begun.at

    for module in modules:
        hooks += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    try:
        yield spent
    finally:
        for hook in hooks:
            hook.remove()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "../shared/data/everything-is-free")
    parser.add_argument("--encoder", choices=["clap", "muq"], default="clap")
    parser.add_argument("--separator", choices=["htdemucs", "htdemucs_6s"], default="htdemucs")
    parser.add_argument("--segments", type=int, default=100)
    parser.add_argument("--triplets", type=int, default=60)
    parser.add_argument("--workers", type=int, help="default: one a core")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()

    import numpy as np
    import torch

    from stemsim.audio import segment_windows
    from stemsim.embedding import StemEmbedder
    from stemsim.separators import Demucs

    logging.disable(logging.WARNING)
    windows = [
        window for mix in sorted(arguments.data.glob("*/mix.ogg")) for window in segment_windows(mix, duration=5.0)
    ]
    chosen = np.random.default_rng(0).choice(len(windows), arguments.segments, replace=False)
    segments = [windows[index] for index in chosen]
    members = [segments[index] for index in make_triplets(arguments.segments, arguments.triplets).ravel()]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        upstream, make_encoder = write_models(folder, arguments.encoder, arguments.separator)
        separator, encoder = Demucs(str(folder / arguments.separator)), make_encoder()
        embedder = StemEmbedder(separator, encoder, store=folder / "store", progress=False, workers=arguments.workers)
        embedder.embed_batch(segments[:1])  # both sides warm
        forward = separator._model, encoder._audio["audio_branch" if arguments.encoder == "clap" else "audio"]
        with timed(*forward) as spent:
            start = time.perf_counter()
            ours = embedder.embed(members)
            seconds = time.perf_counter() - start
        outside = 1.0 - spent[0] / (seconds * embedder.workers)
        start = time.perf_counter()
        embedder.embed(members)
        again = time.perf_counter() - start
        start = time.perf_counter()
        theirs = run_upstream(
            members, folder, arguments.separator, upstream, arguments.encoder, separator.stems, arguments.device
        )
        naive = time.perf_counter() - start
    difference = np.abs(ours.vectors.numpy() - theirs)[ours.present.numpy()].max()
    figures = {
        "encoder": arguments.encoder,
        "separator": arguments.separator,
        "members": len(members),
        "distinct segments": len(set(members)),
        "cores": torch.get_num_threads(),
        "workers": embedder.workers,
        "upstream, s": round(naive, 1),
        "ours, s": round(seconds, 1),
        "ratio": round(naive / seconds, 2),
        "of it by sharing segments": round(len(members) / len(set(members)), 2),
        "ours again, from the store, s": round(again, 2),
        "largest difference": float(difference),
        "share of stems skipped as silent": round(1.0 - ours.present.float().mean().item(), 4),
        "share of our time outside the models": round(outside, 4),
    }
    print(json.dumps(figures, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
