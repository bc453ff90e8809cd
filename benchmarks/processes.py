"""What the system says of a process: its memory, and its processor time (Linux)."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

PAGE: Final = os.sysconf("SC_PAGE_SIZE")
TICKS: Final = os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int | str = "self") -> int:
    """Return the resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


def processor_seconds(pid: int) -> float:
    """Return the processor seconds that a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def wait_quiet(pid: int, share: float) -> None:
    """Wait until a process uses less of a processor in one second; 30 seconds at most."""
    for _ in range(30):
        before = processor_seconds(pid)
        time.sleep(1)
        if processor_seconds(pid) - before < share:
            return
