"""The C library's memory, kept between training steps."""

import ctypes
import functools
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_LARGEST_MMAP_THRESHOLD = 32 << 20


@functools.lru_cache
def keep_freed_memory() -> None:
    """Tell glibc not to give freed memory back to the system; elsewhere, do nothing.

    A training step frees tensors of megabytes that the next one takes again. By default each goes back to the system,
    which hands out zeroed pages anew: on a CPU, a tenth of a step.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
