"""`run_stdio`: a server program's last line."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import trio

from ..sessions.hooks import SessionHooks
from .endings import serve_stdio_and_explain
from .signals import run_until_signal

if TYPE_CHECKING:
    from ..core.config import SessionConfig
    from ..sessions.application import Application


def run_stdio(
    application: Application,
    *,
    config: SessionConfig | None = None,
    hooks: SessionHooks | Iterable[SessionHooks] = (),
) -> None:
    """Run a program that serves the client at standard input and output, and nothing else.

    It runs Trio and handles signals, so it is for the main thread: the first SIGTERM or SIGINT
    drains, the second cancels. Returns when the client has left or the program was stopped. Where
    the session ends for another reason, a clock for example, a line on standard error says which.
    A program with a Trio of its own calls `serve_stdio` instead.

    Args:
        application: The program to serve; a `Router`, for example.
        config: Limits and clocks.
        hooks: What to call at the turns of the session's life.
    """

    async def main() -> None:
        await run_until_signal(application, serve_stdio_and_explain, config=config, hooks=hooks)

    trio.run(main)
