"""`run_stdio`: a server program's last line."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

import trio

from ..protocol.eras import Eras, served_eras
from ..sessions.hooks import SessionHooks
from ..transports.stdio import serve_stdio
from .signals import run_until_signal

if TYPE_CHECKING:
    from ..core.config import SessionConfig
    from ..sessions.application import Application


def run_stdio(
    application: Application,
    *,
    config: SessionConfig | None = None,
    hooks: SessionHooks | Iterable[SessionHooks] = (),
    eras: Eras | None = None,
) -> None:
    """Run a program that serves the client at standard input and output, and nothing else.

    It runs Trio and handles signals, so it is for the main thread: the first SIGTERM or SIGINT
    drains, the second cancels. Returns when the client has left or the program was stopped. A
    program with a Trio of its own calls `serve_stdio` instead.

    Args:
        application: The program to serve; a `Router`, for example.
        config: Limits and clocks.
        hooks: What to call at the turns of the session's life.
        eras: Which revisions are served; what the application says by default.

    Raises:
        ValueError: ``eras`` is none of them.
    """
    served_eras(application, eras)  # Not from within Trio, where it would be in a group.

    async def main() -> None:
        serve = partial(serve_stdio, eras=eras)
        await run_until_signal(application, serve, config=config, hooks=hooks)

    trio.run(main)
