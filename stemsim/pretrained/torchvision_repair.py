"""Workaround that makes torchvision and torchaudio importable beside a CPU build of torch.

muq and laion-clap need torchvision and torchaudio, whose wheels in the package index are CUDA builds. Beside a CPU
torch their compiled parts cannot be loaded: `import torchvision` fails with "operator torchvision::nms does not exist",
and so does every package that imports it if it is installed (lightning, torchmetrics, transformers). stemsim uses none
of those compiled parts: the mel spectrogram of torchaudio is written in Python.
"""

import platform
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any, NoReturn

# PyTorch removes definitions when the library that made them is deleted.
_libraries: list[Any] = []


@cache
def repair_torchvision() -> None:
    """Make CUDA builds of torchvision and torchaudio importable beside a CPU build of torch.

    Call it before the first import of either, or of lightning, torchmetrics, transformers or muq. It does nothing in
    other combinations, and imports only torch.
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
    """Tell whether a package is the index's build for Linux on x86-64, which needs CUDA, and is not imported yet."""
    if package in sys.modules or sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    try:
        return "+" not in version(package)  # builds for the CPU say "+cpu"
    except PackageNotFoundError:
        return False


def _extension_stub() -> ModuleType:
    """Return the module `torchaudio._extension` of a torchaudio without compiled parts."""

    def fail_if_no_align(function: Any) -> Any:
        def fail(*_args: Any, **_kwargs: Any) -> NoReturn:
            raise RuntimeError(f"{function.__name__} needs the compiled part of torchaudio, which a CPU torch lacks.")

        return fail

    stub: Any = ModuleType("torchaudio._extension")
    stub._IS_TORCHAUDIO_EXT_AVAILABLE = stub._IS_ALIGN_AVAILABLE = False  # noqa: SLF001 - torchaudio's own names
    stub.fail_if_no_align = fail_if_no_align
    module: ModuleType = stub
    return module
