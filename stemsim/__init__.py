"""Music similarity as a weighted sum of stem similarities, with weights learned from listeners (arXiv:2601.19109).

Start with `stemsim.load("muq-6stem")`, see `stemsim.model`; or with `stemsim.Library`, which searches folders of
audio, see `stemsim.retrieval`.
"""

from importlib.metadata import version
from typing import TYPE_CHECKING

from stemsim.lazy import lazy_names

if TYPE_CHECKING:
    from stemsim.model import StemSimilarity, available_models, load
    from stemsim.retrieval import Library

__all__ = ["Library", "StemSimilarity", "__version__", "available_models", "load"]

__version__ = version("stemsim")

# Imported on first use, so that `import stemsim` and `stemsim --help` do not import torch.
_LAZY = {"Library": "retrieval", "StemSimilarity": "model", "available_models": "model", "load": "model"}
__getattr__ = lazy_names(__name__, _LAZY, together=False)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
