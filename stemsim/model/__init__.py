"""Trained models without Lightning: load one, and ask how similar two pieces sound and why."""

from stemsim.model.card import ModelCard, ReportedAgreement, read_model, write_model
from stemsim.model.inputs import Input, Inputs
from stemsim.model.loading import available_models, load, load_fitted, load_fusion
from stemsim.model.parts import Part
from stemsim.model.stem_similarity import Explanation, StemSimilarity

__all__ = [
    "Explanation",
    "Input",
    "Inputs",
    "ModelCard",
    "Part",
    "ReportedAgreement",
    "StemSimilarity",
    "available_models",
    "load",
    "load_fitted",
    "load_fusion",
    "read_model",
    "write_model",
]
