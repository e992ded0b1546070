"""The model without Lightning: load one, and ask how similar two pieces sound and why."""

from stemsim.model.card import Agreement, ModelCard, read_model, write_model
from stemsim.model.explanation import Explanation
from stemsim.model.inputs import Input, Inputs
from stemsim.model.loading import available_models, load
from stemsim.model.parts import Part
from stemsim.model.stem_similarity import StemSimilarity

__all__ = [
    "Agreement",
    "Explanation",
    "Input",
    "Inputs",
    "ModelCard",
    "Part",
    "StemSimilarity",
    "available_models",
    "load",
    "read_model",
    "write_model",
]
