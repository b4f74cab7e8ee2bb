"""What becomes of memory that a call has freed."""

from __future__ import annotations

import ctypes
import os
import sys

# Numbers of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Have the C library keep freed memory for the next call, instead of returning it to the system; for good.

    Every step allocates the same large arrays. By default each comes from the system anew, which must clear its
    pages; from some ten thousand atoms on that is a large part of a step. In exchange a process keeps what its largest
    step took, and its peak is somewhat higher.

    Returns:
        Whether it does now: only where the C library is glibc, and `TDN_KEEP_MEMORY` is not 0.
    """
    if os.environ.get("TDN_KEEP_MEMORY") == "0" or not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, -1))
