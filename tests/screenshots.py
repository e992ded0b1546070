"""Pictures of the page on real sounds, wide and narrow, light and dark; one of them is the README's. Run by hand.

    python tests/screenshots.py --data ../shared/data [--library FOLDER] [--out docs/images]

Writes `app-SCHEME-WIDTH.png` to `build/screenshots`, and the README's to `--out` as `app.png`. Making the library takes
two minutes; `--library` keeps it for the next time.
"""

import argparse
import re
import tempfile
from pathlib import Path

import soundfile
from app_client import page, wav
from browser import chromium, opened
from PIL import Image
from playwright.sync_api import expect

from stemsim.embedding import StemEmbedder
from stemsim.encoders import Spectral
from stemsim.retrieval import Library
from stemsim.separators import Bands

SIZES = ((1440, 900), (390, 844))
SONG = "hydrogen"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--library", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    options = parser.parse_args()
    shots = Path("build/screenshots")
    shots.mkdir(parents=True, exist_ok=True)
    songs = options.data.resolve() / "everything-is-free"
    with tempfile.TemporaryDirectory() as folder:
        library = Library(options.library or f"{folder}/library", StemEmbedder(Bands(), Spectral(), progress=False))
        library.add([options.data.resolve() / "samples", *(song for song in songs.iterdir() if song.name != SONG)])
        samples, rate = soundfile.read(songs / SONG / "mix.ogg")
        song = {"name": f"{SONG}.wav", "mimeType": "audio/wav", "buffer": wav(samples, rate)}
        with page(library, Path(folder) / "private") as served, chromium() as browser:
            address = str(served.client.base_url).rstrip("/")
            for scheme in ("light", "dark"):
                for width, height in SIZES:
                    size = {"width": width, "height": height}
                    with opened(browser, address, viewport=size, color_scheme=scheme) as view:
                        take(view, song, shots / f"app-{scheme}-{width}.png")
    picture = Image.open(shots / "app-light-1440.png").convert("RGB")
    picture.quantize(128).save(options.out / "app.png", optimize=True)  # below 200 kB


def take(view, song, path):
    """Search with a song, listen to a result, and take a picture."""
    view.locator("#reference input[type=file]").set_input_files(song)
    expect(view.locator("#rows tr").first).to_be_visible(timeout=60_000)
    for stem, weight in {"drums": 2.0, "bass": 0.8, "residuals": 0.5, "mix": 0.35}.items():
        view.get_by_label(f"Weight of {stem}, exact").fill(str(weight))
    view.keyboard.press("Enter")
    view.keyboard.press("Escape")
    settled = re.compile(r"mix 0\.[0-3]")  # from here on the rows stay in their places
    expect(view.locator("#rows .contributions").first).to_have_attribute("aria-label", settled)
    for key in ("ArrowDown", "f", "ArrowDown"):
        view.keyboard.press(key)
    with view.expect_response("**/peaks?*"):
        view.keyboard.press("ArrowDown")
    expect(view.locator("#player")).to_have_attribute("data-playing", "result")
    view.screenshot(path=path)


if __name__ == "__main__":
    main()
