"""The human ceiling by answer, its intervals, and shares of it: loops, simulated listeners, the published test."""

import json

import numpy as np
import pytest
import typer
from fake_inst_sim_abx import write_fake_inst_sim_abx
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from stemsim.cli.votes import votes_command
from stemsim.errors import ConfigError, TripletError
from stemsim.evaluation import agreement, agreement_credit, ceiling_credit, human_ceiling
from stemsim.evaluation.ceiling import answer_credit, ceiling, ceiling_of, ceiling_table, share_of_ceiling
from stemsim.evaluation.listening_test import describe_listening_test
from stemsim.triplets.inst_sim_abx_answers import read_answers

ANSWERS = st.lists(st.tuples(st.integers(0, 5), st.sampled_from([-1, 1])), min_size=1, max_size=40)


def panel(seed, *, listeners=40, triplets=60, votes=5, spread=0.0, doubt=1.0):
    """Return choices, triplets and listeners: some are less reliable than others, some triplets are harder."""
    rng = np.random.default_rng(seed)
    clear, careless = rng.exponential(doubt, triplets), np.exp(spread * rng.normal(size=listeners))
    triplet = np.repeat(np.arange(triplets), votes)
    listener = np.argsort(rng.random((triplets, listeners)), axis=1)[:, :votes].reshape(-1)
    right = rng.random(len(triplet)) < 1.0 / (1.0 + np.exp(-2.0 * clear[triplet] / careless[listener]))
    return np.where(right, 1, -1), triplet, listener


class TestAnswers:
    @given(ANSWERS)
    @settings(max_examples=100, deadline=None)
    def test_credit_is_that_of_a_loop_and_adds_up_to_that_of_the_votes(self, given_answers):
        triplet, choice = (np.array(column) for column in zip(*given_answers, strict=True))
        credit = answer_credit(choice, triplet)
        for index, (asked, chosen) in enumerate(given_answers):
            others = sum(other for row, (t, other) in enumerate(given_answers) if t == asked and row != index)
            alone = sum(t == asked for t, _ in given_answers) == 1
            expected = np.nan if alone else 0.5 * (1 + np.sign(others) * chosen)
            np.testing.assert_equal(credit[index], expected)
        votes = np.stack([np.bincount(triplet[choice == side], minlength=6) for side in (1, -1)], axis=1)
        earned, _ = ceiling_credit(votes)
        sums = np.bincount(triplet, weights=np.nan_to_num(credit), minlength=6)
        np.testing.assert_allclose(sums, earned)
        found = ceiling(choice, triplet, np.arange(len(choice)), replicates=20)
        np.testing.assert_allclose(np.nan if found is None else found.value, human_ceiling(votes))

    def test_intervals_hold_the_ceiling_and_follow_the_seed(self):
        drawn = panel(0)
        first, again, other = (ceiling(*drawn, replicates=200, seed=seed) for seed in (1, 1, 2))
        assert first == again
        assert first.interval != other.interval
        for lower, upper in (first.interval, first.by_listeners, first.by_triplets):
            assert 0.0 <= lower < first.value < upper <= 1.0
        assert (first.answers, first.triplets, first.listeners) == (300, 60, 40)

    def test_the_order_of_the_answers_does_not_count(self):
        choice, triplet, listener = panel(1)
        order = np.random.default_rng(0).permutation(len(choice))
        one = ceiling(choice, triplet, listener, replicates=100)
        other = ceiling(
            choice[order], triplet[order], np.array([f"subject{i:03d}" for i in listener[order]]), replicates=100
        )
        assert one.value == pytest.approx(other.value)
        assert one.interval == pytest.approx(other.interval)

    def test_unequal_listeners_widen_the_interval_of_listeners(self):
        alike, apart = (ceiling(*panel(2, listeners=12, triplets=300, spread=s), replicates=300) for s in (0.0, 2.0))
        width = [np.diff(one.by_listeners)[0] for one in (alike, apart)]
        assert width[1] > 1.5 * width[0]

    def test_more_triplets_narrow_it(self):
        widths = [np.diff(ceiling(*panel(3, triplets=n, listeners=80), replicates=300).interval)[0] for n in (30, 480)]
        assert widths[1] < 0.5 * widths[0]

    def test_full_agreement_is_not_certainty(self):
        triplet = np.repeat(np.arange(20), 3)
        found = ceiling(np.ones(60, int), triplet, np.tile(np.arange(3), 20))
        assert found.value == 1.0
        assert found.interval == (pytest.approx(0.025 ** (1 / 20)), 1.0)
        assert ceiling(-np.ones(3, int), np.arange(3), np.arange(3)) is None

    def test_one_triplet_says_nothing_about_others(self):
        found = ceiling(np.array([1, 1, 1, -1]), np.zeros(4, int), np.arange(4), replicates=50)
        assert (found.value, found.by_triplets) == (0.75, (0.0, 1.0))

    def test_too_few_replicates_are_refused(self):
        with pytest.raises(ConfigError, match="at least 2 replicates"):
            ceiling(*panel(0), replicates=1)

    @pytest.mark.parametrize("spread", [0.0, 1.0])
    def test_the_interval_covers(self, spread):
        """Nominal 95 %; the seeds are fixed, so that nothing here depends on chance."""
        truth = np.mean(
            [ceiling(*panel(s, triplets=2000, listeners=2000, spread=spread), replicates=2).value for s in range(9)]
        )
        hits = []
        for seed in range(200):
            lower, upper = ceiling(*panel(seed, spread=spread), replicates=200, seed=seed).interval
            hits.append(lower <= truth <= upper)
        assert 0.91 <= np.mean(hits) <= 0.99, np.mean(hits)


class TestShare:
    def test_is_agreement_over_the_ceiling(self):
        rng = np.random.default_rng(0)
        votes = np.stack([rng.integers(3, 6, 80), rng.integers(0, 3, 80)], axis=1)
        preference = rng.normal(0.8, 1.0, size=80)
        found = share_of_ceiling(agreement_credit(preference, np.ones(len(votes))), votes)
        assert found.agreement == pytest.approx(agreement(preference, np.ones(80)))
        assert found.ceiling == pytest.approx(human_ceiling(votes))
        assert found.share == pytest.approx(found.agreement / found.ceiling)
        assert found.interval[0] < found.share < found.interval[1]

    def test_its_interval_is_that_of_a_loop_over_drawn_triplets(self):
        rng = np.random.default_rng(1)
        votes = np.stack([rng.integers(3, 6, 40), rng.integers(0, 3, 40)], axis=1)
        preference = rng.normal(0.8, 1.0, size=40)
        found = share_of_ceiling(agreement_credit(preference, np.ones(len(votes))), votes, replicates=60, seed=5)
        shares = []
        for draw in np.random.default_rng(5).multinomial(40, np.full(40, 1 / 40), size=60):
            rows = np.repeat(np.arange(40), draw)
            shares.append(agreement(preference[rows], np.ones(40)) / human_ceiling(votes[rows]))
        assert found.interval == pytest.approx(tuple(np.quantile(shares, [0.025, 0.975])))

    @pytest.mark.parametrize(("right", "place"), [(1.0, "above"), (0.5, "below"), (0.85, "not told apart from")])
    def test_sentences(self, right, place):
        votes = np.tile([[5, 0], [4, 1], [3, 2]], (60, 1))
        preference = np.where(np.arange(180) < right * 180, 1.0, -1.0)[np.random.default_rng(0).permutation(180)]
        share = share_of_ceiling(agreement_credit(preference, np.ones(len(votes))), votes)
        if right == 0.85:
            share = share_of_ceiling(np.where(np.arange(180) % 30 < 21, 1.0, 0.0), votes)
        assert share.sentence.endswith(f": {place} it.")
        assert "of the human ceiling of" in share.sentence

    def test_refusals(self):
        with pytest.raises(TripletError, match="1 are tied"):
            share_of_ceiling(np.ones(2), np.array([[1, 1], [3, 1]]))
        with pytest.raises(TripletError, match="0 have two votes"):
            share_of_ceiling(np.ones(2), np.array([[1, 0], [0, 1]]))


class TestPerspectives:
    def test_answers_about_one_perspective(self, tmp_path):
        answers = read_answers(write_fake_inst_sim_abx(tmp_path / "abx"))
        whole = answers.count()
        for index, name in enumerate(("timbre", "rhythm", "melody")):
            about = answers.about(name)
            np.testing.assert_array_equal(about.count().votes, whole.perspective_votes[:, index])
            assert (about.choices[:, 0] != 0).all()
        np.testing.assert_array_equal(answers.about("overall").count().votes, whole.votes)
        assert len(answers.about("overall")) == len(answers)

    def test_an_unknown_perspective_is_named(self, tmp_path):
        root = write_fake_inst_sim_abx(tmp_path / "abx")
        with pytest.raises(ConfigError, match="overall, timbre, rhythm, melody; got 'loudness'"):
            describe_listening_test(root, perspective="loudness")

    def test_the_description_is_about_the_perspective(self, tmp_path):
        root = write_fake_inst_sim_abx(tmp_path / "abx")
        rhythm = describe_listening_test(root, instrument="mix", test_type="XAB", perspective="rhythm", replicates=20)
        assert (rhythm.perspective, rhythm.chosen.answers, rhythm.chosen.retained) == ("rhythm", 4, 1)
        assert rhythm.chosen.ceiling == 1.0
        assert rhythm.subjects == 5
        pooled = describe_listening_test(root, pool=True, replicates=20)
        assert (pooled.total.triplets, pooled.total.distinct, pooled.pooled) == (4, 4, True)


class TestCommand:
    def invoke(self, *arguments):
        app = typer.Typer()
        app.command()(votes_command)
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    def test_perspective_pooling_and_intervals_are_shown(self, tmp_path):
        root = write_fake_inst_sim_abx(tmp_path / "abx")
        result = self.invoke(root, "--perspective", "timbre", "--pool", "--min-agreement", 0.5)
        assert result.exit_code == 0, result.stderr
        assert "Votes in Inst-Sim-ABX, timbre, both runs pooled" in result.stdout
        assert "interval" in result.stdout
        assert "4 triplets (4 distinct)" in result.stdout
        (mix,) = [line.split() for line in result.stdout.splitlines() if line.split()[:2] == ["mix", "XAB"]]
        assert mix[2:5] == ["1", "1", "5"]

    def test_json_has_the_interval_and_the_perspective(self, tmp_path):
        root = write_fake_inst_sim_abx(tmp_path / "abx")
        document = json.loads(self.invoke(root, "--json", "--instrument", "mix").stdout)
        lower, upper = document["chosen"]["ceiling_interval"]
        assert lower <= document["chosen"]["ceiling"] <= upper
        assert (document["perspective"], document["pooled"]) == ("overall", False)
        nothing = json.loads(self.invoke(root, "--json", "--instrument", "guitar").stdout)
        assert nothing["chosen"]["ceiling_interval"] is None

    def test_an_unknown_perspective_is_a_readable_error(self, tmp_path):
        result = self.invoke(write_fake_inst_sim_abx(tmp_path / "abx"), "--perspective", "loudness")
        assert (result.exit_code, result.stdout) == (2, "")
        assert "melody; got 'loudness'" in result.stderr


class TestPublishedAnswers:
    def test_the_ceilings_of_the_mix_and_their_intervals(self, answers):
        table = answers.count()
        retained = table.retained(min_agreement=0.8) & (table.instrument == "mix")
        for test_type, count, value, (lower, upper) in (
            ("XAB", 127, 0.910, (0.887, 0.930)),
            ("XYC", 204, 0.977, (0.967, 0.985)),
        ):
            chosen = retained & (table.test_type == test_type)
            found = ceiling_of(answers, chosen, replicates=1000)
            assert (int(chosen.sum()), found.triplets) == (count, count)
            assert found.value == pytest.approx(value, abs=5e-4)
            assert found.value == pytest.approx(human_ceiling(table.votes[chosen]))
            assert found.interval == pytest.approx((lower, upper), abs=3e-3)
            for inner in (found.by_listeners, found.by_triplets):
                assert np.diff(inner)[0] <= 1.1 * np.diff(found.interval)[0]

    def test_the_table_has_every_perspective_and_agrees_with_the_votes(self, answers):
        frame = ceiling_table(answers, min_agreement=0.8, replicates=50)
        assert len(frame) == 4 * 7 * 3
        assert (frame["lower"] < frame["ceiling"]).all()
        assert (frame["ceiling"] < frame["upper"]).all()
        mix = frame[(frame["instrument"] == "mix") & (frame["test type"] == "all")].set_index("perspective")
        assert mix.loc["overall", "triplets"] == 331
        for name in ("timbre", "rhythm", "melody"):
            votes = answers.about(name).count().filter(instrument="mix", min_agreement=0.8).votes
            assert mix.loc[name, "ceiling"] == pytest.approx(human_ceiling(votes))
        sums = frame[(frame["instrument"] != "all") & (frame["test type"] != "all")]
        total = frame[(frame["instrument"] == "all") & (frame["test type"] == "all")]
        assert sums["answers"].sum() == total["answers"].sum()
