"""Sockets that a service manager has opened before it started this process.

systemd calls this socket activation (*sd_listen_fds(3)*); others pass sockets on in the same way.
The sockets exist before the server runs, so a port below 1024 needs no privileges of the server,
and clients that connect while it restarts wait.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

ACTIVATED: Final = "LISTEN_FDS"
"""The environment variable that tells how many sockets there are."""

_PROCESS: Final = "LISTEN_PID"
_NAMES: Final = "LISTEN_FDNAMES"
_FIRST: Final = 3  # behind standard error; the others follow


def take_activated() -> Sequence[int]:
    """Return the descriptors that were passed to this process. Not a checkpoint.

    They are taken once: the variables are removed, and child processes do not inherit the sockets.

    Raises:
        ValueError: None were passed.
    """
    count, process = os.environ.get(ACTIVATED, ""), os.environ.get(_PROCESS, "")
    # A parent that was passed sockets may have left the variables to this process.
    if process != str(os.getpid()) or not (count.isascii() and count.isdigit() and int(count)):
        raise ValueError(
            f"no service manager has passed sockets to this process: {ACTIVATED} is {count!r} and "
            f"{_PROCESS} is {process!r}; fd:NUMBER names a socket without them"
        )
    descriptors = range(_FIRST, _FIRST + int(count))
    for number in descriptors:
        os.set_inheritable(number, False)  # noqa: FBT003
    for name in (ACTIVATED, _PROCESS, _NAMES):
        os.environ.pop(name, None)
    return descriptors
