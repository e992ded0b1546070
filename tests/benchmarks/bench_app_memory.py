"""Memory of the page's server: a library of 100 000 items, 8 held queries, and minutes of random use.

    PYTHONPATH=.:tests python tests/benchmarks/bench_app_memory.py [--items 100000] [--minutes 10] [--json FILE]

A second process serves; this one uploads, moves sliders, listens, draws, exports and makes mistakes. Reported are the
memory of the server (resident, in MB, and its peak), its processor time for a move of the sliders, and the growth while
it is used: the slope of a line through its memory in the second half. Then each thing is done 300 times by itself: what
leaks grows on; what only warms up, as each thread's allocator does, stands still after the first fifty.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import soundfile
import torch
from fakes import EqualBands

from stemsim.app.server import create_app, serve
from stemsim.embedding import StemEmbedder
from stemsim.encoders import Encoder
from stemsim.retrieval import Library
from stemsim.retrieval.growth import _synthetic_items
from stemsim.stems import STEMS

RATE, DIM, HELD = 16_000, 512, 8
SHARES = {"listen": 0.4, "draw": 0.3, "export": 0.1, "mistake": 0.1, "look": 0.08, "upload": 0.02}  # of random use
TOKEN = "a-token-that-only-tests-know"
GOAL_MB = 1000.0


class Magnitudes(Encoder):
    """Unit vectors of 512 bins of the spectrum, minus their mean."""

    sample_rate, dim, identity = RATE, DIM, "512 magnitudes"

    def forward(self, waveforms):
        bins = torch.fft.rfft(waveforms).abs()[:, : DIM * 8].unflatten(1, (DIM, 8)).mean(dim=2)
        return torch.nn.functional.normalize(bins - bins.mean(dim=1, keepdim=True) + 1e-3, dim=1)


def make_library(root):
    """Open the library in a folder."""
    return Library(root, StemEmbedder(EqualBands(STEMS, RATE), Magnitudes(), progress=False, workers=1))


def fill(folder, count):
    """Make a library of random directions, whose windows are in a few real files."""
    rng = np.random.default_rng(0)
    files = [folder / f"loop {number}.wav" for number in range(20)]
    for file in files:
        soundfile.write(file, 0.1 * rng.standard_normal(30 * RATE), RATE)
    library, first = make_library(folder / "library"), 0
    for items in _synthetic_items(library.card.spec, rng, count):
        rows = np.arange(first, first + len(items))
        paths = np.array([str(files[row // 6 % len(files)]) for row in rows])
        library.index.upsert(replace(items, path=paths, start=5.0 * (rows % 6)))
        first += len(items)
    library.index.optimise()


def memory(pid):
    """Return resident memory of a process and its peak in MB."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return tuple(int(lines[name].split()[0]) / 1e3 for name in ("VmRSS", "VmHWM"))


def cpu_seconds(pid):
    """Return the processor time of a process so far."""
    values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")


def upload(client, rng):
    """Upload a noise, wait until it is taken in, and return its id and the seconds."""
    file = io.BytesIO()
    tilt = np.convolve(rng.standard_normal(8 * RATE), rng.standard_normal(30))
    soundfile.write(file, 0.1 * tilt / np.abs(tilt).max(), RATE, format="WAV")
    begun = time.perf_counter()
    taken = client.put("/api/query", content=file.getvalue(), params={"name": "noise.wav"}).json()
    while (job := client.get(f"/api/job/{taken['job']}").json())["state"] in {"queued", "running"}:
        time.sleep(0.05)
    assert job["state"] == "done", job
    return taken["query"], time.perf_counter() - begun


def move(client, query, rng):
    """Move the sliders to random places, and return the hits."""
    weights = dict(zip(STEMS, rng.uniform(0.05, 1.0, len(STEMS)).round(3).tolist(), strict=True))
    answer = client.post(f"/api/query/{query}/rank", json={"weights": weights, "k": 50})
    answer.raise_for_status()
    return answer.json()["hits"]


def use(client, queries, rng, kind):
    """Do one thing that a user may do, after a move of the sliders."""
    query = queries[rng.integers(len(queries))]
    hits = move(client, query, rng)
    key = hits[rng.integers(len(hits))]["item"]
    if kind == "listen":
        client.get(f"/audio/item/{key}").raise_for_status()
    elif kind == "draw":
        client.get(f"/api/item/{key}/peaks").raise_for_status()
    elif kind == "export":
        keys = [hit["item"] for hit in hits[:10]]
        client.post("/api/export", json={"items": keys, "format": rng.choice(["zip", "csv"])}).raise_for_status()
    elif kind == "mistake":
        assert client.get("/audio/item/none").status_code == 404
        assert client.put("/api/query", content=b"no music").status_code == 202
    elif kind == "look":
        client.get("/api/library").raise_for_status()
    else:
        upload(client, rng)
        queries[:] = [query["id"] for query in client.get("/api/library").json()["queries"]]


def growth_by_kind(client, pid, queries, rng, times):
    """Return by how many MB the server grows while one thing is repeated, in each sixth of the repetitions."""
    growth = {}
    for kind in SHARES:
        seen = [memory(pid)[0]]
        for _ in range(6):
            for _ in range(times // 6):
                use(client, queries, rng, kind)
            seen.append(memory(pid)[0])
        growth[kind] = np.diff(seen).round(1).tolist()
    return growth


def measure(client, pid, minutes, times):
    """Return what the server needs."""
    rng = np.random.default_rng(1)
    report = {"MB at start": memory(pid)[0], "hold s": []}
    queries = []
    for _ in range(HELD):
        query, seconds = upload(client, rng)
        queries.append(query)
        report["hold s"].append(round(seconds, 2))
    report["MB with 8 held queries"], report["peak MB"] = memory(pid)
    waits, begun = [], cpu_seconds(pid)
    for _ in range(200):
        start = time.perf_counter()
        move(client, queries[-1], rng)
        waits.append(1000.0 * (time.perf_counter() - start))
    report["CPU ms a move"] = 1000.0 * (cpu_seconds(pid) - begun) / len(waits)
    report["ms a move, p50 and p95"] = [float(np.percentile(waits, share)) for share in (50, 95)]
    seen, end, uses = [], time.monotonic() + 60.0 * minutes, 0
    while time.monotonic() < end:
        use(client, queries, rng, rng.choice(list(SHARES), p=list(SHARES.values())))
        uses += 1
        seen.append((time.monotonic(), memory(pid)[0]))
    if seen:
        half = np.array(seen[len(seen) // 2 :])
        report["uses"], report["MB in the end"] = uses, seen[-1][1]
        report["growth in the second half, MB a minute"] = float(np.polyfit(half[:, 0] / 60.0, half[:, 1], 1)[0])
        report["MB by tenths of the time"] = [
            round(seen[row][1]) for row in np.linspace(0, len(seen) - 1, 11).astype(int)
        ]
    report[f"growth in each sixth of {times} times, MB"] = growth_by_kind(client, pid, queries, rng, times)
    report["peak MB in the end"] = memory(pid)[1]
    report["under 1 GB"] = report["peak MB in the end"] < GOAL_MB
    return report


def main():
    """Fill a library, serve it in a second process, and print the report as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--times", type=int, default=300, help="repetitions of each thing by itself")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.serve:
        library = make_library(arguments.serve)
        serve(
            lambda folder, token: create_app(library, folder, token=token),
            port=0,
            token=TOKEN,
            announce=lambda address: print(address, flush=True),
        )
        return
    with tempfile.TemporaryDirectory() as name:
        fill(Path(name), arguments.items)
        command = [sys.executable, __file__, "--serve", str(Path(name) / "library")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            address = process.stdout.readline().partition("/?")[0]
            headers = {"Authorization": f"Bearer {TOKEN}"}
            try:
                with httpx.Client(base_url=address, headers=headers, timeout=300) as client:
                    report = measure(client, process.pid, arguments.minutes, arguments.times)
            finally:
                process.terminate()
    report = {"items": arguments.items, **report}
    print(json.dumps(report, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
