"""Memory that is kept instead of given back and asked for again."""

import ctypes
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

__all__ = ["kept_memory"]

# Parameters of glibc's mallopt(3), with what is set while models run, and what glibc begins with.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8
_KEPT: Final = {_M_ARENA_MAX: 1, _M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: 2**28}
_USUAL: Final = {_M_ARENA_MAX: 0, _M_MMAP_MAX: 65_536, _M_TRIM_THRESHOLD: 2**17, _M_TOP_PAD: 2**17}


@contextmanager
def kept_memory() -> Iterator[None]:
    """Let glibc keep the memory of large tensors while models run on a CPU, and give it back at the end.

    A separator allocates and frees gigabytes for each segment in pieces so large that glibc takes each from the kernel
    and gives it back at once; the kernel then clears every page anew. That took a third of the time of Demucs. Does
    nothing with other C libraries.
    """
    libc = _glibc()
    if libc is None:
        yield
        return
    for parameter, value in _KEPT.items():
        libc.mallopt(parameter, value)
    try:
        yield
    finally:
        for parameter, value in _USUAL.items():
            libc.mallopt(parameter, value)
        libc.malloc_trim(0)


def _glibc() -> Any | None:
    """Return the C library if it is glibc."""
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return None
    return ctypes.CDLL(None)
