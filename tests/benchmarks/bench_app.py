"""A slider move, from the key press to the new rows in the browser: the page, and a Gradio page of the same table.

    PYTHONPATH=.:tests python tests/benchmarks/bench_app.py [--rows N] [--moves N] [--gradio FOLDER] [--json FILE]

The items are made up, 7 stems each; the query is an upload. Both pages show 50 rows of the same `HeldQuery`, in
processes of their own, with headless Chromium beside them on the same cores. A move is one press of an arrow key on a
slider; the time ends when the text of the table differs. The processor time is that of the server alone. Moves of the
two pages alternate in blocks, so that other load meets both. FOLDER holds Gradio and nothing else needs it:
`pip install --target FOLDER gradio`. Without it that half is left out.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile
from app_client import RATE, TOKEN, tone
from bench_search import describe, draw, make_centres
from browser import chromium
from fakes import CountingEncoder, EqualBands

from stemsim.embedding import StemEmbedder
from stemsim.retrieval import Library
from stemsim.stems import STEMS

DIM, BATCH, K, BLOCKS = 64, 4096, 50, 5
TARGETS = {"p50 ms": 60.0, "server ms": 8.0, "times less than Gradio": 4.0}
MOVE = """async (table) => {
    await new Promise((resolve) => setTimeout(resolve, 150)); // so that nothing of the last move is left
    const text = () => document.querySelector(table).textContent;
    const before = text();
    window.move = new Promise((resolve) => {
        let begun;
        addEventListener("keydown", () => { begun = performance.now(); }, { capture: true, once: true });
        const observer = new MutationObserver(() => {
            if (text() === before) return;
            observer.disconnect();
            resolve(performance.now() - begun);
        });
        observer.observe(document.querySelector(table), { subtree: true, childList: true, characterData: true });
    });
}"""


def open_library(folder):
    return Library(folder / "library", StemEmbedder(EqualBands(STEMS, RATE), CountingEncoder(dim=DIM), progress=False))


def fill(folder, rows):
    """Make the library and the song."""
    rng = np.random.default_rng(0)
    library, centres = open_library(folder), make_centres(rng, DIM)
    for first in range(0, rows, BATCH):
        library.index.upsert(describe(rng, draw(rng, centres, min(BATCH, rows - first)), first))
    library.index.optimise()
    soundfile.write(folder / "song.wav", tone(*range(8), seconds=4.0), RATE)


def serve_page(folder):
    import uvicorn

    from stemsim.app.server import create_app

    (folder / "private").mkdir()
    app = create_app(open_library(folder), folder / "private", token=TOKEN)
    announcing(uvicorn, app)


def announcing(uvicorn, app):
    """Serve an application on a free port, which is printed."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as bound:
        print(bound.getsockname()[1], flush=True)
        uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False)).run(sockets=[bound])


def serve_gradio(folder):
    import gradio
    import uvicorn
    from starlette.applications import Starlette

    library = open_library(folder)
    held = library.hold(library.query(folder / "song.wav"))

    def rank(*weights):
        routing = library.routing(",".join(f"{stem}={weight}" for stem, weight in zip(STEMS, weights, strict=True)))
        hits = held.search(routing, K)
        return [[n, hit.path.name, hit.similarity, *hit.contributions.values()] for n, hit in enumerate(hits, start=1)]

    with gradio.Blocks(analytics_enabled=False) as blocks:
        sliders = [gradio.Slider(0, 2, 1, step=0.01, label=stem) for stem in STEMS]
        table = gradio.Dataframe(rank(*[1.0] * 7), headers=["#", "name", "similarity", *STEMS], elem_id="rows")
        for slider in sliders:
            slider.input(rank, sliders, table, show_progress="hidden", trigger_mode="always_last")
    announcing(uvicorn, gradio.mount_gradio_app(Starlette(), blocks, path="/"))


class Server:
    """A process that serves one of the pages."""

    def __init__(self, kind, folder, extra=None):
        paths = [*([str(extra)] if extra else []), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": ":".join(paths), "GRADIO_ANALYTICS_ENABLED": "False"}
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve", kind, str(folder)], stdout=subprocess.PIPE, text=True, env=environment
        )
        self.address = f"http://127.0.0.1:{int(self.process.stdout.readline())}"

    def seconds(self):
        """Processor time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self):
        """Resident megabytes."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    def end(self):
        self.process.terminate()
        self.process.wait()


def move(view, table, key):
    """Press a key on the slider that has the keyboard; return ms until the table differs."""
    view.evaluate(MOVE, table)
    view.keyboard.press(key)
    return view.evaluate("() => window.move")


def measure(servers, views, moves):
    """Move the drums' slider of each page up and down, in turns."""
    times, spent = {name: [] for name in views}, dict.fromkeys(views, 0.0)
    for view, table, slider in views.values():
        view.locator(slider).focus()
        for key in ("ArrowLeft", "ArrowRight") * 3:
            move(view, table, key)
    for _ in range(BLOCKS):
        for name, (view, table, slider) in views.items():
            view.bring_to_front()
            view.locator(slider).focus()
            begun = servers[name].seconds()
            times[name] += [move(view, table, ("ArrowLeft", "ArrowRight")[n % 2]) for n in range(moves // BLOCKS)]
            spent[name] += servers[name].seconds() - begun
    return {
        name: {
            "p50 ms": float(np.percentile(times[name], 50)),
            "p95 ms": float(np.percentile(times[name], 95)),
            "server ms": 1000 * spent[name] / len(times[name]),
            "server MB": servers[name].memory(),
        }
        for name in views
    }


def open_page(browser, address, folder):
    view = browser.new_page()
    view.goto(f"{address}/?token={TOKEN}")
    view.locator("#reference input[type=file]").set_input_files(folder / "song.wav")
    view.locator("#rows tr").nth(K - 1).wait_for(timeout=300_000)
    return view, "#rows", "#weight-drums"


def open_gradio(browser, address):
    view = browser.new_page()
    view.goto(address)
    view.locator("#rows").get_by_text("loop").filter(visible=True).first.wait_for(timeout=60_000)
    return view, "#rows .virtual-body", "input[type=range] >> nth=1"  # the rest shows the time of the request


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--moves", type=int, default=100)
    parser.add_argument("--gradio", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.gradio and not (options.gradio / "gradio").is_dir():
        parser.error(f"no Gradio in {options.gradio}: pip install --target {options.gradio} gradio")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fill(folder, options.rows)
        servers = {"page": Server("page", folder)}
        if options.gradio or importlib.util.find_spec("gradio"):
            servers["Gradio"] = Server("gradio", folder, options.gradio)
        else:
            print("Gradio is not installed, and left out: pip install --target FOLDER gradio, then --gradio FOLDER")
        try:
            with chromium() as browser:
                views = {"page": open_page(browser, servers["page"].address, folder)}
                if "Gradio" in servers:
                    views["Gradio"] = open_gradio(browser, servers["Gradio"].address)
                report = measure(servers, views, options.moves)
        finally:
            for server in servers.values():
                server.end()
    print(f"{options.rows} items x {len(STEMS)} stems, {options.moves} moves, load average {os.getloadavg()[0]:.1f}")
    for name, figures in report.items():
        print(f"{name:8s}" + "".join(f"  {key} {value:.1f}" for key, value in figures.items()))
    print("goals: " + ", ".join(f"{key} {value:g}" for key, value in TARGETS.items()))
    if "Gradio" in report:
        less = {key: report["Gradio"][key] / report["page"][key] for key in ("p50 ms", "server ms")}
        print("times less than Gradio: " + ", ".join(f"{key} {ratio:.1f}" for key, ratio in less.items()))
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        {"page": serve_page, "gradio": serve_gradio}[sys.argv[2]](Path(sys.argv[3]))
    else:
        main()
