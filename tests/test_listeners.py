"""Several listeners: shared weights, departures and the stems that listeners differ on, where the truth is known."""

import json

import numpy as np
import pytest
from test_personal import invoke, simulated, together, workspace
from test_votes_file import write

from stemsim.errors import TripletError
from stemsim.evaluation.agreement import human_ceiling
from stemsim.evaluation.listeners import compare_listeners, compare_questions
from stemsim.fitting.listeners import compare_listener_weights
from stemsim.triplets.votes_file_answers import read_votes

PRIOR = {"bass": 0.8, "drums": 0.8, "mix": 0.8}
__all__ = ["workspace"]


def crowd(bass_spread, count=25, votes=60):
    rng = np.random.default_rng(5)
    truths = np.array([1.0, 0.6, 0.8]) + np.stack([bass_spread * rng.normal(size=count), *np.zeros((2, count))], axis=1)
    parts = [simulated(votes, seed, truth, listener=f"l{seed:02}") for seed, truth in enumerate(truths)]
    return truths, together(*parts)


def departures(truths, shared):
    """Return the true departures from the shared weights, orthogonal to them."""
    return truths / (truths @ shared / (shared @ shared))[:, None] - shared


class TestWeights:
    def test_shared_weights_departures_and_the_stem_that_listeners_differ_on(self):
        truths, votes = crowd(0.8)
        found = compare_listener_weights(votes, PRIOR)
        assert found.differ_on == ("bass",)
        assert found.between[0] > 2 * found.between[1:].max()
        shared = found.shared / np.linalg.norm(found.shared)
        mean = truths.mean(axis=0) / np.linalg.norm(truths.mean(axis=0))
        assert shared @ mean > 0.99
        assert np.corrcoef(found.departures[:, 0], departures(truths, found.shared)[:, 0])[0, 1] > 0.85
        np.testing.assert_allclose(found.departures @ found.shared, 0.0, atol=1e-9)
        assert found.listeners[3] == "l03"
        assert set(found.votes) == {60}

    def test_intervals_contain_the_true_departures(self):
        truths, votes = crowd(0.6)
        found = compare_listener_weights(votes, PRIOR)
        true = departures(truths, found.shared)
        lower, upper = found.intervals
        assert 0.85 < np.mean((lower <= true) & (true <= upper)) <= 1.0

    def test_equal_listeners_differ_on_nothing(self):
        _, votes = crowd(0.0)
        found = compare_listener_weights(votes, PRIOR)
        assert found.differ_on == ()
        assert (found.between < 0.25).all()

    def test_too_few_listeners(self):
        with pytest.raises(TripletError, match=r"from 3 on, each with 5 votes or more; got 2"):
            compare_listener_weights(crowd(0.5, count=2)[1], PRIOR)


class TestAnswers:
    def test_listeners_are_compared_with_the_others(self, tmp_path):
        rows = "x,a,b,answer,timbre,listener,choice_time\n"
        for number in range(4):
            rows += f"x{number},a,b,A+,B-,ann,1000\nx{number},a,b,A-,,bob,3000\nx{number},b,a,A+,B+,cy,\n"
        rows += "x0,a,b,A+,,bob,\nx1,b,a,A+,,bob,\n"
        answers = read_votes(write(tmp_path, rows))
        listeners = {one.listener: one for one in compare_listeners(answers)}
        assert [one.agreement.value for one in listeners.values()] == [0.5, 0.5, 0.0]  # ann, bob; cy is alone
        assert listeners["cy"].chose_first.value == 1.0
        assert (listeners["ann"].seconds, listeners["cy"].seconds) == (1.0, None)
        assert (listeners["bob"].consistency.value, listeners["ann"].consistency) == (0.5, None)
        overall, timbre = compare_questions(answers)
        assert (overall.answers, overall.sure, overall.agreement.value) == (12, 8 / 12, human_ceiling(answers.votes()))
        assert (timbre.question, timbre.answers, timbre.chose_first.value) == ("timbre", 8, 0.0)

    def test_of_inst_sim_abx(self, answers):
        questions = compare_questions(answers)
        assert [one.question for one in questions] == ["overall", "timbre", "rhythm", "melody"]
        assert questions[0].agreement.value == pytest.approx(human_ceiling(answers.votes()))
        assert len(compare_listeners(answers)) == len(set(answers.subject.tolist()))


class TestCommand:
    def test_listeners_without_names_are_not_compared(self, tmp_path):
        path = write(tmp_path, "x,a,b,answer\nx,a,b,A\ny,a,b,B\n")
        assert "2 answers, listeners without names" in invoke("votes", path).stdout
        result = invoke("votes", "listeners", path)
        assert (result.exit_code, "Add the column `listener`" in result.stderr) == (2, True)

    def test_answers_alone(self, tmp_path, inst_sim_abx):
        result = invoke("votes", "listeners", inst_sim_abx, "--output", tmp_path / "out")
        assert result.exit_code == 0, result.output
        assert "melody" in result.stdout
        assert "Time of an answer: median 29.4 s" in result.stdout
        document = json.loads((tmp_path / "out/listeners.json").read_text())
        assert document["weights"] is None
        assert len(document["questions"]) == 4
        assert (tmp_path / "out/listeners.png").stat().st_size > 10_000
        assert len((tmp_path / "out/listeners.csv").read_text().splitlines()) == len(document["listeners"]) + 1

    def test_with_a_model(self, workspace, tmp_path):
        model = ("--model", workspace / "prior", "--output", tmp_path)
        result = invoke("votes", "listeners", workspace / "votes.csv", *model)
        assert result.exit_code == 0, result.output
        assert "Stems that listeners differ on: none" in result.stdout
        weights = json.loads((tmp_path / "listeners.json").read_text())["weights"]
        assert weights["listeners"] == ["ann", "bob", "cy", "dee"]
        assert (tmp_path / "weights.png").stat().st_size > 10_000
