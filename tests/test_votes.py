"""`stemsim votes`, and the description of the listening test behind it."""

import json
import re
import subprocess
import sys

import pytest
import typer
from fake_inst_sim_abx import write_fake_inst_sim_abx
from typer.testing import CliRunner

from stemsim.cli.votes import votes_command
from stemsim.errors import ConfigError, TripletError
from stemsim.evaluation.listening_test import describe_listening_test

app = typer.Typer()
app.command()(votes_command)


@pytest.fixture
def miniature(tmp_path):
    return write_fake_inst_sim_abx(tmp_path / "abx")


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

    def test_nothing_to_count_is_none_and_not_nan(self, miniature):
        guitar = describe_listening_test(miniature, instrument="guitar").chosen
        assert (guitar.triplets, guitar.median_votes, guitar.chose_first, guitar.ceiling) == (0, None, None, None)

    def test_screening(self, miniature):
        test = describe_listening_test(miniature, instrument="mix", screen=True)
        assert (test.chosen.answers, test.subjects, test.dummy_checks) == (6, 4, 4)
        assert [check.subject for check in test.wrong_dummies] == ["subject5"]
        assert test.chosen.ceiling == 1.0

    def test_choices_are_verified(self, miniature):
        with pytest.raises(ConfigError, match="no instrument 'vocals'"):
            describe_listening_test(miniature, instrument="vocals")
        with pytest.raises(ConfigError, match="no test type 'ABX'"):
            describe_listening_test(miniature, test_type="ABX")
        with pytest.raises(TripletError, match="min_agreement"):
            describe_listening_test(miniature, min_agreement=1.5)


class TestCommand:
    def test_table(self, miniature):
        result = invoke(miniature)
        assert result.exit_code == 0
        assert cells(result.stdout, "mix", "XAB") == [1, 1, 5, 5, 40.0, 60.0, 80.0]
        assert cells(result.stdout, "guitar", "XAB") == [0, 0, 0, None, None, None, None]
        assert cells(result.stdout, "all", "all")[0] == 6
        assert "subject5: A- where B is the reference (line 18)" in result.stdout
        assert "…" not in result.stdout  # everything fits 80 columns

    def test_json_is_all_there_is_on_standard_output(self, miniature):
        result = invoke(miniature, "--json", "--instrument", "mix", "--test-type", "XYC", "--min-agreement", "0.5")
        document = json.loads(result.stdout)
        (count,) = document["counts"]
        assert count == document["chosen"]
        assert (count["triplets"], count["retained"], document["total"]["triplets"]) == (1, 1, 6)
        assert document["wrong_dummies"] == [{"line": 18, "subject": "subject5", "answer": "A-", "expected": "B"}]

    def test_json_has_no_nan(self, miniature):
        result = invoke(miniature, "--json", "--instrument", "guitar")
        assert json.loads(result.stdout, parse_constant=pytest.fail)["chosen"]["ceiling"] is None

    def test_errors_are_readable(self, miniature, tmp_path):
        for arguments in (
            [tmp_path / "nowhere"],
            [miniature, "--instrument", "vocals"],
            [miniature, "--min-votes", -1],
        ):
            result = invoke(*arguments)
            assert result.exit_code == 2
            assert result.stdout == ""
            assert result.stderr.startswith("error: ")

    def test_help_needs_no_heavy_package(self):
        heavy = ["pandas", "torch", "numpy", "stemsim.triplets"]
        code = f"import sys, stemsim.cli.votes; print([name for name in {heavy} if name in sys.modules])"
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert result.stdout.strip() == "[]"
        assert "--min-agreement" in re.sub(r"\x1b\[[0-9;]*m", "", invoke("--help").stdout)


class TestPublishedAnswers:
    def test_mix(self, inst_sim_abx):
        result = invoke(inst_sim_abx, "--instrument", "mix", "--min-agreement", "0.8")
        assert cells(result.stdout, "mix", "XAB") == [240, 127, 1356, 5, 52.0, 10.8, 91.0]
        assert cells(result.stdout, "mix", "XYC") == [240, 204, 1352, 5, 50.5, 55.0, 97.7]
        text = " ".join(result.stdout.split())
        assert "5240 triplets (2880 distinct" in text
        assert "26898 answers, 281 listeners; 1197 dummy checks, 3 wrong." in text
        for subject in (231, 246, 273):
            assert f"subject{subject}: A+ where B is the reference" in text

    def test_all_instruments(self, inst_sim_abx):
        test = describe_listening_test(inst_sim_abx)
        assert {(c.instrument, c.triplets) for c in test.counts} == {
            *((stem, 476) for stem in ("bass", "drums", "guitar", "piano", "residuals")),
            ("mix", 240),
        }
        assert sum(c.retained for c in test.counts) == test.total.retained == 3517
        assert sum(c.answers for c in test.counts) == test.total.answers
        assert test.total.chose_first == pytest.approx(0.534, abs=5e-4)  # 0.532 with the dummy checks

    def test_screened(self, inst_sim_abx):
        test = describe_listening_test(inst_sim_abx, instrument="mix", screen=True)
        assert [c.retained for c in test.counts] == [128, 205]
        assert test.subjects == 278
