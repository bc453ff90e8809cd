"""Keeps other code away from standard input and output while the protocol uses them."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from typing import Final, final

from .bounded_stderr import diverted_stdout
from .standard_streams import CLOSED_AT_START, STDERR, STDIN, STDOUT, check_open


@contextmanager
def guard_stdio() -> Generator[tuple[int, int]]:
    """Replace standard input and output, and return private copies of the originals.

    Inside the block descriptor 0 reads nothing and descriptor 1 is the standard error stream (or
    leads nowhere, if there is none). So neither a stray ``print`` nor C code nor a child process
    can write into the protocol or take a message from it. What was printed before but is still in
    a buffer comes out on standard error, too.

    Both copies belong to the caller, which closes them; child processes don't inherit them.
    Descriptors 0 and 1 are what they were when the block is left.

    Yields:
      The descriptors to read the protocol from and to write it to.

    Raises:
      OSError: if standard input or output is not open, or was not when the process started.
    """
    check_open(STDIN)
    check_open(STDOUT)
    with ExitStack() as saved, diverted_stdout(), ExitStack() as redirected:
        input_copy = _duplicate(STDIN)
        saved.callback(os.close, input_copy)
        output_copy = _duplicate(STDOUT)
        saved.callback(os.close, output_copy)
        with ExitStack() as unless_yielded:
            protocol_input = _duplicate(STDIN)
            unless_yielded.callback(os.close, protocol_input)
            protocol_output = _duplicate(STDOUT)
            unless_yielded.pop_all()
        redirected.callback(os.dup2, input_copy, STDIN)
        redirected.callback(os.dup2, output_copy, STDOUT)
        redirected.callback(_flush_stdout)
        _redirect()
        _flush_stdout()
        yield protocol_input, protocol_output


@final
class GuardedStdio:
    """Private copies of standard input and output, which the protocol takes once."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self.is_terminal: Final = os.isatty(read_fd)
        """Whether standard input is a terminal."""
        self._descriptors: tuple[int, ...] = (read_fd, write_fd)

    def take(self) -> tuple[int, int]:
        """Return the descriptors to read and to write; the caller closes them."""
        (read_fd, write_fd), self._descriptors = self._descriptors, ()
        return read_fd, write_fd

    def close(self) -> None:
        """Close the descriptors if nothing has taken them."""
        for fd in self._descriptors:
            os.close(fd)
        self._descriptors = ()


@contextmanager
def guard_program_stdio() -> Generator[GuardedStdio]:
    """Guard as `guard_stdio` does; the copies are closed in the end if nothing has taken them."""
    with guard_stdio() as descriptors:
        stdio = GuardedStdio(*descriptors)
        try:
            yield stdio
        finally:
            stdio.close()


def _duplicate(fd: int) -> int:
    """Duplicate ``fd``, but never to one of the standard three, even if one of those is free."""
    with ExitStack() as low:
        while (copy := os.dup(fd)) <= STDERR:
            low.callback(os.close, copy)
        return copy


def _redirect() -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    try:
        os.dup2(nowhere, STDIN)
        # Without a standard error stream its number is free, or any other file has it.
        os.dup2(nowhere if STDERR in CLOSED_AT_START else STDERR, STDOUT)
    finally:
        os.close(nowhere)


def _flush_stdout() -> None:
    # sys.stdout is None without a standard output, and may have been replaced by anything.
    for stream in (sys.stdout, sys.__stdout__):
        if stream is not None:
            with suppress(AttributeError, OSError, ValueError):
                stream.flush()
