"""Which of the three standard descriptors the process was started without."""

from __future__ import annotations

import errno
import os
import sys
from typing import Final, TextIO

STDIN: Final = 0
STDOUT: Final = 1
STDERR: Final = 2

NAMES: Final = {
    STDIN: "standard input",
    STDOUT: "standard output",
    STDERR: "standard error",
}

# Python sets a stream to None if its descriptor is closed when it starts. Later its number shows
# nothing: the system gives it to the next file, socket or epoll descriptor that is opened.
CLOSED_AT_START: Final = frozenset(
    number
    for number, stream in enumerate((sys.__stdin__, sys.__stdout__, sys.__stderr__))
    if stream is None
)
"""The descriptors that were closed when the process started."""


def check_open(number: int) -> None:
    """Raise if a standard descriptor was closed when the process started. Not a checkpoint.

    Raises:
        OSError: It was closed; the message names the stream.
    """
    if number in CLOSED_AT_START:
        raise OSError(errno.EBADF, f"{NAMES[number]} was closed when the process started")


def occupy_closed() -> None:
    """Open the null device on every standard descriptor that is closed. Not a checkpoint.

    Otherwise the next socket gets the number, and what C code or a child process prints is sent
    to a client. Where Python has no standard output or error, ``sys.stdout`` or ``sys.stderr``
    becomes the null device: ``print(file=None)`` would print on standard output.
    """
    for number in (STDIN, STDOUT, STDERR):
        try:
            os.fstat(number)
        except OSError:
            # The system takes the lowest free number, and the lower ones are open.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # noqa: FBT003
    if sys.stdout is None:
        sys.stdout = _open_nowhere()
    if sys.stderr is None:
        sys.stderr = _open_nowhere()


def _open_nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")
