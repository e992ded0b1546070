"""Same-song pre-training: what unlabelled songs say about stems, before any listener is asked.

Two segments of one song are taken to be closer than segments of two songs (`stemsim.triplets.SameSong`). A fusion
fitted to such triplets knows which stems tell songs apart and what varies within a song, but nothing of listeners: what
is fitted to their votes starts from it, and is shrunk towards it instead of towards 0, up to scale.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stemsim.errors import TripletError
from stemsim.evaluation.crossval import ALPHAS, BoolArray, Challenger, SplitFits
from stemsim.evaluation.fusion_fit import FitSettings, MakeFusion, fit_fusions
from stemsim.evaluation.prior_ridge import prior_ridge
from stemsim.fusion import LinearFusion
from stemsim.losses import Loss
from stemsim.similarity import StemEmbeddings
from stemsim.triplets import Triplets

__all__ = ["Pretrained", "pretrain", "prior_challenger"]


@dataclass(frozen=True, slots=True, eq=False)
class Pretrained:
    """A fusion fitted to same-song triplets.

    Attributes:
        state: Its parameters and buffers, what `fit_fusions` and `fusion_challenger` take as `start`.
        weights: `(stem,)` weights of the linear fusion fitted to the same triplets, what `prior_challenger` takes.
        stopped_at: Steps taken from the linear fusion, by cross-validation over the songs.
        triplets: Number of triplets.
        songs: Number of songs.
        source: What they were.
    """

    state: dict[str, Tensor]
    weights: Tensor
    stopped_at: int
    triplets: int
    songs: int
    source: str


def pretrain(
    make_fusion: MakeFusion,
    stems: Sequence[str],
    embeddings: StemEmbeddings,
    triplets: Triplets,
    *,
    alphas: Sequence[float] = ALPHAS,
    settings: FitSettings | None = None,
    loss: Loss | None = None,
) -> Pretrained:
    """Fit a fusion to same-song triplets.

    Args:
        make_fusion: Makes the fusion from the stem layout.
        stems: Stem layout of the embeddings.
        embeddings: Stem embeddings of `triplets.segments`.
        triplets: XYC triplets, A being of X's song.
        alphas: Ridge penalties of the weights to choose from.
        settings: How to fit; the inner folds keep the triplets of one song together.
        loss: What to minimise; default: the squared error.

    Returns:
        The fusion, and the linear one beside it.

    Raises:
        TripletError: If some triplets are not same-song triplets.
    """
    if not len(triplets) or (triplets.test_type != "XYC").any() or (triplets.preference != 1).any():
        msg = (
            f"Pre-training takes same-song triplets, A being of X's song and preferred; {triplets.source} has others, "
            "or none. Use stemsim.triplets.SameSong."
        )
        raise TripletError(msg)
    members = torch.from_numpy(np.stack([triplets.x, triplets.a, triplets.b]))
    songs = torch.from_numpy(triplets.track_ids[:, 0])
    everything = torch.ones(1, len(triplets), dtype=torch.bool)
    target = torch.ones(len(triplets), dtype=torch.float64)
    rule = settings or FitSettings()
    fits, linear = (
        fit_fusions(
            make,
            stems,
            embeddings,
            members,
            target,
            everything,
            alphas=alphas,
            settings=rule if make is make_fusion else FitSettings(steps=0),
            loss=loss,
            groups=songs,
        )
        for make in (make_fusion, LinearFusion)
    )
    return Pretrained(
        state={name: values[0] for name, values in fits.state.items()},
        weights=linear.state["weight"][0],
        stopped_at=int(fits.stopped_at[0]),
        triplets=len(triplets),
        songs=len(songs.unique()),  # type: ignore[no-untyped-call]
        source=triplets.source,
    )


def prior_challenger(
    name: str, deltas: Tensor, triplets: Triplets, prior: Tensor, *, alphas: Sequence[float] = ALPHAS
) -> Challenger:
    """Return what fits ridge regression towards prior weights, such as those of same-song triplets.

    Args:
        name: What tables call it.
        deltas: `(triplet, stem)` stem features.
        triplets: Their triplets.
        prior: `(stem,)` weights to shrink towards, up to scale.
        alphas: Penalties to choose from.

    Returns:
        A function of the train parts `(split, triplet)`, for `cross_validate(challengers=...)`.
    """
    target = torch.from_numpy(triplets.preference).double()

    def challenge(train: BoolArray) -> Mapping[str, SplitFits]:
        weights, chosen = prior_ridge(deltas, target, torch.from_numpy(train), prior, alphas=alphas)
        return {name: SplitFits((weights @ deltas.double().T).numpy(), weights.numpy(), chosen.numpy())}

    return challenge
