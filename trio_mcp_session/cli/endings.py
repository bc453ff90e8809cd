"""The line on standard error that says why a session over stdio has ended."""

from __future__ import annotations

import sys
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING

from ..core.reasons import TerminationReason
from ..transports.stdio import serve_stdio_client

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..core.config import CleanupConfig
    from ..protocol.eras import Eras
    from ..sessions.manager import SessionManager
    from ..transports.stdio_guard import GuardedStdio


def explain_ending(reason: TerminationReason, clocks: CleanupConfig) -> str | None:
    """Return one line that says why the session at standard input and output ended.

    Not a checkpoint.

    Args:
        reason: Why the session ended.
        clocks: The settings of its manager.

    Returns:
        The line; None if the client has left or the program was stopped.
    """
    match reason:
        case (
            TerminationReason.CLIENT_CLOSED
            | TerminationReason.CANCELLED
            | TerminationReason.SHUTDOWN
        ):
            return None
        case TerminationReason.IDLE:
            seconds = clocks.connection_idle_time
            why = f"the client was quiet for {seconds:g} s (connection_idle_time)"
        case TerminationReason.LIFETIME:
            why = "the session has reached the end of its lifetime (max_session_time)"
        case TerminationReason.HANDSHAKE_TIMEOUT:
            seconds = clocks.connection_handshake_timeout or inf
            why = (
                f"the client did not finish its handshake within {seconds:g} s "
                "(connection_handshake_timeout)"
            )
        case TerminationReason.UNRESPONSIVE:
            why = f"the client did not read for {clocks.send_timeout:g} s (send_timeout)"
            if clocks.ping_interval < inf:
                why += f", or did not answer {clocks.ping_strikes} pings (ping_strikes)"
        case TerminationReason.TRANSPORT_FAILED:
            why = "standard input or output failed, or standard output has no reader"
        case _:
            why = f"reason: {reason.value}"
    return f"trio_mcp_session: the session over stdio has ended: {why}"


def print_to_stderr(line: str) -> None:
    """Print a line on standard error, if that is open. Not a checkpoint."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            print(line, file=sys.stderr, flush=True)


async def serve_stdio_and_explain(
    manager: SessionManager,
    say: Callable[[str], None] = print_to_stderr,
    *,
    eras: Eras | None = None,
    on_ending: Callable[[], object],
    guarded: GuardedStdio | None = None,
) -> None:
    """Serve as `serve_stdio` does; say why the session ended, unless the client has left.

    A checkpoint. When cancelled, it does as `serve_stdio` does, and says nothing.

    Args:
        manager: Where the session lives.
        say: Prints a line.
        eras: As for `serve_stdio`.
        on_ending: As for `serve_client`.
        guarded: As for `serve_stdio_client`.

    Raises:
        SessionRejected: A limit on sessions is reached; the client got the error.
        OSError: Standard input or output is not open.
    """
    reason = await serve_stdio_client(manager, eras=eras, on_ending=on_ending, guarded=guarded)
    line = explain_ending(reason, manager.config.cleanup)
    if line is not None:
        say(line)
