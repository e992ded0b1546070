"""Categories and types of sounds by their names; measured key and tempo beside librosa's stock answers.

python tests/benchmarks/bench_tags.py [--names] [--tree OLD_CHECKOUT] [--font FONT.sf2]

Names: `names/conventions.tsv` has 473 names made up after the conventions of many packs, before the rules were
written; the vocabulary was tuned on every second one, the others are held out. `names/debian.tsv` has the files of
two packages: hydrogen-drumkits (without `rumpf_kit_z01_h2`, whose files are called beats_01-10 and so on) and
lmms-common. One line is for files that differ in a number, and says how many there are. What a sound is comes from
the instruments that a kit's description names; where there is none, from reading by hand. A line lists the categories
that must be found, and with `?` those that may be; a `-` is no category, or a type that the name leaves open. Where
our rules leave the type open, the sound counts as a one-shot, as if no beat were heard. With --tree, the rules of
another checkout answer too. --names leaves out the rest, which needs fluidsynth and a General MIDI sound font
(Debian: apt install fluidsynth fluid-soundfont-gm).

Keys: 24 triads and 24 cadences I-IV-V-I by each of seven instruments, and the cadences of two of them at A = 432 Hz;
scored as in MIREX (1 right, 0.5 a fifth off, 0.3 relative, 0.2 parallel). librosa: mean of `chroma_cqt`, with the
profiles of Krumhansl and Kessler (1982). Tempi: drum loops of seven styles, with and without a bass, melodic loops, and
excerpts of pieces cut anywhere. librosa: `beat.beat_track`.
"""

import argparse
import csv
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import librosa
import numpy as np
import soundfile
import soxr
from rich.console import Console
from rich.progress import track
from rich.table import Table

from stemsim.retrieval.tags.measuring import measure
from stemsim.retrieval.tags.names import NOTES

HERE = Path(__file__).resolve().parents[2]
NAMES = Path(__file__).with_name("names")
# Answers for names and lengths, with the rules of the checkout that it runs in.
GUESS = """
import json, sys
from pathlib import PurePath
from stemsim.retrieval.tags import categories
from stemsim.retrieval.tags.names import named_bpm
answers = []
for name, duration in json.load(sys.stdin):
    path = PurePath("/packs") / name
    if hasattr(categories, "guess_categories"):
        found = categories.guess_categories(path, duration)
        kind = categories.guess_type(path, duration, found, bpm=named_bpm(path, duration)) or "one-shot"
    else:  # one category, which may be `loop`
        found = [categories.guess_category(path) or "loop"]
        kind = "loop" if "loop" in found or categories.is_loop(path) else "one-shot"
    answers.append([[category for category in found if category != "loop"], kind])
json.dump(answers, sys.stdout)
"""
RATE = 44_100
FONT = Path("/usr/share/sounds/sf2/FluidR3_GM.sf2")
TRIADS = {"major": (0, 4, 7), "minor": (0, 3, 7)}
PROGRAMS = {"piano": 0, "electric piano": 4, "organ": 16, "guitar": 24, "strings": 48, "pad": 88, "saw": 81}
PROFILES = {
    "major": (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88),
    "minor": (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17),
}
K, S, H, OPEN, R = 36, 38, 42, 46, 51  # kick, snare, closed and open hat, ride
BACKBEAT = [(4, S), (12, S)]
EIGHTHS = [(step, H) for step in range(0, 16, 2)]
# Style -> sixteenths and drums of one bar, and the range of its tempo.
STYLES = {
    "rock": ([(0, K), (8, K), *BACKBEAT, *EIGHTHS], (90, 140)),
    "house": ([(s, K) for s in (0, 4, 8, 12)] + BACKBEAT + [(s, OPEN) for s in (2, 6, 10, 14)], (115, 135)),
    "hip-hop": ([(0, K), (7, K), (10, K), *BACKBEAT, *EIGHTHS], (75, 105)),
    "drum and bass": ([(0, K), (10, K), *BACKBEAT, *EIGHTHS], (165, 180)),
    "jungle": (
        [(s, K) for s in (0, 2, 10, 11)] + [(s, S) for s in (4, 7, 9, 12, 15)] + [(s, R) for s, _ in EIGHTHS],
        (160, 175),
    ),
    "half time": ([(0, K), (6, K), (8, S)] + [(s, H) for s in range(16)], (65, 85)),
    "trap": ([(0, K), (5, K), (11, K), (8, S)] + [(s, H) for s in range(16)], (130, 160)),
}


def render(tracks, bpm, folder, font):
    """Return the mono audio of tracks `(channel, program, [(beat, beats, note, velocity)])` at a tempo."""
    chunks = []
    for channel, program, notes in tracks:
        events = [(0, 0, bytes([0xC0 | channel, program]))]
        for beat, length, note, velocity in notes:
            events.append((round(beat * 480), 2, bytes([0x90 | channel, note, velocity])))
            events.append((round((beat + length) * 480), 1, bytes([0x80 | channel, note, 0])))
        data, now = b"\0\xff\x51\x03" + struct.pack(">I", round(60e6 / bpm))[1:], 0
        for at, _, message in sorted(events):
            wait = at - now
            data += (
                bytes([wait >> shift & 127 | 128 for shift in (14, 7) if wait >> shift]) + bytes([wait & 127]) + message
            )
            now = at
        data += b"\0\xff\x2f\0"
        chunks.append(b"MTrk" + struct.pack(">I", len(data)) + data)
    midi, wav = folder / "x.mid", folder / "x.wav"
    midi.write_bytes(b"MThd" + struct.pack(">IHHH", 6, 1, len(chunks), 480) + b"".join(chunks))
    command = ["fluidsynth", "-ni", "-g", "0.7", "-r", str(RATE), "-F", str(wav), str(font), str(midi)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return soundfile.read(wav, always_2d=True)[0].mean(axis=1)


def key_clips(folder, font):
    """Yield `(group, audio, key)`."""
    for name, program in PROGRAMS.items():
        notes, clips = [], []
        beat = 0
        for mode, triad in TRIADS.items():
            for tonic in range(12):
                notes += [(beat, 6, 60 + tonic + step, 90) for step in triad]
                clips.append((f"triads, {mode}", beat, 6, f"{NOTES[tonic]} {mode}"))
                beat += 10
                for place, (degree, quality) in enumerate([(0, mode), (5, mode), (7, "major"), (0, mode)]):
                    root, start = (tonic + degree) % 12, beat + 2 * place
                    notes += [(start, 2, 60 + root + step, 90) for step in TRIADS[quality]] + [
                        (start, 2, 36 + root, 90)
                    ]
                clips.append((f"cadences, {mode}", beat, 8, f"{NOTES[tonic]} {mode}"))
                beat += 12
        audio = render([(0, program, notes)], 120, folder, font)
        for group, start, beats, key in clips:
            clip = audio[start * RATE // 2 : (start + beats) * RATE // 2]
            yield group, clip, key
            if group.startswith("cadences") and name in {"piano", "strings"}:
                yield "cadences, A = 432 Hz", soxr.resample(clip, RATE, RATE * 440 / 432), key


def loops(folder, font, rng):
    """Yield `(group, audio, bpm)`."""
    for style, (pattern, tempi) in STYLES.items():
        for bars in (1, 2, 4, 8):
            for take in range(4):
                bpm, root = rng.randint(*tempi), rng.randint(33, 44)
                drums = [
                    (4 * bar + s / 4, 0.2, n, 100 if n in {K, S} else 70) for bar in range(bars) for s, n in pattern
                ]
                steps = (0, 3, 6, 8, 11, 14) if take == 1 else (0, 4, 8, 12)
                bass = [
                    (4 * bar + s / 4, 0.4, root + rng.choice((0, 0, 7, 10, 12)), 100)
                    for bar in range(bars)
                    for s in steps
                ]
                audio = render([(9, 0, drums)] + [(0, 38, bass)] * (take % 2), bpm, folder, font)
                yield style, audio[: round(bars * 240 / bpm * RATE)], bpm
    for _ in range(30):
        bpm, bars, every = rng.randint(70, 150), rng.choice((1, 2, 4)), rng.choice((1, 2, 2, 4))
        steps = [s for s in range(0, 16 * bars, every) if rng.random() < 0.85]
        notes = [(s / 4, 0.22, 60 + rng.choice((0, 3, 5, 7, 10, 12)), 90) for s in steps]
        audio = render([(0, rng.choice((0, 4, 24, 38, 81, 11)), notes)], bpm, folder, font)
        yield "melodic", audio[: round(bars * 240 / bpm * RATE)], bpm
    for _ in range(24):
        pattern, tempi = rng.choice(list(STYLES.values()))
        bpm, root = rng.randint(*tempi), rng.randint(33, 44)
        drums = [(4 * bar + s / 4, 0.2, n, 100 if n in {K, S} else 70) for bar in range(24) for s, n in pattern]
        bass = [
            (4 * bar + s / 4, 0.4, root + rng.choice((0, 0, 7, 10, 12)), 100)
            for bar in range(24)
            for s in (0, 3, 6, 8, 11, 14)
        ]
        chords = [(4 * bar, 3.9, root + 24 + step, 70) for bar in range(24) for step in TRIADS["minor"]]
        audio = render([(9, 0, drums), (0, 38, bass), (1, 48, chords)], bpm, folder, font)
        yield "pieces", audio[int(0.37 * RATE) : int(33.21 * RATE)], bpm


def librosa_key(audio):
    chroma = librosa.feature.chroma_cqt(y=librosa.resample(audio, orig_sr=RATE, target_sr=22_050), sr=22_050).mean(
        axis=1
    )
    scores = {
        f"{NOTES[tonic]} {mode}": np.corrcoef(chroma, np.roll(profile, tonic))[0, 1]
        for mode, profile in PROFILES.items()
        for tonic in range(12)
    }
    return max(scores, key=scores.get)


def librosa_tempo(audio):
    audio = librosa.resample(audio, orig_sr=RATE, target_sr=22_050)
    return float(np.atleast_1d(librosa.beat.beat_track(y=audio, sr=22_050)[0])[0]) or None


def mirex(found, truth):
    """Return the score of a key, None counting as wrong."""
    if found is None or " " not in found:
        return 0.0
    (note, mode), (tonic, true_mode) = (key.split() for key in (found, truth))
    up = (NOTES.index(note) - NOTES.index(tonic)) % 12
    if mode == true_mode:
        return {0: 1.0, 7: 0.5, 5: 0.5}.get(up, 0.0)
    return {0: 0.2, 9 if true_mode == "major" else 3: 0.3}.get(up, 0.0)


def tempo_verdict(found, truth):
    """Return `exact` within 2 %, `octave` for a simple multiple, `wrong` or `none`."""
    if found is None:
        return "none"
    close = [factor for factor in (1, 2, 1 / 2, 4, 1 / 4, 3, 1 / 3) if abs(found / truth / factor - 1) < 0.02]
    return "wrong" if not close else "exact" if close[0] == 1 else "octave"


def guesses(tree, rows):
    """Return the categories and the type of each row of a list, as a checkout guesses them."""
    asked = json.dumps([(row["path"], float(row["seconds"])) for row in rows])
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    done = subprocess.run(
        [sys.executable, "-c", GUESS],
        cwd=tree,
        env=environment,
        input=asked,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return json.loads(done.stdout)


def show_names(trees):
    """Print the share of files whose categories and whose type are right; return them."""
    lists = {
        name: list(csv.DictReader((NAMES / f"{name}.tsv").open(encoding="utf-8"), delimiter="\t"))
        for name in ("conventions", "debian")
    }
    lists |= {"conventions, held out": lists["conventions"][1::2]}
    lists |= {
        f"debian, {pack}": [r for r in lists["debian"] if r["path"].startswith(pack)] for pack in ("hydrogen", "lmms")
    }
    table, figures = Table("", "", "files", "categories right", "type right", title="Names"), []
    for name, rows in sorted(lists.items()):
        for whose, tree in trees.items():
            files, right, typed, kinds = 0, 0, 0, 0
            for row, (found, kind) in zip(rows, guesses(tree, rows), strict=True):
                words, count = row["categories"].replace("-", "").split(), int(row["files"])
                must, may = {word for word in words if "?" not in word}, {word.rstrip("?") for word in words}
                good = must <= set(found) <= may
                files, right = files + count, right + count * good
                typed, kinds = typed + count * (row["type"] != "-"), kinds + count * (row["type"] == kind)
            table.add_row(name, whose, str(files), f"{right / files:.3f}", f"{kinds / typed:.3f}")
            figures.append({"list": name, "rules": whose, "files": files, "categories right": right / files})
            figures[-1] |= {"type right": kinds / typed}
    Console().print(table)
    return figures


def show(title, verdicts, columns):
    """Print the counts of each group and method; return those of all groups together."""
    table = Table("", "", *columns, title=title)
    for (group, whose), counts in sorted(verdicts.items()):
        cells = [f"{counts[c] / counts['clips']:.3f}" if c == "MIREX score" else str(counts[c]) for c in columns]
        table.add_row(group, whose, *cells)
    Console().print(table)
    return {whose: dict(counts) for (group, whose), counts in verdicts.items() if group == "together"}


def show_audio(given):
    """Measure keys and tempi, print the tables, and return the counts of all groups together."""
    if shutil.which("fluidsynth") is None or not given.font.is_file():
        sys.exit(f"Expected fluidsynth and {given.font}: apt install fluidsynth fluid-soundfont-gm, or give --font.")
    keys, tempi = {}, {}
    with tempfile.TemporaryDirectory() as place:
        clip = Path(place) / "clip.wav"
        for group, audio, key in track(key_clips(Path(place), given.font), "keys", total=384):
            soundfile.write(clip, audio, RATE)
            for whose, found in (("stemsim", measure(clip, tempo=False).musical_key), ("librosa", librosa_key(audio))):
                for name in (group, "together"):
                    counts = keys.setdefault((name, whose), Counter())
                    counts.update({"clips": 1, "MIREX score": mirex(found, key)})
                    counts["right" if found == key else "unknown" if found is None else "wrong"] += 1
        for group, audio, bpm in track(loops(Path(place), given.font, random.Random(given.seed)), "tempi", total=166):
            soundfile.write(clip, audio, RATE)
            for whose, found in (("stemsim", measure(clip, key=False).bpm), ("librosa", librosa_tempo(audio))):
                for name in (group, "together"):
                    tempi.setdefault((name, whose), Counter()).update([tempo_verdict(found, bpm), "clips"])
    return {
        "key": show("Key", keys, ("clips", "right", "wrong", "unknown", "MIREX score")),
        "tempo": show("Tempo", tempi, ("clips", "exact", "octave", "wrong", "none")),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--font", type=Path, default=FONT, help="General MIDI sound font")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--names", action="store_true", help="names alone: no key, no tempo")
    parser.add_argument("--tree", type=Path, help="another checkout whose rules answer for the names too")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    given = parser.parse_args()
    trees = {**({"other": given.tree.resolve()} if given.tree else {}), "ours": HERE}
    figures = {"names": show_names(trees), **({} if given.names else show_audio(given))}
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
