"""Standard error and output that block nothing: a bounded buffer, and a thread that writes it.

Many hosts start a server with a pipe as its standard error and never read it. A pipe takes 64 KiB;
after that, the next ``print`` or log record would block the event loop for ever.

Here `sys.stderr` keeps its identity, since log handlers hold a reference to it from the time when
they were made. Only its buffer is exchanged: what is written goes into memory, and a thread writes
it to descriptor 2. The descriptor itself stays as it is: other processes share it, so it must not
become non-blocking, and messages of a native crash still arrive. Therefore C code and child
processes, which write to the descriptor, can still block.

Programs that serve over HTTP or sockets do the same with standard output, to which ``print`` writes
there.
"""

from __future__ import annotations

import atexit
import io
import os
import stat
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from typing import Any, Final, final

from ..sessions.quiet_thread import start_quiet_thread
from .standard_streams import CLOSED_AT_START, NAMES, STDERR, STDOUT

# Hundreds of tracebacks: a reader that is slow for a moment misses nothing. An unread pipe costs
# this much memory once.
MOST_BYTES: Final = 2**20
"""Bytes that wait for the reader of standard error by default; above that, output is dropped."""

# The end of a process must not take long because nothing reads its last output.
WRITING_TIME: Final = 0.5
"""Seconds that the last output of a process can take."""

# A burst can be faster than the thread, which shares the interpreter with it. Then some
# milliseconds are enough, and a reader that does not read costs this time once.
PATIENCE: Final = 0.05
"""Seconds that a full buffer is given before output is dropped."""

PIECE: Final = 2**16
"""Most bytes of one write: what a pipe of the usual size takes."""

RETRY: Final = 0.02
"""Seconds between two attempts to write, if another process made the descriptor non-blocking."""


def describe_drop(number: int, size: int, lines: int) -> str:
    """Return the line that stands where output was dropped."""
    return (
        f"trio_mcp_session: {NAMES[number]} was not read in time; {size} bytes ({lines} lines) "
        "were dropped here\n"
    )


def write_to_descriptor(number: int, data: bytes) -> None:
    """Write all of ``data`` to a descriptor. It can block.

    Raises:
        OSError: The descriptor has no reader or is closed.
    """
    while data:
        try:
            data = data[os.write(number, data) :]
        except BlockingIOError:
            time.sleep(RETRY)


@final
class OutputWriter:
    """A bounded buffer and the thread that writes it. Nothing blocks, except `flush`.

    Args:
        number: The descriptor of standard error or of standard output.
        limit: Bytes that can wait.
        write: Writes bytes to it; it may block, and is called in the thread.
    """

    def __init__(
        self,
        number: int = STDERR,
        limit: int = MOST_BYTES,
        write: Callable[[int, bytes], None] = write_to_descriptor,
    ) -> None:
        self.describe_drop: Callable[[int, int, int], str] = describe_drop
        """Returns the line for the descriptor and dropped bytes and lines."""
        self._number: Final = number
        self._limit: Final = limit
        self._write: Final = write
        # A signal handler may print while the main thread holds the lock: it has to be reentrant,
        # as the lock of a Condition is.
        self._changed: Final = threading.Condition()
        self._chunks: Final[deque[bytes]] = deque()
        self._size: int = 0
        self._ends_line: bool = True
        self._dropped: int = 0
        self._dropped_lines: int = 0
        self._broken: bool = False
        self._closed: bool = False

    def start(self) -> None:
        """Start the thread."""
        start_quiet_thread(self._run, NAMES[self._number])

    def write(self, data: bytes) -> None:
        """Take bytes, or drop them if too many wait. It waits for `PATIENCE` at most."""
        with self._changed:
            # From the first dropped byte on it does not wait: nothing reads, or too slowly.
            if not self._dropped and self._changed.wait_for(
                lambda: not self._size or self._size + len(data) <= self._limit, PATIENCE
            ):
                self._append(data)
            else:
                self._dropped += len(data)
                self._dropped_lines += data.count(b"\n")

    def write_last(self, data: bytes) -> None:
        """Take the last bytes of the process, however many wait."""
        with self._changed:
            self._note_drop()
            self._append(data)

    def flush(self, seconds: float = WRITING_TIME) -> bool:
        """Wait until all is written, for a limited time; return whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._size, seconds)

    def close(self) -> None:
        """Let the thread end when all is written."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _append(self, data: bytes) -> None:
        if data and not self._broken:
            self._chunks.append(data)
            self._size += len(data)
            self._ends_line = data.endswith(b"\n")
            self._changed.notify_all()

    def _note_drop(self) -> None:
        """Write how much was dropped, if anything was."""
        if self._dropped:
            size, lines = self._dropped, self._dropped_lines
            self._dropped = self._dropped_lines = 0
            text = ("" if self._ends_line else "\n") + self.describe_drop(self._number, size, lines)
            self._append(text.encode("utf-8", "replace"))

    # This runs in the thread.

    def _run(self) -> None:
        while (data := self._next()) is not None:
            try:
                self._write(self._number, data)
            except OSError:  # nothing can be written from now on, not even a report of this
                self._broken = True
            with self._changed:
                self._size -= len(data)
                if self._broken:
                    self._chunks.clear()
                    self._size = 0
                # Not at the first free byte: there would be a note for every few lines.
                if self._size <= self._limit // 2:
                    self._note_drop()
                self._changed.notify_all()

    def _next(self) -> bytes | None:
        """Wait for the next bytes; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._chunks or self._closed)
            if not self._chunks:
                return None
            piece = self._chunks.popleft()
            while self._chunks and len(piece) + len(self._chunks[0]) <= PIECE:
                piece += self._chunks.popleft()
            return piece


@final
class _Buffer(io.BufferedIOBase):
    """The buffer of a text stream whose bytes go to an `OutputWriter`."""

    mode: Final = "wb"

    def __init__(self, writer: OutputWriter, fd: int, name: object) -> None:
        self._writer: Final = writer
        self._fd: Final = fd
        self.name: Final = name

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        taken = bytes(data)
        self._writer.write(taken)
        return len(taken)

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return os.isatty(self._fd)


@final
class _Diverted:
    """A text stream whose bytes go to an `OutputWriter`, until `restore`."""

    def __init__(self, stream: io.TextIOWrapper, writer: OutputWriter) -> None:
        self._stream: Final = stream
        self._before: Final = (stream.buffer, stream.line_buffering, stream.write_through)
        writer.write(_take_pending(stream))
        buffer = _Buffer(writer, stream.fileno(), getattr(stream.buffer, "name", None))
        # Lines that are printed to a pipe otherwise stay in the stream for long.
        _exchange_buffer(stream, buffer, line_buffering=True, write_through=False)

    def restore(self) -> None:
        """Give the stream its own buffer again."""
        with suppress(ValueError):  # It was closed.
            self._stream.flush()
        self.restore_unflushed()

    def restore_unflushed(self) -> None:
        """Give the stream its own buffer again; what it holds is lost."""
        buffer, line_buffering, write_through = self._before
        _exchange_buffer(
            self._stream, buffer, line_buffering=line_buffering, write_through=write_through
        )


def _exchange_buffer(
    stream: io.TextIOWrapper, buffer: Any, *, line_buffering: bool, write_through: bool
) -> None:
    # Log handlers hold a reference to this object: only what is inside of it can be exchanged.
    encoding, errors = stream.encoding, stream.errors
    io.TextIOWrapper.__init__(stream, buffer, encoding, errors, "\n", line_buffering, write_through)


def _take_pending(stream: io.TextIOWrapper) -> bytes:
    """Return what was printed but is still in the stream, without a write that could block."""
    fd = stream.fileno()
    with ExitStack() as redirected:
        # A file would do, too, but a container may have no folder to write to.
        ends = os.pipe()
        original = os.dup(fd)
        for one in (*ends, original):
            redirected.callback(os.close, one)
        reader, writer = ends
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)
        redirected.callback(os.dup2, original, fd)
        os.dup2(writer, fd)
        taken = b""
        # First the bytes: the text is younger, and then there is room for it.
        for part in (stream.buffer, stream):
            while not _flush_nowait(part.flush):
                taken += _read_nowait(reader)
        return taken + _read_nowait(reader)


def _flush_nowait(flush: Callable[[], object]) -> bool:
    """Flush; return whether the pipe has taken everything."""
    try:
        flush()
    except BlockingIOError:
        return False
    return True


def _read_nowait(fd: int) -> bytes:
    """Return everything that is in a pipe."""
    taken = b""
    with suppress(BlockingIOError):
        while True:
            taken += os.read(fd, PIECE)
    return taken


def _streams_on(number: int) -> list[io.TextIOWrapper]:
    """Return Python's own streams for a descriptor; none if the program has replaced the first."""
    streams = {
        STDOUT: (sys.stdout, sys.__stdout__),
        STDERR: (sys.stderr, sys.__stderr__),
    }[number]
    found: list[io.TextIOWrapper] = []
    for stream in streams:
        with suppress(OSError, ValueError):
            if type(stream) is io.TextIOWrapper and stream.fileno() == number:
                found.append(stream)
                continue
        break
    return found


@final
class _Installation:
    """The writer of one descriptor, and the streams that it writes for."""

    def __init__(self, number: int, limit: int) -> None:
        self.writer: Final = OutputWriter(number, limit)
        self._diverted: Final[list[_Diverted]] = []
        self.writer.start()

    def divert(self, number: int) -> list[_Diverted]:
        """Divert Python's own streams for a descriptor."""
        unique = {id(stream): stream for stream in _streams_on(number)}
        new = [_Diverted(stream, self.writer) for stream in unique.values()]
        self._diverted.extend(new)
        return new

    def restore(self, some: list[_Diverted]) -> None:
        """Give streams back."""
        for one in some:
            one.restore()
            self._diverted.remove(one)

    def finish(self) -> bool:
        """Write what remains, for a limited time; give the streams back if all was written."""
        if not self.writer.flush():
            return False  # Nothing reads it, and any further output would block: the writer stays.
        self.restore(list(self._diverted))
        self.writer.close()
        return True

    def forget_in_child(self) -> None:
        """Give the streams back in a forked process, which has no thread to write for them."""
        for one in self._diverted:
            one.restore_unflushed()


_installed: Final[dict[int, _Installation]] = {}
"""The writers of this process, by the descriptor that they write to."""


def installed_writer(number: int = STDERR) -> OutputWriter | None:
    """Return the writer of standard error, or of standard output; None if there is none."""
    return _installed[number].writer if number in _installed else None


def install(*numbers: int) -> None:
    """Let nothing block on standard error or output, until the process ends. Not a checkpoint.

    A stream is left as it is if it is closed or a file, if it was replaced, or if it has a writer
    already. At the end of the process, the remaining output has `WRITING_TIME`.

    Args:
        numbers: The descriptors.
    """
    for number in numbers:
        if _install(number, MOST_BYTES):
            atexit.register(_finish, number)


@contextmanager
def bounded_stderr(max_bytes: int = MOST_BYTES) -> Iterator[None]:
    """Make printing on standard error non-blocking in Python code, for the length of a block.

    For programs of your own, around `trio.run`; `run_stdio`, `run_http` and the command do the same
    until their process ends. What is printed or logged goes into memory, and a thread writes it.
    If the reader of standard error stops, and ``max_bytes`` wait for it, further output is dropped;
    one line says how much. At the end of the block the remaining output has half a second. Not a
    checkpoint.

    `sys.stderr` stays the same object, so log handlers that were made before are included. Inside
    `serve_stdio`, so is `sys.stdout`, which is standard error there. Not included are C code and
    child processes, which write to the descriptor themselves. A stream that replaced `sys.stderr`,
    and standard error that is a file, are left as they are. Where blocks are nested, only the outer
    one has an effect.

    Args:
        max_bytes: Bytes that may wait to be written.

    Raises:
        ValueError: ``max_bytes`` is less than 1.
    """
    if max_bytes < 1:
        raise ValueError(f"max_bytes must be at least 1, not {max_bytes!r}")
    mine = _install(STDERR, max_bytes)
    try:
        yield
    finally:
        if mine:
            _finish(STDERR)


@contextmanager
def diverted_stdout() -> Iterator[None]:
    """Send what is printed on standard output to the writer of standard error, if there is one."""
    installation = _installed.get(STDERR)
    if installation is None:
        yield
        return
    diverted = installation.divert(STDOUT)
    try:
        yield
    finally:
        installation.restore(diverted)


def _install(number: int, limit: int) -> bool:
    """Install a writer; return whether this call did."""
    if number in _installed or number in CLOSED_AT_START or not _streams_on(number):
        return False
    if stat.S_ISREG(os.fstat(number).st_mode):
        return False  # Writing to a file does not wait for a reader.
    _register_at_fork()
    installation = _Installation(number, limit)
    installation.divert(number)
    _installed[number] = installation
    return True


def _finish(number: int) -> None:
    """Write what remains, for a limited time, and give the streams back if all was written."""
    installation = _installed.get(number)
    if installation is None:
        return  # pragma: no cover  # in a forked process
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # It can be None, closed, or the application's.
            stream.flush()
    if installation.finish():
        del _installed[number]


@cache
def _register_at_fork() -> None:
    os.register_at_fork(after_in_child=_after_fork)


def _after_fork() -> None:
    while _installed:
        _, installation = _installed.popitem()
        installation.forget_in_child()
