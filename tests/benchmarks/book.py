"""Run all benchmarks and write one page of their figures, with pictures and with what the machine can do at best.

    python tests/benchmarks/book.py [--quick] [--only NAME ...] [--no-run] [--out build/benchmarks]

Each benchmark runs in a process of its own; what it measured is recorded in the folder, and `README.md` there is made
of all that is recorded, so that --only NAME renews a part of the page and --no-run none. One that fails stops nothing:
the page says what failed, what has not been run, and which packages to compare with are not installed. --quick takes
small sizes, to see that all works; without it, all of it takes hours.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from stemsim.report.style import GREY, LEGEND, SERIES_COLORS, new_figure, save_figure

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
VERSIONS = (
    *("torch", "numpy", "scikit-learn", "lancedb", "pymilvus", "milvus", "faiss-cpu", "librosa", "soxr"),
    *("demucs", "laion_clap", "muq", "lightning", "gradio", "fastabx"),
)
LONGEST = 3 * 3600  # seconds of one run


class Row(NamedTuple):
    """One line of the page: our figure, that of an alternative in the same run, and the limit of the machine."""

    task: str
    ours: str
    alternative: str = ""
    ratio: float | None = None
    limit: str = ""


class Limits(NamedTuple):
    """What the machine can do at best, as `bench_limits.py` has measured it; nothing where it has not run."""

    figures: dict

    def reading(self, size):
        """Say how long it takes to read some bytes."""
        if not self.figures:
            return "not measured"
        return f"{span(1e-9 * size / self.figures['sum, GB/s'])} to read {size / 1e6:,.{int(size < 1e7)}f} MB"

    def computing(self, billions):
        """Say how long some billions of operations take."""
        if not self.figures:
            return "not measured"
        return f"{span(billions / self.figures['GFLOP/s'])} for {billions:,.3g} GFLOP"

    def model(self, name):
        """Return the billions of operations of one clip of a model; 0 if unknown."""
        return self.figures.get("models", {}).get(name, {}).get("GFLOP", 0.0)


def span(seconds):
    """Return a time in words."""
    if seconds >= 600.0:
        return f"{seconds / 60.0:.0f} min"
    factor, unit = (1.0, "s") if seconds >= 1.0 else (1e3, "ms") if seconds >= 1e-3 else (1e6, "µs")
    return f"{seconds * factor:.3g} {unit}"


def limits_rows(reports, limits):
    one = reports[-1]
    yield Row("reading memory", f"{one['sum, GB/s']:.1f} GB/s, copying {one['copy, GB/s']:.1f} GB/s")
    yield Row(f"products of matrices, {one['threads']} threads", f"{one['GFLOP/s']:.0f} GFLOP/s")
    starts = one["start, s"]
    for name in ("stemsim", "stemsim --help"):
        what = name if " " in name else f"import {name}"
        ratio = starts["torch"] / starts[name]
        yield Row(what, span(starts[name]), f"import torch: {span(starts['torch'])}", ratio, span(starts["python"]))
    for name, cost in one["models"].items():
        yield Row(f"{name}, a clip of 5 s", span(cost["s"]), limit=limits.computing(cost["GFLOP"]))


def crossval_rows(reports, limits):
    one = max(reports, key=lambda one: (one["triplets"], one["splits"]))
    size = [one[name] for name in ("triplets", "stems", "alphas", "splits")]
    task = "ridge: {:,} triplets, {} stems, {} penalties, {} splits".format(*size)
    theirs, ours = one["scikit-learn, s"], one["ours, s"]
    words = f"scikit-learn RidgeCV(cv=splits): {span(theirs)}; weights equal to "
    words += f"{one['largest difference of a weight']:.0e}"
    gram = 2e-9 * one["triplets"] * one["stems"] ** 2 * one["splits"]
    yield Row(task, span(ours), words, theirs / ours, limits.computing(gram))


def search_rows(reports, limits):
    one = max(reports, key=lambda one: one["rows"])
    middle = {
        engine: statistics.median(line["p50 ms"] for line in table.values()) for engine, table in one["engines"].items()
    }
    recall = {engine: min(line["recall"] for line in table.values()) for engine, table in one["engines"].items()}
    ours, numbers = middle.pop("stemsim on LanceDB"), one["rows"] * one["stems"] * one["dim"]
    task = f"a search among {one['rows']:,} items, {one['stems']} stems of {one['dim']}"
    own = f"{ours:.1f} ms, recall@{one['k']} {recall['stemsim on LanceDB']:.4f}"
    width = 1 if one["answers"].startswith("approximate") else 2
    for engine, ms in middle.items():
        yield Row(task, own, f"{engine}: {ms:.1f} ms, {recall[engine]:.4f}", ms / ours, limits.reading(width * numbers))
    for note in one["notes"]:
        yield Row(task, own, note)
    moved = one["slider move"]["p50 ms"]
    yield Row(
        "another slider position of a held query", f"{moved:.2f} ms", f"searched anew: {ours:.1f} ms", ours / moved
    )


def scale_rows(reports, limits):
    for one in reports:
        if "all" in one:
            full, few = one["all"], one["a hundredth"]
            ours = f"{full['ms a file']:.1f} ms a file, {full['CPU ms a file outside the models']:.1f} ms of processor"
            ours += f"; {full['MB, second half'][0]:.0f}-{full['MB, second half'][1]:.0f} MB"
            words = f"{few['files']:,} files: {few['ms a file']:.1f} ms a file"
            task = f"`Library.add` of {full['files']:,} files, no work in the models"
            yield Row(task, ours, words, few["ms a file"] / full["ms a file"], limits.reading(one["bytes a file"]))
            if full["files"] < full["asked for"]:
                yield Row(task, f"ended by --minutes; {full['asked for']:,} files were asked for")
            else:
                yield Row(f"the same again, {full['again']['unchanged']:,} unchanged", span(full["again"]["seconds"]))
            continue
        for engine, steps in one["engines"].items():
            build, found = steps["build"], steps["search"]["search"].values()
            ours = f"{engine}: {statistics.median(line['p50 ms'] for line in found):.0f} ms, 95 % within "
            ours += (
                f"{max(line['p95 ms'] for line in found):.0f} ms, recall {min(line['recall'] for line in found):.4f}; "
            )
            ours += f"built in {span(build['insertion s'] + build.get('index s', 0.0))}; memory "
            ours += f"{steps.get('server peak MB', steps['search']['peak MB']):,.0f} MB"
            width = 4 if "Milvus" in engine else 1
            task = f"a search among {one['items']:,} items, {one['stems']} stems of {one['dim']}"
            yield Row(task, ours, limit=limits.reading(width * one["items"] * one["stems"] * one["dim"]))
        for note in one["notes"]:
            yield Row(f"a search among {one['items']:,} items", "", note)


def extraction_rows(reports, limits):
    one = reports[-1]
    ours, theirs = one["ours, s"], one["upstream, s"]
    task = f"stem embeddings of {one['members']} members, {one['distinct segments']} distinct segments, "
    words = f"calls of {one['separator']} and {one['encoder']} for each: {span(theirs)}; vectors equal to "
    words += f"{one['largest difference']:.0e}"
    stems = 7 if one["separator"].endswith("6s") else 5
    work = one["distinct segments"] * (limits.model("demucs") + stems * limits.model(one["encoder"]))
    own = f"{span(ours)}, {100 * one['share of our time outside the models']:.1f} % outside the models"
    limit = limits.computing(work) if limits.model(one["encoder"]) else "not measured"
    yield Row(task + f"{one['separator']} and {one['encoder']}", own, words, theirs / ours, limit)


def agreement_rows(reports, limits):
    one = reports[-1]
    task = f"agreement of weights on {one['triplets']:,} triplets, {one['stems']} stems of {one['dim']}"
    ours, theirs = one["ours, s"], one["cell by cell, s"]
    size = 4 * 3 * one["triplets"] * one["stems"] * one["dim"]
    words = f"a loop over the cells, as fastabx scores: {span(theirs)}"
    yield Row(task, span(ours), words, theirs / ours, limits.reading(size))


def fusions_rows(reports, _):
    one = reports[-1]
    task = f"{one['fusion']} fusion on {one['splits']} splits of {one['triplets']} triplets"
    ours, theirs = one["at_once_seconds"], one["loop_seconds"]
    words = f"a loop of fits in PyTorch ({one['loop_fits_timed']} timed): {span(theirs)}"
    yield Row(task, span(ours), words, theirs / ours)


def models_rows(reports, limits):
    for line in reports[-1]:
        task = f"{line['model']}, {line['precision']}, {line['at once']} at once: a clip of 5 s"
        work = limits.model(line["model"])
        limit = limits.computing(work) if work and line["precision"] == "float32" else ""
        yield Row(task, span(line["s a clip"]), line.get("error", ""), limit=limit)


def spectral_rows(reports, _):
    one = reports[-1]
    ours, theirs = one["Spectral, x real time"], one["librosa MFCC, x real time"]
    yield Row("Spectral, clips of 5 s", f"{ours:.0f} x real time", f"librosa MFCC: {theirs:.0f} x", ours / theirs)
    raw = {name: scores[-1][0] for name, scores in one["precision@5"].items()}
    own = raw.pop("Spectral, cosine")
    name = max(raw, key=raw.get)
    yield Row("precision@5 of one-shots", f"{own:.3f}", f"best of librosa, {name}: {raw[name]:.3f}", own / raw[name])


def start_rows(reports, limits):
    for command, (seconds, files) in reports[-1]["ours"].items():
        floor = limits.figures.get("start, s", {}).get("torch")
        limit = "not measured" if floor is None else f"import torch: {span(floor)}"
        yield Row(f"`{command}`", f"{span(seconds)} of processor, {files} files", limit=limit)


def store_rows(reports, limits):
    one = reports[-1]
    took = {way: statistics.median(run["open"] + run["gather"] for run in runs) for way, runs in one["runs"].items()}
    task = f"opening the store and gathering {one['segments']:,} segments of {one['dim']}"
    size = 4 * 7 * one["segments"] * one["dim"]
    for way, name in (("npy", "one .npy a segment"), ("safetensors", "one safetensors file")):
        words = f"{name}: {span(took[way])}"
        yield Row(task, span(took["store"]), words, took[way] / took["store"], limits.reading(size))


def tags_rows(reports, _):
    one = reports[-1]
    for line in one["names"]:
        right = f"categories right in {line['categories right']:.3f}, type in {line['type right']:.3f}"
        yield Row(f"names: {line['list']}, {line['files']} files, {line['rules']}", right)
    for what, best in (("key", "right"), ("tempo", "exact")):
        if what in one:
            ours, theirs = one[what]["stemsim"], one[what]["librosa"]
            task, words = f"{what} of {ours['clips']} clips", f"librosa: {theirs[best]} {best}"
            yield Row(task, f"{ours[best]} {best}", words, ours[best] / theirs[best])


def retrieval_rows(reports, _):
    for what, one in reports[-1]["indexing"].items():
        share = f"{100 * one['share outside the models, CPU']:.1f} % of the processor's time outside the models"
        yield Row(f"`Library.add` of {one['files']} {what}, Bands and Spectral", share)


def app_rows(reports, _):
    ours = reports[-1]["page"]
    own = f"{ours['p50 ms']:.0f} ms, 95 % within {ours['p95 ms']:.0f} ms"
    if "Gradio" not in reports[-1]:
        yield Row("a slider move on the page", own, "Gradio is not installed: --gradio FOLDER")
        return
    theirs = reports[-1]["Gradio"]
    yield Row("a slider move on the page", own, f"Gradio: {theirs['p50 ms']:.0f} ms", theirs["p50 ms"] / ours["p50 ms"])


def memory_rows(reports, _):
    one = reports[-1]
    own = f"{one['MB with 8 held queries']:.0f} MB, peak {one['peak MB in the end']:.0f} MB"
    yield Row(f"the page's server with {one['items']:,} items and 8 held queries", own)


class Benchmark(NamedTuple):
    """A benchmark, the lines that it makes of its reports, and its command lines at full size and with --quick."""

    script: str
    rows: Callable
    full: tuple[str, ...] = ("",)
    quick: tuple[str, ...] = ("",)


BENCHMARKS = {
    "limits": Benchmark("bench_limits.py", limits_rows, quick=("--models demucs clap",)),
    "crossval": Benchmark(
        "bench_crossval.py",
        crossval_rows,
        (
            *(f"--triplets {triplets}" for triplets in (331, 1000, 3000, 9000, 27_000)),
            *(f"--triplets 3000 --splits {splits}" for splits in (10, 30, 300, 1000)),
            *(f"--triplets 3000 --stems {stems}" for stems in (1, 2, 4)),
        ),
        (
            *(f"--triplets {triplets}" for triplets in (331, 3000, 9000)),
            *("--triplets 3000 --splits 10", "--triplets 3000 --splits 30"),
            *("--triplets 3000 --stems 1", "--triplets 3000 --stems 4"),
        ),
    ),
    "agreement": Benchmark("bench_agreement.py", agreement_rows, quick=("--triplets 2000",)),
    "fusions": Benchmark("bench_fusions.py", fusions_rows, quick=("--splits 20 --loop 1",)),
    "search": Benchmark(
        "bench_search.py",
        search_rows,
        tuple(f"--rows {rows}" for rows in (3000, 10_000, 30_000, 100_000)),
        tuple(f"--rows {rows} --queries 5 --dim 256" for rows in (3000, 10_000, 25_000)),
    ),
    "scale": Benchmark(
        "bench_scale.py",
        scale_rows,
        ("--part files", "--part items", "--part items --index milvus --rows 100000 --queries 10"),
        ("--part files --files 2000", "--part items --rows 25000 --dim 128 --queries 5"),
    ),
    "extraction": Benchmark(
        "bench_extraction.py",
        extraction_rows,
        ("--data {data}/everything-is-free",),
        ("--data {data}/everything-is-free --segments 3 --triplets 2",),
    ),
    "models": Benchmark("bench_models.py", models_rows, quick=("--models clap --clips 2 --batches 1 2",)),
    "spectral": Benchmark("bench_spectral.py", spectral_rows),
    "retrieval": Benchmark("bench_retrieval.py", retrieval_rows, ("--data {data}",), ("--data {data} --part time",)),
    "tags": Benchmark("bench_tags.py", tags_rows, quick=("--names",)),
    "store": Benchmark("bench_store.py", store_rows, quick=("--segments 500 --repeats 2",)),
    "start": Benchmark("bench_start.py", start_rows, ("--data {data}",), ("--data {data}",)),
    "app": Benchmark("bench_app.py", app_rows, ("{gradio}",), ("--rows 5000 --moves 20 {gradio}",)),
    "memory": Benchmark(
        "bench_app_memory.py", memory_rows, ("--minutes 1",), ("--items 5000 --minutes 0.1 --times 12",)
    ),
}


def measure(name, given):
    """Run a benchmark with each of its command lines, and record what it measured."""
    one = BENCHMARKS[name]
    environment = {**os.environ, "STEMSIM_DATA": str(given.data), "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    if os.environ.get("PYTHONPATH"):
        environment["PYTHONPATH"] += f":{os.environ['PYTHONPATH']}"
    record = []
    for options in one.quick if given.quick else one.full:
        line = options.format(data=given.data, gradio=f"--gradio {given.gradio}" if given.gradio else "").strip()
        print(f"{name}: {one.script} {line}", file=sys.stderr, flush=True)
        begun, load = time.monotonic(), os.getloadavg()[0]
        with tempfile.TemporaryDirectory() as folder:
            figures = Path(folder) / "figures.json"
            command = [sys.executable, str(HERE / one.script), *shlex.split(line), "--json", str(figures)]
            try:
                done = subprocess.run(
                    command, cwd=ROOT, env=environment, check=False, capture_output=True, text=True, timeout=LONGEST
                )
                failure = "" if done.returncode == 0 else last_words(done.stderr) or f"exit status {done.returncode}"
            except subprocess.TimeoutExpired:
                failure = f"stopped after {LONGEST} s"
            if not failure and not figures.exists():
                failure = "it wrote no figures"
            record.append(
                {
                    "command": f"{one.script} {line}".strip(),
                    "quick": given.quick,
                    "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
                    "load": load,
                    "seconds": time.monotonic() - begun,
                    "failure": failure,
                    "report": None if failure else json.loads(figures.read_text(encoding="utf-8")),
                }
            )
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def last_words(text):
    """Return the last line that a program wrote."""
    return text.strip().rpartition("\n")[2][:300]


def machine(folder):
    """Return lines about the machine and the versions, also of what a folder has."""
    cpu = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        cpu = names[0] if names else cpu
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    found = [f"Python {platform.python_version()}"]
    places = [*sys.path, str(folder)] if folder else sys.path
    for name in VERSIONS:
        one = next(iter(importlib.metadata.distributions(name=name, path=places)), None)
        found.append(f"{name} {one.version if one else 'not installed'}")
    return [f"{cpu}, {os.cpu_count()} cores, {size:.0f} GB of memory, {platform.system()}.", "", ", ".join(found) + "."]


def mark(panel, values):
    """Mark the measured sizes on the axis, as powers of 10 are too far apart to read them."""
    panel.set_xticks(sorted(set(values)), labels=[f"{value:,}" for value in sorted(set(values))], fontsize=8)
    panel.xaxis.minorticks_off()


def draw_crossval(reports, _):
    """Draw seconds over triplets, splits and stems, the other two as most runs have them."""
    figure, axes = new_figure(10, 3, 3)
    for panel, what in zip(axes, ("triplets", "splits", "stems"), strict=True):
        usual = {name: statistics.mode(one[name] for one in reports) for name in ("triplets", "splits", "stems")}
        del usual[what]
        some = [one for one in reports if all(one[name] == value for name, value in usual.items())]
        for who, colour in (("ours", SERIES_COLORS[0]), ("scikit-learn", SERIES_COLORS[1])):
            points = sorted((one[what], one[f"{who}, s"]) for one in some)
            panel.loglog(*zip(*points, strict=True), marker="o", color=colour, label=who)
        mark(panel, [one[what] for one in some])
        panel.set(xlabel=what, ylabel="seconds")
        panel.set_title(", ".join(f"{value} {name}" for name, value in usual.items()), fontsize=8)
        panel.legend(**LEGEND)
    return figure


def draw_search(reports, limits):
    """Draw the median of all kinds of weights over items, and how long the memory needs for one byte a number."""
    figure, panel = new_figure(8, 4)
    reports = sorted(reports, key=lambda one: one["rows"])
    items = [one["rows"] for one in reports]
    for engine, colour in zip(dict.fromkeys(e for one in reports for e in one["engines"]), SERIES_COLORS, strict=False):
        lines = [one["engines"].get(engine, {}).values() for one in reports]
        middle = [statistics.median(line["p50 ms"] for line in kinds) if kinds else float("nan") for kinds in lines]
        panel.loglog(items, middle, marker="o", color=colour, label=engine)
    if limits.figures:
        least = [1e-6 * one["rows"] * one["stems"] * one["dim"] / limits.figures["sum, GB/s"] for one in reports]
        panel.loglog(items, least, "--", color=GREY, label="limit of the memory")
    mark(panel, items)
    panel.set(xlabel="items", ylabel="ms of a search")
    panel.legend(**LEGEND | {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)})
    return figure


def draw_files(reports, _):
    """Draw memory over files that are added; None where no such run is recorded."""
    runs = [one["all"]["seen"] for one in reports if "all" in one]
    if not runs:
        return None
    figure, panel = new_figure(6, 3)
    panel.plot([at["files"] for at in runs[-1]], [at["MB"] for at in runs[-1]], linewidth=1, color=SERIES_COLORS[0])
    panel.set_ylim(0, 1.1 * max(at["MB"] for at in runs[-1]))
    panel.set(xlabel="files added, with no work in the models", ylabel="resident MB")
    return figure


PICTURES = {
    "crossval": (draw_crossval, "Cross-validated ridge, 20 penalties: one solver for all splits beside scikit-learn."),
    "search": (draw_search, "A search with any weights; dashed, the time to read one byte of each number."),
    "scale": (draw_files, "Memory of the process that adds files."),
}


def write_page(out, gradio):
    """Write the page of all that is recorded in a folder; return its path. `gradio`: folder that has Gradio."""
    records = {
        name: json.loads((out / f"{name}.json").read_text(encoding="utf-8")) if (out / f"{name}.json").exists() else []
        for name in BENCHMARKS
    }
    reports = {name: [run["report"] for run in record if not run["failure"]] for name, record in records.items()}
    limits = Limits(reports["limits"][-1] if reports["limits"] else {})
    quick = any(run["quick"] for record in records.values() for run in record)
    lines = [
        "# Benchmark book",
        "",
        "Made by `tests/benchmarks/book.py`; see `docs/benchmarks.md` for what matters of it.",
    ]
    if quick:
        lines += ["", "**Some runs are of small sizes (`--quick`): their figures show that all works, and no more.**"]
    lines += ["", "## Machine", "", *machine(gradio), "", "## Figures", ""]
    lines += ["A ratio above 1 is in favour of stemsim. The limit is what the machine cannot beat.", ""]
    lines += ["| benchmark | task | stemsim | alternative | ratio | limit |", "|---|---|---|---|---|---|"]
    for name, benchmark in BENCHMARKS.items():
        for row in benchmark.rows(reports[name], limits) if reports[name] else ():
            ratio = "" if row.ratio is None else f"{row.ratio:.3g} x"
            cells = (name, row.task, row.ours, row.alternative, ratio, row.limit)
            lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
        failed = [f"{run['command']}: {run['failure']}" for run in records[name] if run["failure"]]
        for what in failed or ([] if records[name] else ["not run"]):
            lines.append(f"| {name} | **{what.replace('|', '/')}** | | | | |")
    lines += ["", "## Curves", ""]
    for name, (draw, caption) in PICTURES.items():
        figure = draw(reports[name], limits) if reports[name] else None
        if figure is None:
            lines += [f"{caption} **Not run.**", ""]
        else:
            save_figure(figure, out / f"{name}.svg")
            lines += [f"![{caption}]({name}.svg)", "", caption, ""]
    lines += ["## Runs", "", "| command | date (UTC) | s | load before | |", "|---|---|---|---|---|"]
    for record in records.values():
        for run in record:
            state = "failed" if run["failure"] else "quick" if run["quick"] else ""
            shown = run["command"].replace(str(ROOT.parent), "..")
            lines.append(f"| `{shown}` | {run['date']} | {run['seconds']:.0f} | {run['load']:.1f} | {state} |")
    page = out / "README.md"
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return page


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS), metavar="NAME")
    parser.add_argument("--no-run", action="store_true", help="make the page of what is recorded")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "benchmarks")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the real data")
    parser.add_argument("--gradio", type=Path, help="folder that has Gradio; see bench_app.py")
    given = parser.parse_args(arguments)
    given.data = given.data.resolve()
    for name in [] if given.no_run else given.only:
        measure(name, given)
    print(write_page(given.out, given.gradio))


if __name__ == "__main__":
    main()
