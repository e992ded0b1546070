"""Simulated listeners: active questions and personal weights do what the documentation says."""

import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from stemsim.cli import app
from stemsim.errors import ConfigError
from stemsim.fitting.active import choose_question
from stemsim.fitting.listener import WeightPrior, weight_posterior
from stemsim.study.listeners import ListenerSettings, _saved, _World, simulate_listeners


@pytest.fixture(scope="module")
def findings():
    settings = ListenerSettings(
        listeners=40, votes=(5, 10, 20, 40), personal_votes=(5, 20), candidates=1000, held_out=1000
    )
    return simulate_listeners(settings, progress=False)


class TestFindings:
    def test_active_questions_need_at_most_half_the_votes(self, findings):
        active = findings.saved.set_index(["prior", "votes"])["active"]
        active = active[active.index.get_level_values("votes") >= 20]
        assert (active.to_numpy() <= 0.5 * active.index.get_level_values("votes")).all()

    def test_personal_weights_are_not_below_the_prior_beyond_noise(self, findings):
        personal = findings.personal
        assert len(personal) == 3 * 3 * 2
        assert (personal["gain"] > -2.0 * personal["error"]).all()
        far = personal[(personal["listeners"] == "far from it") & (personal["width"] == "right")]
        assert (far["gain"] > 2.0 * far["error"]).all()

    def test_angles_start_at_those_of_the_priors(self, findings):
        start = findings.questions[findings.questions["votes"] == 0].groupby("prior")["angle"].first()
        assert start["nothing"] == 90.0
        assert 15.0 < start["the paper"] < 25.0


def test_the_same_seed_gives_the_same_figures():
    settings = ListenerSettings(listeners=3, votes=(5,), personal_votes=(5,), candidates=50, held_out=50, seed=3)
    first, second = (simulate_listeners(settings, progress=False) for _ in range(2))
    pd.testing.assert_frame_equal(first.questions, second.questions)
    pd.testing.assert_frame_equal(first.personal, second.personal)


def test_listeners_answer_by_their_weights():
    world = _World(ListenerSettings(listeners=4))
    truths = world.truths("near the prior")
    deltas, chance = world.ask(4000, truths, np.random.default_rng(0))
    assert chance.shape == (4, 4000)
    assert (chance.min() >= 0.015, chance.max() <= 0.985) == (True, True)  # lapses
    for own, weights in zip(chance, truths, strict=True):
        assert np.corrcoef(own - 0.5, np.sign(deltas @ weights))[0, 1] > 0.6
    question = choose_question(
        weight_posterior(np.zeros((0, 7)), np.zeros(0), WeightPrior.flat(deltas)), deltas, np.random.default_rng(0)
    )
    assert 0 <= question.row < 4000


def test_votes_saved_are_interpolated():
    rows = [("p", "random", 0, 90.0), ("p", "random", 10, 50.0), ("p", "random", 20, 5.0)]
    rows += [("p", "active", 0, 90.0), ("p", "active", 10, 30.0), ("p", "active", 20, 20.0)]
    saved = _saved(pd.DataFrame(rows, columns=["prior", "choice", "votes", "angle"]))
    assert saved["active"].tolist()[0] == pytest.approx(10 * 40 / 60)
    assert np.isnan(saved["active"].tolist()[1])


def test_command(tmp_path):
    arguments = ["votes", "simulate", "--quick", "--listeners", "3", "--output", str(tmp_path / "out"), "--no-progress"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    document = json.loads((tmp_path / "out/listeners.json").read_text())
    assert document["settings"]["listeners"] == 3
    assert {"prior", "choice", "votes", "angle", "error"} == set(document["questions"][0])
    assert (tmp_path / "out/listeners.png").stat().st_size > 10_000
    assert "Active votes" in (tmp_path / "out/listeners.md").read_text()


def test_settings_out_of_range():
    with pytest.raises(ConfigError, match="two listeners"):
        ListenerSettings(listeners=1)
