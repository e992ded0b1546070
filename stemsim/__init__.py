"""Music similarity as a weighted sum of stem similarities, with weights learned from listeners (arXiv:2601.19109).

Start with `stemsim.load("muq-6stem")`, see `stemsim.model`; or with `stemsim.Library`, which searches folders of
audio, see `stemsim.retrieval`.
"""

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from stemsim.model import StemSimilarity, available_models, load
    from stemsim.retrieval import Library

__all__ = ["Library", "StemSimilarity", "__version__", "available_models", "load"]

__version__ = version("stemsim")

# Imported on first use, so that `import stemsim` and `stemsim --help` do not import torch.
_LAZY: Final = {
    "Library": "stemsim.retrieval",
    "StemSimilarity": "stemsim.model",
    "available_models": "stemsim.model",
    "load": "stemsim.model",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
