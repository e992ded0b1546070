"""A miniature of Inst-Sim-ABX, written by hand: two runs, six triplets, a few listeners."""

import csv
import json
import shutil

import numpy as np
import pandas as pd

from stemsim.triplets import TEST_TYPES
from stemsim.triplets.inst_sim_abx_answers import ANSWERS_FILE

COLUMNS = (
    "",
    "ex_name",
    "subject_id",
    "reference",
    "sample_a",
    "sample_b",
    "answer_timbre",
    "answer_rhythm",
    "answer_melody",
    "answer_total",
    "choice_time",
)

# Test, instrument, role: track and segment. Both runs ask about the same drums, the second one about mixes as well.
DRUMS = {
    "test1": {"drums": {"X": (1876, 3), "Y": (1876, 1), "C": (1877, 4)}},
    "test2": {"drums": {"X": (1876, 3), "A": (1878, 1), "B": (1879, 2)}},
}
BOTH = {
    "test1": DRUMS["test1"] | {"mix": {"X": (1876, 5), "Y": (1876, 0), "C": (1880, 7)}},
    "test2": DRUMS["test2"] | {"mix": {"X": (1876, 5), "A": (1881, 1), "B": (1882, 6)}},
}
RUNS = {"ex202404": DRUMS, "ex202407": BOTH}

X_DRUMS, A_DRUMS, B_DRUMS = (f"set2/0/drums/{name}.wav" for name in ("X_1876-3", "A_1878-1", "B_1879-2"))
Y_DRUMS, C_DRUMS = "set2/0/drums/Y_1876-1.wav", "set2/0/drums/C_1877-4.wav"
X_MIX, A_MIX, B_MIX = (f"set2/0/mix/{name}.wav" for name in ("X_1876-5", "A_1881-1", "B_1882-6"))
Y_MIX, C_MIX = "set2/0/mix/Y_1876-0.wav", "set2/0/mix/C_1880-7.wav"
DUMMY_A = ("samples/dummyX1.wav", "samples/dummyX1.wav", "samples/dummyB1.wav")
DUMMY_B = ("samples/dummyX2.wav", "samples/dummyA2.wav", "samples/dummyX2.wav")

# Run, listener, what was heard (reference, sample_a, sample_b), answers on timbre, rhythm, melody, and over all.
ROWS = [
    # Mix, XAB: four of five choose A, whichever way round they heard it.
    ("ex202407", "subject1", (X_MIX, A_MIX, B_MIX), ("A+", "B-", "NA", "A+")),
    ("ex202407", "subject2", (X_MIX, A_MIX, B_MIX), ("A-", "NA", "NA", "A-")),
    ("ex202407", "subject3", (X_MIX, B_MIX, A_MIX), ("B+", "A-", "NA", "B-")),
    ("ex202407", "subject4", (X_MIX, B_MIX, A_MIX), ("A+", "A+", "NA", "B+")),
    ("ex202407", "subject5", (X_MIX, A_MIX, B_MIX), ("B+", "B+", "NA", "B+")),
    # Mix, XYC: two of three choose Y.
    ("ex202407", "subject1", (X_MIX, Y_MIX, C_MIX), ("A+", "A+", "A+", "A+")),
    ("ex202407", "subject2", (X_MIX, C_MIX, Y_MIX), ("B-", "NA", "A-", "B-")),
    ("ex202407", "subject5", (X_MIX, C_MIX, Y_MIX), ("B-", "B-", "A+", "A+")),
    # Drums: the same question in both runs counts as two triplets.
    ("ex202404", "subject1", (X_DRUMS, A_DRUMS, B_DRUMS), ("NA", "B+", "NA", "B+")),
    ("ex202407", "subject2", (X_DRUMS, A_DRUMS, B_DRUMS), ("NA", "A+", "NA", "A+")),
    ("ex202407", "subject3", (X_DRUMS, A_DRUMS, B_DRUMS), ("NA", "B+", "NA", "B-")),
    ("ex202404", "subject1", (X_DRUMS, C_DRUMS, Y_DRUMS), ("NA", "B+", "NA", "B+")),
    ("ex202407", "subject4", (X_DRUMS, Y_DRUMS, C_DRUMS), ("NA", "B+", "NA", "B+")),
    # Dummy checks, which listeners get more than once; subject 5 fails one of two.
    ("ex202404", "subject1", DUMMY_A, ("A+", "A+", "A+", "A-")),
    ("ex202407", "subject1", DUMMY_A, ("A+", "A+", "A+", "A+")),
    ("ex202407", "subject5", DUMMY_B, ("B+", "NA", "B+", "B+")),
    ("ex202407", "subject5", DUMMY_B, ("B+", "NA", "B+", "A-")),
]


def sample_config(run):
    """Return what a run's sample configuration says."""

    def describe(role, track, segment):
        filename = f"{role}_{track}-{segment}.wav"
        start = 44100 * segment + track  # any sample: it need not be a multiple of the length
        return {
            "ID": track,
            "seg": segment,
            "filename": filename,
            "sr": 44100,
            "index_s": start,
            "index_e": start + 219136,
        }

    tests = {
        test: {name: {role: describe(role, *place) for role, place in roles.items()} for name, roles in heard.items()}
        for test, heard in RUNS[run].items()
    }
    return {"2": {"0": tests}}


def write_fake_inst_sim_abx(root, rows=ROWS, *, configs=None, columns=COLUMNS):
    """Write the folder as the repository has it, with some rows, sample configurations and columns; return it."""
    (root / "csvs").mkdir(parents=True)
    (root / "sample_configs").mkdir()
    with (root / "csvs" / "inst_sim_abx_answers.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        for index, (run, subject, paths, answers) in enumerate(rows):
            writer.writerow(dict(zip(COLUMNS, (index, run, subject, *paths, *answers, 20000), strict=True)))
    for run, config in (configs or {run: sample_config(run) for run in RUNS}).items():
        path = root / "sample_configs" / f"dict_triplet_{run.removeprefix('ex')}.json"
        path.write_text(json.dumps(config), encoding="utf-8")
    return root


def write_part_of_inst_sim_abx(source, root, *, instruments, each, kinds=TEST_TYPES):
    """Write the first `each` triplets of the real listening test of both kinds, as the repository has it; return it.

    Args:
        source: Folder of the real one.
        root: Folder to write to.
        instruments: What was heard.
        kinds: Test types.
        each: Number of triplets of each test type and instrument that at least 80 % agree on.
    """
    frame = pd.read_csv(source / ANSWERS_FILE, dtype=str, keep_default_na=False, index_col=0)
    heard = frame["reference"].str.split("/").str[2].isin(instruments)
    pair = [tuple(sorted(files)) for files in zip(frame["sample_a"], frame["sample_b"], strict=True)]
    frame = frame.assign(pair=pair)[heard]
    frame["chosen"] = np.where(frame["answer_total"].str[0] == "A", frame["sample_a"], frame["sample_b"])
    question = frame.groupby(["ex_name", "reference", "pair"], sort=False).ngroup()
    votes = frame.groupby([question, "chosen"])["chosen"].transform("size").groupby(question).transform("max")
    agreed = frame[votes / question.groupby(question).transform("size") >= 0.8]
    kind = agreed["sample_a"].str.contains("/[YC]_", regex=True).map({True: "XYC", False: "XAB"})
    agreed, kind = agreed[kind.isin(kinds)], kind[kind.isin(kinds)] + agreed["reference"].str.split("/").str[2]
    order = question[agreed.index].groupby(kind, sort=False).transform(lambda values: pd.factorize(values)[0])
    (root / "csvs").mkdir(parents=True)
    agreed[order < each].drop(columns=["pair", "chosen"]).to_csv(root / ANSWERS_FILE)
    shutil.copytree(source / "sample_configs", root / "sample_configs")
    return root
