"""Fitting: stem weights fitted to votes, weights of single listeners, nonlinear fusions, and pre-training on songs."""

from stemsim.fitting.active import Question, choose_question
from stemsim.fitting.fusions import FitSettings, FusionModel, fit_fusions
from stemsim.fitting.listener import Posterior, WeightPrior, fit_listener, learn_spread, weight_posterior
from stemsim.fitting.listeners import ListenerWeights, compare_listener_weights
from stemsim.fitting.personal import ListenerVotes, PersonalWeights, personalize
from stemsim.fitting.pretraining import PriorModel, pretrain
from stemsim.fitting.votes import VoteModel, distinct_vote_models, fit_weights

__all__ = [
    "FitSettings",
    "FusionModel",
    "ListenerVotes",
    "ListenerWeights",
    "PersonalWeights",
    "Posterior",
    "PriorModel",
    "Question",
    "VoteModel",
    "WeightPrior",
    "choose_question",
    "compare_listener_weights",
    "distinct_vote_models",
    "fit_fusions",
    "fit_listener",
    "fit_weights",
    "learn_spread",
    "personalize",
    "pretrain",
    "weight_posterior",
]
