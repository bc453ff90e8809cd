"""The memory of a server process, measured by itself."""

from __future__ import annotations

import ctypes
import gc
import os
from pathlib import Path


def give_back() -> None:
    """Make the C library return freed memory to the system, if it can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def footprint() -> dict[str, float]:
    """Resident memory in KiB, and objects that the collector tracks, after a full collection."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "kib": pages * os.sysconf("SC_PAGE_SIZE") / 1024,
        "objects": len(gc.get_objects()),
    }
