"""Precision of the arithmetic in pretrained models, by automatic mixed precision."""

from typing import Any, Final, Literal, cast

import torch
from torch import nn

from stemsim.errors import ConfigError

Precision = Literal["float32", "bfloat16", "float16"]
"""Number type that a frozen model computes in. Any but float32 changes its results, and so its identity."""

_DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def check_precision(precision: str) -> Precision:
    """Return a verified precision, or raise `ConfigError`."""
    if precision not in _DTYPES:
        raise ConfigError(f"Precision is one of {', '.join(_DTYPES)}; got {precision!r}.")
    return cast("Precision", precision)


def precision_suffix(precision: Precision) -> str:
    """Return the part of an identity that names the precision: empty for float32."""
    return "" if precision == "float32" else f",{precision}"


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Return the context in which a model on a device computes at a precision; it does nothing for float32."""
    return torch.autocast(device.type, dtype=_DTYPES[precision], enabled=precision != "float32")


class Float32(nn.Module):
    """Keeps a module of one tensor in float32 inside `autocast`: spectra need more than eight bits of mantissa."""

    def __init__(self, part: Any) -> None:
        super().__init__()
        self.part = part

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Apply the part outside `autocast`."""
        with torch.autocast(values.device.type, enabled=False):
            result: torch.Tensor = self.part(values.float())
        return result
