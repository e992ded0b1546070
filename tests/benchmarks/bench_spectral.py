"""Benchmark the classical encoder against mean MFCCs, and recompute its constants.

    python tests/benchmarks/bench_spectral.py                       # precision@5 and speed
    python tests/benchmarks/bench_spectral.py --songs               # same-song agreement per stem as well
    python tests/benchmarks/bench_spectral.py --scaling FILE        # writes stemsim/encoders/spectral_scaling.json

Run it from the root of the repository. Data: environment variable STEMSIM_DATA, default `../shared/data`.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import soxr
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from test_spectral import DATA, RATE, cosines, embed_each, mean_mfcc, precision_at_5, read_mono, samples, tone

from stemsim.encoders.spectral import GROUPS, Spectral

WINDOW_S, SILENT_DB = 5, -50
STEMS = ("drums", "piano", "vocals", "residuals", "mix")  # only one song has a bass stem


def euclidean(vectors):
    """Minus the Euclidean distances of vectors (items, dim)."""
    return -np.linalg.norm(vectors[:, None] - vectors, axis=2)


def z_scored(vectors):
    """Centre and scale vectors (items, dim) by their own statistics, which favours the baseline."""
    return (vectors - vectors.mean(axis=0)) / vectors.std(axis=0)


def retrieval_rows(encoder):
    """Yield name and precision@5 of every method, one pair of numbers for each collection and for both together."""
    sets = [samples("sonic-pi"), samples("uzu-drumkit")]
    sets.append((sets[0][0] + sets[1][0], np.concatenate([sets[0][1], "uzu " + sets[1][1].astype(object)])))
    ours = [embed_each(encoder, waveforms) for waveforms, _ in sets]
    yield "Spectral, cosine", [precision_at_5(cosines(v), c) for v, (_, c) in zip(ours, sets, strict=True)]
    for rate in (22050, 44100):
        mfcc = [np.stack([mean_mfcc(soxr.resample(x, RATE, rate), rate) for x in waveforms]) for waveforms, _ in sets]
        for scale, prepare in (("", np.asarray), (" z-scored", z_scored)):
            for name, compare in (("cosine", cosines), ("Euclidean", euclidean)):
                scores = [precision_at_5(compare(prepare(v)), c) for v, (_, c) in zip(mfcc, sets, strict=True)]
                yield f"MFCC {rate} Hz{scale}, {name}", scores


def speed(function, clips, repeats=5):
    """Seconds of audio per second, best of a few runs after one to warm up, for clips (batch, time)."""
    function(clips)
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        function(clips)
        taken.append(time.perf_counter() - start)
    return clips.shape[0] * clips.shape[1] / RATE / min(taken)


def song_windows():
    """Return song, stem and the waveform of every 5 s window that is not silent."""
    size = WINDOW_S * RATE
    windows = []
    for path in sorted((DATA / "everything-is-free").glob("*/*.ogg")):
        mono = read_mono(path)
        parts = mono[: len(mono) // size * size].reshape(-1, size)
        loud = 10 * np.log10(np.square(parts).mean(axis=1) + 1e-12) > SILENT_DB
        windows.extend((path.parent.name, path.stem, part) for part in parts[loud])
    return windows


def same_song_agreement(vectors, songs):
    """Share of triplets in which another window of the song is closer than a window of another song.

    The mean over queries, so that songs with more windows do not count more than once per window.
    """
    similarity = cosines(vectors)
    shares = []
    for i, song in enumerate(songs):
        same = similarity[i][(songs == song) & (np.arange(len(songs)) != i)]
        other = similarity[i][songs != song]
        if len(same) and len(other):
            shares.append((same[:, None] > other).mean())
    return np.mean(shares)


def print_songs(encoder):
    """Print same-song agreement of both methods per stem."""
    windows = song_windows()
    clips = [clip for *_, clip in windows]
    songs, stems = (np.array([window[i] for window in windows]) for i in (0, 1))
    methods = {"Spectral": embed_each(encoder, clips), "MFCC": np.stack([mean_mfcc(clip) for clip in clips])}
    methods["MFCC z-scored"] = z_scored(methods["MFCC"])
    print(f"\nSame-song agreement, {WINDOW_S} s windows\n{'':32}" + "".join(f"{stem:>11}" for stem in STEMS))
    for name, vectors in methods.items():
        scores = [same_song_agreement(vectors[stems == stem], songs[stems == stem]) for stem in STEMS]
        print(f"{name:32}" + "".join(f"{score:11.3f}" for score in scores))


def random_tones(count=120):
    """Synthesise tones that spread over the ranges of acoustic instruments."""
    random = np.random.default_rng(0)
    for seed in range(count):
        struck = seed % 2 == 1
        yield tone(
            fundamental=110 * 2 ** random.uniform(0, 3),
            attack=10 ** (random.uniform(-2.5, -1.7) if struck else random.uniform(-2.3, -0.7)),
            decay=10 ** random.uniform(-1.1, 0) if struck else None,
            tilt=random.uniform(-16, -3),
            odd_over_even=random.uniform(0, 20),
            stretch=10 ** random.uniform(-5, -2) if struck else 0.0,
            vibrato=random.choice([0, 0, 1]) * random.uniform(10, 60),
            noise=random.choice([0, 1, 1]) * 10 ** random.uniform(-4, -0.7),
            seed=seed,
        )


def fit_scaling(encoder):
    """Return centres and scales by group: one third each of samples, stems of songs and synthetic tones."""
    corpora = [
        samples("sonic-pi")[0] + samples("uzu-drumkit")[0],
        [w for *_, w in song_windows()],
        list(random_tones()),
    ]
    described = [[encoder.describe(torch.from_numpy(clip)[None]) for clip in corpus] for corpus in corpora]
    centres, scales = {}, {}
    for group in GROUPS:
        values = [np.concatenate([clip[group.name].numpy() for clip in corpus]).astype(float) for corpus in described]
        centre = np.mean([part.mean(axis=0) for part in values], axis=0)
        if group.name == "chroma":
            centre = np.zeros_like(centre)  # no key is more central than another
        scale = np.sqrt(np.mean([np.square(part - centre).mean(axis=0) for part in values], axis=0))
        if group.kind == "vector":
            scale = np.full_like(scale, np.sqrt(np.square(scale).mean()))  # keep its directions as they are
        centres[group.name], scales[group.name] = centre, scale
    return centres, scales


def scaling_json(centres, scales):
    """Return the content of `spectral_scaling.json`, three digits to a number."""
    groups = [
        f'  "{name}": {{\n    "centre": {digits(centres[name])},\n    "scale": {digits(scales[name])}\n  }}'
        for name in centres
    ]
    return "{\n" + ",\n".join(groups) + "\n}\n"


def digits(values):
    return "[" + ", ".join(f"{value:.3g}" for value in values) + "]"


def main():
    """Parse the command line; print the tables, or write the source of the constants."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--songs", action="store_true", help="same-song agreement per stem as well")
    parser.add_argument("--scaling", metavar="FILE", type=Path, help="only write the scaling constants, as JSON")
    parser.add_argument("--threads", type=int, default=2, help="processor threads for torch (default: 2)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    encoder = Spectral()
    if args.scaling:
        args.scaling.write_text(scaling_json(*fit_scaling(encoder)))
        return
    print("precision@5: raw / over min(5, others of the category)")
    print(f"{encoder.identity}, dim {encoder.dim}\n{'':32}{'sonic-pi':>15}{'uzu-drumkit':>15}{'together':>15}")
    figures = {"precision@5": {}}
    for name, scores in retrieval_rows(encoder):
        figures["precision@5"][name] = scores
        print(f"{name:32}" + "".join(f"{raw:9.3f}/{fair:.3f}" for raw, fair in scores))
    clips = torch.randn(32, WINDOW_S * RATE, generator=torch.Generator().manual_seed(0)) / 10
    ours = speed(encoder, clips)
    mfcc = speed(lambda batch: [mean_mfcc(clip) for clip in batch.numpy()], clips)
    print(
        f"\nSpeed, 32 clips of 5 s: Spectral {ours:.0f} x real time, librosa MFCC {mfcc:.0f} x, ratio {ours / mfcc:.2f}"
    )
    figures |= {"Spectral, x real time": ours, "librosa MFCC, x real time": mfcc}
    if args.songs:
        print_songs(encoder)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
