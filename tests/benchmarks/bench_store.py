"""Open a store in a new process and gather all its rows, beside what one would do without a store. Run by hand.

    python tests/benchmarks/bench_store.py --segments 5000

It fills a store in a temporary folder in batches, as an extraction does, compacts it, and writes the same vectors as
one .npy file for each segment and as one safetensors file. Then each is read by new processes in turn. Importing is
not part of the time: it is reported on its own. The files are in the page cache, as they are after an extraction.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STEMS = ("bass", "drums", "guitar", "piano", "vocals", "residuals", "mix")
WAYS = {
    "store": "stemsim EmbeddingStore",
    "store, no compact": "the same, before `compact`",
    "npy": "one .npy file for each segment",
    "safetensors": "one safetensors file",
}


def spec(dim):
    from stemsim.embedding import EmbeddingSpec

    return EmbeddingSpec("benchmark", "benchmark", "v1", STEMS, dim)


def key_of(number):
    return f"{number:032x}"


def fill(folder, segments, dim, batch):
    """Write the same random unit vectors in all ways; return seconds for each."""
    import numpy as np
    import torch
    from safetensors.torch import save_file

    from stemsim.audio import Segment
    from stemsim.embedding import EmbeddingStore
    from stemsim.similarity import StemEmbeddings

    generator = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(segments, len(STEMS), dim, generator=generator), dim=-1)
    levels = -60.0 * torch.rand(segments, len(STEMS), generator=generator)
    everything = StemEmbeddings(vectors, levels, torch.ones_like(levels, dtype=torch.bool))
    seconds = {}

    def put(way):
        start = time.perf_counter()
        store = EmbeddingStore(folder / way, spec(dim))
        for first in range(0, segments, batch):
            numbers = range(first, min(first + batch, segments))
            places = [Segment(Path("song.wav"), 5.0 * number, 5.0) for number in numbers]
            store.put([key_of(number) for number in numbers], places, everything.take(torch.tensor(numbers)))
        seconds[way] = time.perf_counter() - start
        return store

    put("store, no compact")
    store = put("store")
    start = time.perf_counter()
    store.compact()
    seconds["compact"] = time.perf_counter() - start
    (folder / "npy").mkdir()
    start = time.perf_counter()
    for number, row in enumerate(vectors.numpy()):
        np.save(folder / "npy" / f"{key_of(number)}.npy", row)
    seconds["npy"] = time.perf_counter() - start
    start = time.perf_counter()
    save_file({"vectors": vectors}, folder / "all.safetensors")
    seconds["safetensors"] = time.perf_counter() - start
    return seconds


def gather(folder, way, segments, dim):
    """Read all rows in one way; return seconds for importing, opening and gathering, and a sum to compare."""
    start = time.perf_counter()
    if way == "npy":
        import numpy as np
    elif way == "safetensors":
        from safetensors.torch import load_file
    else:
        import torch

        from stemsim.embedding import EmbeddingStore
    imported = time.perf_counter()
    opened = imported
    if way == "npy":
        vectors = np.stack([np.load(folder / "npy" / f"{key_of(number)}.npy") for number in range(segments)])
    elif way == "safetensors":
        vectors = load_file(folder / "all.safetensors")["vectors"].clone()  # a clone: all of it, not a memory map
    else:
        store = EmbeddingStore(folder / way, spec(dim))
        opened = time.perf_counter()
        keys = [key_of(number) for number in range(segments)]
        found = store.get(keys)
        place = {key: row for row, key in enumerate(found.keys)}
        vectors = found.embeddings.take(torch.tensor([place[key] for key in keys])).vectors
    done = time.perf_counter()
    if vectors.shape != (segments, len(STEMS), dim):
        sys.exit(f"{way}: read {tuple(vectors.shape)}")
    check = float(vectors[:, 0, 0].sum())
    return {"import": imported - start, "open": opened - imported, "gather": done - opened, "check": check}


def measure(folder, way, arguments):
    """Read in a new process; return what `gather` returns."""
    command = [sys.executable, __file__, "--segments", str(arguments.segments), "--dim", str(arguments.dim)]
    command += ["--gather", way, "--folder", str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def report(runs, written):
    """Print one line for each way; ratios are of the medians, to the store."""
    total = {way: [run["open"] + run["gather"] for run in seen] for way, seen in runs.items()}
    ours = statistics.median(total["store"])
    print(f"{'':34}{'import s':>9}{'open s':>9}{'gather s':>10}{'both s':>9}{'min-max':>14}{'ratio':>7}{'write s':>9}")
    for way, seen in runs.items():
        middle = {part: statistics.median(run[part] for run in seen) for part in ("import", "open", "gather")}
        both = statistics.median(total[way])
        spread = f"{min(total[way]):.3f}-{max(total[way]):.3f}"
        print(
            f"{WAYS[way]:34}{middle['import']:9.2f}{middle['open']:9.3f}{middle['gather']:10.3f}{both:9.3f}"
            f"{spread:>14}{both / ours:7.2f}{written[way]:9.2f}"
        )
    print(f"Compacting took {written['compact']:.2f} s more.")
    if len({round(run["check"], 3) for seen in runs.values() for run in seen}) != 1:
        sys.exit("The ways do not give the same vectors.")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--segments", type=int, default=5000, help="rows (default: %(default)s)")
    parser.add_argument("--dim", type=int, default=512, help="length of a vector (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=16, help="rows stored at once (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="new processes for each way (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--gather", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.gather:
        print(json.dumps(gather(arguments.folder, arguments.gather, arguments.segments, arguments.dim)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        written = fill(folder, arguments.segments, arguments.dim, arguments.batch)
        runs = {way: [] for way in WAYS}
        for _ in range(arguments.repeats):  # in turn, so that a busy moment does not hit one way alone
            for way in WAYS:
                runs[way].append(measure(folder, way, arguments))
        print(f"{arguments.segments} segments x {len(STEMS)} stems x {arguments.dim}, float32")
        report(runs, written)
    if arguments.json:
        figures = {"segments": arguments.segments, "dim": arguments.dim, "runs": runs, "write s": written}
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
