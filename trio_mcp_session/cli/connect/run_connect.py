"""The command `connect`: its options, its signals and its exit status."""

from __future__ import annotations

import argparse
import shlex
import signal
from collections.abc import AsyncIterator
from contextlib import ExitStack
from math import inf
from pathlib import Path
from typing import Final, Protocol, final

import attrs
import trio

from ...transports.descriptors import open_descriptor_channel
from ...transports.extras import MissingExtra
from ...transports.framed_io import PairedChannel
from ...transports.stdio_guard import GuardedStdio, guard_program_stdio
from ..endings import print_to_stderr
from ..failure import CommandFailed, find_failure
from ..process import prepare_process
from .address import FORMS, ServerAddress, parse_server_address
from .endpoint_client import check_http_client, open_http_client
from .host_ending import HostEnding
from .http_bridge import SERVER_LEFT, BridgeSettings, HttpBridge
from .http_session import HttpSession
from .socket_bridge import SocketBridge
from .starting import Start, Starter

MAX_MESSAGE_SIZE: Final = 16 * 1024 * 1024
"""The default of ``--max-message-size``: four times what this library's servers take."""

GRACE: Final = 10.0
"""The default of ``--drain-grace``, in seconds."""

START_TIMEOUT: Final = 30.0
"""The default of ``--start-timeout``, in seconds."""


class Bridge(Protocol):
    """What carries messages between the host and the server."""

    async def run(self) -> HostEnding:
        """Carry messages, until one of the two has left."""
        ...

    def stop(self) -> None:
        """End it soon. Not a checkpoint."""
        ...


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "address",
        type=parse_server_address,
        metavar="ADDRESS",
        help=f"where the server is: {FORMS}",
    )
    parser.add_argument(
        "--token-file",
        metavar="PATH",
        help="a file with the bearer token for an address of HTTP",
    )
    parser.add_argument(
        "--drain-grace",
        type=_seconds,
        default=GRACE,
        metavar="SECONDS",
        help="how long the server may still answer after the host has closed standard input "
        f"(default: {GRACE:g})",
    )
    parser.add_argument(
        "--max-message-size",
        type=_size,
        default=MAX_MESSAGE_SIZE,
        metavar="BYTES",
        help=f"the largest message, for an address of HTTP (default: {MAX_MESSAGE_SIZE})",
    )
    start = parser.add_argument_group("start of the server", "if nothing listens at the address")
    start.add_argument(
        "--start",
        type=_command,
        metavar="COMMAND",
        help="start the server with this command, once for all that connect at the same time; it "
        "continues when this program ends (see --end-when-unused of serve). No shell: write "
        "sh -c '...' for one",
    )
    start.add_argument(
        "--start-timeout",
        type=_seconds,
        default=START_TIMEOUT,
        metavar="SECONDS",
        help=f"how long the server may take until it listens (default: {START_TIMEOUT:g})",
    )
    start.add_argument(
        "--start-log",
        metavar="PATH",
        help="the file that the standard error of the server is appended to (default: none)",
    )


def _seconds(text: str) -> float:
    with_number = argparse.ArgumentTypeError(f"must be a number of seconds, not {text!r}")
    try:
        seconds = float(text)
    except ValueError:
        raise with_number from None
    if not 0 <= seconds <= inf:
        raise with_number
    return seconds


def _size(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"must be a number of bytes, not {text!r}")
    return int(text)


def _command(text: str) -> list[str]:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}: {text!r}") from error
    if not words:
        raise argparse.ArgumentTypeError("must be a command, not empty")
    return words


def run(options: argparse.Namespace) -> int:
    """Carry messages until the host or the server leaves, or a signal comes; return the status.

    Raises:
        CommandFailed: The server cannot be reached or has left, or the host is not there.
    """
    address: ServerAddress = options.address
    if options.token_file is not None and address.url is None:
        raise CommandFailed("--token-file is for an address of HTTP", status=2)
    if options.start_log is not None and options.start is None:
        raise CommandFailed("--start-log is for --start", status=2)
    if address.url is not None:
        try:
            check_http_client()
        except MissingExtra as error:
            raise CommandFailed(str(error)) from error
    token = None if options.token_file is None else _read_token(options.token_file)
    prepare_process(stdio=True)
    with ExitStack() as guard:
        try:
            stdio = guard.enter_context(guard_program_stdio())
        except OSError as error:
            why = f"connect needs standard input and output: {error.strerror}"
            raise CommandFailed(why) from error
        try:
            return trio.run(_run, options, token, stdio)
        except BaseExceptionGroup as group:
            failure = find_failure(group)
            if failure is None:
                raise
            raise failure from failure.__cause__


def _read_token(path: str) -> str:
    """Return the token in a file. No error shows it."""
    try:
        token = Path(path).read_text("ascii").strip()
    except OSError as error:
        raise CommandFailed(f"--token-file: cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        token = ""
    if not token or not token.isprintable() or " " in token:
        raise CommandFailed(f"--token-file: {path} must have one token of printable ASCII")
    return token


async def _run(options: argparse.Namespace, token: str | None, stdio: GuardedStdio) -> int:
    read_fd, write_fd = stdio.take()
    channel = open_descriptor_channel(read_fd, write_fd, options.max_message_size)
    with trio.open_signal_receiver(*_signals()) as signals:
        async with channel, trio.open_nursery() as nursery:
            starting = trio.CancelScope()
            stop = _Stop(starting, nursery.cancel_scope)
            nursery.start_soon(stop.wait, signals)
            with starting:
                await _connect(options, token, channel, nursery, stop)
            nursery.cancel_scope.cancel(reason="the bridge has ended")
        return stop.status


async def _connect(
    options: argparse.Namespace,
    token: str | None,
    channel: PairedChannel,
    nursery: trio.Nursery,
    stop: _Stop,
) -> None:
    address: ServerAddress = options.address
    starter = Starter(str(address), _start(options), nursery)
    if address.url is None:
        server = await starter.reach(address.connect)
        async with server:
            await _carry(SocketBridge(channel, server, options.drain_grace), stop)
        return
    async with open_http_client(address, token) as client:
        if options.start is not None:
            await starter.reach(address.probe)

        async def restart() -> bool:
            if options.start is None:
                return False
            try:
                await starter.reach(address.probe)
            except CommandFailed as failed:
                _say(str(failed))
                return False
            return True

        settings = BridgeSettings(
            max_message_size=options.max_message_size, grace=options.drain_grace
        )
        await _carry(HttpBridge(channel, HttpSession(client, restart), settings, _say), stop)


async def _carry(bridge: Bridge, stop: _Stop) -> None:
    stop.attach(bridge)
    ending = await bridge.run()
    if stop.requested:
        return
    if not ending.host_left:
        raise CommandFailed("the server has closed the connection", status=SERVER_LEFT)
    if ending.scope.deadline <= trio.current_time():
        _say("the host has left; the server did not finish within --drain-grace")


def _start(options: argparse.Namespace) -> Start | None:
    if options.start is None:
        return None
    return Start(
        command=options.start,
        lock_path=options.address.lock_path,
        timeout=options.start_timeout,
        log=options.start_log,
    )


def _say(line: str) -> None:
    print_to_stderr(f"trio_mcp_session: {line}")


def _signals() -> list[int]:
    """Return the signals that end the bridge; not SIGHUP if it is ignored, as ``nohup`` does."""
    hangup = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    return [signal.SIGTERM, signal.SIGINT, *([signal.SIGHUP] if hangup else [])]


@final
@attrs.define(eq=False)
class _Stop:
    """Ends the bridge at the first signal, and all that it still does at the second."""

    _starting: trio.CancelScope
    _everything: trio.CancelScope
    _bridge: Bridge | None = attrs.field(default=None, init=False)
    requested: bool = attrs.field(default=False, init=False)
    status: int = attrs.field(default=0, init=False)

    def attach(self, bridge: Bridge) -> None:
        """Let signals end a bridge from now on."""
        self._bridge = bridge
        if self.requested:
            bridge.stop()

    async def wait(self, signals: AsyncIterator[int]) -> None:
        """Wait for signals, until cancelled."""
        async for number in signals:
            if not self.requested:
                self.requested = True
                if self._bridge is None:
                    self._starting.cancel(reason="asked to stop by a signal")
                else:
                    self._bridge.stop()
            elif number != signal.SIGHUP:  # A terminal that closes sends it several times.
                self.status = 128 + number
                self._everything.cancel(reason="asked to stop by a second signal")
