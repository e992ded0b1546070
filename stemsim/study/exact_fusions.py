"""Nonlinear fusions that ridge regression fits exactly, for all splits at once: what there is to win, without a search.

Both are linear in features that change sign when A and B are swapped, hold the stem features themselves, and so contain
the weighted sum:

- `spline`: a smooth function of each stem's cosine, s_i(cos(X_i, A_i)) - s_i(cos(X_i, B_i)), quadratic between knots;
- `level weights`: weights w_i + v_i p_i, p_i being the share of stem i in the power of X's stems; the mix has none.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from sklearn.preprocessing import SplineTransformer
from torch import Tensor

from stemsim.evaluation.crossval import ALPHAS, Challenger, SplitFits, leave_one_out_alpha
from stemsim.evaluation.study.fusions import ListeningTest, MakeChallenger
from stemsim.regression import normal_equations, solve_ridge
from stemsim.similarity import stem_cosines
from stemsim.stems import StemLayout

__all__ = ["exact_fusions", "level_features", "spline_features"]

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

_KNOTS: Final = 5
_DEGREE: Final = 2


def exact_fusions(stems: StemLayout) -> Mapping[str, MakeChallenger]:
    """Return both fusions by name, for a stem layout."""
    return {
        "spline": lambda test: _challenger("spline", spline_features(test), test),
        "level weights": lambda test: _challenger("level weights", level_features(test, stems), test),
    }


def spline_features(test: ListeningTest) -> Tensor:
    """Return the stem features, and differences of a spline basis of the cosines, `(triplet, feature)`."""
    x, a, b = (test.embeddings.take(rows) for rows in test.members.T)
    to_a, to_b = stem_cosines(x, a).numpy(), stem_cosines(x, b).numpy()
    ends = np.array([[0.0], [1.0]])  # a silent stem has cosine 0; few cosines are negative
    basis = SplineTransformer(_KNOTS, degree=_DEGREE, knots="uniform", extrapolation="linear").fit(ends)

    def expand(cosines: FloatArray) -> FloatArray:
        expanded: FloatArray = basis.transform(cosines.reshape(-1, 1)).reshape(len(cosines), -1)
        return expanded

    return torch.from_numpy(np.concatenate([to_a - to_b, expand(to_a) - expand(to_b)], axis=1))


def level_features(test: ListeningTest, stems: StemLayout) -> Tensor:
    """Return the stem features, and those of all stems but the mix times their share of X's power."""
    others = [index for index, stem in enumerate(stems) if stem != "mix"]
    power = 10.0 ** (test.embeddings.levels[test.members[:, 0]][:, others].double() / 10.0)
    share = power / power.sum(dim=1, keepdim=True)
    deltas = test.deltas
    return torch.cat([deltas, deltas[:, others] * share], dim=1)


def _challenger(name: str, features: Tensor, test: ListeningTest) -> Challenger:
    """Fit by ridge regression, with the penalty that leave-one-out chooses within each train part."""
    target = torch.from_numpy(test.triplets.preference).double()
    alphas = torch.tensor(ALPHAS, dtype=torch.float64)

    def fit(train: BoolArray) -> Mapping[str, SplitFits]:
        parts = torch.from_numpy(train)
        chosen = leave_one_out_alpha(features, target, parts, alphas)
        index = (alphas == chosen.unsqueeze(1)).double().argmax(dim=1)
        weights = solve_ridge(normal_equations(features, target, parts), alphas)[torch.arange(len(index)), index]
        return {name: SplitFits((weights @ features.T).numpy(), alphas=chosen.numpy())}

    return fit
