"""Same-song pre-training: stem weights and fusions from unlabelled songs, before any listener is asked.

Two segments of one song are assumed to be closer than segments of two songs (`stemsim.triplets.SameSong`). A fusion
fitted to such triplets captures which stems distinguish songs and what varies within a song, but nothing about
listeners. A fit to votes can start from it, and is then shrunk towards it instead of towards 0, up to scale.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stemsim.errors import TripletError
from stemsim.evaluation import ALPHAS, SplitFits, Splits
from stemsim.fitting.fusions import FitSettings, FusionFits, FusionModel, MakeFusion, fit_fusions, ridge_towards
from stemsim.triplets import EmbeddedTriplets


@dataclass(frozen=True, slots=True, eq=False)
class PriorModel:
    """Ridge regression towards prior weights; a `stemsim.evaluation.SplitModel`.

    Attributes:
        prior: `(stem,)` weights to shrink towards, up to scale.
        alphas: Penalties to choose from.
    """

    name: str
    prior: Tensor
    alphas: Sequence[float] = ALPHAS

    def fit(self, embedded: EmbeddedTriplets, splits: Splits) -> SplitFits:
        """Fit the weights to every train part, with the penalty that leave-one-out chooses within it."""
        deltas, counts = embedded.deltas, torch.from_numpy(splits.train)
        weights, alphas = ridge_towards(self.prior, deltas, embedded.target(), counts, self.alphas)
        return SplitFits((weights @ deltas.T).numpy(), weights.numpy(), alphas.numpy())


def pretrain(
    make: MakeFusion,
    songs: EmbeddedTriplets,
    *,
    alphas: Sequence[float] = ALPHAS,
    settings: FitSettings | None = None,
) -> FusionFits:
    """Fit a fusion to same-song triplets.

    Args:
        make: Makes the fusion from the stem layout.
        songs: XYC triplets, A being of X's song.
        alphas: Ridge penalties of the weights to choose from.
        settings: Settings of the fit; the inner folds keep the triplets of one song together.

    Returns:
        The fit of one split of all triplets: the `start` of a `FusionModel`, and in `linear[0]` the prior of a
        `PriorModel`.

    Raises:
        TripletError: If some triplets are not same-song triplets.
    """
    triplets = songs.triplets
    if not len(triplets) or (triplets.test_type != "XYC").any() or (triplets.preference != 1).any():
        raise TripletError(
            f"Pre-training takes same-song triplets, in which A is from X's song and preferred; {triplets.source} has "
            "others, or none. Use stemsim.triplets.SameSong."
        )
    everything = torch.ones(1, len(triplets), dtype=torch.bool)
    model = FusionModel("pre-training", make, alphas, settings or FitSettings())
    return fit_fusions(model, songs, everything, groups=torch.from_numpy(triplets.track_ids[:, 0]))
