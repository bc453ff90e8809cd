"""`serve --reload`: restarts the server when a Python file of the application changes.

::

    this process                    watches the files, has the TCP sockets of --http
     └ the server, a child process  has the same sockets: clients that connect during a restart wait

The child is in a process group of its own, so that Ctrl-C reaches this process only, which sends
SIGTERM for every signal: that ends also a child that has no handlers yet, without a traceback. The
child's standard input is a pipe: when this process is gone, the child drains.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, final

import attrs
import trio

from ..transports.http1.listeners import open_listeners
from .failure import CommandFailed
from .source_files import Snapshot, SourceFiles

HANGUP: Final = signal.SIGHUP
"""Ignored after another signal: a terminal that closes sends it several times."""

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, HANGUP)
"""Signals that end the server, and then this process."""

TERMINATED: Final = 128 + signal.SIGTERM
"""The exit status of a server that did not drain."""

RESTART_GRACE: Final = 1.0
"""Seconds that running work of the server has before a restart cancels it."""

CANCEL_GRACE: Final = 10.0
"""Seconds that the server has to end then, before it is killed."""

STDIN: Final = 0


def check_options(options: argparse.Namespace) -> None:
    """Check that what is served can be restarted.

    Raises:
        CommandFailed: Standard input and output are served.
    """
    if options.stdio:
        raise CommandFailed(
            "--reload cannot serve standard input and output: their client ends with the server. "
            "Serve an address instead, for example --http 8000",
            status=2,
        )


def run(options: argparse.Namespace) -> int:
    """Serve until a signal has ended the server; return its exit status.

    Raises:
        CommandFailed: An address cannot be listened on.
    """
    return trio.run(_run, options)


async def _run(options: argparse.Namespace) -> int:
    files = SourceFiles.of_application(options.application)
    say = partial(print, "trio_mcp_session:", file=sys.stderr, flush=True)
    addresses = [str(one) for one in options.http if not is_made_anew(one)]
    async with _listening(addresses) as descriptors:
        reloader = Reloader(_command_of(options, descriptors), files, descriptors, say)
        say(f"restarting at changes of Python files in {files.root}")
        return await reloader.run()


def is_made_anew(address: object) -> bool:
    """Return whether each server listens there itself: Unix sockets are files."""
    return str(address).startswith("unix:")


@asynccontextmanager
async def _listening(addresses: Sequence[str]) -> AsyncIterator[list[int]]:
    """Listen for the servers to come, and return the descriptors of the sockets."""
    if not addresses:
        yield []
        return
    try:
        opening = open_listeners(addresses)
        listeners = await opening.__aenter__()
    except OSError as error:
        where = ", ".join(addresses)
        raise CommandFailed(f"cannot listen on http {where}: {error.strerror or error}") from error
    except ValueError as error:  # A descriptor that is something else.
        raise CommandFailed(f"cannot listen on http {', '.join(addresses)}: {error}") from error
    try:
        yield [listener.socket.fileno() for listener in listeners]
    finally:
        await opening.__aexit__(None, None, None)  # noqa: ASYNC102  # it only closes sockets


def _command_of(options: argparse.Namespace, descriptors: Sequence[int]) -> list[str]:
    """Return the command line of the server: that of this process, and what it inherits."""
    command, *rest = options.command_line
    inherited = f"--reloaded={','.join(map(str, descriptors))}"
    return [sys.executable, "-m", "trio_mcp_session", command, inherited, *rest]


@final
@attrs.define(eq=False)
class Reloader:
    """Runs a server as a child process, again and again.

    Args:
        command: The command line of the server.
        files: The files whose changes restart it.
        descriptors: File descriptors that it inherits.
        say: Called with what the user should know.
    """

    _command: Sequence[str]
    _files: SourceFiles
    _descriptors: Sequence[int]
    _say: Callable[[str], object]
    _received: list[int] = attrs.field(factory=list[int], init=False)
    _stopping: trio.Event = attrs.field(factory=trio.Event, init=False)
    _process: trio.Process | None = attrs.field(default=None, init=False)
    _restarting: bool = attrs.field(default=False, init=False)

    async def run(self) -> int:
        """Run the server until a signal has ended it, and return its exit status.

        A checkpoint. When cancelled, the server is killed. For the main thread.
        """
        status = 0
        with trio.open_signal_receiver(*SIGNALS) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._pass_on, signals)
                # Before the server reads them: no change is missed.
                known = await trio.to_thread.run_sync(self._files.snapshot)
                while not self._stopping.is_set():
                    async with self._running() as process:
                        known = await self._until_changed(process, known)
                    status = status_of(process)
                nursery.cancel_scope.cancel(reason="the server has ended")
        if status != TERMINATED:
            return status
        # After one signal it had not begun to serve, so that it had nothing to drain.
        return 0 if len(self._received) == 1 else 128 + self._received[-1]

    async def _pass_on(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            if number == HANGUP and self._received:
                continue
            self._received.append(number)
            self._stopping.set()
            if self._process is not None:
                self._process.terminate()

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[trio.Process]:
        """Start the server, and leave nothing of it behind."""
        process = await trio.lowlevel.open_process(
            list(self._command),
            stdin=subprocess.PIPE,
            pass_fds=tuple(self._descriptors),
            process_group=0,
            # The time in bytecode files has seconds only: a second change could be missed.
            env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        )
        assert process.stdin is not None
        try:
            self._restarting = False
            self._process = process
            for _ in self._received:  # They came while it started.
                process.terminate()
            yield process
        finally:
            self._process = None
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
                await process.stdin.aclose()

    async def _until_changed(self, process: trio.Process, known: Snapshot) -> Snapshot:
        """Wait until files have changed, then end the server; or until a signal has ended it.

        Returns:
            The state of the files.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._wait_ended, process, nursery.cancel_scope)
            path, known = await self._files.wait_changed(known)
            self._say(f"{path} has changed; restarting the server")
            self._restarting = True
            await _end(process)
            nursery.cancel_scope.cancel(reason="the server has ended")
        return known

    async def _wait_ended(self, process: trio.Process, waiting: trio.CancelScope) -> None:
        await process.wait()
        if not (self._restarting or self._stopping.is_set()):
            status = status_of(process)
            self._say(f"the server has ended with status {status}; a change starts it again")
        await self._stopping.wait()
        waiting.cancel(reason="the server has ended")


async def _end(process: trio.Process) -> None:
    """Let a server drain, then cancel its work, then kill it. A checkpoint."""
    for grace in (RESTART_GRACE, CANCEL_GRACE):
        process.terminate()
        with trio.move_on_after(grace):
            await process.wait()
            return
    process.kill()
    await process.wait()


def status_of(process: trio.Process) -> int:
    """Return the exit status as shells report it."""
    code = process.returncode
    assert code is not None
    return code if code >= 0 else 128 - code


async def drain_without_parent() -> None:
    """In the server: raise SIGTERM when the process that restarts it is gone. A checkpoint."""
    async with trio.lowlevel.FdStream(os.dup(STDIN)) as pipe:
        async for _ in pipe:
            pass  # pragma: no cover  # nothing is sent
    signal.raise_signal(signal.SIGTERM)
