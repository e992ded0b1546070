"""Search made-up items with weights of every kind, beside NumPy's exact scan, faiss flat and faiss HNSW. Run by hand.

    python tests/benchmarks/bench_search.py [--rows 100000] [--queries 50] [--codes BITS] [--json FILE]

Items are clustered unit vectors, a fifth of the stems of each silent, the mix a blend of the stems; queries are new
draws from the same clusters, each with weights of its own. Recall@50 is beside a float64 scan of the same float16
numbers; items whose similarity equals that of the 50th count as found. Times are of a whole search: with LanceDB that
includes the metadata of the items and their exact similarities, with NumPy and faiss neither. All run in one process,
one after the other, with as many threads as there are cores. `faiss` is skipped where it is not installed (pip install
faiss-cpu).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from stemsim.embedding import EmbeddingSpec
from stemsim.retrieval.filter import ItemFilter
from stemsim.retrieval.held_query import HeldQuery
from stemsim.retrieval.indexes.lance import LanceIndex
from stemsim.retrieval.items import Items
from stemsim.retrieval.query import Query
from stemsim.retrieval.routing import Routing
from stemsim.stems import STEMS

K = 50
CANDIDATES = 600  # of faiss' codes that are scored again
CODES_TRAINED_ON = 20_000
CLUSTERS = 500
SILENT = 0.2  # share of stems
BATCH = 4096
SAME = 1e-6  # similarities that differ by less are equal
TAGS = np.fromiter([("drums", "loop"), ("bass",), ("keys",), ("fx",), ()], object, 5)
FILTER = ItemFilter(category=("drums",), bpm=(118.0, 124.0))
TARGETS = {"query p50 ms": 25.0, "recall": 0.999, "slider move p50 ms": 20.0, "open + first query s": 2.0}


def draw(rng, centres, rows):
    """Return `(row, stem, dim)` float32: near a centre for each stem, zeros where it is silent; the mix is a blend."""
    clusters, stems, dim = centres.shape
    noise = rng.standard_normal((rows, stems, dim), dtype=np.float32) * (0.8 / dim**0.5)
    vectors = unit(centres[rng.integers(clusters, size=(rows, stems)), np.arange(stems)] + noise)
    vectors[:, :-1] *= rng.random((rows, stems - 1, 1)) > SILENT
    gains = rng.uniform(0.2, 1.0, (rows, stems - 1, 1))
    blend = (gains * vectors[:, :-1]).sum(axis=1) + 0.3 * vectors[:, -1]  # the mix always sounds
    vectors[:, -1] = unit(blend + noise[:, -1])
    return vectors.astype(np.float32)


def unit(vectors):
    """Return vectors of norm 1."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def make_centres(rng, dim):
    """Return centres `(cluster, stem, dim)`, all of which share a direction, as those of real encoders do."""
    common = rng.standard_normal((1, len(STEMS), dim)) * 0.7
    centres = rng.standard_normal((CLUSTERS, len(STEMS), dim)) + common
    return unit(centres).astype(np.float32)


def describe(rng, vectors, first):
    """Return items with these vectors and made-up metadata."""
    rows = len(vectors)
    return Items(
        stems=STEMS,
        key=np.array([f"{first + row:032x}" for row in range(rows)]),
        content=np.array([f"{(first + row) // 6:032x}" for row in range(rows)]),
        path=np.array([f"/library/pack {(first + row) // 600}/loop {(first + row) // 6}.wav" for row in range(rows)]),
        start=5.0 * ((first + np.arange(rows)) % 6),
        duration=np.full(rows, 5.0),
        file_duration=np.full(rows, 30.0),
        tags=rng.choice(TAGS, rows),
        bpm=np.where(rng.random(rows) < 0.3, np.nan, rng.uniform(80.0, 160.0, rows)),
        musical_key=rng.choice(["A minor", "C major", ""], rows),
        loudness=rng.uniform(-40.0, -6.0, rows),
        present=(vectors != 0.0).any(axis=2),
        vectors=torch.from_numpy(vectors),
    )


def routings(rng):
    """Return weights of each kind, drawn anew for each query."""
    size = len(STEMS)
    positive, one = rng.uniform(0.05, 1.0, size), np.zeros(size)
    one[rng.integers(size)] = 1.0
    two = np.zeros(size)
    two[rng.choice(size, 2, replace=False)] = rng.uniform(0.2, 1.0, 2)
    signs = np.where(rng.permutation(size) < 2, -1.0, 1.0)
    matrices = {
        "equal": np.eye(size),
        "random": np.diag(positive),
        "single stem": np.diag(one),
        "two stems": np.diag(two),
        "negative": np.diag(positive * signs),
        "stem:mix": np.outer(one, np.eye(size)[-1]),
        "cross-stem": rng.standard_normal((size, size)),
    }
    return {kind: Routing(STEMS, torch.from_numpy(matrix)) for kind, matrix in matrices.items()}


def make_queries(rng, centres, count):
    """Return for each kind of weights the routings, and the queries folded with them `(query, stem * dim)`."""
    queries = torch.from_numpy(draw(rng, centres, count))
    chosen = [routings(rng) for _ in range(count)]
    by_kind = {kind: [one[kind] for one in chosen] for kind in chosen[0]}
    folded = {
        kind: torch.stack([routing.fold(query) for routing, query in zip(those, queries, strict=True)])
        for kind, those in by_kind.items()
    }
    return by_kind, folded


def least_similarity(matrix, folded, mask=None):
    """Return the similarity of the last item of the exact answer to each query, in float64."""
    kept = torch.empty(len(folded), 0, dtype=torch.float64)
    for start in range(0, len(matrix), BATCH):
        part = slice(start, start + BATCH)
        kept = best_similarities(kept, matrix[part], folded, None if mask is None else mask[part])
    return kept[:, -1], kept.shape[1]


def best_similarities(kept, matrix, folded, mask=None):
    """Return the K highest similarities of each query so far, given those of earlier items and some more items."""
    similarity = folded @ torch.from_numpy(matrix).double().T
    if mask is not None:
        similarity = similarity[:, torch.from_numpy(mask)]
    kept = torch.cat([kept, similarity], dim=1)
    return torch.topk(kept, min(K, kept.shape[1]), dim=1).values


def timed(search, queries, *, warm=3):
    """Search for each query; return times in ms and answers."""
    for query in queries[:warm]:
        search(query)
    times, answers = [], []
    for query in queries:
        start = time.perf_counter()
        answers.append(search(query))
        times.append(1000.0 * (time.perf_counter() - start))
    return times, answers


def row(times, recall=None):
    """Return one line of the table."""
    found = {"p50 ms": float(np.percentile(times, 50)), "p99 ms": float(np.percentile(times, 99))}
    return found if recall is None else {**found, "recall": float(np.mean(recall)), "worst": float(np.min(recall))}


def recalls(similarities, least, found):
    """Return the share of the exact answer that each search found, given the exact similarities of what it found."""
    return [float((seen >= bound - SAME).sum()) / found for seen, bound in zip(similarities, least, strict=True)]


def measure_index(index, folded, least, where=None):
    """Search an index of ours with each kind of weights."""
    table = {}
    for kind, vectors in folded.items():
        times, answers = timed(lambda vector: index.search(vector, K, where=where), vectors)
        table[kind] = row(times, recalls([hits.similarity for hits in answers], *least[kind]))
    return table


def measure_rows(search, matrix, folded, least):
    """Search something that returns row numbers."""
    table = {}
    for kind, vectors in folded.items():
        times, answers = timed(search, vectors.float().numpy())
        exact = [
            torch.from_numpy(matrix[rows]).double() @ vector for rows, vector in zip(answers, vectors, strict=True)
        ]
        table[kind] = row(times, recalls(exact, *least[kind]))
    return table


def numpy_scan(full):
    """Return an exact search by one product."""

    def search(vector):
        similarity = full @ vector
        best = np.argpartition(-similarity, K)[:K]
        return best[np.argsort(-similarity[best])]

    return search


def faiss_flat(faiss, full):
    """Return faiss' exact search."""
    flat = faiss.IndexFlatIP(full.shape[1])
    flat.add(full)
    return lambda vector: flat.search(vector[None], K)[1][0]


def faiss_codes(faiss, full, matrix, bits):
    """Return a search over all of faiss' RaBitQ codes, as many bits as ours, with the best scored again exactly."""
    rotation = faiss.RandomRotationMatrix(full.shape[1], full.shape[1])
    rotation.init(1)
    codes = faiss.IndexRaBitQFastScan(full.shape[1], faiss.METRIC_INNER_PRODUCT, 32, bits)
    index = faiss.IndexPreTransform(rotation, codes)
    index.train(full[:CODES_TRAINED_ON])
    index.add(full)

    def search(vector):
        rows = np.sort(index.search(vector[None], CANDIDATES)[1][0])
        similarity = matrix[rows].astype(np.float32) @ vector
        return rows[np.argsort(-similarity)[:K]]

    return search


def measure_others(matrix, folded, least, report, *, codes):
    """Measure NumPy and faiss on a float32 copy of the vectors; `codes` is the bits of faiss' codes, 0 for none."""
    full = matrix.astype(np.float32)
    report["engines"]["numpy float32, exact"] = measure_rows(numpy_scan(full), matrix, folded, least)
    try:
        import faiss
    except ImportError:
        report["notes"].append("faiss is not installed: pip install faiss-cpu")
        return
    report["engines"]["faiss flat, exact"] = measure_rows(faiss_flat(faiss, full), matrix, folded, least)
    if codes:
        start = time.perf_counter()
        search, name = faiss_codes(faiss, full, matrix, codes), f"faiss RaBitQ, {codes} bits"
        report["build s"][name] = time.perf_counter() - start
        report["engines"][name] = measure_rows(search, matrix, folded, least)
        del search
    graph = faiss.IndexHNSWFlat(full.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = 64
    start = time.perf_counter()
    graph.add(full)
    report["build s"]["faiss HNSW (M=32, efConstruction=64)"] = time.perf_counter() - start
    for effort in (64, 512):
        graph.hnsw.efSearch = effort
        report["engines"][f"faiss HNSW, efSearch={effort}"] = measure_rows(
            lambda vector: graph.search(vector[None], K)[1][0], matrix, folded, least
        )


def fill(index, rng, matrix, dim, report):
    """Insert all items in batches, build the index, and note times and sizes; return which items the filter admits."""
    mask, start = [], time.perf_counter()
    for first in range(0, len(matrix), BATCH):
        items = describe(rng, np.asarray(matrix[first : first + BATCH], np.float32).reshape(-1, len(STEMS), dim), first)
        mask.append(FILTER.mask(items))
        index.upsert(items)
    report["build s"]["LanceDB, insertion"] = time.perf_counter() - start
    start = time.perf_counter()
    index.optimise()
    report["build s"]["LanceDB, index"] = time.perf_counter() - start
    report["answers"] = index.describe()
    return np.concatenate(mask)


def sizes(folder):
    """Return megabytes on the disk of rows and of the approximate index."""
    files = [(path, path.stat().st_size) for path in Path(folder).rglob("*") if path.is_file()]
    codes = sum(size for path, size in files if "_indices" in path.parts)
    return {"rows": (sum(size for _, size in files) - codes) / 1e6, "index": codes / 1e6}


def measure_sliders(held, by_kind):
    """Move the sliders of a held query, without those that weigh only what is silent in it, which is an error."""
    audible = set(held.query.stems) - set(held.query.silent)
    routings = (routing for those in by_kind.values() for routing in those)
    moves = [routing for routing in routings if audible & {stem for stem, _, _ in routing.pairs}]
    return row(timed(lambda routing: held.search(routing, K), moves)[0])


def first_query(folder, dim):
    """Open an index and search it, as a new process does; return seconds."""
    vector = torch.from_numpy(np.load(Path(folder) / "query.npy"))
    import lancedb  # noqa: F401 - not part of the time, but said

    imported = time.perf_counter()
    index = LanceIndex(Path(folder) / "lance", EmbeddingSpec("benchmark", "benchmark", "v1", STEMS, dim))
    opened = time.perf_counter()
    hits = index.search(vector, K)
    done = time.perf_counter()
    return {"open": opened - imported, "first query": done - opened, "hits": len(hits)}


def measure_opening(folder, dim, vector):
    """Open and search in new processes; return the median of seconds."""
    np.save(Path(folder) / "query.npy", vector.numpy())
    command = [sys.executable, __file__, "--dim", str(dim), "--open", str(folder)]
    runs = []
    for _ in range(5):
        start = time.perf_counter()
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        runs.append({**json.loads(done.stdout), "whole process": time.perf_counter() - start})
    return {part: statistics.median(run[part] for run in runs) for part in ("open", "first query", "whole process")}


def run(folder, arguments):
    """Measure everything; return the report."""
    rng = np.random.default_rng(arguments.seed)
    centres = make_centres(rng, arguments.dim)
    report = {
        "rows": arguments.rows,
        "stems": len(STEMS),
        "dim": arguments.dim,
        "k": K,
        "queries": arguments.queries,
        "cores": os.cpu_count(),
        "load before": os.getloadavg()[0],
        "notes": [],
        "build s": {},
        "engines": {},
    }
    shape = (arguments.rows, len(STEMS) * arguments.dim)
    matrix = np.lib.format.open_memmap(folder / "vectors.npy", mode="w+", dtype=np.float16, shape=shape)
    for start in range(0, arguments.rows, BATCH):
        rows = min(BATCH, arguments.rows - start)
        matrix[start : start + rows] = draw(rng, centres, rows).reshape(rows, -1)
    by_kind, folded = make_queries(rng, centres, arguments.queries)
    least = {kind: least_similarity(matrix, vectors) for kind, vectors in folded.items()}
    spec = EmbeddingSpec("benchmark", "benchmark", "v1", STEMS, arguments.dim)
    index = LanceIndex(folder / "lance", spec)
    mask = fill(index, rng, matrix, arguments.dim, report)
    report["MB"] = sizes(folder / "lance")
    report["engines"]["stemsim on LanceDB"] = measure_index(index, folded, least)
    fewer = {kind: least_similarity(matrix, folded[kind], mask) for kind in ("random", "single stem")}
    filtered = measure_index(index, {kind: folded[kind] for kind in fewer}, fewer, FILTER)
    report["filtered"] = {"admitted": int(mask.sum()), **filtered}
    report["open"] = measure_opening(folder, arguments.dim, folded["random"][0])
    some = torch.from_numpy(draw(np.random.default_rng(arguments.seed), centres, 200))
    sounding = some[(some != 0.0).any(dim=2).all(dim=1)][0]  # in all stems: each slider may be the only one
    start = time.perf_counter()
    held = HeldQuery(index, Query(STEMS, sounding))
    report["hold s"] = time.perf_counter() - start
    report["slider move"] = measure_sliders(held, by_kind)
    del held
    measure_others(matrix, folded, least, report, codes=arguments.codes)
    report["load after"] = os.getloadavg()[0]
    return report


def judge(report):
    """Return each target with what was measured and whether it holds."""
    kinds = report["engines"]["stemsim on LanceDB"].values()
    seen = {
        "query p50 ms": max(kind["p50 ms"] for kind in kinds),
        "recall": min(kind["recall"] for kind in kinds),
        "slider move p50 ms": report["slider move"]["p50 ms"],
        "open + first query s": report["open"]["open"] + report["open"]["first query"],
    }
    return {
        name: {
            "target": TARGETS[name],
            "seen": value,
            "holds": value >= TARGETS[name] if name == "recall" else value <= TARGETS[name],
        }
        for name, value in seen.items()
    }


def show(report):
    """Print the report as text."""
    print(
        f"{report['rows']} items x {report['stems']} stems x {report['dim']}; {report['queries']} queries of each "
        f"kind, recall@{report['k']}; {report['cores']} cores, load {report['load before']:.1f} before\n"
    )
    print(f"{'':32}{'weights':14}{'p50 ms':>9}{'p99 ms':>9}{'recall':>9}{'worst':>8}")
    named = {**report["engines"], "stemsim on LanceDB, filtered": report["filtered"]}
    for engine, table in named.items():
        for kind, line in table.items():
            if isinstance(line, dict):
                figures = f"{line['p50 ms']:9.1f}{line['p99 ms']:9.1f}{line['recall']:9.4f}{line['worst']:8.2f}"
                print(f"{engine:32}{kind:14}{figures}")
    print(f"\nThe filter (drums, 118-124 BPM) admits {report['filtered']['admitted']} items.")
    moved, opened = report["slider move"], report["open"]
    print(
        f"A held query is read in {report['hold s']:.1f} s; a move of its sliders then takes "
        f"{moved['p50 ms']:.1f} ms (p99 {moved['p99 ms']:.1f})."
    )
    print(
        f"In a new process: open {opened['open']:.2f} s, first query {opened['first query']:.2f} s; with Python and "
        f"all imports {opened['whole process']:.1f} s."
    )
    print("Build: " + ", ".join(f"{name} {seconds:.0f} s" for name, seconds in report["build s"].items()) + ".")
    print(f"On disk: rows {report['MB']['rows']:.0f} MB, index {report['MB']['index']:.0f} MB. {report['answers']}.")
    for note in report["notes"]:
        print(note)
    for name, line in report["targets"].items():
        print(f"{'ok  ' if line['holds'] else 'MISS'} {name}: {line['seen']:.4g} (target {line['target']:g})")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="items (default: %(default)s)")
    parser.add_argument("--dim", type=int, default=512, help="length of one vector (default: %(default)s)")
    parser.add_argument("--queries", type=int, default=50, help="queries of each kind (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the data (default: %(default)s)")
    parser.add_argument(
        "--codes", type=int, default=0, help="measure faiss' RaBitQ of so many bits too; minutes to build"
    )
    parser.add_argument("--json", type=Path, help="write the figures into this file too")
    parser.add_argument("--folder", type=Path, help="where temporary files go (default: the system's place)")
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.open:
        print(json.dumps(first_query(arguments.open, arguments.dim)))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        report = run(Path(name), arguments)
    report["targets"] = judge(report)
    show(report)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
