"""The study of simulated truth against slow loops, closed forms and its own promises."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.progress import Progress
from scipy.interpolate import BSpline
from scipy.special import expit as sigmoid
from scipy.stats import binomtest
from typer.testing import CliRunner

from stemsim.cli.study import study_command
from stemsim.evaluation import ALPHAS, SplitFits
from stemsim.evaluation.ceiling import answer_credit
from stemsim.model import read_model
from stemsim.regression import fit_ridge, ridge_weights
from stemsim.stems import STEMS
from stemsim.study import Findings, StudySettings, run_study
from stemsim.study import experiments as study
from stemsim.study import simulation as sim
from stemsim.study.report import sentences

MODELS = Path(__file__).resolve().parents[1] / "checkpoints"
SEEDS = st.integers(0, 100_000)
SILENT_BARS = Progress(disable=True)
BASE = StudySettings()
TINY = replace(
    StudySettings.quick(),
    triplets=(50, 100),
    votes=(1, 3),
    noises=(0.25,),
    reference=(100, 3, 0.25),
    experiments=4,
    held_out=60,
    coverage_triplets=(100,),
    coverage_experiments=6,
    population=4000,
    fusion_triplets=(60,),
    fusion_experiments=2,
    fusion_splits=4,
)
app = typer.Typer()
app.command()(study_command)


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def drawn():
    """Triplets of two experiments."""
    return sim.draw_triplets(BASE, 2, 40, rng())


@pytest.fixture(scope="module")
def scales():
    """Scale of the impressions of every kind of listeners."""
    triplets = sim.draw_triplets(BASE, 10, 1000, rng())
    return {truth: sim.ImpressionScale.of(sim.impressions(triplets, truth)) for truth in sim.TRUTHS}


@pytest.fixture(scope="module")
def findings():
    return run_study(TINY, progress=False)


@pytest.fixture(scope="module")
def listening_test(scales):
    return study.draw_listening_test(TINY, "loudness", scales["loudness"], 80, rng(1))


class TestSongs:
    def test_vectors_have_unit_norm_or_are_silent(self):
        vectors, levels, present = sim.draw_songs(BASE, 2, 30, rng(1))
        assert vectors.shape == (2, 180, 8, 20)
        norms = np.linalg.norm(vectors, axis=-1)
        np.testing.assert_allclose(norms[..., :-1], present, atol=1e-6)
        np.testing.assert_allclose(norms[..., -1], 1.0, atol=1e-6)
        assert present[..., STEMS.index("mix")].all()
        assert (levels[~present] == -120.0).all()
        power = (10 ** (levels[..., :6] / 10) * present[..., :6]).sum(axis=-1)
        np.testing.assert_allclose(levels[..., 6], 10 * np.log10(np.maximum(power, 1e-12)), atol=1e-3)

    def test_a_stem_is_missing_from_songs_and_silent_in_segments_as_often_as_said(self):
        present = sim.draw_songs(BASE, 1, 2000, rng(2))[2][0].reshape(2000, 6, 7)[..., :6]
        assert (~present.any(axis=1)).mean() == pytest.approx(0.15, abs=0.02)
        assert present[present.any(axis=1)[:, None].repeat(6, 1)].mean() == pytest.approx(0.92, abs=0.01)

    def test_cosines_are_like_those_of_real_stems(self):
        """Figures of the songs of Everything is Free, with room for their ranges."""
        cosines = sim.draw_triplets(BASE, 10, 1000, rng(4)).cosines
        within, between = (
            cosines[:, round(1000 * 127 / 331) :, 0, :7].reshape(-1, 7),
            cosines[:, :, 1, :7].reshape(-1, 7),
        )
        for pairs, mean, mix_mean, spread in ((within, 0.74, 0.80, 0.21), (between, 0.49, 0.59, 0.17)):
            sound = np.where(pairs == 0.0, np.nan, pairs)
            assert np.nanmean(sound[:, :6]) == pytest.approx(mean, abs=0.03)
            assert np.nanmean(sound[:, 6]) == pytest.approx(mix_mean, abs=0.08)
            assert np.nanstd(sound[:, :6]) == pytest.approx(spread, abs=0.04)
        correlation = pd.DataFrame(np.where(between == 0.0, np.nan, between)).corr().to_numpy()
        assert 0.1 < correlation[0, 1] < 0.3
        assert 0.3 < correlation[0, 6] < 0.6

    @given(SEEDS, st.integers(1, 60), st.integers(3, 12))
    @settings(max_examples=40, deadline=None)
    def test_members_are_triplets_of_their_test_type(self, seed, triplets, tracks):
        members = sim.draw_members(3, triplets, tracks, rng(seed))
        assert 0 <= members.min() <= members.max() < 6 * tracks
        n_xab = round(127 / 331 * triplets)
        for rows in members:
            for row, (x, a, b) in enumerate(rows // 6):
                assert len({x, a, b}) == 3 if row < n_xab else (x == a and x != b)
            assert (rows[:, 0] != rows[:, 1]).all()
            np.testing.assert_array_equal(rows[:n_xab, 0], rows[n_xab : 2 * n_xab, 0])

    def test_cosines_and_tracks_are_those_of_a_loop(self):
        generator = rng(5)
        vectors, levels, _ = sim.draw_songs(BASE, 2, 6, generator)
        members = sim.draw_members(2, 9, 6, generator)
        found = sim.compare(vectors, levels, members)
        for experiment, row in np.ndindex(2, 9):
            x, a, b = members[experiment, row]
            one = vectors[experiment].astype(np.float64)
            expected = [[one[x, stem] @ one[other, stem] for stem in range(8)] for other in (a, b)]
            np.testing.assert_allclose(found.cosines[experiment, row], expected, atol=1e-6)
            np.testing.assert_array_equal(found.tracks[experiment, row], [x // 6, a // 6, b // 6])
            np.testing.assert_array_equal(found.levels[experiment, row], levels[experiment, x])
        np.testing.assert_allclose(found.deltas, found.cosines[:, :, 0, :7] - found.cosines[:, :, 1, :7])

    def test_memory_bounds_what_is_drawn_at_once_and_the_seed_decides(self, monkeypatch):
        first, again, other = (sim.draw_triplets(BASE, 5, 30, rng(seed)).cosines for seed in (6, 6, 7))
        np.testing.assert_array_equal(first, again)
        assert (first != other).any()
        pieces, real = [], sim.draw_songs
        monkeypatch.setattr(sim, "_ELEMENTS_AT_ONCE", 2 * 12 * 6 * 8 * 20)
        monkeypatch.setattr(sim, "draw_songs", lambda s, n, t, r: pieces.append(n) or real(s, n, t, r))
        assert sim.draw_triplets(BASE, 5, 30, rng(6)).cosines.shape == (5, 30, 2, 8)
        assert pieces == [2, 2, 1]


class TestListeners:
    def test_impressions_are_those_of_a_loop(self, drawn):
        for truth in sim.TRUTHS:
            found = sim.impressions(drawn, truth)
            for experiment, row in np.ndindex(2, 40):
                power = 10.0 ** (drawn.levels[experiment, row, :6] / 10.0)
                for stem, (to_a, to_b) in enumerate(drawn.cosines[experiment, row].T):
                    expected = to_a - to_b
                    if truth == "saturating" and stem < 7:
                        expected = sigmoid((to_a - 0.65) / 0.05) * (to_a != 0) - sigmoid((to_b - 0.65) / 0.05) * (
                            to_b != 0
                        )
                    if truth == "loudness" and stem < 6:
                        expected *= 6 * power[stem] / power.sum()
                    assert found[experiment, row, stem] == pytest.approx(expected, abs=1e-9), (truth, stem)
            swapped = drawn._replace(cosines=drawn.cosines[:, :, ::-1])
            np.testing.assert_array_equal(sim.impressions(swapped, truth), -found)

    def test_decisions_are_those_of_a_loop(self, drawn, scales):
        features, weights = sim.impressions(drawn, "linear"), np.array([np.arange(1.0, 8.0), np.ones(7)])
        scale = sim.ImpressionScale.of(features)
        hidden = features[..., 7] - features[..., :7] @ scale.slopes
        np.testing.assert_allclose(np.einsum("en,ens->s", hidden, features[..., :7]), 0.0, atol=1e-8)
        assert scale.beside == pytest.approx(np.sqrt((hidden**2).mean()))
        found = sim.decide(replace(BASE, unheard=0.8), features, weights, scale, 3, rng(9))
        generator = rng(9)
        own = weights[:, None] * np.exp(0.5 * generator.standard_normal((2, 14, 7)) - 0.125)
        np.testing.assert_array_equal(found.noise, generator.logistic(size=(2, 40, 3)))
        for experiment, row, vote in np.ndindex(2, 40, 3):
            size = np.sqrt(((features[..., :7] @ weights[experiment]) ** 2).mean())
            beside = 0.8 * size * hidden[experiment, row] / scale.beside
            heard = features[experiment, row, :7] @ own[experiment, (3 * row + vote) % 14]
            assert found.evidence[experiment, row, vote] == pytest.approx(
                (heard + beside) / (size * np.hypot(1.0, 0.8))
            )

    def test_fewer_votes_are_the_first_of_more_and_the_majority_is_theirs(self):
        generator = rng()
        heard = sim.Decisions(generator.normal(size=(2, 10, 5)), generator.logistic(size=(2, 10, 5)))
        answers = heard.evidence + 0.5 * heard.noise > 0
        for count in (1, 3, 5):
            for_a = answers[..., :count].sum(axis=-1)
            np.testing.assert_array_equal(heard.votes(0.5, count), np.stack([for_a, count - for_a], axis=-1))
            np.testing.assert_array_equal(heard.majority(0.5, count), np.where(for_a > count / 2, 1, -1))

    def test_ceilings_are_those_of_the_real_listening_test(self, scales):
        """72.2 % (XAB) and 92.3 % (XYC) of Inst-Sim-ABX, without selection."""
        features = sim.impressions(sim.draw_triplets(BASE, 20, 500, rng(5)), "linear")
        weights = np.tile(study.PAPER_WEIGHTS, (20, 1))
        votes = sim.decide(BASE, features, weights, scales["linear"], 5, rng(6)).votes(0.25, 5)
        n_xab = round(500 * 127 / 331)
        for rows, expected in ((votes[:, :n_xab], 0.722), (votes[:, n_xab:], 0.923)):
            for_a = rows[..., 0].reshape(-1)
            choice = np.where(np.arange(5) < for_a[:, None], 1, -1)
            credit = answer_credit(choice.reshape(-1), np.repeat(np.arange(len(for_a)), 5))
            assert credit.mean() == pytest.approx(expected, abs=0.03)


class TestWeights:
    def test_the_papers_weights_are_those_of_the_ready_made_model(self):
        np.testing.assert_allclose(study.PAPER_WEIGHTS, read_model(MODELS / "muq-6stem")[1].weight.tolist())

    def test_the_batch_is_a_loop_over_experiments(self):
        deltas = torch.from_numpy(rng().normal(size=(6, 40, 7)) * rng(1).uniform(0.05, 0.5, size=7))
        target = torch.from_numpy(rng(2).choice([-1.0, 1.0], size=(6, 40)))
        fitted, paper = study.fit_all(deltas, target), study.PAPER_WEIGHTS
        assert tuple(fitted) == study.FITTED
        for one in range(6):
            rows, wanted = deltas[one], target[one].numpy()
            np.testing.assert_allclose(fitted["OLS"][0][one], ridge_weights(rows, target[one]))
            for name, direction in (("ridge", 0 * paper), ("prior-ridge", paper), ("wrong prior", paper[::-1])):
                prior = np.linalg.lstsq(rows.numpy() @ direction[:, None], wanted, rcond=None)[0] * direction
                left = torch.from_numpy(wanted - rows.numpy() @ prior)
                alpha = ALPHAS[int(fit_ridge(rows, left, ALPHAS).left_out_error().argmin())]
                assert fitted[name][1][one] == pytest.approx(alpha)
                np.testing.assert_allclose(fitted[name][0][one], ridge_weights(rows, left, alpha).numpy() + prior)
        assert len(set(fitted["ridge"][1].tolist())) > 1

    @given(SEEDS)
    @settings(max_examples=30, deadline=None)
    def test_the_sine_of_the_angle_is_the_error_that_the_best_scale_leaves(self, seed):
        generator = rng(seed)
        truth = generator.uniform(0.1, 1.0, size=5)
        weights = truth + generator.normal(size=5) * generator.uniform(0.0, 1.0)
        (angle,) = study.angles(weights[None], truth[None])
        scale, *_ = np.linalg.lstsq(weights[:, None], truth, rcond=None)
        error = np.linalg.norm(scale * weights - truth) / np.linalg.norm(truth)
        assert np.sin(np.radians(angle)) == pytest.approx(error, abs=1e-6)
        assert study.angles(-weights, truth) == pytest.approx(180.0 - angle)
        assert study.angles(3.0 * weights, truth) == pytest.approx(angle, abs=1e-5)
        assert study.angles(0.0 * weights, truth) == 90.0

    def test_infallible_listeners_teach_their_weights(self, scales, monkeypatch):
        """More triplets, smaller error; the truth agrees with nobody better than with itself."""
        monkeypatch.setattr(sim, "_TASTE", 0.0)
        sure = replace(TINY, triplets=(50, 800), noises=(0.0,), unheard=0.0, experiments=10)
        rows, needed = study.recover_weights(sure, scales["linear"], SILENT_BARS)
        assert set(needed["model"]) == set(study.FITTED)
        angle = rows[rows["votes"] == 3].pivot_table("angle", index="model", columns="triplets")
        for model in ("OLS", "ridge", "prior-ridge"):
            assert angle.loc[model, 800] < 12.0 < angle.loc[model, 50], model
        share = rows.groupby("model")["agreement"].mean()
        assert share["true weights"] == 1.0 == share["simulated ceiling"]
        assert share["OLS"] < 1.0
        assert rows.loc[(rows["model"] == "simulated ceiling") & (rows["votes"] == 1), "agreement"].isna().all()

    @given(SEEDS)
    @settings(max_examples=40, deadline=None)
    def test_crossing_is_the_last_count_that_does_not_suffice_and_a_step_on_a_logarithmic_scale(self, seed):
        counts, errors = [100, 200, 400], rng(seed).uniform(5.0, 20.0, size=3)
        expected = np.inf
        for place in (2, 1, 0):
            if errors[place] > 10.0:
                break
            expected = counts[place]
            if place and errors[place - 1] > 10.0:
                share = (errors[place - 1] - 10.0) / (errors[place - 1] - errors[place])
                expected = counts[place - 1] * (counts[place] / counts[place - 1]) ** share
        assert study.crossing(counts, errors) == pytest.approx(expected)

    def test_triplets_needed_have_an_interval_over_experiments_and_say_where_they_end(self):
        middle = np.array([[20.0], [14.0], [6.0]])
        few, many = (study.needed_triplets((100, 200, 400), middle + rng().normal(size=(3, n))) for n in (10, 1000))
        assert few["lower"] < few["needed"] < few["upper"]
        assert many["upper"] - many["lower"] < 0.4 * (few["upper"] - few["lower"])
        assert many["needed"] == pytest.approx(200 * 2**0.5, rel=0.02)
        assert many["text"].startswith("280 [2")
        assert study.needed_triplets((100, 400), np.full((2, 5), 3.0))["text"] == "at most 100"
        assert study.needed_triplets((100, 400), np.full((2, 5), 30.0))["text"] == "more than 400"
        unsure = np.array([[30.0] * 9, [9.0] * 5 + [11.0] * 4])
        assert study.needed_triplets((100, 400), unsure)["text"].endswith("over 400]")


class TestCoverage:
    @given(st.integers(2, 300), st.data())
    @settings(max_examples=40, deadline=None)
    def test_the_interval_of_one_stem_is_exactly_binomial(self, experiments, data):
        hits = data.draw(st.integers(0, experiments))
        exact = binomtest(hits, experiments).proportion_ci(method="exact")
        found = study.binomial_interval((np.arange(experiments) < hits)[:, None])
        assert found == pytest.approx((exact.low, exact.high))

    def test_stems_that_are_covered_together_count_once_and_others_apart(self):
        one, many = rng().random((400, 1)) < 0.9, rng(1).random((400, 7)) < 0.9
        together = study.binomial_interval(one.repeat(7, axis=1))
        np.testing.assert_allclose(together, study.binomial_interval(one), atol=1e-3)
        lower, upper = study.binomial_interval(many)
        exact = binomtest(int(many.sum()), many.size).proportion_ci(method="exact")
        assert upper - lower == pytest.approx(exact.high - exact.low, rel=0.15)

    def test_intervals_cover_the_population_weights_and_not_others(self, scales):
        base = replace(TINY, coverage_triplets=(150,), coverage_experiments=40, population=50_000)
        truth = study.population_weights(base, scales["linear"])
        rows = study.measure_coverage(base, scales["linear"], truth, SILENT_BARS)
        every = rows[rows["stem"] == "all"]
        assert every["songs"].tolist() == [60, 15]
        assert every["covered"].between(0.89, 0.985).all(), every  # 280 intervals, 40 experiments
        wrong = truth + np.abs(truth).mean()
        rows = study.measure_coverage(replace(base, coverage_experiments=10), scales["linear"], wrong, SILENT_BARS)
        assert rows.loc[rows["stem"] == "all", "covered"].max() < 0.8


class Oracle:
    """A model that knows the answers, or errs on all of them."""

    def __init__(self, name, sign):
        self.name, self.sign = name, sign

    def fit(self, embedded, splits):
        return SplitFits(np.tile(self.sign * embedded.target().numpy(), (len(splits), 1)))


class TestFusions:
    def test_a_listening_test_is_a_table_of_triplets_with_its_embeddings(self, listening_test):
        triplets = listening_test.triplets
        assert len(triplets) == 80
        assert triplets.simulated
        assert (triplets.preference != 0).all()
        assert (triplets.test_type == "XAB").sum() == round(80 * 127 / 331)

    def test_what_knows_the_answers_wins_and_what_errs_loses(self, scales):
        larger = replace(TINY, fusion_triplets=(150,), fusion_splits=12)
        rows = study.measure_gains(larger, scales, [Oracle("knows", 1.0), Oracle("errs", -1.0)], SILENT_BARS)
        assert rows.groupby("fusion")["gain"].min()["knows"] > 0.05
        assert (rows.loc[rows["fusion"] == "knows", ["better", "worse"]].to_numpy() == [1.0, 0.0]).all()
        assert (rows.loc[rows["fusion"] == "errs", ["better", "worse"]].to_numpy() == [0.0, 1.0]).all()
        assert (rows["lower"] <= rows["gain"]).all()

    def test_features_of_exact_fusions_are_those_of_a_loop(self, listening_test):
        smooth, by_level = study.spline_features(listening_test), study.level_features(listening_test)
        deltas, embeddings = listening_test.deltas, listening_test.embeddings
        knots = np.array([-2, -1, 0, 1, 2, 3, 4, 5, 6]) / 4
        basis = [BSpline(knots, np.eye(6)[index], 2) for index in range(6)]
        for row, (x, a, b) in enumerate(listening_test.members.T.tolist()):
            power, vectors = 10.0 ** (embeddings.levels[x].double() / 10.0), embeddings.vectors.double()
            for stem in range(7):
                to_a, to_b = (float(vectors[x, stem] @ vectors[c, stem]) for c in (a, b))
                if min(to_a, to_b) >= 0.0:  # beyond, splines go on as lines
                    expected = [one(to_a) - one(to_b) for one in basis]
                    np.testing.assert_allclose(smooth[row, 7 + 6 * stem : 13 + 6 * stem], expected, atol=1e-9)
                if stem < 6:
                    share = float(power[stem] / power[:6].sum())
                    assert by_level[row, 7 + stem] == pytest.approx(float(deltas[row, stem]) * share, abs=1e-12)
        torch.testing.assert_close(smooth[:, :7], deltas)
        torch.testing.assert_close(by_level[:, :7], deltas)

    def test_the_fusion_that_fits_the_truth_wins_and_only_there(self, scales):
        larger = replace(TINY, fusion_triplets=(1500,), fusion_experiments=4)
        rows = study.measure_gains(larger, scales, study.EXACT_FUSIONS, SILENT_BARS).set_index(["truth", "fusion"])
        assert rows.loc[("loudness", "level weights"), "gain"] > 0.01
        assert rows.loc[("saturating", "spline"), "gain"] > 0.003
        assert rows.loc["linear", "gain"].abs().max() < 0.006
        assert rows.loc["linear", "worse"].max() == 0.0


class TestReport:
    def changed(self, findings, name, **columns):
        return Findings(TINY, findings.limit, {**findings.frames, name: findings.frames[name].assign(**columns)})

    def test_coverage_is_judged_by_its_band_and_the_number_of_experiments(self, findings):
        good = sentences(self.changed(findings, "coverage", covered=0.95, lower=0.94, upper=0.96, experiments=500))
        assert "95.0 [94.0, 96.0] % with 100 triplets of 40 songs" in " ".join(good)
        assert ": always within 93-97 %" in " ".join(good)
        bad = sentences(self.changed(findings, "coverage", covered=0.92, experiments=499))
        assert "not always within 93-97 %" in " ".join(bad)
        assert "499 experiments are too few" in " ".join(bad)
        assert "too few" not in " ".join(good)

    def test_sentences_name_the_size_from_which_a_fusion_wins(self, findings):
        rows = {"truth": "saturating", "fusion": "spline", "triplets": [100, 331, 1000], "experiments": 20}
        rows |= {"gain": [0.0, 0.01, 0.012], "lower": -0.01, "upper": 0.02, "better": [0.0, 0.55, 0.9], "worse": 0.0}
        frame = pd.DataFrame(rows)
        said = sentences(Findings(TINY, 7.0, {**findings.frames, "fusion": frame}))[-1]
        assert "+1.2 [-1.0, +2.0] points over ridge with 1000 triplets" in said
        assert "better in 0, 55, 90 % of 20 experiments" in said
        assert said.endswith("It wins more often than not from 331 triplets.")
        frame = frame.assign(better=[0.9, 0.9, 0.5])
        assert "more often than not" not in sentences(Findings(TINY, 7.0, {**findings.frames, "fusion": frame}))[-1]


class TestCommand:
    def invoke(self, *arguments):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    def test_quick(self, tmp_path):
        result = self.invoke(
            *("--quick", "--output", tmp_path, "--experiments", 4, "--coverage-experiments", 5, "--no-progress"),
            *("--triplets", "50,100,331", "--votes", "1,3", "--fusion-triplets", 60, "--fusion-experiments", 2),
            *("--heads", "--hold", "331,5,0.25"),
        )
        assert result.exit_code == 0, result.output
        assert "Angle to the true weights" in result.stdout
        assert "Ridge needs" in result.stdout
        assert "AttentionFusion" in result.stdout
        document = json.loads((tmp_path / "study.json").read_text())
        assert document["settings"]["reference"] == [331, 3, 0.25]
        assert len(document["weights"]) == 3 * 2 * 2 * 9
        assert len(document["verdicts"]) == 6 + 3 * 4
        assert pd.read_csv(tmp_path / "study_weights.csv")["angle"].max() > 10.0
        assert (tmp_path / "study.md").read_text().count("\n## ") == 5
        assert (tmp_path / "study.png").stat().st_size > 20_000
        for name in ("weights", "needed", "coverage", "fusion"):
            assert (tmp_path / f"study_{name}.csv").is_file()

    def test_the_seed_decides(self, findings):
        again, other = (run_study(replace(TINY, seed=seed), progress=False) for seed in (0, 1))
        for name, frame in findings.frames.items():
            pd.testing.assert_frame_equal(frame, again.frames[name])
        assert not findings.frames["weights"]["angle"].equals(other.frames["weights"]["angle"])

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--triplets", "many"), "--triplets takes comma-separated whole numbers, such as"),
            (("--votes", "1,4"), "must be odd, so that every triplet has a majority; got [4]. Use 5 instead"),
            (("--triplets", "5"), "`triplets` must lie in"),
            (("--hold", "331,5"), "The condition to hold is triplets, votes and noise"),
            (("--collinearity", "2"), "`collinearity` must lie in [0, 1]"),
            (("--unheard", "-1"), "`unheard` must lie in"),
            (("--noises", "nan"), "`noises` must lie in"),
            (("--seed", "-1"), "`seed` must lie in"),
            (("--experiments", "0"), "`experiments` must lie in"),
            (("--fusion-triplets", "200,100"), "in ascending order; got 200, 100. Choose other numbers"),
            (("--triplets", "50000", "--experiments", "1000"), "28 GB of memory, more than the 3.2 GB allowed"),
        ],
    )
    def test_bad_numbers_are_named(self, arguments, message, tmp_path):
        result = self.invoke("--quick", "--output", tmp_path, *arguments)
        assert result.exit_code == 2
        assert message in " ".join(result.output.split())
        assert not list(tmp_path.iterdir())
