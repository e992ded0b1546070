"""Automatic mixed precision, named once."""

from typing import Any, Final, Literal, get_args

import torch
from torch import nn

from stemsim.errors import ConfigError

__all__ = ["Float32", "Precision", "autocast", "check_precision", "precision_suffix"]

Precision = Literal["float32", "bfloat16", "float16"]
"""What a frozen model computes in. Anything but float32 changes its numbers, and so its identity."""

_DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def check_precision(precision: str) -> Precision:
    """Return a verified precision.

    Raises:
        ConfigError: If there is none of that name.
    """
    for known in get_args(Precision):
        if precision == known:
            return known  # type: ignore[no-any-return]
    msg = f"Precision is one of {', '.join(_DTYPES)}; got {precision!r}."
    raise ConfigError(msg)


def precision_suffix(precision: Precision) -> str:
    """Return what a precision adds to an identity: nothing for float32."""
    return "" if precision == "float32" else f",{precision}"


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Return the context in which a model computes at a precision; it does nothing for float32.

    Args:
        device: Where the model is.
        precision: What it computes in.
    """
    return torch.autocast(device.type, dtype=_DTYPES[precision], enabled=precision != "float32")


class Float32(nn.Module):
    """Keeps a part of a model in float32 inside `autocast`: spectra need more than eight bits of mantissa.

    Args:
        part: What takes and gives one tensor.
    """

    def __init__(self, part: Any) -> None:
        super().__init__()
        self.part = part

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Apply the part outside `autocast`."""
        with torch.autocast(values.device.type, enabled=False):
            result: torch.Tensor = self.part(values.float())
        return result
