"""`serve --workers`: several processes on one machine, each at an address of its own.

::

    this process                 has the sockets, starts the processes, passes signals on
     ├ n1, a child process       serves the first address of --http
     ├ n2, a child process       serves the next one
     └ ...

A proxy in front of them sends each request to the process that it names (`proxy_config.py`). This
process has the sockets of all of them: while one is replaced, its clients wait to be accepted.

Each child is in a process group of its own, so that Ctrl-C reaches this process only, which sends
SIGTERM for every signal. The child's standard input is a pipe: when this process is gone, the child
drains.
"""

from __future__ import annotations

import argparse
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from typing import Any, Final, final

import attrs
import trio

from ..core.node import LABEL
from ..core.signing_keys import KEY_BYTES
from ..transports.http1.listeners import open_listeners
from ..transports.unix_sockets import UnixSocketAccess
from .failure import CommandFailed
from .proxy_config import PROXIES
from .reload import HANGUP, SIGNALS, TERMINATED, status_of

DEFAULT_LABEL: Final = "n"
"""The labels are ``n1``, ``n2`` and so on. With ``--node web`` they are ``web-1``, ``web-2``."""

NODE: Final = "{node}"
"""Stands for the label in the path of a Unix socket."""

STEADY: Final = 10.0
"""Seconds after which a process that ends is replaced at once: it does not end at its start."""

FIRST_DELAY: Final = 0.5
"""Seconds before one that lived shorter is replaced; doubled each time, up to the longest delay."""

LONGEST_DELAY: Final = 30.0

MAX_PORT: Final = 0xFFFF


@attrs.frozen
class Worker:
    """What one of the processes is told by the process that has started it."""

    index: int
    """Its place among them, from 0."""

    ready: int
    """A descriptor that it writes to, and closes, when it serves."""

    keys: int | None
    """The descriptor of a file with the keys for ``requestState``; None if a file is named."""

    sockets: tuple[int, ...]
    """The descriptors of the sockets that it serves."""

    @classmethod
    def parse(cls, text: str) -> Worker:
        """Read what `str` has written."""
        index, ready, keys, sockets = text.split(":")
        return cls(
            int(index),
            int(ready),
            int(keys) if keys else None,
            tuple(map(int, sockets.split(","))),
        )

    def __str__(self) -> str:
        keys = "" if self.keys is None else self.keys
        return f"{self.index}:{self.ready}:{keys}:{','.join(map(str, self.sockets))}"

    def tell_ready(self) -> None:
        """Tell the other process that this one serves. Not a checkpoint."""
        os.write(self.ready, b"\n")
        os.close(self.ready)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options, beside those of `nodes.py`."""
    parser.add_argument(
        "--workers",
        type=parse_number,
        metavar="N",
        help="serve with N processes: the first one at the address of --http, each other one at "
        "the next port; for a Unix socket {node} in its path stands for the label. One that ends "
        "is replaced. A proxy has to send each request to the process that it names: see "
        "--print-proxy",
    )
    parser.add_argument(
        "--print-proxy",
        choices=sorted(PROXIES),
        help="print the configuration of a proxy for the processes of --workers, and exit",
    )
    # What such a process is told.
    parser.add_argument("--worker", type=Worker.parse, help=argparse.SUPPRESS)


def parse_number(text: str) -> int:
    """Read the number of processes."""
    if text.isascii() and text.isdigit() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")


def check_options(options: argparse.Namespace) -> None:
    """Refuse options that several processes cannot have, or that have no effect.

    Raises:
        CommandFailed: There is such an option, or the address of a process cannot be told.
    """
    if options.workers is None:
        if options.print_proxy is not None:
            raise CommandFailed("--print-proxy needs --workers", status=2)
        return
    others = ("stdio", "tcp", "unix", "reload", "watch", "reuse_port", "end_when_unused")
    for name in others:
        if getattr(options, name):
            flag = name.replace("_", "-")
            raise CommandFailed(f"--workers is for --http, without --{flag}", status=2)
    for index in range(options.workers):
        label = label_of(options, index)
        if LABEL.fullmatch(label) is None:
            raise CommandFailed(f"--node {options.node} is too long for {label}", status=2)
        for address in options.http:
            address_of(address, index, label)
    if options.print_proxy is not None:
        _check_proxy(options)


def _check_proxy(options: argparse.Namespace) -> None:
    (first, *others) = options.http
    if others:
        raise CommandFailed("--print-proxy needs one --http, not several", status=2)
    if not isinstance(first, str) and first.port == 0:
        raise CommandFailed("--print-proxy needs a port in --http: 0 is a free one", status=2)
    if options.tls_cert is not None:
        raise CommandFailed("--print-proxy is for processes without --tls-cert", status=2)


def label_of(options: argparse.Namespace, index: int) -> str:
    """Return the label of a process."""
    base = DEFAULT_LABEL if options.node is None else f"{options.node}-"
    return f"{base}{index + 1}"


def address_of(address: Any, index: int, label: str) -> str:
    """Return the address that a process serves for an address of ``--http``.

    Raises:
        CommandFailed: It would be the same for all, or its port would be too large.
    """
    if isinstance(address, str):
        if NODE not in address:
            raise CommandFailed(
                f"with --workers, --http {address} needs {NODE} in the path: each process has a "
                "socket of its own",
                status=2,
            )
        return address.replace(NODE, label)
    return str(_next_port(address, index, "--http"))


def _next_port(address: Any, index: int, option: str) -> Any:
    port = address.port + index if address.port else 0
    if port > MAX_PORT:
        raise CommandFailed(f"{option} {address}: there are not enough ports behind it", status=2)
    return attrs.evolve(address, port=port)


def proxy_config(options: argparse.Namespace) -> str:
    """Return the configuration that ``--print-proxy`` asks for."""
    (address,) = options.http
    labels = [label_of(options, index) for index in range(options.workers)]
    nodes = {label: address_of(address, index, label) for index, label in enumerate(labels)}
    return PROXIES[options.print_proxy](nodes)


def become_worker(options: argparse.Namespace, worker: Worker) -> None:
    """Change the options to those of one process."""
    options.node = label_of(options, worker.index)
    options.http = [f"fd:{number}" for number in worker.sockets]
    if worker.keys is not None:
        options.request_state_key_file = f"fd:{worker.keys}"
    if options.admin is not None:
        options.admin = _next_port(options.admin, worker.index, "--admin")


def run(options: argparse.Namespace) -> int:
    """Serve until a signal has ended all processes; return the exit status.

    Raises:
        CommandFailed: An address cannot be listened on.
    """
    with _shared_keys(options) as keys:
        return trio.run(_run, options, keys)


@contextmanager
def _shared_keys(options: argparse.Namespace) -> Iterator[int | None]:
    """Make keys for all processes, in a file without a name; None if the options name a file."""
    if options.request_state_key_file is not None:
        yield None
        return
    with tempfile.TemporaryFile() as file:
        file.write(secrets.token_hex(KEY_BYTES).encode())
        file.flush()
        yield file.fileno()


async def _run(options: argparse.Namespace, keys: int | None) -> int:
    say = partial(print, "trio_mcp_session:", file=sys.stderr, flush=True)
    async with AsyncExitStack() as stack:
        seats = [await _seat(options, index, keys, stack) for index in range(options.workers)]
        return await Supervisor(seats, say).run()


async def _seat(
    options: argparse.Namespace, index: int, keys: int | None, stack: AsyncExitStack
) -> Seat:
    """Listen for one process, until the stack is left."""
    label = label_of(options, index)
    addresses = [address_of(one, index, label) for one in options.http]
    owner, group = options.unix_owner
    access = UnixSocketAccess(mode=options.unix_mode, owner=owner, group=group)
    try:
        listeners = await stack.enter_async_context(open_listeners(addresses, unix_access=access))
    except OSError as error:
        where = ", ".join(addresses)
        raise CommandFailed(f"cannot listen on http {where}: {error.strerror or error}") from error
    sockets = tuple(listener.socket.fileno() for listener in listeners)
    return Seat(label, index, keys, sockets, options.command_line)


@final
@attrs.frozen(eq=False)
class Seat:
    """The place of one process: its label and its sockets, which outlive it."""

    label: str
    index: int
    keys: int | None
    sockets: tuple[int, ...]
    command_line: Sequence[str]

    @asynccontextmanager
    async def process(self) -> AsyncIterator[tuple[trio.Process, trio.lowlevel.FdStream]]:
        """Start a process, and leave nothing of it behind.

        Returns:
            The process, and a stream of what it writes when it serves.
        """
        reading, writing = os.pipe()
        async with trio.lowlevel.FdStream(reading) as told:
            try:
                worker = Worker(self.index, writing, self.keys, self.sockets)
                command, *rest = self.command_line
                inherited = (*self.sockets, writing, *(() if self.keys is None else (self.keys,)))
                process = await trio.lowlevel.open_process(
                    [
                        sys.executable,
                        "-m",
                        "trio_mcp_session",
                        command,
                        f"--worker={worker}",
                        *rest,
                    ],
                    stdin=subprocess.PIPE,
                    pass_fds=inherited,
                    process_group=0,
                )
            finally:
                os.close(writing)
            assert process.stdin is not None
            try:
                yield process, told
            finally:
                process.kill()
                with trio.CancelScope(shield=True):
                    await process.wait()
                    await process.stdin.aclose()


@final
@attrs.define(eq=False)
class Supervisor:
    """Runs a process at each seat, and replaces those that end.

    Args:
        seats: Where they are.
        say: Called with what the user should know.
    """

    _seats: Sequence[Seat]
    _say: Callable[[str], object]
    _received: list[int] = attrs.field(factory=list[int], init=False)
    _stopping: trio.Event = attrs.field(factory=trio.Event, init=False)
    _running: dict[str, trio.Process] = attrs.field(factory=dict[str, trio.Process], init=False)
    _statuses: dict[str, int] = attrs.field(factory=dict[str, int], init=False)

    async def run(self) -> int:
        """Run them until a signal has ended them; return the exit status, of the first that failed.

        A checkpoint. When cancelled, they are killed. For the main thread.
        """
        with trio.open_signal_receiver(*SIGNALS) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._pass_on, signals)
                async with trio.open_nursery() as seats:
                    for seat in self._seats:
                        seats.start_soon(self._keep_running, seat)
                nursery.cancel_scope.cancel(reason="all processes have ended")
        return next((status for _, status in sorted(self._statuses.items()) if status), 0)

    async def _pass_on(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            if number != HANGUP or not self._received:
                self._stop(number)

    def _stop(self, number: int) -> None:
        self._received.append(number)
        self._stopping.set()
        for process in self._running.values():
            process.terminate()

    async def _keep_running(self, seat: Seat) -> None:
        """Run a process, and another one when it has ended, until a signal ends all."""
        delay, has_served = 0.0, False
        while not self._stopping.is_set():
            began = trio.current_time()
            async with seat.process() as (process, told):
                self._running[seat.label] = process
                for _ in self._received:  # They came while it started.
                    process.terminate()
                try:
                    if await told.receive_some(1):
                        has_served = True
                        self._say(f"node {seat.label} is process {process.pid}")
                    await process.wait()
                finally:
                    del self._running[seat.label]
            status = status_of(process)
            if self._stopping.is_set():
                self._statuses[seat.label] = self._status_after_signals(status)
                return
            what = f"node {seat.label} (process {process.pid}) has ended with status {status}"
            if not has_served:
                # The others serve the same application, with the same options.
                self._say(f"{what}, and has never served; ending")
                self._statuses[seat.label] = status or 1
                self._stop(SIGNALS[0])
                return
            is_steady = trio.current_time() - began >= STEADY
            delay = 0.0 if is_steady else min(max(FIRST_DELAY, 2 * delay), LONGEST_DELAY)
            self._say(f"{what}; starting it again" + (f" in {delay:g} s" if delay else ""))
            with trio.move_on_after(delay):
                await self._stopping.wait()

    def _status_after_signals(self, status: int) -> int:
        if status != TERMINATED:
            return status
        # After one signal it had not begun to serve, so that it had nothing to drain.
        return 0 if len(self._received) == 1 else 128 + self._received[-1]
