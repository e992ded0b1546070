"""Lets torchvision and torchaudio be imported beside a CPU build of torch.

muq and laion-clap need torchvision and torchaudio, whose wheels in the package index are CUDA builds. Beside a CPU
torch their compiled parts cannot load, and then not only they fail: `import torchvision` ends with "operator
torchvision::nms does not exist", and every package that imports it where it is installed (lightning, torchmetrics,
transformers) ends with it. We use none of those compiled parts: the mel spectrogram of torchaudio is Python.
"""

import platform
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any, NoReturn

__all__ = ["repair_torchvision"]

# PyTorch takes definitions back when the library that made them goes away.
_libraries: list[Any] = []


@cache
def repair_torchvision() -> None:
    """Make torchvision and torchaudio importable where CUDA builds of them lie beside a CPU build of torch.

    Call it before the first import of either, or of lightning, torchmetrics, transformers or muq. Does nothing in any
    other combination, and imports nothing but torch.
    """
    if not _mismatched("torchvision") and not _mismatched("torchaudio"):
        return
    import torch

    if torch.version.cuda is not None or torch.version.hip is not None:
        return
    if _mismatched("torchvision") and not hasattr(torch.ops.torchvision, "nms"):
        library: Any = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _libraries.append(library)
    if _mismatched("torchaudio"):
        sys.modules["torchaudio._extension"] = _extension_stub()


def _mismatched(package: str) -> bool:
    """Whether a package is the index' build for Linux on x86-64, which is the CUDA build, and not yet imported."""
    if package in sys.modules or sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    try:
        return "+" not in version(package)  # builds for the CPU say "+cpu"
    except PackageNotFoundError:
        return False


def _extension_stub() -> ModuleType:
    """Return what `torchaudio._extension` is where torchaudio was built without compiled parts."""

    def fail_if_no_align(function: Any) -> Any:
        def fail(*_args: Any, **_kwargs: Any) -> NoReturn:
            msg = f"{function.__name__} needs the compiled part of torchaudio, which cannot load beside a CPU torch."
            raise RuntimeError(msg)

        return fail

    stub: Any = ModuleType("torchaudio._extension")
    stub._IS_TORCHAUDIO_EXT_AVAILABLE = stub._IS_ALIGN_AVAILABLE = False  # noqa: SLF001 - torchaudio's own names
    stub.fail_if_no_align = fail_if_no_align
    module: ModuleType = stub
    return module
