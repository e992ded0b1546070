"""Long clips as several windows of what an encoder takes at once."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

__all__ = ["encode_windows"]


def encode_windows(windows: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
    """Encode the windows of clips, and average each clip's vectors.

    Args:
        windows: `(batch, window, time)`.
        encode: Maps `(n, time)` to unit vectors `(n, dim)`; it is given no more than `batch` windows at once.

    Returns:
        Unit vectors `(batch, dim)`: the renormalised mean over the windows.
    """
    batch, count, _ = windows.shape
    parts = torch.split(windows.flatten(0, 1), batch)
    vectors = torch.cat([encode(part) for part in parts])  # (batch * window, dim)
    return vectors if count == 1 else normalize(vectors.reshape(batch, count, -1).mean(dim=1), dim=1)
