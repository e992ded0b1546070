"""A million made-up items in an index, and 100 000 files through `Library.add` with no work in the models. Run by hand.

    python tests/benchmarks/bench_scale.py --part items [--rows 1000000] [--index milvus] [--json FILE]
    python tests/benchmarks/bench_scale.py --part files [--files 100000] [--json FILE]

Items are those of `bench_search.py`, drawn anew from their seed whenever they are needed, so that nothing but the index
holds them. Each engine is built in one process and searched in another, and the peak memory of both is measured. Beside
LanceDB, faiss keeps as many codes of 8 bits and compares them all, without scoring the best again. `--index milvus`
measures Milvus instead: the standalone server of the package `milvus` 2.3.5, in a network of its own (see
`test_milvus_server.py`). It holds all vectors in memory in float32, so give it --rows and --dim that fit.

Files are of real length, 16 bits at 44.1 kHz, and all differ, but only their first 4 096 samples sound; the rest takes
no room on the disk. The separator returns its input as every stem, the encoder the first samples. What is left is
stemsim's own: finding, hashing, reading, measuring levels, storing, merging, indexing. The same is done with a
hundredth of the files, and then with all of them again, which must skip each. --minutes ends the adding early; what was
added by then is measured.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench_app_memory import memory
from bench_search import BATCH, FILTER, K, best_similarities, describe, draw, make_centres, make_queries, recalls, sizes

from stemsim.embedding import EmbeddingSpec, StemEmbedder
from stemsim.encoders import Encoder
from stemsim.retrieval import Library
from stemsim.retrieval.indexes import open_index
from stemsim.separators import Separator
from stemsim.stems import STEMS

RATE, SOUNDING, DIM = 44_100, 4096, 64  # of the files and their vectors
FILTERED = ("random", "single stem")
POINTS, MOST = 20, 200  # memory is read at that many points, or after that many files


def blocks(arguments):
    """Yield the items in batches, the same ones each time."""
    centres = make_centres(np.random.default_rng(arguments.seed), arguments.dim)
    for first in range(0, arguments.rows, BATCH):
        rng = np.random.default_rng([arguments.seed, first])
        vectors = draw(rng, centres, min(BATCH, arguments.rows - first)).astype(np.float16).astype(np.float32)
        yield describe(rng, vectors, first)


def exact_answers(arguments):
    """Return the queries of each kind of weights, the least similarity of each exact answer, and its length."""
    rng = np.random.default_rng([arguments.seed, arguments.rows])
    centres = make_centres(np.random.default_rng(arguments.seed), arguments.dim)
    _, folded = make_queries(rng, centres, arguments.queries)
    every = torch.cat(list(folded.values()))
    some = torch.cat([folded[kind] for kind in FILTERED])
    kept, passing, admitted = torch.empty(len(every), 0), torch.empty(len(some), 0), 0
    for items in blocks(arguments):
        matrix, mask = items.vectors.flatten(1).numpy(), FILTER.mask(items)
        kept, passing = best_similarities(kept, matrix, every), best_similarities(passing, matrix, some, mask)
        admitted += int(mask.sum())
    count = arguments.queries
    asked = {
        kind: (folded[kind], best[:, -1], best.shape[1]) for kind, best in zip(folded, kept.split(count), strict=True)
    }
    filtered = {
        kind: (folded[kind], best[:, -1], best.shape[1])
        for kind, best in zip(FILTERED, passing.split(count), strict=True)
    }
    return {"all": asked, "filtered": filtered, "admitted": admitted}


def opened(arguments, folder):
    """Open the index that is measured."""
    spec = EmbeddingSpec("benchmark", "benchmark", "v1", STEMS, arguments.dim)
    return open_index(str(folder / "lance"), spec, f"{arguments.address}#scale" if arguments.address else None, None)


def build(arguments, folder):
    """Insert all items and build the index; return seconds and sizes."""
    index, report, spent = opened(arguments, folder), {}, 0.0
    for items in blocks(arguments):
        begun = time.perf_counter()
        index.upsert(items)
        spent += time.perf_counter() - begun
    begun = time.perf_counter()
    index.optimise()
    report |= {"insertion s": spent, "index s": time.perf_counter() - begun, "answers": index.describe()}
    return report if arguments.address else {**report, "MB": sizes(folder / "lance")}


def build_faiss(arguments, folder):
    """Keep codes of 8 bits of all items in faiss; return seconds and sizes."""
    import faiss

    width = len(STEMS) * arguments.dim
    index, spent = faiss.IndexScalarQuantizer(width, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT), 0.0
    for items in blocks(arguments):
        matrix = items.vectors.flatten(1).numpy()
        begun = time.perf_counter()
        if not index.is_trained:
            index.train(matrix)
        index.add(matrix)
        spent += time.perf_counter() - begun
    faiss.write_index(index, str(folder / "faiss"))
    return {"insertion s": spent, "MB": {"index": (folder / "faiss").stat().st_size / 1e6}}


def measured(search, asked):
    """Search for every query, given what returns a function of the exact similarities; return the table."""
    table = {}
    for kind, (folded, least, found) in asked.items():
        search(folded[0])
        times, answers = [], []
        for vector in folded:
            begun = time.perf_counter()
            answers.append(search(vector))
            times.append(1000.0 * (time.perf_counter() - begun))
        seen = recalls([similarity() for similarity in answers], least, found)
        table[kind] = {
            "p50 ms": float(np.percentile(times, 50)),
            "p95 ms": float(np.percentile(times, 95)),
            "recall": float(np.mean(seen)),
            "worst": float(np.min(seen)),
        }
    return table


def search(arguments, folder):
    """Search the index in this new process."""
    answers = torch.load(folder / "answers.pt")
    begun = time.perf_counter()
    index = opened(arguments, folder)
    index.search(answers["all"]["random"][0][0], K)
    first = time.perf_counter() - begun

    def found(where):
        def ask(vector):
            similarity = index.search(vector, K, where=where).similarity
            return lambda: similarity

        return ask

    return {
        "open + first query s": first,
        "search": measured(found(None), answers["all"]),
        "filtered": measured(found(FILTER), answers["filtered"]),
        "items": index.count(),
    }


def search_faiss(arguments, folder):
    """Search faiss' codes in this new process; what it found is scored by vectors drawn again."""
    import faiss

    answers = torch.load(folder / "answers.pt")
    faiss.omp_set_num_threads(os.cpu_count())
    begun = time.perf_counter()
    index = faiss.read_index(str(folder / "faiss"))
    first = time.perf_counter() - begun
    found, table = {}, {}
    for kind, (folded, _, _) in answers["all"].items():
        index.search(folded[:1].float().numpy(), K)
        times, found[kind] = [], []
        for vector in folded.float().numpy():
            begun = time.perf_counter()
            found[kind].append(index.search(vector[None], K)[1][0])
            times.append(1000.0 * (time.perf_counter() - begun))
        table[kind] = {"p50 ms": float(np.percentile(times, 50)), "p95 ms": float(np.percentile(times, 95))}
    _, peak = memory("self")
    rows = np.unique(np.concatenate([np.concatenate(those) for those in found.values()]))
    kept = torch.cat(
        [
            items.vectors.flatten(1)[rows[(rows >= first) & (rows < first + BATCH)] - first]
            for first, items in zip(range(0, arguments.rows, BATCH), blocks(arguments), strict=True)
        ]
    ).double()  # (row, stem * dim), in the order of `rows`
    for kind, (folded, least, count) in answers["all"].items():
        exact = [kept[np.searchsorted(rows, those)] @ vector for those, vector in zip(found[kind], folded, strict=True)]
        seen = recalls(exact, least, count)
        table[kind] |= {"recall": float(np.mean(seen)), "worst": float(np.min(seen))}
    return {"open s": first, "search": table, "peak MB": peak}


STEPS = {"build": build, "search": search, "build faiss": build_faiss, "search faiss": search_faiss}


def apart(step, arguments, folder):
    """Run a step in a process of its own; return its report and its peak memory."""
    command = [sys.executable, __file__, "--step", step, "--folder", str(folder), "--address", arguments.address]
    for name in ("part", "rows", "dim", "queries", "seed", "files", "seconds", "minutes"):
        command += [f"--{name}", str(getattr(arguments, name))]
    print(f"  {step}", file=sys.stderr, flush=True)
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def measure_items(arguments, folder):
    """Measure the index, and faiss where the index is LanceDB."""
    report = {
        "items": arguments.rows,
        "stems": len(STEMS),
        "dim": arguments.dim,
        "queries": arguments.queries,
        "notes": [],
    }
    answers = exact_answers(arguments)
    torch.save(answers, folder / "answers.pt")
    report["admitted by the filter"] = answers["admitted"]
    if arguments.index == "lance":
        engines = {"stemsim on LanceDB": ("build", "search")}
        if importlib.util.find_spec("faiss"):
            engines["faiss, codes of 8 bits"] = ("build faiss", "search faiss")
        else:
            report["notes"].append("faiss is not installed: pip install faiss-cpu")
        report["engines"] = {
            name: {step.split()[0]: apart(step, arguments, folder) for step in steps} for name, steps in engines.items()
        }
        return report
    from milvus import MilvusServer, MilvusServerConfig

    server = MilvusServer(MilvusServerConfig())
    server.set_base_dir(str(folder / "milvus"))
    server.start()
    try:
        arguments.address = f"http://127.0.0.1:{server.listen_port}"
        steps = {step: apart(step, arguments, folder) for step in ("build", "search")}
        resident, peak = memory(server.server_proc.pid)
    finally:
        server.stop()
    report["engines"] = {"stemsim on Milvus 2.3.5": {**steps, "server MB": resident, "server peak MB": peak}}
    return report


class Repeating(Separator):
    """Its input as every stem."""

    stems = STEMS
    identity = "repeating"
    sample_rate = RATE
    channels = 1

    def __call__(self, waveforms):
        return waveforms.unsqueeze(1).expand(-1, len(STEMS), -1, -1)


class FirstSamples(Encoder):
    """The first samples as a unit vector."""

    sample_rate = RATE
    dim = DIM
    identity = "first samples"

    def forward(self, waveforms):
        return torch.nn.functional.normalize(waveforms[:, : self.dim] + 1e-4, dim=1)


def write_files(folder, count, seconds):
    """Write WAV files that differ, a thousand in each folder; return the size of one in bytes."""
    rng, size = np.random.default_rng(0), 2 * round(seconds * RATE)
    header = b"RIFF" + (36 + size).to_bytes(4, "little") + b"WAVEfmt " + (16).to_bytes(4, "little")
    header += b"\1\0\1\0" + RATE.to_bytes(4, "little") + (2 * RATE).to_bytes(4, "little") + b"\2\0\20\0"
    header += b"data" + size.to_bytes(4, "little")
    for number in range(count):
        path = folder / f"pack {number // 1000}" / f"loop {number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(header + (3000 * rng.standard_normal(SOUNDING)).astype("<i2").tobytes())
            file.truncate(len(header) + size)
    return len(header) + size


class TooLongError(Exception):
    """The time for adding files is over."""


def add_files(arguments, folder):
    """Add all files, and add them again; return times and memory."""
    from bench_retrieval import timed

    library = Library(folder / "library", StemEmbedder(Repeating(), FirstSamples(), progress=False))
    library.index.count()  # opened
    seen, every, begun = [], max(1, min(arguments.files // POINTS, MOST)), time.perf_counter()
    added, seconds = 0, 0.0

    def watch(_, report):
        nonlocal added, seconds
        added, seconds = report.added, time.perf_counter() - begun
        if added and added % every == 0:
            seen.append((added, seconds, memory("self")[0]))
        if seconds > 60.0 * arguments.minutes:
            raise TooLongError

    cpu = time.process_time()
    with timed(library.embedder.source, library.embedder.encoder) as spent, suppress(TooLongError):
        report = library.add(folder / "sounds", listen=False, watch=watch)
        added, seconds = report.added, report.seconds
    cpu, peak = time.process_time() - cpu, memory("self")[1]
    half = np.array(seen[len(seen) // 2 :])
    figures = {
        "files": added,
        "asked for": arguments.files,
        "items": library.index.count(),
        "seconds": seconds,
        "ms a file": 1000 * seconds / added,
        "CPU ms a file outside the models": 1000 * (cpu - spent["cpu"]) / added,
        "share of the time in the models": spent["clock"] / (seconds * library.embedder.workers),
        "peak MB": peak,
        "MB, second half": [float(half[:, 2].min()), float(half[:, 2].max())],
        "growth in the second half, bytes a file": float(np.polyfit(half[:, 0], half[:, 2], 1)[0] * 1e6),
        "seen": [{"files": files, "s": at, "MB": megabytes} for files, at, megabytes in seen],
        "answers": library.index.describe(),
    }
    if added == arguments.files:
        again = library.add(folder / "sounds", listen=False)
        figures["again"] = {"unchanged": again.unchanged, "seconds": again.seconds}
    return figures


STEPS["add"] = add_files


def measure_files(arguments, folder):
    """Add a hundredth of the files, and all of them."""
    report, full = {"seconds a file": arguments.seconds}, arguments.files
    for name, count in (("a hundredth", max(POINTS, full // 100)), ("all", full)):
        place = folder / name
        report["bytes a file"] = write_files(place / "sounds", count, arguments.seconds)
        arguments.files = count
        report[name] = apart("add", arguments, place)
    report["ratio of ms a file"] = report["all"]["ms a file"] / report["a hundredth"]["ms a file"]
    return report


def in_a_network_of_its_own(given):
    """Run this again where nobody else can reach the server; return the exit status."""
    from test_milvus_server import ALONE

    if importlib.util.find_spec("milvus") is None:
        sys.exit("There is no Milvus server: pip install milvus==2.3.5, or --target FOLDER and FOLDER in PYTHONPATH.")
    environment = {**os.environ, "NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}
    command = [ALONE[0], "--mount-proc", *ALONE[1:], sys.executable, __file__, *given, "--inside"]  # to see its memory
    return subprocess.run(command, check=False, env=environment).returncode


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["items", "files"], required=True)
    parser.add_argument("--index", choices=["lance", "milvus"], default="lance")
    parser.add_argument("--rows", type=int, default=1_000_000, help="items (default: %(default)s)")
    parser.add_argument("--dim", type=int, default=512, help="length of one vector (default: %(default)s)")
    parser.add_argument("--queries", type=int, default=20, help="queries of each kind (default: %(default)s)")
    parser.add_argument("--files", type=int, default=100_000, help="files (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=1000.0, help="of adding files at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where temporary files go (default: the system's place)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--address", default="", help=argparse.SUPPRESS)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        report = STEPS[arguments.step](arguments, arguments.folder)
        print(json.dumps({"peak MB": memory("self")[1], **report}))
        return
    if arguments.part == "items" and arguments.index == "milvus" and not arguments.inside:
        sys.exit(in_a_network_of_its_own(sys.argv[1:]))
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        report = (measure_items if arguments.part == "items" else measure_files)(arguments, Path(name))
    report |= {"cores": os.cpu_count(), "load before": load, "load after": os.getloadavg()[0]}
    print(json.dumps(report, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
