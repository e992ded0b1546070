"""Music similarity as a weighted sum of stem similarities, with weights learned from listeners (arXiv:2601.19109).

`stemsim.load("muq-6stem")` is the way in; see `stemsim.model`.
"""

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from stemsim.model import StemSimilarity, available_models, load

__all__ = ["StemSimilarity", "__version__", "available_models", "load"]

__version__ = version("stemsim")

# Imported on first use, so that `import stemsim` and `stemsim --help` need no torch.
_FROM_MODEL: Final = frozenset({"StemSimilarity", "available_models", "load"})


def __getattr__(name: str) -> Any:
    if name not in _FROM_MODEL:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(importlib.import_module("stemsim.model"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_FROM_MODEL})
