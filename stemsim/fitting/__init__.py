"""Fitting: stem weights fitted to votes, nonlinear fusions, and pre-training on unlabelled songs."""

from stemsim.fitting.fusions import FitSettings, FusionModel, fit_fusions
from stemsim.fitting.pretraining import PriorModel, pretrain
from stemsim.fitting.votes import VoteModel, distinct_vote_models, fit_weights

__all__ = [
    "FitSettings",
    "FusionModel",
    "PriorModel",
    "VoteModel",
    "distinct_vote_models",
    "fit_fusions",
    "fit_weights",
    "pretrain",
]
