"""Coverage-guided fuzzing of what reads bytes that anyone may have written: `python tests/fuzz.py [TARGET ...]`.

Atheris (libFuzzer) changes inputs, and keeps those that reach new branches of the package in `build/fuzz/TARGET`, where
the next run begins. What fails is in `build/fuzz/failures/TARGET`: mend it, and copy it to `tests/corpus/TARGET`.
"""

import argparse
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import traceback
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console
from rich.table import Table

TESTS = Path(__file__).parent
BUILD = TESTS.parent / "build" / "fuzz"
_STATUS = re.compile(r"#(\d+)\s+\w+.*?cov: (\d+) ft: \d+ corp: (\d+)/")


def fuzz(name, seconds, seed):
    """Fuzz one target in this process, which libFuzzer then ends."""
    import atheris

    with atheris.instrument_imports(include=["stemsim"]):
        from fuzz_targets import CORPUS, MEGABYTES, SECONDS, TARGETS, failure

        corpus, failures = BUILD / name, BUILD / "failures" / name
        corpus.mkdir(exist_ok=True)
        words = BUILD / f"{name}.words"
        quoted = (word.replace('"', '\\"') for word in TARGETS[name].words.split())
        words.write_text("".join(f'"{word}"\n' for word in quoted), encoding="utf-8")
        seen = set()

        def attack(content):
            if (error := failure(name, content)) is None:
                return
            frames = traceback.extract_tb(error.__traceback__)
            place = (type(error), *((frame.filename, frame.lineno) for frame in frames if "stemsim" in frame.filename))
            if place not in seen:
                seen.add(place)
                (failures / f"{type(error).__name__}-{len(seen)}").write_bytes(content)
                traceback.print_exception(error)

        for seeds in sorted((CORPUS / name).iterdir()):
            attack(seeds.read_bytes())  # loads what is loaded late, so that memory and time are those of the inputs
        megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024 + MEGABYTES
        limits = [
            f"-max_total_time={seconds}",
            f"-timeout={10 * SECONDS:g}",
            f"-rss_limit_mb={megabytes}",
            "-max_len=65536",
            "-report_slow_units=1000",  # seconds: `failure` does so
        ]
        more = [f"-dict={words}", f"-artifact_prefix={failures}/", f"-seed={seed}", "-len_control=20"]
        atheris.Setup([sys.argv[0], *limits, *more, str(corpus), str(CORPUS / name)], attack)
        atheris.Fuzz()


def run(name, seconds, seed):
    """Fuzz one target in a process of its own; return what was reached and what failed."""
    failures = BUILD / "failures" / name
    shutil.rmtree(failures, ignore_errors=True)
    failures.mkdir(parents=True)
    command = [sys.executable, __file__, name, "--here", "--seconds", str(seconds), "--seed", str(seed)]
    with tempfile.TemporaryDirectory() as folder:  # libFuzzer ends the process without tidying up
        places = {**os.environ, "TMPDIR": folder}
        child = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, env=places)
    (BUILD / f"{name}.log").write_text(child.stdout + child.stderr, encoding="utf-8")
    inputs, branches, corpus = (_STATUS.findall(child.stderr) or [("0", "0", "0")])[-1]
    failed = sorted(str(path.relative_to(BUILD)) for path in failures.iterdir())
    if child.returncode and not failed:
        failed = [f"{name}.log"]
    counts = {"inputs": int(inputs), "corpus": int(corpus), "branches": int(branches)}
    return {"target": name, **counts, "failures": failed}


def main():
    """Fuzz some targets, one after the other, and print a table."""
    names = sorted(path.name for path in (TESTS / "corpus").iterdir())
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"default: all of {', '.join(names)}")
    parser.add_argument("--seconds", type=int, default=20, help="for each target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table as JSON too")
    parser.add_argument("--here", action="store_true", help="in this process, and without a table")
    options = parser.parse_args()
    if options.here:
        fuzz(options.targets[0], options.seconds, options.seed)
    if find_spec("atheris") is None:
        sys.exit("Fuzzing needs Atheris, which there is for Linux on x86-64: pip install 'stemsim[dev]'.")
    found = [run(name, options.seconds, options.seed) for name in options.targets or names]
    table = Table(*(found[0]))
    for one in found:
        table.add_row(*(str(one[column]) for column in [*one][:-1]), "\n".join(one["failures"]) or "none")
    Console().print(table)
    if options.json:
        document = {"seconds": options.seconds, "seed": options.seed, "targets": found}
        options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    sys.exit(any(one["failures"] for one in found))


if __name__ == "__main__":
    main()
