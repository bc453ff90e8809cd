"""Writing to standard error from threads, also while the event loop or a stream is blocked."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from ..transports.bounded_stderr import installed_writer
from ..transports.standard_streams import CLOSED_AT_START, STDERR, STDOUT


def write_error(text: str) -> None:
    """Write text to standard error. It can block where no bounded writer is installed."""
    data = text.encode("utf-8", "replace")
    writer = installed_writer()
    if writer is not None:
        writer.write_last(data)
    elif STDERR not in CLOSED_AT_START:  # Otherwise another file may have its number.
        with suppress(OSError):
            os.write(STDERR, data)


def flush_output() -> None:
    """Write what is still in the standard streams. It can block."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # It can be None, closed, or in use by blocked code.
            stream.flush()
    for number in (STDOUT, STDERR):
        writer = installed_writer(number)
        if writer is not None:
            writer.flush()
