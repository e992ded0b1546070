"""Real retrieval: which song are these drums from? And how much of indexing is spent outside the models. Run by hand.

    python tests/benchmarks/bench_retrieval.py --data ../shared/data

The library holds windows of 5 s of the true stems of the songs in `everything-is-free`, each stem file on its own,
like loops of a sample pack. Queries are windows of the mixes, half a window off; whatever overlaps a query in time
within its own song is left out of its ranking. With the weights `stem:mix` a stem of the query is compared with whole
sounds of the library, and what is right is that very stem of the same song at another time.

Three kinds of queries: the true stem (the upper bound: as if separation were perfect), the stem that the separator
`Bands` gives (which has no vocals or piano: its residuals stand for them), and the whole mix (no separation). For each
stem: mean reciprocal rank of the first right item (MRR), and recall@10, the share of right items among the 10 best (of
10, or of all that there are). *All* ranks all stems of all songs, and so asks for instrument and song; *same* ranks the
windows of that stem alone, and so asks for the song. Chance is what a random order gives, exactly. The last row is the
mix among windows of the mixes.

All kinds are asked the same queries: the windows in which the true stem sounds. Where it sounds but its separation is
silent, nothing is found: a miss, 0 in both figures, counted in the column *silent*. Behind each figure is its 95 %
bootstrap interval over songs, which are drawn anew with all of their queries; with fewer than two songs there is none.

Last, the share of the time of `Library.add` that is spent outside separator and encoder: 1 - (seconds of all threads in
the models) / (seconds x workers), and the same in CPU time of this process, which other work on the machine does not
touch. Tempo and key are measured too, as they are by default.
"""

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from math import comb
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).resolve().parents[2]
WINDOW = 5.0


def make_source():
    """Return a source that takes every file for a sound of its own: the mix alone, in the 6-stem layout."""
    import torch

    from stemsim.separators import Separator
    from stemsim.stems import STEMS

    class Whole(Separator):
        stems = STEMS
        identity = "whole sounds in the 6-stem layout"
        sample_rate = None
        channels = None

        def __call__(self, waveforms):
            silent = torch.zeros(len(waveforms), len(STEMS) - 1, *waveforms.shape[1:])
            return torch.cat([silent, waveforms.unsqueeze(1)], dim=1)

    return Whole()


def query_vectors(segments, encoder):
    """Return the queries of every kind: stem -> `(query, dim)`, zeros where it is silent."""
    from stemsim.embedding import StemEmbedder
    from stemsim.separators import Bands, Multitrack
    from stemsim.stems import STEMS

    true = StemEmbedder(Multitrack("6-stem"), encoder, progress=True).embed(segments)
    bands = StemEmbedder(Bands(), encoder, progress=True)
    separated = bands.embed(segments)
    of_bands = {stem: separated.vectors[:, bands.stems.index(stem)] for stem in bands.stems}
    of_bands |= dict.fromkeys(("guitar", "piano", "vocals"), of_bands["residuals"])
    mix = true.vectors[:, STEMS.index("mix")]
    return {
        "true stem": {stem: true.vectors[:, index] for index, stem in enumerate(STEMS)},
        "bands": of_bands,
        "mix": dict.fromkeys(STEMS, mix),
    }


def rank(library, vector, stem, segment):
    """Return, of all items but those that overlap the query, the best first: is it that stem, and is it that song?"""
    import torch

    from stemsim.similarity import StemEmbeddings
    from stemsim.stems import STEMS

    song, end = segment.path.parent, segment.start + segment.duration
    vectors = torch.zeros(1, len(STEMS), len(vector))
    vectors[0, STEMS.index(stem)] = vector
    query = StemEmbeddings(vectors, torch.zeros(1, len(STEMS)), vectors.norm(dim=2) > 0)
    hits = library.search(query, routing=f"{stem}:mix", k=library.index.count(), fold=2.0)
    return [
        (hit.path.stem == stem, hit.path.parent == song)
        for hit in hits
        if hit.path.parent != song or hit.start >= end or segment.start >= hit.end
    ]


def chance(total, right):
    """Return MRR and recall@10 of a random order."""
    first_at = [comb(total - place, right - 1) / comb(total, right) for place in range(1, total - right + 2)]
    return sum(p / place for place, p in enumerate(first_at, start=1)), right * min(10, total) / total / min(10, right)


class Row(NamedTuple):
    """The figures of one stem, kind of query and pool; an interval is None where one song has all of the queries."""

    stem: str
    query: str
    ranked: str
    silent: int
    queries: int
    songs: int
    mrr: float
    recall: float
    chance_mrr: float
    chance_recall: float
    mrr_interval: tuple[float, float] | None
    recall_interval: tuple[float, float] | None


def summary(values, draws=10_000):
    """Return queries, songs, the four means, and the intervals of MRR and recall of `(song, four figures)`."""
    import numpy as np

    figures = np.array([figures for _, figures in values])
    _, song = np.unique([str(song) for song, _ in values], return_inverse=True)
    counts = np.bincount(song)
    intervals = (None, None)
    if len(counts) > 1:
        sums = np.stack([np.bincount(song, column) for column in figures[:, :2].T], axis=1)
        drawn = np.random.default_rng(0).integers(len(counts), size=(draws, len(counts)))
        means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)[:, None]
        intervals = tuple(map(tuple, np.quantile(means, (0.025, 0.975), axis=0).T.tolist()))
    return len(values), len(counts), *figures.mean(axis=0).tolist(), *intervals


def evaluate(library, segments, kinds, stems):
    """Return the figures of every stem, kind of query and pool; a silent query of a stem that sounds is a miss."""
    rows = []
    for stem in stems:
        for kind, vectors in kinds.items():
            figures, silent = {"all": [], "same": []}, {"all": 0, "same": 0}
            for vector, true, segment in zip(vectors[stem], kinds["true stem"][stem], segments, strict=True):
                if not float(true.norm()):
                    continue  # the song has no such stem, or it is silent here: there is nothing to find
                heard = bool(float(vector.norm()))
                ranking = rank(library, vector if heard else true, stem, segment)  # where silent, for chance alone
                for pool, values in figures.items():
                    right = [is_stem and is_song for is_stem, is_song in ranking if is_stem or pool == "all"]
                    if total := sum(right):
                        found = (1 / (right.index(True) + 1), sum(right[:10]) / min(10, total)) if heard else (0.0, 0.0)
                        values.append((segment.path.parent, (*found, *chance(len(right), total))))
                        silent[pool] += not heard
            for pool, values in figures.items():
                if values:
                    rows.append(Row(stem, kind, pool, silent[pool], *summary(values)))
    return rows


@contextmanager
def timed(separator, encoder):
    """Add up the seconds that all threads spend in separator and encoder: by the clock, and of CPU."""
    lock, spent, inside = threading.Lock(), {"clock": 0.0, "cpu": 0.0}, threading.local()
    original = type(separator).__call__

    def begin(*_):
        inside.at = time.perf_counter(), time.thread_time()

    def end(*_):
        with lock:
            spent["clock"] += time.perf_counter() - inside.at[0]
            spent["cpu"] += time.thread_time() - inside.at[1]

    def call(self, waveforms):
        begin()
        try:
            return original(self, waveforms)
        finally:
            end()

    type(separator).__call__ = call
    hooks = encoder.register_forward_pre_hook(begin), encoder.register_forward_hook(end)
    try:
        yield spent
    finally:
        type(separator).__call__ = original
        for hook in hooks:
            hook.remove()


def share_outside(paths, folder):
    """Index files with bands and Spectral, and return where the time went."""
    from stemsim.embedding import StemEmbedder
    from stemsim.encoders import Spectral
    from stemsim.retrieval import Library
    from stemsim.separators import Bands

    embedder = StemEmbedder(Bands(), Spectral(), progress=False)
    library = Library(folder, embedder)
    library.index.count()  # opened
    cpu = time.process_time()
    with timed(embedder.source, embedder.encoder) as spent:
        report = library.add(paths)
    cpu = time.process_time() - cpu
    return {
        "files": report.added,
        "items": report.items,
        "seconds": round(report.seconds, 1),
        "items/s": round(report.items / report.seconds, 1),
        "workers": embedder.workers,
        "share outside the models, clock": round(1 - spent["clock"] / (report.seconds * embedder.workers), 4),
        "share outside the models, CPU": round(1 - spent["cpu"] / cpu, 4),
    }


def with_interval(figure, interval):
    """Return the text of a figure and, behind it, its interval."""
    return f"{figure:.3f} " + ("-" if interval is None else "{:.2f}-{:.2f}".format(*interval))


def show(rows):
    """Print the table."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("stem", "query", "ranked", "queries", "silent", "songs", "MRR", "chance", "recall@10", "chance"):
        table.add_column(heading, justify="left" if heading in {"stem", "query", "ranked"} else "right")
    last = None
    for row in rows:
        if last not in {None, row.stem}:
            table.add_section()
        table.add_row(
            *(row.stem if last != row.stem else "", row.query, row.ranked),
            *(str(row.queries), str(row.silent), str(row.songs)),
            *(with_interval(row.mrr, row.mrr_interval), f"{row.chance_mrr:.3f}"),
            *(with_interval(row.recall, row.recall_interval), f"{row.chance_recall:.3f}"),
        )
        last = row.stem
    Console(highlight=False, width=None if sys.stdout.isatty() else 120).print(table)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("STEMSIM_DATA", "../shared/data")
    parser.add_argument("--data", type=Path, default=ROOT / default)
    parser.add_argument("--every", type=int, default=1, help="take every N-th query")
    parser.add_argument("--part", choices=["both", "retrieval", "time"], default="both")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()

    from stemsim.audio import Segment, audio_info
    from stemsim.embedding import StemEmbedder
    from stemsim.encoders import Spectral
    from stemsim.retrieval import Library
    from stemsim.retrieval.catalogue import absolute

    arguments.data = absolute(arguments.data)  # as the library names files
    songs = sorted((arguments.data / "everything-is-free").glob("*/mix.ogg"))
    if not songs:
        sys.exit(f"No songs in {arguments.data / 'everything-is-free'}: name the folder that holds it with --data.")
    figures = {}
    with tempfile.TemporaryDirectory() as temporary:
        if arguments.part != "time":
            encoder = Spectral()
            library = Library(Path(temporary) / "stems", StemEmbedder(make_source(), encoder, progress=False))
            files = [path for song in songs for path in sorted(song.parent.glob("*.ogg")) if path.stem != "mix"]
            library.add(files, listen=False, progress=True)
            mixes = Library(Path(temporary) / "mixes", StemEmbedder(make_source(), encoder, progress=False))
            mixes.add(songs, listen=False, progress=True)
            segments = [
                Segment(song, WINDOW / 2 + WINDOW * number, WINDOW)
                for song in songs
                for number in range(int(audio_info(song).duration / WINDOW) - 1)
            ][:: arguments.every]
            kinds = query_vectors(segments, encoder)
            rows = evaluate(library, segments, kinds, ["bass", "drums", "piano", "vocals", "residuals"])
            whole = evaluate(mixes, segments, {"true stem": kinds["mix"]}, ["mix"])
            rows += [row._replace(query="mix") for row in whole if row.ranked == "same"]
            print(f"{library.index.count()} windows of {len(files)} stems of {len(songs)} songs")
            show(rows)
            figures["retrieval"] = [row._asdict() for row in rows]
        if arguments.part != "retrieval":
            figures["indexing"] = {
                "songs": share_outside(songs, Path(temporary) / "time-songs"),
                "samples": share_outside([arguments.data / "samples"], Path(temporary) / "time-samples"),
            }
            print(json.dumps(figures["indexing"], indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
