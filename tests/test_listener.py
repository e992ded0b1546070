"""Weights of a listener and the choice of questions, against numerical derivatives, integrals and brute force."""

import itertools

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import beta, multivariate_normal, norm

from stemsim.errors import ConfigError
from stemsim.fitting import listener
from stemsim.fitting.active import choose_question, gain
from stemsim.fitting.listener import (
    LAPSE,
    Posterior,
    WeightPrior,
    fit_listener,
    learn_spread,
    padded,
    weight_posterior,
)

TRUTH = np.array([0.3, 0.8, 1.6])


def votes(seed=0, count=60, truth=TRUTH, scale=3.0, lapse=0.05):
    rng = np.random.default_rng(seed)
    deltas = rng.normal(size=(count, len(truth))) * 0.6
    chance = lapse / 2 + (1 - lapse) * expit(scale * deltas @ truth)
    return deltas, np.where(rng.random(count) < chance, 1, -1)


def log_joint(theta, deltas, choices, prior, lapse):
    chance = lapse / 2 + (1 - lapse) * expit(choices * (deltas @ theta))
    return np.log(chance).sum() + multivariate_normal(prior.mean, prior.covariance).logpdf(theta)


def numerical_hessian(function, at, step=1e-4):
    size, eye = len(at), step * np.eye(len(at))
    return np.array(
        [
            [
                function(at + eye[i] + eye[j]) - function(at + eye[i] - eye[j])
                - function(at - eye[i] + eye[j]) + function(at - eye[i] - eye[j])
                for j in range(size)
            ]
            for i in range(size)
        ]
    ) / (4 * step**2)  # fmt: skip


class TestPosterior:
    @pytest.mark.parametrize("lapse", [0.0, 0.06, 0.3])
    @pytest.mark.parametrize("count", [0, 1, 5, 60])
    def test_maximum_and_inverse_hessian(self, lapse, count):
        deltas, choices = votes(count=count)
        prior = WeightPrior.around(np.array([1.0, 0.5, 0.7]), votes()[0])
        found = weight_posterior(deltas, choices, prior, lapse=lapse)

        def joint(theta):
            return log_joint(theta, deltas, choices, prior, lapse)

        step = 1e-5 * np.eye(3)
        gradient = [(joint(found.mean + one) - joint(found.mean - one)) / 2e-5 for one in step]
        np.testing.assert_allclose(gradient, 0.0, atol=1e-5)
        best = minimize(lambda theta: -joint(theta), prior.mean, method="BFGS", options={"gtol": 1e-8})
        np.testing.assert_allclose(found.mean, best.x, atol=2e-4)
        np.testing.assert_allclose(found.covariance, np.linalg.inv(-numerical_hessian(joint, found.mean)), rtol=1e-3)

    def test_evidence_is_the_integral_over_the_weights(self):
        deltas, choices = votes(count=400, truth=np.array([1.0]))
        prior = WeightPrior.around(np.array([0.5]), deltas)
        grid = np.linspace(-30, 50, 80_001)
        joint = [log_joint(np.array([one]), deltas, choices, prior, 0.06) for one in grid[::10]]
        exact = np.log(np.exp(joint).sum() * (grid[10] - grid[0]))
        assert weight_posterior(deltas, choices, prior).evidence == pytest.approx(exact, abs=0.03)

    def test_many_listeners_at_once_are_each_alone(self):
        own = [votes(seed, count) for seed, count in ((1, 5), (2, 40), (3, 17))]
        prior = WeightPrior.flat(own[1][0])
        together = fit_listener(*padded(*zip(*own, strict=True)), prior)
        for row, (deltas, choices) in enumerate(own):
            alone = fit_listener(deltas, choices, prior)
            for name in ("mean", "covariance", "evidence", "lapse"):
                np.testing.assert_allclose(getattr(together, name)[row], getattr(alone, name), rtol=1e-6, atol=1e-9)

    def test_swapping_candidates_changes_nothing(self):
        deltas, choices = votes()
        prior = WeightPrior.around(TRUTH, deltas)
        once, swapped = weight_posterior(deltas, choices, prior), weight_posterior(-deltas, -choices, prior)
        np.testing.assert_array_equal(once.mean, swapped.mean)

    def test_no_votes_leave_the_prior(self):
        prior = WeightPrior.around(TRUTH, votes()[0])
        found = weight_posterior(np.zeros((0, 3)), np.zeros(0), prior)
        np.testing.assert_allclose(found.mean, prior.mean)
        np.testing.assert_allclose(found.covariance, prior.covariance)
        assert found.evidence == pytest.approx(0.0)

    def test_many_votes_find_weights_scale_and_lapses(self):
        deltas, choices = votes(count=20_000, lapse=0.15)
        found = fit_listener(deltas, choices, WeightPrior.around(np.array([1.0, 1.0, 1.0]), deltas))
        np.testing.assert_allclose(found.mean, 3.0 * TRUTH, atol=0.4)
        assert found.lapse == pytest.approx(0.12, abs=1e-6)  # the nearest that is tried
        # Calibration: of the answers predicted with some probability, that share is given.
        chance = found.probability(deltas)
        for low in np.arange(0.1, 0.9, 0.1):
            some = (chance >= low) & (chance < low + 0.1)
            assert np.mean(choices[some] > 0) == pytest.approx(chance[some].mean(), abs=0.05)

    def test_a_few_votes_leave_the_lapses_at_their_prior(self):
        prior = WeightPrior.around(TRUTH, votes()[0])
        unknown = fit_listener(np.zeros((0, 3)), np.zeros(0), prior).lapse
        assert unknown == pytest.approx(0.076, abs=0.001)  # mean of the beta distribution over those tried
        assert fit_listener(*votes(count=3), prior).lapse == pytest.approx(unknown, abs=0.02)

    def test_the_average_is_that_of_the_settings_by_their_evidence(self):
        """A slow average over the same grid, by samples of each posterior."""
        deltas, choices = votes(count=30)
        prior = WeightPrior.around(np.array([1.0, 0.5, 0.7]), deltas)
        found, rng = fit_listener(deltas, choices, prior), np.random.default_rng(0)
        fits, weight = [], []
        for lapse, scale, width in itertools.product(listener._LAPSES, listener._SCALES, listener._WIDTHS):
            fits.append(weight_posterior(deltas, choices, prior.scaled(scale, width), lapse=lapse))
            chance = beta(*listener._LAPSE_PRIOR).pdf(lapse) * norm(0, 0.7).pdf(np.log(scale)) * np.exp(-width)
            weight.append(np.exp(fits[-1].evidence) * chance)
        drawn = rng.choice(len(fits), size=100_000, p=np.array(weight) / sum(weight))
        samples = np.concatenate(
            [
                rng.multivariate_normal(fits[one].mean, fits[one].covariance, n)
                for one, n in enumerate(np.bincount(drawn))
            ]
        )
        np.testing.assert_allclose(found.mean, samples.mean(axis=0), atol=0.02)
        np.testing.assert_allclose(found.covariance, np.cov(samples.T), atol=0.05)

    @pytest.mark.parametrize("spread", [0.1, 0.8])
    def test_the_spread_between_listeners_is_learned(self, spread):
        rng = np.random.default_rng(4)
        own = [votes(seed, 150, TRUTH * (1 + spread * rng.normal(size=3))) for seed in range(60)]
        assert learn_spread(*zip(*own, strict=True), TRUTH) == pytest.approx(spread, rel=0.45)


class TestChoice:
    def test_the_choice_is_d_optimal_by_brute_force(self):
        deltas, choices = votes(count=12)
        posterior = weight_posterior(deltas, choices, WeightPrior.flat(deltas))
        candidates = votes(seed=9, count=40)[0]
        precision = np.linalg.inv(posterior.covariance)
        before = np.linalg.slogdet(precision)[1]
        expected = []
        for delta in candidates:
            chance, step = posterior.probability(delta[None])[0], 1e-6
            nearby = [
                LAPSE / 2 + (1 - LAPSE) * expit(delta @ posterior.mean + move) for move in (step, -step)
            ]  # fmt: skip
            information = ((nearby[0] - nearby[1]) / (2 * step)) ** 2 / (chance * (1 - chance))
            expected.append(np.linalg.slogdet(precision + information * np.outer(delta, delta))[1] - before)
        np.testing.assert_allclose(np.log(gain(posterior, candidates)), expected, rtol=1e-5)
        question = choose_question(posterior, candidates, np.random.default_rng(0), random_share=0.0)
        assert (question.row, question.chosen_by, question.probability) == (np.argmax(expected), "active", 1.0)

    def test_probabilities_are_those_of_the_draw(self):
        deltas = votes(count=5)[0]
        posterior = weight_posterior(np.zeros((0, 3)), np.zeros(0), WeightPrior.flat(deltas))
        rng = np.random.default_rng(0)
        drawn = [choose_question(posterior, deltas, rng) for _ in range(20_000)]
        counts = np.bincount([one.row for one in drawn], minlength=5) / len(drawn)
        stated = {one.row: one.probability for one in drawn}
        np.testing.assert_allclose(counts, [stated[row] for row in range(5)], atol=0.01)
        assert sum(stated.values()) == pytest.approx(1.0)
        assert np.mean([one.chosen_by == "random" for one in drawn]) == pytest.approx(0.2, abs=0.01)

    def test_the_classical_test_is_uniform(self):
        posterior = weight_posterior(np.zeros((0, 3)), np.zeros(0), WeightPrior.flat(votes()[0]))
        rng = np.random.default_rng(0)
        drawn = [choose_question(posterior, votes(count=4)[0], rng, random_share=1.0) for _ in range(4000)]
        assert {(one.chosen_by, one.probability) for one in drawn} == {("random", 0.25)}
        np.testing.assert_allclose(np.bincount([one.row for one in drawn]) / 4000, 0.25, atol=0.03)

    def test_many_listeners_at_once(self):
        own = [votes(seed, 10) for seed in (1, 2)]
        prior, candidates = WeightPrior.flat(own[0][0]), votes(seed=9)[0]
        fitted = weight_posterior(*padded(*zip(*own, strict=True)), prior)
        for row in range(2):
            alone = Posterior(*(getattr(fitted, name)[row] for name in ("mean", "covariance", "evidence", "lapse")))
            np.testing.assert_allclose(gain(fitted, candidates)[row], gain(alone, candidates))

    @pytest.mark.parametrize(("count", "share"), [(0, 0.2), (3, 1.5)])
    def test_refusals(self, count, share):
        posterior = weight_posterior(np.zeros((0, 3)), np.zeros(0), WeightPrior.flat(votes()[0]))
        with pytest.raises(ConfigError, match="A question needs candidates"):
            choose_question(posterior, votes(count=count)[0], np.random.default_rng(0), random_share=share)
