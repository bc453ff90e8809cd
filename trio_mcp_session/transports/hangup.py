"""Notice that the other end of a pipe or socket is closed, without writing to it (Linux)."""

from __future__ import annotations

import select
import sys

import trio


async def wait_for_hangup(fd: int) -> None:
    """Wait until the other end can no longer read, or the connection has failed. A checkpoint.

    A pipe hangs up when its read end is closed, a Unix socket when its peer is closed, and a TCP
    connection only when its peer has refused data. Closing this end does not wake the task.
    """
    if sys.platform == "linux":  # pragma: no branch
        # To wait until it is writable does not help: an empty pipe is writable all the time.
        # An epoll object that is registered for no event still gets errors, and is readable then.
        with select.epoll() as errors:
            errors.register(fd, 0)
            await trio.lowlevel.wait_readable(errors)
