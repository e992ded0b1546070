"""The study of simulated truth against slow loops, closed forms and its own promises."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import BSpline
from scipy.stats import binomtest
from typer.testing import CliRunner

from stemsim.cli import app as stemsim_app
from stemsim.cli.study import study_command
from stemsim.errors import ConfigError
from stemsim.evaluation.ceiling import answer_credit
from stemsim.evaluation.crossval import ALPHAS, SplitFits, cross_validate, leave_one_out_alpha
from stemsim.evaluation.study import StudySettings, run_study
from stemsim.evaluation.study.coverage import coverage, coverage_interval, population_weights
from stemsim.evaluation.study.exact_fusions import exact_fusions, level_features, spline_features
from stemsim.evaluation.study.fusions import draw_listening_test, fusion_gains
from stemsim.evaluation.study.heads import head_fusions
from stemsim.evaluation.study.listeners import TRUTHS, Hearing, Listeners, felt, hear, scale_of
from stemsim.evaluation.study.needed import crossing, needed_triplets
from stemsim.evaluation.study.songs import SongModel, compare, draw, draw_members, draw_songs
from stemsim.evaluation.study.verdicts import best_intervals, coverage_sentences, fusion_sentences
from stemsim.evaluation.study.weights import RidgeBatch, angles, recover_weights, scaled_prior
from stemsim.regression import ridge_weights
from stemsim.stems import LAYOUTS, STEMS

SEEDS = st.integers(0, 100_000)
SONGS = SongModel()
TINY = replace(
    StudySettings.quick(),
    triplets=(50, 100),
    votes=(1, 3),
    noises=(0.25,),
    reference=(100, 3),
    experiments=4,
    held_out=60,
    coverage_triplets=(100,),
    coverage_experiments=6,
    replicates=100,
    population=4000,
    fusion_triplets=(60,),
    fusion_experiments=2,
    fusion_splits=4,
)
app = typer.Typer()
app.command()(study_command)


@pytest.fixture(scope="module")
def drawn():
    """Triplets of two experiments."""
    return draw(SONGS, 2, 40, np.random.default_rng(0))


class TestSongs:
    def test_vectors_have_unit_norm_or_are_silent(self):
        songs = draw_songs(SONGS, 2, 30, np.random.default_rng(1))
        assert songs.vectors.shape == (2, 180, 8, 20)
        norms = np.linalg.norm(songs.vectors, axis=-1)
        np.testing.assert_allclose(norms[..., :-1], songs.present, atol=1e-6)
        np.testing.assert_allclose(norms[..., -1], 1.0, atol=1e-6)
        assert songs.present[..., STEMS.index("mix")].all()
        assert (songs.levels[~songs.present] == -120.0).all()
        assert (songs.levels[songs.present] > -100.0).all()

    def test_a_stem_is_missing_from_songs_and_silent_in_segments_as_often_as_said(self):
        songs = draw_songs(replace(SONGS, absent=0.3, silent=0.2), 1, 2000, np.random.default_rng(2))
        present = songs.present[0].reshape(2000, 6, 7)[..., :6]
        assert (~present.any(axis=1)).mean() == pytest.approx(0.3, abs=0.02)
        assert present[present.any(axis=1)[:, None].repeat(6, 1)].mean() == pytest.approx(0.8, abs=0.01)

    def test_the_level_of_the_mix_is_the_power_of_its_stems(self):
        songs = draw_songs(SONGS, 1, 5, np.random.default_rng(3))
        for levels, present in zip(songs.levels[0], songs.present[0], strict=True):
            power = sum(10 ** (level / 10) for level, sounds in zip(levels[:6], present[:6], strict=True) if sounds)
            assert levels[6] == pytest.approx(10 * np.log10(power), abs=1e-3)

    def test_cosines_are_like_those_of_real_stems(self):
        """The figures in the module's table, of the songs of Everything is Free, with room for its ranges."""
        cosines = draw(SONGS, 10, 1000, np.random.default_rng(4)).cosines
        within = cosines[:, round(1000 * SONGS.xab_share) :, 0, :7].reshape(-1, 7)
        between = cosines[:, :, 1, :7].reshape(-1, 7)
        for pairs, mean, mix_mean, spread in ((within, 0.74, 0.80, 0.21), (between, 0.49, 0.59, 0.17)):
            sound = np.where(pairs == 0.0, np.nan, pairs)
            assert np.nanmean(sound[:, :6]) == pytest.approx(mean, abs=0.03)
            assert np.nanmean(sound[:, 6]) == pytest.approx(mix_mean, abs=0.08)
            assert np.nanstd(sound[:, :6]) == pytest.approx(spread, abs=0.04)
        correlation = pd.DataFrame(np.where(between == 0.0, np.nan, between)).corr().to_numpy()
        assert 0.1 < correlation[0, 1] < 0.3
        assert 0.3 < correlation[0, 6] < 0.6

    @given(SEEDS, st.integers(1, 60), st.integers(3, 12), st.floats(0, 1))
    @settings(max_examples=40, deadline=None)
    def test_members_are_triplets_of_their_test_type(self, seed, triplets, tracks, share):
        songs = replace(SONGS, xab_share=share, segments_per_track=3)
        members = draw_members(songs, 3, triplets, tracks, np.random.default_rng(seed))
        assert members.min() >= 0
        assert members.max() < 3 * tracks
        n_xab = round(share * triplets)
        for rows in members:
            for row, (x, a, b) in enumerate(rows // 3):
                assert len({x, a, b}) == 3 if row < n_xab else (x == a and x != b)
            assert (rows[:, 0] != rows[:, 1]).all()
            both = min(n_xab, triplets - n_xab)
            np.testing.assert_array_equal(rows[:both, 0], rows[n_xab : n_xab + both, 0])

    def test_cosines_and_tracks_are_those_of_a_loop(self):
        rng = np.random.default_rng(5)
        songs = draw_songs(SONGS, 2, 6, rng)
        members = draw_members(SONGS, 2, 9, 6, rng)
        found = compare(songs, members, 6)
        for experiment, row in np.ndindex(2, 9):
            x, a, b = members[experiment, row]
            vectors = songs.vectors[experiment].astype(np.float64)
            for stem in range(8):
                expected = [vectors[x, stem] @ vectors[a, stem], vectors[x, stem] @ vectors[b, stem]]
                np.testing.assert_allclose(found.cosines[experiment, row, :, stem], expected, atol=1e-6)
            np.testing.assert_array_equal(found.tracks[experiment, row], [x // 6, a // 6, b // 6])
            np.testing.assert_array_equal(found.levels[experiment, row], songs.levels[experiment, x])
        np.testing.assert_allclose(found.deltas, found.cosines[:, :, 0, :7] - found.cosines[:, :, 1, :7])

    def test_memory_bounds_what_is_drawn_at_once_and_the_seed_decides(self, monkeypatch):
        first, again, other = (draw(SONGS, 5, 30, np.random.default_rng(seed)) for seed in (6, 6, 7))
        np.testing.assert_array_equal(first.cosines, again.cosines)
        assert (first.cosines != other.cosines).any()
        pieces = []
        real = draw_songs
        monkeypatch.setattr("stemsim.evaluation.study.songs._ELEMENTS_AT_ONCE", 2 * 12 * 6 * 8 * 20)
        monkeypatch.setattr(
            "stemsim.evaluation.study.songs.draw_songs", lambda m, n, t, r: pieces.append(n) or real(m, n, t, r)
        )
        assert draw(SONGS, 5, 30, np.random.default_rng(6)).cosines.shape == (5, 30, 2, 8)
        assert pieces == [2, 2, 1]

    @pytest.mark.parametrize(
        "wrong", [{"shared": 1.5}, {"absent": -0.1}, {"song": float("nan")}, {"dim": 1}, {"stems": ("bass", "drums")}]
    )
    def test_what_cannot_be_is_refused(self, wrong):
        with pytest.raises(ConfigError, match="Simulated songs need"):
            SongModel(**wrong)


class TestListeners:
    def test_what_is_felt_is_that_of_a_loop(self, drawn):
        for truth in TRUTHS:
            found = felt(drawn, truth, STEMS)
            for experiment, row in np.ndindex(2, 40):
                to_a, to_b = drawn.cosines[experiment, row]
                power = 10.0 ** (drawn.levels[experiment, row, :6] / 10.0)
                for stem in range(8):
                    values = [to_a[stem], to_b[stem]]
                    if truth == "saturating" and stem < 7:
                        values = [1 / (1 + np.exp(-(value - 0.65) / 0.05)) if value else 0.0 for value in values]
                    expected = values[0] - values[1]
                    if truth == "loudness" and stem < 6:
                        expected *= 6 * power[stem] / power.sum()
                    assert found[experiment, row, stem] == pytest.approx(expected, abs=1e-9), (truth, stem)

    @pytest.mark.parametrize("truth", TRUTHS)
    def test_swapping_the_candidates_flips_what_is_felt(self, drawn, truth):
        swapped = replace(drawn, cosines=drawn.cosines[:, :, ::-1])
        np.testing.assert_array_equal(felt(swapped, truth, STEMS), -felt(drawn, truth, STEMS))

    def test_the_unheard_has_no_linear_relation_to_the_stems(self):
        features = felt(draw(SONGS, 4, 200, np.random.default_rng(1)), "linear", STEMS)
        scale = scale_of(features)
        left = features[..., 7] - features[..., :7] @ scale.slopes
        np.testing.assert_allclose(np.einsum("en,ens->s", left, features[..., :7]), 0.0, atol=1e-8)
        assert scale.beside == pytest.approx(np.sqrt((left**2).mean()))
        weights = np.arange(1.0, 8.0)
        assert scale.heard(weights) == pytest.approx(np.sqrt(((features[..., :7] @ weights) ** 2).mean()))

    def test_what_listeners_feel_is_that_of_a_loop(self, drawn):
        features = felt(drawn, "linear", STEMS)
        scale, weights = scale_of(features), np.array([np.arange(1.0, 8.0), np.ones(7)])
        listeners = Listeners(taste=0.6, unheard=0.8, answers=5)
        found = hear(features, weights, scale, listeners, 3, np.random.default_rng(9))
        rng = np.random.default_rng(9)
        own = weights[:, None] * np.exp(0.6 * rng.standard_normal((2, 24, 7)) - 0.18)
        np.testing.assert_array_equal(found.luck, rng.logistic(size=(2, 40, 3)))
        for experiment, row, vote in np.ndindex(2, 40, 3):
            size = scale.heard(weights[experiment])
            stems = features[experiment, row, :7]
            beside = 0.8 * size * (features[experiment, row, 7] - stems @ scale.slopes) / scale.beside
            expected = (stems @ own[experiment, (3 * row + vote) % 24] + beside) / (size * np.hypot(1.0, 0.8))
            assert found.feeling[experiment, row, vote] == pytest.approx(expected)

    def test_without_noise_and_taste_listeners_follow_the_weights(self, drawn):
        features = felt(drawn, "linear", STEMS)
        weights = np.tile(np.arange(1.0, 8.0), (2, 1))
        heard = hear(features, weights, scale_of(features), Listeners(0.0, 0.0, 0.0), 3, np.random.default_rng(0))
        votes = heard.votes(0.0, 3)
        np.testing.assert_array_equal(votes[..., 0], 3 * (drawn.deltas @ weights[0] > 0))
        np.testing.assert_array_equal(votes.sum(axis=-1), 3)
        assert np.abs(heard.votes(1e9, 1)[..., 0].mean() - 0.5) < 0.2  # pure luck

    def test_fewer_votes_are_the_first_of_more(self):
        rng = np.random.default_rng(0)
        heard = Hearing(rng.normal(size=(2, 10, 5)), rng.logistic(size=(2, 10, 5)))
        answers = heard.feeling + 0.5 * heard.luck > 0
        for count in (1, 3, 5):
            np.testing.assert_array_equal(heard.votes(0.5, count)[..., 0], answers[..., :count].sum(axis=-1))

    def test_ceilings_are_those_of_the_real_listening_test(self):
        """72.2 % (XAB) and 92.3 % (XYC) of Inst-Sim-ABX, without selection."""
        base = StudySettings()
        triplets = draw(SONGS, 20, 500, np.random.default_rng(5))
        features = felt(triplets, "linear", STEMS)
        weights = np.tile(base.paper_weights, (20, 1))
        votes = hear(features, weights, scale_of(features), Listeners(), 5, np.random.default_rng(6)).votes(0.25, 5)
        n_xab = round(500 * SONGS.xab_share)
        for rows, expected in ((votes[:, :n_xab], 0.722), (votes[:, n_xab:], 0.923)):
            for_a = rows[..., 0].reshape(-1)
            choice = np.where(np.arange(5) < for_a[:, None], 1, -1)
            credit = answer_credit(choice.reshape(-1), np.repeat(np.arange(len(for_a)), 5))
            assert credit.mean() == pytest.approx(expected, abs=0.03)

    def test_what_cannot_be_is_refused(self, drawn):
        with pytest.raises(ConfigError, match="got 'cubic'"):
            felt(drawn, "cubic", STEMS)
        with pytest.raises(ConfigError, match="Noise, taste and unheard"):
            Listeners(noise=-1.0)


class TestWeights:
    @pytest.mark.parametrize("with_prior", [False, True])
    def test_the_batch_is_a_loop_over_experiments(self, with_prior):
        rng = np.random.default_rng(0)
        deltas = torch.from_numpy(rng.normal(size=(6, 40, 7)) * rng.uniform(0.05, 0.5, size=7))
        target = torch.from_numpy(rng.choice([-1.0, 1.0], size=(6, 40)))
        prior = torch.from_numpy(rng.normal(size=(6, 7))) if with_prior else None
        batch = RidgeBatch(deltas)
        weights, alphas = batch.ridge(target, prior)
        plain = batch.least_squares(target)
        everything = torch.ones(1, 40, dtype=torch.bool)
        for one in range(6):
            left = target[one] if prior is None else target[one] - deltas[one] @ prior[one]
            expected = leave_one_out_alpha(deltas[one], left, everything, torch.tensor(ALPHAS, dtype=torch.float64))
            assert alphas[one] == expected[0]
            p = None if prior is None else prior[one]
            np.testing.assert_allclose(
                weights[one], ridge_weights(deltas[one], target[one], float(alphas[one]), prior=p)
            )
            np.testing.assert_allclose(plain[one], ridge_weights(deltas[one], target[one]))
        assert len(set(alphas.tolist())) > 1

    def test_a_prior_is_scaled_to_the_votes(self):
        rng = np.random.default_rng(1)
        deltas, target = torch.from_numpy(rng.normal(size=(3, 30, 4))), torch.from_numpy(rng.normal(size=(3, 30)))
        prior = torch.tensor([1.0, 2.0, 0.5, 0.0], dtype=torch.float64)
        found = scaled_prior(RidgeBatch(deltas).equations(target), prior)
        for one in range(3):
            line = (deltas[one] @ prior).numpy()[:, None]
            scale = np.linalg.lstsq(line, target[one].numpy(), rcond=None)[0][0]
            np.testing.assert_allclose(found[one], scale * prior)

    @given(SEEDS)
    @settings(max_examples=30, deadline=None)
    def test_the_sine_of_the_angle_is_the_error_that_the_best_scale_leaves(self, seed):
        rng = np.random.default_rng(seed)
        truth = rng.uniform(0.1, 1.0, size=5)
        weights = truth + rng.normal(size=5) * rng.uniform(0.0, 1.0)
        (angle,) = angles(weights[None], truth[None])
        scale, *_ = np.linalg.lstsq(weights[:, None], truth, rcond=None)
        error = np.linalg.norm(scale * weights - truth) / np.linalg.norm(truth)
        assert np.sin(np.radians(angle)) == pytest.approx(error, abs=1e-6)
        assert angles(-weights, truth) == pytest.approx(180.0 - angle)
        assert angles(3.0 * weights, truth) == pytest.approx(angle, abs=1e-5)

    def test_no_weights_at_all_are_as_far_as_a_right_angle(self):
        assert angles(np.zeros(3), np.ones(3)) == 90.0

    def test_infallible_listeners_teach_their_weights(self):
        """More triplets, smaller error; the truth agrees with nobody better than with itself."""
        sure = replace(
            TINY,
            triplets=(50, 800),
            reference=(50, 3),
            noises=(0.0,),
            listeners=Listeners(noise=0.0, taste=0.0, unheard=0.0),
            experiments=10,
        )
        features = felt(draw(SONGS, 4, 1000, np.random.default_rng(0)), "linear", STEMS)
        done = []
        rows, needed = recover_weights(sure, scale_of(features), done.append)
        assert sum(done) == 850
        assert set(needed["model"]) == {"OLS", "ridge", "prior-ridge", "wrong prior"}
        angle = rows[rows["votes"] == 3].pivot_table("angle", index="model", columns="triplets")
        for model in ("OLS", "ridge", "prior-ridge"):
            assert angle.loc[model, 800] < 12.0 < angle.loc[model, 50], model
        share = rows.groupby("model")["agreement"].mean()
        assert share["true weights"] == 1.0
        assert share["simulated ceiling"] == 1.0
        assert share["OLS"] < 1.0
        assert rows.loc[(rows["model"] == "simulated ceiling") & (rows["votes"] == 1), "agreement"].isna().all()


class TestCoverage:
    @given(st.integers(2, 300), st.data())
    @settings(max_examples=40, deadline=None)
    def test_the_interval_of_one_stem_is_exactly_binomial(self, experiments, data):
        hits = data.draw(st.integers(0, experiments))
        covered = (np.arange(experiments) < hits)[:, None]
        exact = binomtest(hits, experiments).proportion_ci(method="exact")
        assert coverage_interval(covered) == pytest.approx((exact.low, exact.high))

    def test_stems_that_are_covered_together_count_once_and_others_apart(self):
        rng = np.random.default_rng(0)
        one, many = rng.random((400, 1)) < 0.9, rng.random((400, 7)) < 0.9
        together = coverage_interval(one.repeat(7, axis=1))
        np.testing.assert_allclose(together, coverage_interval(one), atol=1e-3)
        lower, upper = coverage_interval(many)
        exact = binomtest(int(many.sum()), many.size).proportion_ci(method="exact")
        assert upper - lower == pytest.approx(exact.high - exact.low, rel=0.15)

    def test_intervals_cover_the_population_weights_and_not_others(self):
        base = replace(TINY, coverage_triplets=(150,), coverage_experiments=40, replicates=120, population=50_000)
        features = felt(draw(SONGS, 10, 1000, np.random.default_rng(0)), "linear", STEMS)
        scale, done = scale_of(features), []
        truth = population_weights(base, scale)
        rows = coverage(base, scale, truth, done.append)
        assert sum(done) == 80
        every = rows[rows["stem"] == "all"]
        assert every["songs"].drop_duplicates().tolist() == [60, 15]
        assert len(every) == 8
        usual = every[every["songs"] == 60].set_index("method")["covered"]
        assert usual.between(0.90, 0.985).all(), usual  # 280 intervals, 40 experiments
        few = every[every["songs"] == 15].set_index("method")["covered"]
        assert few["least squares"] < few["cluster-robust"], few
        wrong = coverage(replace(base, coverage_experiments=10), scale, truth + np.abs(truth).mean(), done.append)
        assert wrong.loc[wrong["stem"] == "all", "covered"].max() < 0.8

    def test_population_weights_are_those_of_many_triplets_at_once(self):
        base = replace(TINY, coverage_triplets=(100,), population=40_000)
        features = felt(draw(SONGS, 10, 1000, np.random.default_rng(0)), "linear", STEMS)
        scale = scale_of(features)
        found = population_weights(base, scale)
        triplets = draw(SONGS, 20, 2000, np.random.default_rng(3))
        weights = np.tile(base.paper_weights, (20, 1))
        heard = hear(felt(triplets, "linear", STEMS), weights, scale, base.listeners, 3, np.random.default_rng(4))
        votes = heard.votes(0.25, 3)
        target = np.sign(votes[..., 0] - votes[..., 1]).reshape(-1)
        expected = np.linalg.lstsq(triplets.deltas.reshape(-1, 7), target, rcond=None)[0]
        np.testing.assert_allclose(found, expected, atol=0.12)  # four standard errors of the weight of the mix
        assert angles(found, expected) < 4.0


class TestNeeded:
    COUNTS = np.array([100.0, 200.0, 400.0])

    def test_is_interpolated_on_a_logarithmic_scale(self):
        curves = np.array([[30.0, 9.0, 9.0, 30.0, 10.0], [15.0, 15.0, 8.0, 20.0, 9.0], [5.0, 5.0, 7.0, 11.0, 8.0]])
        found = crossing(self.COUNTS, curves)
        np.testing.assert_allclose(found, [200 * 2**0.5, 200 * 2**0.5, 100.0, np.inf, 100.0])  # a dip does not count

    @given(SEEDS)
    @settings(max_examples=40, deadline=None)
    def test_many_curves_are_a_loop(self, seed):
        curves = np.random.default_rng(seed).uniform(5.0, 20.0, size=(3, 8))
        for angle, found in zip(curves.T, crossing(self.COUNTS, curves), strict=True):
            expected = np.inf
            for place in (2, 1, 0):
                if angle[place] > 10.0:
                    break
                expected = self.COUNTS[place]
                if place and angle[place - 1] > 10.0:
                    share = (angle[place - 1] - 10.0) / (angle[place - 1] - angle[place])
                    expected = np.exp((1 - share) * np.log(self.COUNTS[place - 1]) + share * np.log(self.COUNTS[place]))
            assert found == pytest.approx(expected)

    def test_the_interval_is_about_other_experiments(self):
        rng = np.random.default_rng(0)
        middle = np.array([[20.0], [14.0], [6.0]])
        few, many = (needed_triplets((100, 200, 400), middle + rng.normal(size=(3, n))) for n in (10, 1000))
        assert few.lower < few.value < few.upper
        assert many.upper - many.lower < 0.4 * (few.upper - few.lower)
        assert many.value == pytest.approx(200 * 2**0.5, rel=0.02)
        assert str(many).startswith("280 [2")

    def test_the_ends_of_what_was_tried_are_named(self):
        assert str(needed_triplets((100, 400), np.full((2, 5), 3.0))) == "at most 100"
        assert str(needed_triplets((100, 400), np.full((2, 5), 30.0))) == "more than 400"
        unsure = np.array([[30.0] * 9, [9.0] * 5 + [11.0] * 4])
        assert str(needed_triplets((100, 400), unsure)).endswith("over 400]")


class TestVerdicts:
    def test_the_method_that_is_never_far_from_nominal_is_recommended(self):
        cases = [("a", 0.95, 0.91), ("b", 0.96, 0.94), ("c", 0.99, 0.95)]
        rows = [
            {"triplets": n, "songs": 9, "method": m, "stem": "all", "experiments": 500, "covered": c}
            for m, *both in cases
            for n, c in zip((100, 331), both, strict=True)
        ]
        rows += [row | {"stem": "mix", "covered": row["covered"] - 0.1} for row in rows]
        frame = pd.DataFrame(rows).assign(lower=0.9, upper=1.0)
        assert best_intervals(frame) == "b"
        said = coverage_sentences(frame)
        assert "outside of 93-97 % with 331 triplets of 9 songs: 91.0 %" in said[0]
        assert said[1].endswith("within 93-97 % everywhere. Least of all stems: mix, 84.0 %.")
        assert said[-1].startswith("Use b:")
        assert coverage_sentences(frame.assign(experiments=499))[-1].startswith("499 experiments are too few")


class TestFusions:
    def test_a_listening_test_is_a_table_of_triplets_with_its_embeddings(self):
        rng = np.random.default_rng(0)
        features = felt(draw(SONGS, 2, 500, rng), "loudness", STEMS)
        test = draw_listening_test(TINY, "loudness", scale_of(features), 80, rng)
        assert len(test.triplets) == 80
        assert test.triplets.simulated
        assert (test.triplets.preference != 0).all()
        assert (test.triplets.test_type == "XAB").sum() == round(80 * SONGS.xab_share)
        vectors = test.embeddings.vectors.double()
        x, a, b = test.members[7]
        expected = (vectors[x] * (vectors[a] - vectors[b])).sum(dim=-1)
        np.testing.assert_allclose(test.deltas[7], expected, atol=1e-9)

    def test_what_knows_the_answers_wins_and_what_guesses_loses(self):
        def knows(sign):
            def make(test):
                preference = torch.from_numpy(test.triplets.preference).double().numpy()
                name = "knows" if sign > 0 else "errs"
                return lambda train: {name: SplitFits(np.tile(sign * preference, (len(train), 1)))}

            return make

        scales = dict.fromkeys(TRUTHS, scale_of(felt(draw(SONGS, 2, 500, np.random.default_rng(0)), "linear", STEMS)))
        done = []
        larger = replace(TINY, fusion_triplets=(150,), fusion_splits=12)
        rows = fusion_gains(larger, scales, {"knows": knows(1.0), "errs": knows(-1.0)}, done.append)
        assert sum(done) == 3 * 2 * 150
        assert rows.groupby("fusion")["gain"].min()["knows"] > 0.05
        assert (rows.loc[rows["fusion"] == "knows", ["better", "worse"]].to_numpy() == [1.0, 0.0]).all()
        assert (rows.loc[rows["fusion"] == "errs", ["better", "worse"]].to_numpy() == [0.0, 1.0]).all()
        assert (rows["lower"] <= rows["gain"]).all()

    def test_features_of_exact_fusions_are_those_of_a_loop(self):
        rng = np.random.default_rng(1)
        scale = scale_of(felt(draw(SONGS, 2, 500, rng), "linear", STEMS))
        test = draw_listening_test(TINY, "linear", scale, 30, rng)
        smooth, by_level = spline_features(test), level_features(test, STEMS)
        deltas, vectors = test.deltas, test.embeddings.vectors.double()
        knots = np.array([-2, -1, 0, 1, 2, 3, 4, 5, 6]) / 4
        basis = [BSpline(knots, np.eye(6)[index], 2) for index in range(6)]
        for row, (x, a, b) in enumerate(test.members.tolist()):
            power = 10.0 ** (test.embeddings.levels[x].double() / 10.0)
            for stem in range(7):
                to_a, to_b = (float(vectors[x, stem] @ vectors[c, stem]) for c in (a, b))
                assert smooth[row, stem] == pytest.approx(to_a - to_b, abs=1e-12)
                if min(to_a, to_b) >= 0.0:  # beyond, splines go on as lines
                    expected = [one(to_a) - one(to_b) for one in basis]
                    np.testing.assert_allclose(smooth[row, 7 + 6 * stem : 13 + 6 * stem], expected, atol=1e-9)
                if stem < 6:
                    share = float(power[stem] / power[:6].sum())
                    assert by_level[row, 7 + stem] == pytest.approx(float(deltas[row, stem]) * share, abs=1e-12)
        torch.testing.assert_close(by_level[:, :7], deltas)

    def test_exact_fusions_change_sign_when_the_candidates_are_swapped(self):
        rng = np.random.default_rng(2)
        scale = scale_of(felt(draw(SONGS, 2, 500, rng), "linear", STEMS))
        test = draw_listening_test(TINY, "linear", scale, 30, rng)
        swapped = replace(test, members=test.members[:, [0, 2, 1]])
        assert torch.equal(spline_features(swapped), -spline_features(test))
        assert torch.equal(level_features(swapped, STEMS), -level_features(test, STEMS))

    def test_the_fusion_that_fits_the_truth_wins_and_only_there(self):
        larger = replace(TINY, fusion_triplets=(1500,), fusion_experiments=4, fusion_splits=4)
        triplets = draw(SONGS, 5, 1000, np.random.default_rng(0))
        scales = {truth: scale_of(felt(triplets, truth, STEMS)) for truth in TRUTHS}
        rows = fusion_gains(larger, scales, exact_fusions(STEMS), lambda _: None).set_index(["truth", "fusion"])
        assert rows.loc[("loudness", "level weights"), "gain"] > 0.01
        assert rows.loc[("saturating", "spline"), "gain"] > 0.003
        assert rows.loc["linear", "gain"].abs().max() < 0.006
        assert rows.loc["linear", "worse"].max() == 0.0

    def test_the_packages_own_fusions_can_be_tried(self):
        rng = np.random.default_rng(3)
        scale = scale_of(felt(draw(SONGS, 2, 500, rng), "linear", STEMS))
        test = draw_listening_test(TINY, "linear", scale, 60, rng)
        challengers = [make(test) for make in head_fusions(STEMS).values()]
        result = cross_validate(test.deltas, test.triplets, STEMS, count=2, challengers=challengers)
        assert [model.name for model in result.models[-2:]] == ["SplineFusion", "AttentionFusion"]
        ridge = next(model for model in result.models if model.name == "ridge")
        for model in result.models[-2:]:
            assert np.abs(model.agreement[:, 0] - ridge.agreement[:, 0]).max() < 0.25

    def test_sentences_name_the_size_from_which_a_fusion_wins(self):
        rows = pd.DataFrame(
            {"truth": "saturating", "fusion": "spline", "triplets": [100, 331, 1000], "experiments": 20}
            | {"gain": [0.0, 0.01, 0.012], "lower": -0.01, "upper": 0.02, "better": [0.0, 0.55, 0.9], "worse": 0.0}
        )
        (said,) = fusion_sentences(rows)
        assert said.endswith(
            "better in 0, 55, 90 % of 20 experiments and worse in 0 %. It wins more often than not "
            "from 331 triplets on."
        )
        (said,) = fusion_sentences(rows.assign(better=[0.9, 0.9, 0.5]))
        assert "more often than not" not in said


class TestSettings:
    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"votes": (1, 4)}, r"got \[4\]. Take 5 instead"),
            ({"triplets": (3, 331)}, r"`triplets` must lie in \[20, 100000\] and ascend; got 3, 331"),
            ({"triplets": (331, 50)}, "and ascend; got 331, 50"),
            ({"triplets": ()}, "got nothing"),
            ({"triplets": (50, 100)}, "What is held must be among what is tried"),
            ({"noises": (-0.1, 0.25)}, "`noises` must lie in"),
            ({"noises": (float("nan"),)}, "`noises` must lie in"),
            ({"triplets": (331, 50_000), "experiments": 1000}, "GB of memory"),
            ({"experiments": 1}, "`experiments` must lie in"),
            ({"replicates": 10}, "`replicates` must lie in"),
        ],
    )
    def test_bad_numbers_are_refused(self, wrong, message):
        with pytest.raises(ConfigError, match=message):
            replace(StudySettings(), **wrong)

    def test_a_layout_without_the_papers_weights_is_refused(self):
        four = StudySettings(songs=SongModel(stems=LAYOUTS["4-stem"]))
        assert len(four.paper_weights) == 5

    def test_parts_draw_numbers_of_their_own(self):
        base = StudySettings(seed=3)
        numbers = [base.generator(*part).random() for part in (("a", 1), ("a", 2), ("b", 1), ("a", 1))]
        assert numbers[0] == numbers[3]
        assert len(set(numbers)) == 3


class TestCommand:
    def invoke(self, *arguments):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    def test_quick(self, tmp_path):
        result = self.invoke(
            *("--quick", "--output", tmp_path, "--experiments", 4, "--coverage-experiments", 5, "--no-progress"),
            *("--triplets", "50,100,331", "--votes", "1,3", "--fusion-triplets", 60, "--fusion-experiments", 2),
        )
        assert result.exit_code == 0, result.output
        assert "Angle to the true weights" in result.stdout
        assert "% [binomial interval]" in result.stdout
        document = json.loads((tmp_path / "study.json").read_text())
        assert document["settings"]["reference"] == [331, 3]
        assert len(document["weights"]) == 3 * 2 * 2 * 9
        assert document["intervals_to_use"] in {row["method"] for row in document["coverage"]}
        table = pd.read_csv(tmp_path / "study_weights.csv")
        assert table["angle"].max() > 10.0
        assert (tmp_path / "study.md").read_text().count("\n## ") >= 4
        assert (tmp_path / "study.png").stat().st_size > 20_000
        for name in ("weights", "needed", "coverage", "fusion"):
            assert (tmp_path / f"study_{name}.csv").is_file()

    def test_the_seed_decides(self):
        small = replace(TINY, coverage_experiments=2, population=1000)
        first, again, other = (run_study(replace(small, seed=seed), progress=False) for seed in (1, 1, 2))
        pd.testing.assert_frame_equal(first.weights, again.weights)
        pd.testing.assert_frame_equal(first.coverage, again.coverage)
        assert not first.weights["angle"].equals(other.weights["angle"])

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--triplets", "many"), "--triplets takes whole numbers apart by commas"),
            (("--votes", "2"), "are odd"),
            (("--triplets", "5"), "`triplets` must lie in"),
            (("--hold", "331,5"), "--hold takes triplets, votes and noise"),
            (("--collinearity", "2"), "shares in [0, 1]"),
            (("--unheard", "-1"), "Noise, taste and unheard"),
            (("--seed", "-1"), "`seed` must lie in"),
            (("--experiments", "0"), "`experiments` must lie in"),
            (("--fusion-triplets", "1,2"), "`fusion_triplets` must lie in"),
        ],
    )
    def test_bad_numbers_are_named(self, arguments, message, tmp_path):
        result = self.invoke("--quick", "--output", tmp_path, *arguments)
        assert result.exit_code == 2
        assert message in " ".join(result.output.split())
        assert not list(tmp_path.iterdir())

    def test_help_teaches(self):
        result = CliRunner().invoke(stemsim_app, ["study", "--help"])
        assert result.exit_code == 0
        assert "93 to 97 %" in result.stdout
