"""Frames over descriptors that only a thread can wait for: files, terminals, all on Windows."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import final

import attrs
import trio

from .framed_io import READ_SIZE, FrameReader, FrameWriter


@final
@attrs.define(eq=False, repr=False)
class _ThreadedDescriptor:
    # A system call that blocks can't be stopped, only left alone. Three rules make that safe:
    #
    # - An operation keeps its result in the half it belongs to, so a result that arrives after the
    #   caller was cancelled waits for the next one.
    # - One operation at a time: the limiter's token returns when the thread is done, not when its
    #   caller is.
    # - The descriptor's number must not be reused while a thread is about to use it: closing leaves
    #   a descriptor in use to its thread.
    #
    # The threads are trio's, which don't keep the interpreter from exiting, and they hold no lock
    # of Python's buffered readers while they wait (that aborts the interpreter at exit).

    fd: int
    closed: bool = attrs.field(default=False, init=False)
    _in_use: bool = attrs.field(default=False, init=False)
    _mutex: threading.Lock = attrs.field(factory=threading.Lock, init=False)
    _limiter: trio.CapacityLimiter = attrs.field(
        factory=lambda: trio.CapacityLimiter(1), init=False
    )
    _scope: trio.CancelScope | None = attrs.field(default=None, init=False)

    async def run(self, operation: Callable[[], None]) -> None:
        """Call ``operation`` in a thread; closing makes this raise at once."""
        if not self.closed:
            self._scope = trio.CancelScope()
            try:
                with self._scope:
                    await trio.to_thread.run_sync(
                        self._use, operation, abandon_on_cancel=True, limiter=self._limiter
                    )
            finally:
                self._scope = None
        if self.closed:
            raise trio.ClosedResourceError("this channel was closed")

    def close(self) -> None:
        with self._mutex:
            if self.closed:
                return
            self.closed = True
            if not self._in_use:
                self._release()
        if self._scope is not None:
            self._scope.cancel()

    def _use(self, operation: Callable[[], None]) -> None:
        if self._begin():
            try:
                operation()
            finally:
                self._end()

    def _begin(self) -> bool:
        with self._mutex:
            self._in_use = not self.closed
            return self._in_use

    def _end(self) -> None:
        with self._mutex:
            self._in_use = False
            if self.closed:
                self._release()

    def _release(self) -> None:
        with suppress(OSError):
            os.close(self.fd)


@final
@attrs.define(eq=False, repr=False, on_setattr=attrs.setters.NO_OP)
class ThreadedReader(FrameReader):
    """Reads in a thread. What arrives after a call was cancelled is kept for the next one."""

    _source: _ThreadedDescriptor = attrs.field(
        alias="fd", converter=_ThreadedDescriptor, kw_only=True
    )
    _arrived: list[bytes] = attrs.field(factory=list[bytes], init=False)

    async def _read(self) -> bytes:
        try:
            await self._source.run(self._fill)
        except OSError as error:
            raise trio.BrokenResourceError("the peer can no longer be read from") from error
        return self._arrived.pop()

    def _fill(self) -> None:
        if not self._arrived:
            self._arrived.append(os.read(self._source.fd, READ_SIZE))

    def close(self) -> None:
        """Release the descriptor; a read that is under way ends in its thread."""
        self._source.close()


@final
@attrs.define(eq=False, repr=False, on_setattr=attrs.setters.NO_OP)
class ThreadedWriter(FrameWriter):
    """Writes in a thread, never without waiting. A write continues after its call was cancelled."""

    _sink: _ThreadedDescriptor = attrs.field(
        alias="fd", converter=_ThreadedDescriptor, kw_only=True
    )

    def _write(self, data: bytes) -> int:  # noqa: ARG002 - always has to wait
        return 0

    async def _flush(self) -> None:
        if not self._tail:
            await trio.lowlevel.checkpoint()
        while self._tail:
            try:
                await self._sink.run(self._drain)
            except OSError as error:
                raise self._break() from error

    def _drain(self) -> None:
        if self._tail:
            self._written(os.write(self._sink.fd, self._tail[0]))

    def close(self) -> None:
        """Release the descriptor; a write that is under way ends in its thread."""
        self._closed = True
        self._sink.close()
