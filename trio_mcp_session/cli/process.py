"""What `run_stdio`, `run_http` and the command do to their process before they serve."""

from __future__ import annotations

from ..application.log_context import add_context_to_all_records
from ..transports import bounded_stderr
from ..transports.standard_streams import STDERR, STDOUT, occupy_closed


def prepare_process(*, stdio: bool) -> None:
    """Make printing non-blocking, and add the context to log records. Not a checkpoint.

    Both hold until the process ends. Closed standard descriptors are opened on the null device, so
    that no socket gets their numbers.

    Args:
        stdio: Whether standard output belongs to the protocol.
    """
    occupy_closed()
    bounded_stderr.install(*((STDERR,) if stdio else (STDERR, STDOUT)))
    add_context_to_all_records()
