"""The listening test Inst-Sim-ABX: votes against a slow count, damaged files, audio, and `stemsim votes`."""

import csv
import json
import logging
import re
import subprocess
import sys
from collections import Counter, defaultdict

import numpy as np
import pytest
import typer
from fake_inst_sim_abx import (
    A_MIX,
    B_MIX,
    C_MIX,
    COLUMNS,
    ROWS,
    RUNS,
    X_DRUMS,
    X_MIX,
    Y_MIX,
    sample_config,
    write_fake_inst_sim_abx,
)
from fake_slakh import STEMS, write_fake_slakh
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from stemsim.audio import read_audio
from stemsim.cli.votes import votes_command
from stemsim.errors import ConfigError, DataNotFoundError, TripletError
from stemsim.evaluation import human_ceiling
from stemsim.evaluation.listening_test import describe_listening_test
from stemsim.separators import Multitrack
from stemsim.triplets import QUESTIONS, InstSimABX
from stemsim.triplets.inst_sim_abx_answers import read_answers

TRACKS = range(1876, 1883)


@pytest.fixture
def miniature(tmp_path):
    return write_fake_inst_sim_abx(tmp_path / "abx")


def as_rows(triplets):
    """Return the triplets as a multiset that does not depend on how segments are numbered."""

    def place(index):
        segment = triplets.segments[index]
        return triplets.tracks[index], round(segment.start, 6), round(segment.duration, 6)

    columns = (*triplets.members.T, triplets.test_type, triplets.instrument)
    return Counter(
        (*map(place, (x, a, b)), str(test), str(instrument), tuple(votes), tuple(map(tuple, perspectives)), tuple(sure))
        for x, a, b, test, instrument, votes, perspectives, sure in zip(
            *columns,
            *(array.tolist() for array in (triplets.votes, triplets.perspective_votes, triplets.sure_votes)),
            strict=True,
        )
    )


def slow_count(root):
    """Count the votes one answer at a time, by the standard library alone."""
    votes, sure = defaultdict(lambda: np.zeros((4, 2), int)), defaultdict(lambda: [0, 0])
    with (root / "csvs" / "inst_sim_abx_answers.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            paths = [row[column].split("/") for column in ("reference", "sample_a", "sample_b")]
            if len(paths[0]) == 2:
                continue
            first, second = paths[1][3], paths[2][3]
            test = "XAB" if {first[0], second[0]} == {"A", "B"} else "XYC"
            key = (row["ex_name"], *paths[0][:3], test)
            if row["answer_total"][1] == "+":
                sure[key][0 if (first if row["answer_total"][0] == "A" else second)[0] in "AY" else 1] += 1
            for question, name in enumerate(("total", "timbre", "rhythm", "melody")):
                answer = row[f"answer_{name}"]
                if answer != "NA":
                    chosen = first if answer[0] == "A" else second
                    votes[key][question, 0 if chosen[0] in "AY" else 1] += 1
    counted = Counter()
    configs = {run: json.loads((root / f"sample_configs/dict_triplet_{run[2:]}.json").read_text()) for run in RUNS}
    for (run, set_name, sample, instrument, test), count in votes.items():
        tests = configs[run][set_name.removeprefix("set")][sample]
        samples = tests["test2" if test == "XAB" else "test1"][instrument]
        places = [
            (f"Track{s['ID']:05d}", round(s["index_s"] / s["sr"], 6), round((s["index_e"] - s["index_s"]) / s["sr"], 6))
            for s in (samples[role] for role in test)
        ]
        graded = tuple(sure[run, set_name, sample, instrument, test])
        counted[(*places, test, instrument, tuple(count[0]), tuple(map(tuple, count[1:])), graded)] += 1
    return counted


class TestMiniature:
    def test_votes_are_what_was_written(self, miniature):
        triplets = read_answers(miniature).count().filter(instrument="mix")
        assert triplets.test_type.tolist() == ["XAB", "XYC"]
        assert triplets.votes.tolist() == [[4, 1], [2, 1]]
        # XAB: timbre A A A(B swapped) B(A swapped) B; rhythm B, -, B, B, B; melody never asked
        assert triplets.perspective_votes[0].tolist() == [[3, 2], [0, 4], [0, 0]]
        assert triplets.perspective_votes[1].tolist() == [[3, 0], [2, 0], [1, 2]]
        assert triplets.sure_votes.tolist() == [[2, 1], [1, 1]]  # A+ A- (B, A: B-) (B, A: B+) B+; Y+ Y- C+
        np.testing.assert_allclose(triplets.target("graded"), [(2 + 2 / 2 - 1) / 5, (1 + 1 / 2 - 1) / 3])

    def test_answers_about_one_question_have_votes_and_grades_of_their_own(self, miniature):
        answers = read_answers(miniature)
        whole = answers.count()
        for index, name in enumerate(QUESTIONS):
            about = answers.about(name)
            np.testing.assert_array_equal(about.count().votes, whole.about(name).votes)
            np.testing.assert_array_equal(about.count().votes, answers.votes(index))
            assert (about.choices[:, 0] != 0).all()
        assert whole.about("rhythm").sure_votes is None, "grades of the table are those of the overall question"
        assert len(answers.about("overall")) == len(answers)
        timbre = answers.about("timbre").count().filter(instrument="mix")
        assert (timbre.votes.tolist(), timbre.sure_votes.tolist()) == ([[3, 2], [3, 0]], [[2, 2], [1, 0]])

    def test_questions_that_both_runs_asked_can_be_pooled(self, miniature):
        answers = read_answers(miniature)
        once, pooled = answers.count(), answers.pooled()
        table = pooled.count()
        assert (len(once), len(table)) == (6, 4)
        drums = table.select(table.instrument == "drums")
        assert drums.test_type.tolist() == ["XAB", "XYC"]
        assert drums.votes.tolist() == [[1, 2], [1, 1]]
        for name in ("votes", "perspective_votes", "sure_votes"):
            np.testing.assert_array_equal(getattr(table, name).sum(axis=0), getattr(once, name).sum(axis=0))
        assert as_rows(pooled.pooled().count()) == as_rows(table), "pooling twice changes nothing"

    def test_slow_count_agrees(self, miniature):
        assert as_rows(read_answers(miniature).count()) == slow_count(miniature)

    def test_segments_are_cut_at_the_samples_of_the_configuration(self, miniature):
        triplets = read_answers(miniature).count().filter(instrument="mix", test_type="XYC")
        x, y, c = (triplets.segments[index] for index in triplets.members[0])
        assert [str(segment.path) for segment in (x, y, c)] == [f"Track0{n}/mix.flac" for n in (1876, 1876, 1880)]
        assert (x.start, y.start, c.start) == (5 + 1876 / 44100, 1876 / 44100, 7 + 1880 / 44100)
        assert {segment.duration for segment in (x, y, c)} == {219136 / 44100}

    def test_both_runs_share_segments_but_not_triplets(self, miniature):
        drums = read_answers(miniature).count().select([0, 1, 2, 4])
        assert drums.instrument.tolist() == ["drums"] * 4
        assert drums.test_type.tolist() == ["XAB", "XYC", "XAB", "XYC"]
        assert len(drums.segments) == 5  # X is common to both test types
        assert drums.votes.tolist() == [[0, 1], [1, 0], [1, 1], [0, 1]]

    def test_first_presented_candidate(self, miniature):
        answers = read_answers(miniature)
        presented_first = [answer[3][3][0] == "A" for answer in ROWS if answer[2][0].startswith("set")]
        assert answers.chose_first.tolist() == presented_first

    def test_wrong_dummy_check(self, miniature):
        answers = read_answers(miniature)
        assert len(answers.dummies) == 4
        (wrong,) = answers.wrong_dummies
        assert (wrong.line, wrong.subject, wrong.answer, wrong.expected) == (len(ROWS) + 1, "subject5", "A-", "B")
        line = (miniature / "csvs" / "inst_sim_abx_answers.csv").read_text().splitlines()[wrong.line - 1]
        assert "subject5" in line
        assert "dummyA2" in line

    def test_screening_drops_all_answers_of_the_listener(self, miniature):
        screened = read_answers(miniature).screened()
        assert "subject5" not in screened.subject
        assert screened.wrong_dummies == ()
        assert len(screened.dummies) == 2
        votes = screened.count().filter(instrument="mix").votes
        assert votes.tolist() == [[4, 0], [2, 0]]
        assert as_rows(screened.screened().count()) == as_rows(screened.count())

    def test_screening_drops_triplets_that_nobody_else_answered(self, tmp_path):
        answers = read_answers(write_fake_inst_sim_abx(tmp_path / "abx", [ROWS[4], ROWS[5], *ROWS[-2:]]))
        assert (len(answers.table), len(answers.screened().table)) == (2, 1)

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        order=st.permutations(range(len(ROWS))), swaps=st.lists(st.booleans(), min_size=len(ROWS), max_size=len(ROWS))
    )
    def test_order_of_rows_and_candidates_does_not_count(self, tmp_path_factory, order, swaps):
        def swapped(row):
            run, subject, (x, first, second), given_answers = row
            return (
                run,
                subject,
                (x, second, first),
                tuple(answer.translate({65: 66, 66: 65}) if answer != "NA" else "NA" for answer in given_answers),
            )

        rows = [swapped(ROWS[index]) if swaps[index] else ROWS[index] for index in order]
        changed = read_answers(write_fake_inst_sim_abx(tmp_path_factory.mktemp("rows") / "abx", rows))
        original = read_answers(write_fake_inst_sim_abx(tmp_path_factory.mktemp("rows") / "abx"))
        assert as_rows(changed.count()) == as_rows(original.count())
        assert changed.count().segments == original.count().segments
        assert [check.subject for check in changed.wrong_dummies] == ["subject5"]


def row(reference=X_MIX, first=A_MIX, second=B_MIX, answers=("A+", "A+", "A+", "A+"), run="ex202407"):
    return (run, "subject9", (reference, first, second), answers)


class TestDamage:
    @pytest.mark.parametrize(
        ("bad", "message"),
        [
            (row(answers=("A+", "A+", "A+", "C")), r"`answer_total` must be one of A\+, A-, B\+, B-; got 'C'"),
            (row(answers=("A+", "A+", "A+", "NA")), r"`answer_total` must be .*; got 'NA'"),
            (row(answers=("", "A+", "A+", "A+")), r"`answer_timbre` must be one of A\+, A-, B\+, B-, NA; got ''"),
            (row(reference="set2/0/mix/X_1876.wav"), "`reference` must be a path such as"),
            (row(first="set2/0/flute/A_1881-1.wav"), "`sample_a` must be a path such as .*flute"),
            (row(second="samples/dummyB1.wav"), "`sample_b` must be a path such as"),
            (row(reference="samples/dummyX1.wav"), "one candidate of a dummy check must be samples/dummyX1.wav itself"),
            (row(reference=A_MIX, first=X_MIX), "a triplet must be X with A and B, or X with Y and C"),
            (row(first=A_MIX, second=C_MIX), "a triplet must be X with A and B, or X with Y and C"),
            (row(first=Y_MIX, second=Y_MIX), "a triplet must be X with A and B, or X with Y and C"),
            (row(reference=X_DRUMS), "of one set, sample and instrument"),
            (
                row(second="set2/0/mix/B_1882-5.wav"),
                "has set2/0/mix/X_1876-5.wav, set2/0/mix/A_1881-1.wav, set2/0/mix/B_1882-6.wav",
            ),
            (row(*(path.replace("set2", "set3") for path in (X_MIX, A_MIX, B_MIX))), "ex202407 has no such sample"),
            (row(run="ex202404"), "ex202404 has no such sample"),
        ],
    )
    def test_bad_row_is_named(self, tmp_path, bad, message):
        root = write_fake_inst_sim_abx(tmp_path / "abx", [*ROWS[:3], bad, *ROWS[3:]])
        with pytest.raises(TripletError, match=rf"inst_sim_abx_answers\.csv, line 5: .*{message}.*Restore"):
            read_answers(root)

    def test_repeated_answer(self, tmp_path):
        root = write_fake_inst_sim_abx(tmp_path / "abx", [*ROWS, ROWS[0]])
        with pytest.raises(TripletError, match=f"line {len(ROWS) + 2}: subject1 answered this question before"):
            read_answers(root)

    def test_missing_column(self, tmp_path):
        columns = [column for column in COLUMNS if column != "answer_rhythm"]
        root = write_fake_inst_sim_abx(tmp_path / "abx", columns=columns)
        with pytest.raises(TripletError, match=r"must have the columns .* lacks answer_rhythm"):
            read_answers(root)

    @pytest.mark.parametrize("text", ["", "\x00\xff", "a,b\n1,2,3\n4,5,6,7\n"])
    def test_no_table(self, miniature, text):
        (miniature / "csvs" / "inst_sim_abx_answers.csv").write_text(text, encoding="utf-16")
        with pytest.raises(TripletError, match=r"inst_sim_abx_answers\.csv.*zume06/Inst-Sim-ABX-Dataset"):
            read_answers(miniature)

    def test_short_row(self, miniature):
        path = miniature / "csvs" / "inst_sim_abx_answers.csv"
        path.write_text(path.read_text(encoding="utf-8") + "17,ex202407,subject9,set2", encoding="utf-8")
        with pytest.raises(TripletError, match=f"line {len(ROWS) + 2}: .*got ''"):
            read_answers(miniature)

    def test_dummy_checks_alone(self, tmp_path):
        with pytest.raises(TripletError, match="dummy checks only"):
            read_answers(write_fake_inst_sim_abx(tmp_path / "abx", ROWS[-4:]))

    @pytest.mark.parametrize(
        ("field", "value", "message"),
        [
            ("ID", 1883, "is named B_1882-6.wav .* expected B_1883-6.wav"),
            ("seg", 7, "is named B_1882-6.wav .* expected B_1882-7.wav"),
            ("filename", "B_1882-7.wav", "is named B_1882-7.wav .* expected B_1882-6.wav"),
            ("index_e", 5, "to 5 at 44100 Hz; expected .* positive length"),
            ("sr", 0, "at 0 Hz; expected .* positive length"),
            ("sr", None, "is not a sample configuration"),
        ],
    )
    def test_configuration_that_disagrees(self, tmp_path, field, value, message):
        configs = {run: sample_config(run) for run in RUNS}
        configs["ex202407"]["2"]["0"]["test2"]["mix"]["B"][field] = value
        with pytest.raises(TripletError, match=message):
            read_answers(write_fake_inst_sim_abx(tmp_path / "abx", configs=configs))

    def test_configuration_with_the_tests_the_other_way_round(self, tmp_path):
        configs = {run: sample_config(run) for run in RUNS}
        tests = configs["ex202407"]["2"]["0"]
        tests["test1"], tests["test2"] = tests["test2"], tests["test1"]
        with pytest.raises(TripletError, match="is not a sample configuration"):
            read_answers(write_fake_inst_sim_abx(tmp_path / "abx", configs=configs))

    @pytest.mark.parametrize("text", ["", "[]", '{"2": {}', '{"2": {"0": {"test1": {}}}}'])
    def test_no_configuration(self, miniature, text):
        (miniature / "sample_configs" / "dict_triplet_202407.json").write_text(text)
        with pytest.raises(TripletError, match=r"dict_triplet_202407\.json is not a sample configuration"):
            read_answers(miniature)

    def test_empty_configurations(self, tmp_path):
        root = write_fake_inst_sim_abx(tmp_path / "abx", configs={run: {} for run in RUNS})
        with pytest.raises(TripletError, match="are empty"):
            read_answers(root)

    def test_missing_files(self, miniature, tmp_path):
        with pytest.raises(DataNotFoundError, match="zume06/Inst-Sim-ABX-Dataset"):
            read_answers(tmp_path / "nowhere")
        (miniature / "sample_configs" / "dict_triplet_202404.json").unlink()
        with pytest.raises(DataNotFoundError, match=r"dict_triplet_202404\.json.*zume06/Inst-Sim-ABX-Dataset"):
            read_answers(miniature)

    def test_unknown_run(self, tmp_path):
        with pytest.raises(TripletError, match="Unknown run 'pilot'"):
            read_answers(write_fake_inst_sim_abx(tmp_path / "abx", [*ROWS, row(run="pilot")]))


class TestReader:
    def test_tracks_in_the_folder_or_in_its_splits(self, miniature, tmp_path):
        slakh = tmp_path / "slakh"
        write_fake_slakh(slakh, [1876, 1880], seconds=13.0, seed=0)
        write_fake_slakh(slakh / "omitted", [1881], seconds=13.0, seed=0)
        write_fake_slakh(slakh / "my split", [1882, 1876], seconds=13.0, seed=0)
        triplets = InstSimABX(miniature, slakh, min_agreement=0.0).read()
        where = {track: segment.path for segment, track in zip(triplets.segments, triplets.tracks, strict=True)}
        assert where == {
            "Track01876": slakh / "Track01876" / "mix.flac",  # the folder itself before its splits
            "Track01880": slakh / "Track01880" / "mix.flac",
            "Track01881": slakh / "omitted" / "Track01881" / "mix.flac",
            "Track01882": slakh / "my split" / "Track01882" / "mix.flac",
        }
        stems = Multitrack("4-stem").read(triplets.segments, 8000)
        assert stems.shape == (5, 5, round(219136 / 44100 * 8000))

    def test_filters(self, miniature, tmp_path):
        slakh = tmp_path / "slakh"
        write_fake_slakh(slakh, TRACKS, seconds=1.0, seed=0, stems=STEMS[:1])

        def read(**options):
            return InstSimABX(miniature, slakh, **options).read()

        assert read().votes.tolist() == [[4, 1]]  # 4 of 5 is 0.8
        assert len(read(min_agreement=0.6)) == 2
        assert read(min_agreement=0.0, min_votes=4).test_type.tolist() == ["XAB"]
        assert read(min_agreement=0.6, test_type="XYC").test_type.tolist() == ["XYC"]
        assert len(read(instrument=None, min_agreement=0.0)) == 5  # one of six is tied
        assert set(read(instrument="drums").instrument) == {"drums"}
        assert read(screen=True).votes.tolist() == [[4, 0], [2, 0]]

    def test_wrong_dummy_checks_are_reported(self, miniature, tmp_path, caplog):
        write_fake_slakh(tmp_path / "slakh", TRACKS, seconds=1.0, seed=0, stems=STEMS[:1])
        with caplog.at_level(logging.INFO, "stemsim"):
            InstSimABX(miniature, tmp_path / "slakh").read()
        assert "subject5 answered A- where B is the reference" in caplog.text

    def test_each_question_meets_the_thresholds_by_its_own_votes(self, miniature, tmp_path):
        slakh = tmp_path / "slakh"
        write_fake_slakh(slakh, TRACKS, seconds=15.0, seed=0, sample_rate=500, stems=STEMS[:1])
        found = InstSimABX(miniature, slakh, min_agreement=0.65).read_questions()
        assert {question: table.votes.tolist() for question, table in found.items()} == {
            "overall": [[4, 1], [2, 1]],
            "timbre": [[3, 0]],
            "rhythm": [[0, 4], [2, 0]],
            "melody": [[1, 2]],
        }
        assert found["timbre"].sure_votes.tolist() == [[1, 0]]
        assert all(segment.path.is_file() for table in found.values() for segment in table.segments)
        one = InstSimABX(miniature, slakh, min_agreement=0.65, question="rhythm").read()
        assert (one.votes.tolist(), one.source) == (found["rhythm"].votes.tolist(), "Inst-Sim-ABX, rhythm")
        with pytest.raises(TripletError, match="min_votes` 9 on melody"):
            InstSimABX(miniature, slakh, question="melody", min_votes=9).read()
        drums = {"instrument": "drums", "min_agreement": 0.0}
        assert len(InstSimABX(miniature, slakh, **drums).read()) == 3
        assert InstSimABX(miniature, slakh, pool=True, **drums).read().votes.tolist() == [[1, 2]]

    def test_nothing_left(self, miniature):
        with pytest.raises(TripletError, match="None of the 6 triplets has `instrument` guitar"):
            InstSimABX(miniature, instrument="guitar").read()

    def test_options_that_do_not_exist(self, miniature):
        with pytest.raises(ConfigError, match="'vocals'"):
            InstSimABX(miniature, instrument="vocals")
        with pytest.raises(ConfigError, match="'ABX'"):
            InstSimABX(miniature, test_type="ABX")
        with pytest.raises(ConfigError, match="overall, timbre, rhythm, melody; got 'harmony'"):
            InstSimABX(miniature, question="harmony")
        with pytest.raises(TripletError, match="min_agreement"):
            InstSimABX(miniature, min_agreement=80).read()

    @pytest.mark.parametrize("slakh", [None, "nowhere"])
    def test_no_slakh(self, miniature, slakh):
        with pytest.raises(
            DataNotFoundError, match=r"3 of 3 tracks .*: Track01876, .*10\.5281/zenodo\.4599666.*100 GB"
        ):
            InstSimABX(miniature, slakh).read()

    def test_missing_tracks_of_those_needed(self, miniature, tmp_path):
        write_fake_slakh(tmp_path / "slakh", [1876], seconds=1.0, seed=0)
        (tmp_path / "slakh" / "Track01881").mkdir()  # a folder without its mix
        with pytest.raises(DataNotFoundError) as error:
            InstSimABX(miniature, tmp_path / "slakh").read()
        assert "2 of 3 tracks of Slakh2100 are missing" in str(error.value)
        assert ": Track01881, Track01882. Set `slakh` to a folder with Track01881/mix.flac" in str(error.value)
        assert "zenodo.4599666" in str(error.value)


app = typer.Typer()
app.command()(votes_command)


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def cells(output, instrument, test_type):
    """Return the numbers in a row of the table."""
    (line,) = [line for line in output.splitlines() if line.split()[:2] == [instrument, test_type]]
    *numbers, interval = line.split()[2:]
    ceiling = numbers[-1]
    if ceiling == "-":
        assert interval == "-"
    else:
        lower, upper = map(float, interval.split("-"))
        assert 0.0 <= lower <= float(ceiling) <= upper <= 100.0
    return [float(cell) if cell != "-" else None for cell in numbers]


class TestDescription:
    def test_counts(self, miniature):
        test = describe_listening_test(miniature)
        assert [(c.instrument, c.test_type) for c in test.counts[-2:]] == [("mix", "XAB"), ("mix", "XYC")]
        assert len(test.counts) == 12
        mix = test.counts[-2]
        assert (mix.triplets, mix.retained, mix.answers, mix.median_votes) == (1, 1, 5, 5.0)
        # Five answers, A A B B B in the order presented; of A A A A B in canonical order, four agree with the others.
        assert (mix.chose_first, mix.sure, mix.ceiling) == (0.4, 0.6, 0.8)
        assert (test.total.triplets, test.total.distinct, test.total.answers) == (6, 4, 13)
        assert test.total == test.chosen
        assert (test.subjects, test.dummy_checks, len(test.wrong_dummies)) == (5, 4, 1)

    def test_screening(self, miniature):
        test = describe_listening_test(miniature, instrument="mix", screen=True)
        assert (test.chosen.answers, test.subjects, test.dummy_checks) == (6, 4, 4)
        assert [check.subject for check in test.wrong_dummies] == ["subject5"]
        assert test.chosen.ceiling == 1.0


class TestVotesCommand:
    def test_table(self, miniature):
        result = invoke(miniature)
        assert result.exit_code == 0
        assert cells(result.stdout, "mix", "XAB") == [1, 1, 5, 5, 40.0, 60.0, 80.0]
        assert cells(result.stdout, "guitar", "XAB") == [0, 0, 0, None, None, None, None]
        assert cells(result.stdout, "all", "all")[0] == 6
        assert "subject5: A- where B is the reference (line 18)" in result.stdout
        assert "…" not in result.stdout  # everything fits 80 columns

    def test_perspective_and_pooling(self, miniature):
        result = invoke(miniature, "--perspective", "timbre", "--pool", "--min-agreement", 0.5)
        assert "Votes in Inst-Sim-ABX, timbre, both runs pooled" in result.stdout
        assert "4 triplets, " in result.stdout
        assert cells(result.stdout, "mix", "XAB")[:3] == [1, 1, 5]
        rhythm = describe_listening_test(miniature, instrument="mix", test_type="XAB", perspective="rhythm")
        assert (rhythm.chosen.answers, rhythm.chosen.retained, rhythm.chosen.ceiling) == (4, 1, 1.0)
        assert (rhythm.perspective, rhythm.pooled, rhythm.subjects) == ("rhythm", False, 5)

    def test_json_is_all_there_is_on_standard_output(self, miniature):
        result = invoke(miniature, "--json", "--instrument", "mix", "--test-type", "XYC", "--min-agreement", "0.5")
        document = json.loads(result.stdout)
        (count,) = document["counts"]
        assert count == document["chosen"]
        assert (count["triplets"], count["retained"], document["total"]["triplets"]) == (1, 1, 6)
        lower, upper = count["ceiling_interval"]
        assert lower <= count["ceiling"] <= upper
        assert document["wrong_dummies"] == [{"line": 18, "subject": "subject5", "answer": "A-", "expected": "B"}]

    def test_json_has_no_nan(self, miniature):
        result = invoke(miniature, "--json", "--instrument", "guitar")
        chosen = json.loads(result.stdout, parse_constant=pytest.fail)["chosen"]
        assert [chosen[name] for name in ("median_votes", "chose_first", "ceiling", "ceiling_interval")] == [None] * 4

    def test_errors_are_readable(self, miniature, tmp_path):
        for message, *arguments in (
            ("No answers at", tmp_path / "nowhere"),
            ("no instrument 'vocals'", miniature, "--instrument", "vocals"),
            ("no test type 'ABX'", miniature, "--test-type", "ABX"),
            ("min_agreement", miniature, "--min-agreement", 1.5),
            ("min_votes", miniature, "--min-votes", -1),
            ("Listeners were asked about", miniature, "--perspective", "loudness"),
        ):
            result = invoke(*arguments)
            assert (result.exit_code, result.stdout) == (2, "")
            assert result.stderr.startswith("error: ")
            assert message in result.stderr

    @pytest.mark.parametrize("counted", [False, True])
    def test_neither_help_nor_counting_imports_heavy_packages(self, miniature, counted):
        heavy = ["torch", "lancedb", "matplotlib", "scipy.stats", *([] if counted else ["pandas", "numpy"])]
        run = f"describe_listening_test({str(miniature)!r})" if counted else "None"
        imported = "from stemsim.evaluation.listening_test import *" if counted else "import stemsim.cli.votes"
        code = f"{imported}; import sys; {run}; print([name for name in {heavy} if name in sys.modules])"
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert result.stdout.strip() == "[]"
        assert "--min-agreement" in re.sub(r"\x1b\[[0-9;]*m", "", invoke("--help").stdout)


class TestPublishedAnswers:
    def test_slow_count_agrees(self, answers, inst_sim_abx):
        assert as_rows(answers.count()) == slow_count(inst_sim_abx)

    def test_size(self, answers):
        table = answers.count()
        assert len(answers) == 13_476 + 13_422
        assert Counter(table.test_type.tolist()) == {"XAB": 2620, "XYC": 2620}
        assert len(set(table.tracks)) == 133
        assert {segment.duration for segment in table.segments} == {219136 / 44100}
        assert table.votes.sum() == len(answers)
        assert len(set(zip(*table.members.T, table.instrument, strict=True))) == 2880  # both runs asked 2360

    @pytest.mark.parametrize(
        ("test_type", "min_agreement", "retained", "ceiling"),
        [("XAB", 0.8, 127, 0.910), ("XYC", 0.8, 204, 0.977), ("XAB", 0.75, 146, 0.892), ("XYC", 0.75, 214, 0.967)],
    )
    def test_retained_mixes_and_their_ceiling(self, answers, test_type, min_agreement, retained, ceiling):
        triplets = answers.count().filter(instrument="mix", test_type=test_type, min_agreement=min_agreement)
        assert len(triplets) == retained
        assert human_ceiling(triplets.votes) == pytest.approx(ceiling, abs=5e-4)

    def test_wrong_dummy_checks(self, answers):
        assert len(answers.dummies) == 1197
        assert [check.subject for check in answers.wrong_dummies] == ["subject231", "subject246", "subject273"]
        assert {(check.answer, check.expected) for check in answers.wrong_dummies} == {("A+", "B")}
        assert len(answers.screened()) == len(answers) - 3 * 48

    def test_missing_tracks_are_summed_up(self, inst_sim_abx, tmp_path):
        with pytest.raises(DataNotFoundError, match=r"132 of 132 tracks .* and 122 more") as error:
            InstSimABX(inst_sim_abx, tmp_path).read()
        assert len(str(error.value)) < 900 + len(str(tmp_path))

    def test_read_with_audio(self, inst_sim_abx, slakh):
        triplets = InstSimABX(inst_sim_abx, slakh).read()
        assert len(triplets) == 331
        for segment in triplets.segments[::10]:
            waveform, rate = read_audio(segment.path, segment.start, segment.duration)
            assert waveform.shape[1] == round(219136 / 44100 * rate)
            assert waveform.std() > 0.01
        assert len({segment.content_hash for segment in triplets.segments}) == len(set(triplets.tracks))

    def test_every_segment_lies_inside_its_track(self, inst_sim_abx, slakh):
        triplets = InstSimABX(inst_sim_abx, slakh, instrument=None, min_agreement=0.0).read()
        last = {segment.path: segment for segment in sorted(triplets.segments, key=lambda segment: segment.start)}
        for segment in last.values():
            read_audio(segment.path, segment.start, segment.duration)

    def test_no_vote_is_lost_when_runs_are_pooled(self, answers):
        once, pooled = answers.count(), answers.pooled()
        table = pooled.count()
        assert (len(once), len(table), table.votes.sum()) == (5240, 2880, 26898)
        votes = {True: Counter(), False: Counter()}
        for counted in (once, table):
            rows = zip(*counted.members.T, counted.instrument, counted.votes, strict=True)
            for x, a, b, instrument, (for_a, for_b) in rows:
                key = (*(counted.segments[index] for index in (x, a, b)), str(instrument))
                votes[counted is once][key] += complex(int(for_a), int(for_b))
        assert votes[True] == votes[False]
        pairs = Counter(zip(pooled.triplet.tolist(), pooled.subject.tolist(), strict=True))
        assert max(pairs.values()) == 1, "no listener answered both"
        assert table.sure_votes.sum() == once.sure_votes.sum() == 4962 + 4160
        screened = answers.screened()
        assert screened.count().sure_votes.sum() == screened.sure[:, 0].sum() < once.sure_votes.sum()

    def test_perspectives_by_their_own_majorities(self, answers):
        counts = [len(answers.about(name).count().filter(instrument="mix", min_agreement=0.8)) for name in QUESTIONS]
        assert counts == [331, 336, 311, 326]

    def test_the_command_on_mixes(self, inst_sim_abx):
        result = invoke(inst_sim_abx, "--instrument", "mix", "--min-agreement", "0.8")
        assert cells(result.stdout, "mix", "XAB") == [240, 127, 1356, 5, 52.0, 10.8, 91.0]
        assert cells(result.stdout, "mix", "XYC") == [240, 204, 1352, 5, 50.5, 55.0, 97.7]
        text = " ".join(result.stdout.split())
        assert "5240 triplets (2880 distinct" in text
        assert "26898 answers, 281 listeners; 1197 dummy checks, 3 wrong." in text
        for subject in (231, 246, 273):
            assert f"subject{subject}: A+ where B is the reference" in text

    def test_the_description_of_all_instruments(self, inst_sim_abx):
        test = describe_listening_test(inst_sim_abx)
        assert {(c.instrument, c.triplets) for c in test.counts} == {
            *((stem, 476) for stem in ("bass", "drums", "guitar", "piano", "residuals")),
            ("mix", 240),
        }
        assert sum(c.retained for c in test.counts) == test.total.retained == 3517
        assert sum(c.answers for c in test.counts) == test.total.answers
        assert test.total.chose_first == pytest.approx(0.534, abs=5e-4)  # 0.532 with the dummy checks
        intervals = [c.ceiling_interval for c in test.counts[-2:]]
        assert intervals == [pytest.approx((0.887, 0.930), abs=3e-3), pytest.approx((0.967, 0.985), abs=3e-3)]
        screened = describe_listening_test(inst_sim_abx, instrument="mix", screen=True)
        assert ([c.retained for c in screened.counts], screened.subjects) == ([128, 205], 278)
