"""The client that started this process, over standard input and output."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Final

from ..core.identity import Principal, Transport
from ..core.reasons import TerminationReason
from ..protocol.eras import Eras
from .connection import serve_client
from .descriptors import open_descriptor_channel
from .stdio_guard import GuardedStdio, guard_program_stdio

if TYPE_CHECKING:
    from ..sessions.manager import SessionManager

STDIO: Final = Transport("stdio")


async def serve_stdio(
    manager: SessionManager, *, principal: Principal | None = None, eras: Eras | None = None
) -> TerminationReason:
    """Serve the client at standard input and output, until its session has ended.

    Meanwhile only the protocol uses these two: ``print`` writes to standard error, and reading
    standard input returns nothing. Afterwards they are restored. It needs no threads where both are
    pipes or sockets. A checkpoint. When cancelled, the session ends as *cancelled*, with all of its
    clean-up, before the call raises.

    Args:
        manager: The manager that opens the session.
        principal: The principal of the client; seldom needed, since the client started this
            process.
        eras: The revisions that are served; by default as the application says.

    Returns:
        Why the session ended; `TerminationReason.CLIENT_CLOSED` after end of file.

    Raises:
        SessionRejected: A limit does not admit the session; the client got the error.
        OSError: Standard input or output is not open.
        ValueError: ``eras`` is not a value of `Eras`.
    """
    return await serve_stdio_client(manager, principal=principal, eras=eras, on_ending=lambda: None)


async def serve_stdio_client(
    manager: SessionManager,
    *,
    principal: Principal | None = None,
    eras: Eras | None = None,
    on_ending: Callable[[], object],
    guarded: GuardedStdio | None = None,
) -> TerminationReason:
    """Serve the client as `serve_stdio` does.

    Args:
        manager: As for `serve_stdio`; so are the next two.
        principal: The principal of the client.
        eras: The revisions that are served.
        on_ending: As for `serve_client`.
        guarded: Standard input and output, if the program has guarded them already.
    """
    with nullcontext(guarded) if guarded is not None else guard_program_stdio() as stdio:
        read_fd, write_fd = stdio.take()
        channel = open_descriptor_channel(read_fd, write_fd, manager.config.limits.max_message_size)
        return await serve_client(
            manager, channel, principal=principal, transport=STDIO, eras=eras, on_ending=on_ending
        )
