"""What has arrived counts before a clock expires.

A process can be stopped for longer than a clock runs: by SIGSTOP, a debugger, a frozen container,
or a handler that blocks the event loop. When it continues, the clock is due, and so is the message
that would have reset it: it waits in a socket. Both wake in the same turn of the loop. So a task
that acts on clocks lets the readers run first, if the loop was away.
"""

from __future__ import annotations

from typing import Final

import trio

# A loop that is only busy is late by less. Such a delay needs no care: clocks are not exact to a
# tenth of a second.
AWAY: Final = 0.1
"""Seconds of delay from which on the loop counts as away."""

# A new connection is accepted, read, parsed and answered in about ten turns, and a body of 4 MiB is
# read in about seventy. An empty turn takes 0.03 ms.
TURNS: Final = 256
"""Turns of the loop in which what has arrived is read."""


async def let_arrive(due: float) -> None:
    """Let tasks read what has arrived, if the loop was away when a clock was due.

    A checkpoint if it was. When cancelled, it stops waiting.

    Args:
        due: When the calling task should have continued.
    """
    if trio.current_time() - due >= AWAY:
        for _ in range(TURNS):
            await trio.lowlevel.checkpoint()
