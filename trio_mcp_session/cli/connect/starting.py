"""Starts the shared server if it does not run, once for all that connect at the same time.

The server belongs to none of the bridges: it has a process group and a session of the system of its
own, and none of the descriptors of the process that starts it, except the lock.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final, TypeVar, final

import attrs
import trio

from ..failure import CommandFailed
from .start_lock import StartLock

UNREACHABLE: Final = 3
"""The exit status if the server cannot be reached, or not be started."""

POLL_INTERVAL: Final = 0.05
"""Seconds between two attempts to reach a server that is being started."""

T = TypeVar("T")


@final
@attrs.frozen(kw_only=True)
class Start:
    """How a server is started."""

    command: Sequence[str]
    """The program and its arguments."""

    lock_path: str
    """Where the lock is."""

    timeout: float
    """Seconds until the server has to listen."""

    log: str | None = None
    """The file that its standard error is appended to; None for nowhere."""


@final
@attrs.define(eq=False)
class Starter:
    """Reaches a server, and starts it if nothing listens.

    Args:
        where: The name of the address, for errors.
        start: How the server is started; None if it is not.
        nursery: Where the end of a server is waited for: a process is left behind otherwise.
    """

    _where: str
    _start: Start | None
    _nursery: trio.Nursery

    async def reach(self, connect: Callable[[], Awaitable[T]]) -> T:
        """Return what ``connect`` returns, as soon as the server listens. A checkpoint.

        When cancelled, a server that was started is left as it is: other bridges may wait for it.

        Args:
            connect: Connects to the server, or raises OSError if nothing listens.

        Raises:
            CommandFailed: Nothing listens, and the server is not to be started; it has failed, or
                it does not listen in time.
        """
        start = self._start
        try:
            reached = await connect()
        except OSError as error:
            if start is None:
                raise CommandFailed(
                    f"cannot connect to {self._where}: {reason_of(error)}; start the server, or "
                    "let this command do it with --start",
                    status=UNREACHABLE,
                ) from error
        else:
            if start is not None:
                StartLock(start.lock_path).remove_file()  # A killed bridge may have left it.
            return reached
        return await self._reach_or_start(start, connect)

    async def _reach_or_start(self, start: Start, connect: Callable[[], Awaitable[T]]) -> T:
        deadline = trio.current_time() + start.timeout
        lock = StartLock(start.lock_path)
        while not lock.acquire_nowait():
            await self._wait(start, deadline)
            # The process that has the lock may be the server itself, see `start_lock`.
            with suppress(OSError):
                reached = await connect()
                lock.remove_file()
                return reached
        server: _Server | None = None
        try:
            while True:
                with suppress(OSError):
                    reached = await connect()
                    lock.release()
                    return reached
                if server is None:
                    lock.inherit()
                    server = _Server(start)
                elif server.has_failed():
                    lock.release()
                    raise CommandFailed(
                        f"{start.command[0]} ended with status {server.status} before it listened "
                        f"on {self._where}{_hint(start)}",
                        status=UNREACHABLE,
                    )
                await self._wait(start, deadline, server)
        finally:
            lock.leave()
            if server is not None and server.status is None:
                self._nursery.start_soon(server.wait, name="end of the started server")

    async def _wait(self, start: Start, deadline: float, server: _Server | None = None) -> None:
        """Wait until the next attempt.

        Raises:
            CommandFailed: The time is over. The server is told to end, too.
        """
        if trio.current_time() >= deadline:
            if server is not None:
                server.terminate()
            raise CommandFailed(
                f"nothing listens on {self._where} {start.timeout:g} s after its start "
                f"(--start-timeout){_hint(start)}",
                status=UNREACHABLE,
            )
        await trio.sleep(POLL_INTERVAL)


@final
class _Server:
    """A server process that was started."""

    def __init__(self, start: Start) -> None:
        self.status: int | None = None
        log, flags = start.log or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND
        try:
            self._pid: Final = os.posix_spawnp(
                start.command[0],
                list(start.command),
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 2, log, flags, 0o600),
                ],
                setsid=True,
                # Python ignores it; the server gets the default.
                setsigdef=[signal.SIGPIPE],
            )
        except OSError as error:
            raise CommandFailed(
                f"cannot start {start.command[0]}: {error.strerror}{_hint(start)}",
                status=UNREACHABLE,
            ) from error

    def has_failed(self) -> bool:
        """Return whether it has ended with an error. A program that goes to the background has not.

        Not a checkpoint.
        """
        if self.status is None:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        return bool(self.status)

    def terminate(self) -> None:
        """Tell it, and what it has started, to end. Not a checkpoint."""
        with suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGTERM)

    async def wait(self) -> None:
        """Wait for its end. When cancelled, a thread of Trio continues to wait. A checkpoint."""
        await trio.to_thread.run_sync(os.waitpid, self._pid, 0, abandon_on_cancel=True)


def reason_of(error: OSError) -> str:
    """Return what an error says, without its number."""
    return error.strerror or str(error) or type(error).__name__


def _hint(start: Start) -> str:
    if start.log is None:
        return "; --start-log PATH keeps what it says on standard error"
    return f"; see {start.log}"
