"""Votes files: what people write is read right or refused by line, nothing is counted twice, and no vote is lost."""

import csv
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from stemsim.cli import app
from stemsim.errors import ConfigError, DataNotFoundError, TripletError
from stemsim.evaluation.listening_test import describe_listening_test
from stemsim.triplets import VotesFile
from stemsim.triplets.ratings import votes_from_ratings
from stemsim.triplets.votes_file_answers import read_votes
from stemsim.triplets.votes_table import COLUMNS, append_vote

PLAIN = "x,a,b,answer,listener\nx.wav,a.wav,b.wav,A,ann\nx.wav,b.wav,a.wav,A,bob\ny.wav,a.wav,b.wav,B,ann\n"


def write(folder, text, name="votes.csv", encoding="utf-8"):
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


def votes(path):
    """Return the votes for A and B of each triplet by the names of its files."""
    answers = read_votes(path)
    names = [tuple(one.path.name for one in row) for row in answers.asked[["x", "a", "b"]].to_numpy()]
    return dict(zip(names, map(tuple, answers.votes().tolist()), strict=True))


EXPECTED = {("x.wav", "a.wav", "b.wav"): (1, 1), ("y.wav", "a.wav", "b.wav"): (0, 1)}


class TestForms:
    def test_the_order_of_the_candidates_does_not_matter_and_bias_is_that_of_the_order_heard(self, tmp_path):
        path = write(tmp_path, PLAIN)
        assert votes(path) == EXPECTED
        assert read_votes(path).chose_first.tolist() == [True, True, False]
        assert not read_votes(path).graded

    @pytest.mark.parametrize(
        ("name", "text", "encoding"),
        [
            ("bom.csv", PLAIN, "utf-8-sig"),
            ("windows.csv", PLAIN.replace("\n", "\r\n"), "utf-8"),
            ("mac.csv", PLAIN.replace("\n", "\r"), "utf-8"),
            ("semicolons.csv", PLAIN.replace(",", ";"), "utf-8"),
            ("tabs.tsv", PLAIN.replace(",", "\t"), "utf-8"),
            ("excel.txt", PLAIN.replace(",", "\t"), "utf-16"),
            ("blank.csv", "\n" + PLAIN.replace("\n", "\n\n,,,,\n"), "utf-8"),
            ("spaces.csv", PLAIN.replace(",", " , ").replace("A", "a").replace("answer", " Answer "), "utf-8"),
            ("names.csv", "Reference,Sample A,sample-b,answer_total,subject_id\n" + PLAIN.split("\n", 1)[1], "utf-8"),
            ("no newline.csv", PLAIN.rstrip(), "utf-8"),
            ("torn.csv", PLAIN + "y.wav,a.wa", "utf-8"),
            ("torn quote.csv", PLAIN + '"y.wav', "utf-8"),
            ("more columns.csv", "".join(f"note {n},{line}\n" for n, line in enumerate(PLAIN.split())), "utf-8"),
        ],
    )  # fmt: skip
    def test_what_spreadsheets_and_people_write_is_the_same_table(self, tmp_path, name, text, encoding):
        assert votes(write(tmp_path, text, name, encoding)) == EXPECTED

    def test_a_letter_cut_in_two_ends_a_torn_line(self, tmp_path):
        path = tmp_path / "votes.csv"
        path.write_bytes(PLAIN.encode() + "y.wav,ü".encode()[:-1])
        assert votes(path) == EXPECTED

    def test_parquet(self, tmp_path):
        path = tmp_path / "votes.parquet"
        rows = [line.split(",") for line in PLAIN.split()]
        frame = pd.DataFrame(rows[1:], columns=rows[0]).assign(start=[0.0, np.nan, 0.0], duration=2.5)
        frame.to_parquet(path)
        assert votes(path) == EXPECTED
        assert {one.duration for one in read_votes(path).asked["x"]} == {2.5}

    def test_columns_in_another_order(self, tmp_path):
        rows = [line.split(",")[::-1] for line in PLAIN.split()]
        assert votes(write(tmp_path, "\n".join(map(",".join, rows)))) == EXPECTED

    def test_counts(self, tmp_path):
        path = write(tmp_path, "x,a,b,votes_a,votes_b\nx.wav,a.wav,b.wav,4,1\nx.wav,b.wav,a.wav,2,\n")
        assert votes(path) == {("x.wav", "a.wav", "b.wav"): (4, 3)}
        assert len(set(read_votes(path).subject.tolist())) == 7

    def test_grades_and_perspectives_in_columns_or_rows(self, tmp_path):
        wide = "x,a,b,answer,timbre,listener,duration\nx,a,b,A+,B-,ann,1\nx,b,a,A-,na,bob,1\n"
        long = "x,a,b,answer,question,listener,duration\n"
        long += "x,a,b,A+,overall,ann,1\nx,a,b,B-,Timbre,ann,1\nx,b,a,A-,total,bob,1\n"
        for text in (wide, long):
            counted = read_votes(write(tmp_path, text)).count()
            assert counted.votes.tolist() == [[1, 1]]
            assert counted.sure_votes.tolist() == [[1, 0]]
            assert counted.perspective_votes.tolist() == [[[0, 1], [0, 0], [0, 0]]]

    def test_a_decimal_comma_where_columns_are_separated_by_semicolons(self, tmp_path):
        path = write(tmp_path, "x;a;b;answer;start;duration_x;duration\nx;a;b;A;1,5;2,25;3\n")
        x, a, b = read_votes(path).asked[["x", "a", "b"]].to_numpy()[0]
        assert (x.start, x.duration, a.start, a.duration, b.duration) == (1.5, 2.25, 1.5, 3.0, 3.0)


class TestMeaning:
    def test_a_candidate_of_the_reference_track_is_a(self, tmp_path):
        text = "x,a,b,answer,start_x,start_a,start_b\ns,t,s,B+,0,0,5\ns,s,t,A-,0,5,0\nx,a,b,A,0,0,0\n"
        answers = read_votes(write(tmp_path, text))
        assert answers.asked["test_type"].tolist() == ["XYC", "XAB"]
        assert answers.asked["a"][0].start == 5.0
        assert answers.votes().tolist() == [[2, 0], [1, 0]]

    def test_tracks_can_be_named(self, tmp_path):
        text = "x,a,b,answer,track_x,track_a,track_b,test_type\ncut1,cut2,cut3,B,song,other,song,xyc\n"
        answers = read_votes(write(tmp_path, text))
        assert (answers.asked["test_type"][0], answers.asked["a"][0].path.name) == ("XYC", "cut3")

    def test_repeats_count_once_wherever_the_candidates_were(self, tmp_path):
        text = PLAIN + "x.wav,b.wav,a.wav,B,ann\nx.wav,a.wav,b.wav,B,ann\n"
        path = write(tmp_path, text)
        assert votes(path) == EXPECTED
        assert [(one.line, one.subject, one.same) for one in read_votes(path).repeats] == [
            (5, "ann", True),
            (6, "ann", False),
        ]
        test = describe_listening_test(path)
        assert (test.repeats, test.consistency) == (2, 0.5)

    def test_a_vote_written_twice_is_one_vote(self, tmp_path):
        text = "x,a,b,answer,vote_id\nx,a,b,A,1\nx,a,b,A,1\nx,a,b,A,2\n"
        answers = read_votes(write(tmp_path, text))
        assert answers.votes().tolist() == [[2, 0]]
        assert not answers.repeats

    def test_trials(self, tmp_path):
        text = (
            "x,a,b,answer,listener,trial_type,choice_time,chosen_by\nx,a,b,A,ann,training,,\nx,a,x,A,ann,dummy,,\n"
            "x,a,b,B,ann,vote,1500,active\nx,c,b,A,bob,,NA,random\nx,x,b,A,bob,,,\n"
        )
        answers = read_votes(write(tmp_path, text))
        assert answers.votes().tolist() == [[0, 1], [1, 0]]
        np.testing.assert_array_equal(answers.seconds, [1.5, np.nan])
        assert answers.at_random.tolist() == [False, True]
        assert [(check.line, check.subject, check.expected) for check in answers.dummies] == [
            (3, "ann", "B"),
            (6, "bob", "A"),
        ]
        screened = answers.screened()
        assert (screened.subject.tolist(), len(screened.asked)) == (["bob"], 1)

    def test_one_listener(self, tmp_path):
        assert read_votes(write(tmp_path, PLAIN)).of(["ann"]).votes().tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", 1, "the heading must name the columns x, a and b; got nothing"),
        ("a.wav,b.wav,c.wav\n", 1, "Add such a line on top"),
        ("x,a,b\nx,a,b\n", 1, "must name either `answer`"),
        ("x,a,b,answer,votes_a,votes_b\n", 1, "must name either `answer`"),
        ("x,a,b,votes_a\nx,a,b,1\n", 1, "both `votes_a` and `votes_b`"),
        ("x,reference,a,b,answer\n", 1, "several columns mean `x`"),
        ("x,a,b,answer\n\nx,a,b,C\n", 3, "`answer` must be A or B.*got 'C'"),
        ("x,a,b,answer\nx,a,b,=\n", 2, "A listener without a preference has no vote"),
        ("x,a,b,answer\nx,a,b,NA\n", 2, "no question is answered"),
        ("x,a,b,answer\nx,a,a,A\n", 2, "A and B are the same sound"),
        ("x,a,b,answer\nx,,b,A\n", 2, "`a` is empty"),
        ("x,a,b,answer\nx,a,b\nx,a,b,A\n", 2, "3 cells where the heading has 4"),
        ("x,a,b,answer\nkick, hard,a,b,A\n", 2, "5 cells where the heading has 4. Put cells that contain ','"),
        ('x,a,b,answer\n"x"y,a,b,A\n', 2, "Correct the quotation marks"),
        ("x,a,b,answer,start\nx,a,b,A,soon\n", 2, "`start` must be a number of at least 0; got 'soon'"),
        ("x,a,b,answer,start\nx,a,b,A,nan\n", 2, "got 'nan'"),
        ("x,a,b,answer,duration\nx,a,b,A,0\n", 2, "the duration of `x` is 0 s"),
        ("x,a,b,answer,trial_type\nx,a,b,A,pilot\n", 2, "`trial_type` must be"),
        ("x,a,b,answer,trial_type\nx,a,b,A,dummy\n", 2, "neither candidate of a dummy check"),
        ("x,a,b,answer,instrument\nx,a,b,A,kazoo\n", 2, "`instrument` must be one of bass"),
        ("x,a,b,answer,question\nx,a,b,A,mood\n", 2, "`question` must be one of overall"),
        ("x,a,b,answer,test_type\nx,a,b,A,XYC\n", 2, "by the tracks of x, a and b this is XAB"),
        ("x,a,b,votes_a,votes_b\nx,a,b,1.5,0\n", 2, "whole numbers"),
        ("x,a,b,votes_a,votes_b\nx,a,b,0,0\n", 2, "not both 0"),
        ("x,a,b,votes_a,votes_b\nx,a,b,20000,0\n", 2, "up to 10000"),
        ("x,a,b,answer\nx,a,b,A\0\n", 2, "NUL"),
    ],
)
def test_what_cannot_be_understood_is_refused_by_line(tmp_path, text, line, message):
    with pytest.raises(TripletError, match=rf"votes\.csv, line {line}: .*{message}"):
        read_votes(write(tmp_path, text))


def test_other_encodings_missing_files_and_empty_tables_are_named(tmp_path):
    with pytest.raises(TripletError, match=r"line 2: the bytes b'\\xfc' are not UTF-8 text"):
        read_votes(write(tmp_path, "x,a,b,answer\nüx,a,b,A\n", encoding="latin-1"))
    with pytest.raises(DataNotFoundError, match=r"No votes at .*nowhere\.csv"):
        read_votes(tmp_path / "nowhere.csv")
    with pytest.raises(TripletError, match="holds no votes"):
        read_votes(write(tmp_path, "x,a,b,answer\n"))
    with pytest.raises(TripletError, match="not a Parquet file"):
        read_votes(write(tmp_path, PLAIN, "votes.parquet"))


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, len(PLAIN)),
    st.integers(0, 4),
    st.text(st.sampled_from(',;\t\n\r"\0\ufeff\u2028AB+-= x.'), max_size=6),
    st.booleans(),
)
def test_a_damaged_file_is_read_or_refused_with_a_reason(tmp_path_factory, place, cut, added, torn):
    text = PLAIN[:place] + added + ("" if torn else PLAIN[place + cut :])
    path = write(tmp_path_factory.mktemp("votes"), text)
    try:
        assert read_votes(path).votes().sum() == len(read_votes(path))
    except TripletError as error:
        assert str(path) in str(error)  # noqa: PT017 - either will do


class TestReader:
    def test_missing_audio_is_listed(self, tmp_path):
        path = write(tmp_path, PLAIN)
        (tmp_path / "a.wav").touch()
        with pytest.raises(DataNotFoundError, match=r"3 of the 4 audio files .*b\.wav, .*x\.wav, .*y\.wav"):
            VotesFile(path).read()

    def test_sounds_outside_a_stated_folder_are_refused(self, tmp_path):
        folder = tmp_path / "test"
        folder.mkdir()
        for file in (tmp_path / "x.wav", *(folder / f"{name}.wav" for name in "xaby")):
            file.touch()
        path = write(folder, "x,a,b,duration,answer\nx.wav,a.wav,b.wav,1,A\n")
        assert len(VotesFile(path, within=folder).read()) == 1
        (folder / "link.wav").symlink_to("../x.wav")
        for outside in ("../x.wav", str(tmp_path / "x.wav"), "link.wav"):
            path = write(folder, f"x,a,b,duration,answer\n{outside},a.wav,b.wav,1,A\n")
            assert len(VotesFile(path).read()) == 1
            with pytest.raises(ConfigError, match=r"which is not in .*test \(`within`\)\. Copy its sounds"):
                VotesFile(path, within=folder).read()

    def test_filters_are_those_of_the_other_readers(self, tmp_path):
        text = (
            "x,a,b,duration,answer,timbre,listener,instrument\nx,a,b,1,A+,B+,l1,\nx,a,b,1,A-,B+,l2,\nx,b,a,1,A+,,l3,\n"
            "y,a,b,1,B+,,l1,\nx,a,b,1,A-,,l1,drums\nx,x2,b,1,A+,,l1,\n"
        )
        path = write(tmp_path, text.replace("\nx,x2,b,1,A+,,l1,\n", "\n"))
        for name in "xaby":
            (tmp_path / name).touch()
        assert VotesFile(path).read().votes.tolist() == [[2, 1], [0, 1]]
        assert VotesFile(path, min_agreement=0.8).read().votes.tolist() == [[0, 1]]
        assert VotesFile(path, min_votes=3).read().sure_votes.tolist() == [[1, 1]]
        assert VotesFile(path, instrument=None).read().instrument.tolist() == ["mix", "mix", "drums"]
        assert VotesFile(path, question="timbre").read().votes.tolist() == [[0, 2]]
        assert VotesFile(path, listener="l3").read().votes.tolist() == [[0, 1]]
        assert list(VotesFile(path).read_questions()) == ["overall", "timbre"]
        assert len(VotesFile(path, test_type="XYC").read()) == 0
        with pytest.raises(ConfigError, match="no listener 'eve', but l1, l2, l3"):
            VotesFile(path, listener="eve").read()
        with pytest.raises(ConfigError, match="Instruments are"):
            VotesFile(path, instrument="kazoo")


names = st.text(st.characters(codec="utf-8", exclude_characters="\n\r\0/"), min_size=1, max_size=12).filter(
    lambda name: name.strip() == name and name not in {".", ".."}
)
ROW = st.fixed_dictionaries(
    {
        "subject_id": names,
        "answer_total": st.sampled_from(["A+", "A-", "B+", "B-"]),
        "start_x": st.floats(0, 1e6).map(repr),
        "duration_a": st.floats(0.001, 1e6).map(repr),
        "choice_time": st.integers(0, 10**6).map(str),
        "chosen_by": st.sampled_from(["random", "active"]),
    }
)


class TestCounting:
    @settings(max_examples=60, deadline=None)
    @given(
        rows=st.lists(
            st.tuples(st.sampled_from("xyz"), st.booleans(), st.sampled_from("AB"), st.sampled_from(["ann", "bob"])),
            min_size=1,
            max_size=20,
        )
    )
    def test_the_first_answer_of_a_listener_counts_in_whatever_order(self, tmp_path_factory, rows):
        text, first, repeats = "x,a,b,answer,listener\n", {}, 0
        for x, swapped, answer, listener in rows:
            text += f"{x},{'q,p' if swapped else 'p,q'},{answer},{listener}\n"
            repeats += (x, listener) in first
            first.setdefault((x, listener), ("q" if swapped else "p") if answer == "A" else ("p" if swapped else "q"))
        path = write(tmp_path_factory.mktemp("votes"), text)
        counted = {}
        for (x, a, _), (for_a, for_b) in votes(path).items():
            counted[x] = (for_a, for_b) if a == "p" else (for_b, for_a)
        chosen = {x: [one for (heard, _), one in first.items() if heard == x] for x, *_ in rows}
        assert counted == {x: (own.count("p"), own.count("q")) for x, own in chosen.items()}
        assert len(read_votes(path).repeats) == repeats


class TestAppending:
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(files=st.lists(names, min_size=3, max_size=3, unique=True), rows=st.lists(ROW, min_size=1, max_size=5))
    def test_what_is_written_is_read_back(self, tmp_path_factory, files, rows):
        path = tmp_path_factory.mktemp("votes") / "votes.csv"
        roles = dict(zip(("reference", "sample_a", "sample_b"), files, strict=True))
        distinct = {(row["subject_id"], row["start_x"], row["duration_a"]): row for row in rows}.values()
        for number, row in enumerate(distinct):
            append_vote(path, {**roles, **row, "vote_id": str(number)})
        answers = read_votes(path)
        for place, row in enumerate(distinct):
            x, a, b = answers.asked[["x", "a", "b"]].to_numpy()[answers.triplet[place]]
            assert (x.start, a.duration) == (float(row["start_x"]), float(row["duration_a"]))
            assert [one.path for one in (x, a, b)] == [path.parent / name for name in files]
            assert answers.subject[place] == row["subject_id"]
            assert answers.choices[place, 0] == (1 if row["answer_total"][0] == "A" else -1)
            assert answers.sure[place, 0] == (row["answer_total"][1] == "+")
            assert answers.seconds[place] == int(row["choice_time"]) / 1000
            assert answers.at_random[place] == (row["chosen_by"] == "random")

    def test_a_vote_cut_at_any_byte_is_removed_before_the_next_one(self, tmp_path):
        path = tmp_path / "votes.csv"
        vote = {"reference": "ü, x", "sample_a": 'a "1"', "sample_b": "b", "answer_total": "A+", "subject_id": "ann"}
        append_vote(path, vote)
        one = path.read_bytes()
        append_vote(path, vote | {"reference": "y"})
        both = path.read_bytes()
        for end in range(len(one), len(both)):
            path.write_bytes(both[:end])
            assert len(read_votes(path)) == 1
            append_vote(path, vote | {"reference": "y"})
            assert path.read_bytes() == both
        for end in range(len(one)):  # the heading, too
            path.write_bytes(one[:end])
            if b"\n" not in one[:end]:
                append_vote(path, vote)
                assert path.read_bytes() == one

    def test_processes_that_vote_at_once_lose_nothing(self, tmp_path):
        path, own = tmp_path / "votes.csv", range(40)
        command = (
            "import sys; from stemsim.triplets.votes_table import append_vote\n"
            "for number in range(40): append_vote(sys.argv[1], {'reference': sys.argv[2], 'vote_id': str(number)})"
        )
        voters = [subprocess.Popen([sys.executable, "-c", command, str(path), name]) for name in "abcd"]
        assert [voter.wait(120) for voter in voters] == [0] * 4
        with path.open(newline="") as file:
            rows = [(row["reference"], row["vote_id"]) for row in csv.DictReader(file)]
        assert sorted(rows) == [(name, number) for name in "abcd" for number in sorted(map(str, own))]

    def test_a_disk_that_fills_up_keeps_the_votes_before_and_no_half_one(self, tmp_path):
        path, vote = tmp_path / "votes.csv", {"reference": "x", "sample_a": "a", "sample_b": "b", "answer_total": "A+"}
        append_vote(path, vote)
        before = path.read_bytes()
        command = (
            "import resource, sys; from stemsim.triplets.votes_table import append_vote\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)\n"
            "append_vote(sys.argv[1], {'reference': 'y' * 100})"
        )
        run = [sys.executable, "-c", command, str(path), str(len(before) + 20)]
        full = subprocess.run(run, capture_output=True, text=True, check=False)
        assert "StoreError: The vote is not kept" in full.stderr
        assert path.read_bytes() == before
        append_vote(path, vote | {"reference": "z"})
        assert len(read_votes(path)) == 2

    def test_refusals(self, tmp_path):
        path = write(tmp_path, PLAIN)
        with pytest.raises(TripletError, match="has other columns"):
            append_vote(path, {"reference": "x"})
        assert path.read_text() == PLAIN
        with pytest.raises(TripletError, match="Texts in a vote have one line"):
            append_vote(path, {"reference": "a\nb"})
        with pytest.raises(TripletError, match="Leave these out"):
            append_vote(path, {"mood": "x"})

    def test_the_first_columns_are_those_of_inst_sim_abx(self, inst_sim_abx):
        heading = (inst_sim_abx / "csvs/inst_sim_abx_answers.csv").read_text().splitlines()[0].split(",")
        assert list(COLUMNS[:10]) == heading[1:]


class TestRatings:
    def test_triplets_are_those_that_differ_by_more_than_the_margin(self, tmp_path):
        matrix = tmp_path / "ann.csv"
        matrix.write_text(",p,q,r\np,0,1,4\nq,1,0,\nr,4,2,0\n")
        count = votes_from_ratings([matrix], tmp_path / "votes.csv", margin=0.5)  # of the range, 4: more than 2
        assert count == 1
        ((x, closer, farther),) = list(votes(tmp_path / "votes.csv"))
        assert (x, {closer, farther}) == ("p", {"q", "r"})
        preferred = read_votes(tmp_path / "votes.csv")
        chosen = {1: closer, -1: farther}[int(preferred.choices[0, 0])]
        assert (chosen, preferred.subject.tolist()) == ("q", ["ann"])

    def test_against_a_slow_count(self, tmp_path):
        rng = np.random.default_rng(0)
        matrix, names = rng.random((8, 8)), [f"s{i}.wav" for i in range(8)]
        pd.DataFrame(matrix, names, names).to_csv(tmp_path / "m.csv", sep=";")
        votes_from_ratings([tmp_path / "m.csv"], tmp_path / "v" / "votes.csv", audio=tmp_path / "sounds", margin=0.2)
        answers = read_votes(tmp_path / "v" / "votes.csv")
        assert answers.asked["x"][0].path.resolve().parent == tmp_path / "sounds"
        found = set()
        for row, choice in zip(answers.asked[["x", "a", "b"]].to_numpy(), answers.choices[:, 0], strict=True):
            x, a, b = (names.index(one.path.name) for one in row)
            found.add((x, a, b) if choice > 0 else (x, b, a))
        edge = 0.2 * np.ptp(matrix)
        expected = {
            (x, a, b) for x in range(8) for a in range(8) for b in range(8)
            if len({x, a, b}) == 3 and matrix[x, b] - matrix[x, a] > edge
        }  # fmt: skip
        assert found == expected

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (",p,q\np,0,1\nq,1,0\n", "three or more sounds"),
            (",p,q,r\np,0,1,1\nr,0,1,1\nq,1,0,1\n", "the same three or more sounds"),
            (",p,q,r\np,0,much,1\nq,1,0,1\nr,1,1,0\n", "row 'p': the rating with 'q' must be a finite number"),
            (",p,q,r\np,0,1,1\nq,1,0,1\nr,1,1,0\n", "decides no triplet"),
            (",p,q,r\np,,,\nq,,,\nr,,,\n", "has no rating"),
        ],
    )
    def test_refusals(self, tmp_path, text, message):
        matrix = tmp_path / "ann.csv"
        matrix.write_text(text)
        with pytest.raises(TripletError, match=message):
            votes_from_ratings([matrix], tmp_path / "votes.csv")


class TestCommands:
    def test_counts_bias_repeats_and_ceiling(self, tmp_path):
        path = write(tmp_path, PLAIN + "x.wav,b.wav,a.wav,B,ann\nx.wav,a.wav,b.wav,A,cy\n")
        result = CliRunner().invoke(app, ["votes", str(path), "--min-agreement", "0.5"])
        assert result.exit_code == 0, result.output
        assert "Votes in votes.csv" in result.stdout
        assert "First candidate chosen: 75.0 %" in result.stdout
        assert "Repeated questions: 1, answered alike in 100.0 %" in result.stdout
        document = json.loads(CliRunner().invoke(app, ["votes", str(path), "--json", "--min-agreement", "0"]).stdout)
        assert document["total"]["sure"] is None  # plain answers have no grade
        assert document["total"]["ceiling"] == 0.5 * 0 + (0.5 + 0.5 + 0.0) / 3
        lower, upper = document["total"]["chose_first_interval"]
        assert lower < 0.75 < upper

    def test_from_ratings(self, tmp_path):
        matrix, out = tmp_path / "ann.csv", tmp_path / "votes.csv"
        matrix.write_text(",p,q,r\np,0,1,4\nq,1,0,3\nr,4,2,0\n")
        result = CliRunner().invoke(app, ["votes", "from-ratings", str(matrix), "--output", str(out)])
        assert result.stdout.startswith("Wrote 3 votes")
        wrong = CliRunner().invoke(app, ["votes", "from-ratings", str(matrix), "--margin", "2"])
        assert (wrong.exit_code, "margin lies in" in wrong.stderr) == (2, True)
