"""The package's own nonlinear fusions, for the study to compare with ridge. They are searched for, which takes time."""

from collections.abc import Mapping
from typing import Final

from stemsim.evaluation.crossval import Challenger
from stemsim.evaluation.fusion_fit import fusion_challenger
from stemsim.evaluation.study.fusions import ListeningTest, MakeChallenger
from stemsim.fusion import AttentionFusion, Fusion, SplineFusion
from stemsim.stems import StemLayout

__all__ = ["head_fusions"]

_HEADS: Final[tuple[type[Fusion], ...]] = (SplineFusion, AttentionFusion)


def head_fusions(stems: StemLayout) -> Mapping[str, MakeChallenger]:
    """Return `SplineFusion` and `AttentionFusion` by name, for a stem layout: those that suit the study's truths."""

    def maker(head: type[Fusion]) -> MakeChallenger:
        def make(test: ListeningTest) -> Challenger:
            return fusion_challenger(head.__name__, head, stems, test.embeddings, test.triplets)

        return make

    return {head.__name__: maker(head) for head in _HEADS}
