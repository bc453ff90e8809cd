"""Load over sockets: non-blocking, one selector for all of them, one request at a time on each."""

from __future__ import annotations

import contextlib
import selectors
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter_ns, process_time
from typing import Final, NoReturn, Protocol

from http_wire import Answer, Answers, Malformed
from load import ServerFailed, Tally

CHUNK: Final = 1 << 16


@dataclass
class Sample:
    """The result of a slice of load."""

    latencies: list[float] = field(default_factory=list)
    """Seconds from before a request was sent to after its answer was read."""
    count: int = 0
    """Calls, or sessions, that were done with in time."""
    seconds: float = 0
    busy: float = 0
    """The share of the time in which the generator used the processor."""

    @property
    def per_second(self) -> float:
        return self.count / self.seconds


class Wire:
    """One keep-alive connection: a whole request out, a whole answer in."""

    def __init__(self, port: int, patience: float) -> None:
        self.began = 0
        self._address = ("127.0.0.1", port)
        self._patience = patience
        self.connect()

    def connect(self) -> None:
        self.socket = socket.create_connection(self._address, self._patience)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.answers = Answers()

    def close(self) -> None:
        self.socket.close()

    def send(self, request: bytes) -> None:
        # Between two requests the socket's buffer is empty: a whole request fits.
        if self.socket.send(request) != len(request):
            raise ServerFailed("a request did not fit into the socket")

    def ask_soon(self, script: Script) -> None:
        request = script.request()
        self.began = perf_counter_ns()
        self.send(request)

    def receive(self) -> Answer | None:
        """Read once; return an answer if that completes one."""
        chunk = self.socket.recv(CHUNK)
        if not chunk:
            raise ServerFailed("the server closed a connection that waits for an answer")
        return self.answers.feed(chunk)

    def ask(self, request: bytes) -> Answer:
        """Send a request and block until its answer or the timeout. Not for measured requests."""
        self.socket.settimeout(self._patience)
        self.send(request)
        while (answer := self.receive()) is None:
            pass
        if answer.head.closes:
            self.close()
            self.connect()
        return answer


class Script(Protocol):
    """The requests of one connection."""

    count: int
    """How often it came to its end."""

    @property
    def at_rest(self) -> bool:
        """Whether it can stop here."""

    def request(self) -> bytes: ...
    def take(self, answer: Answer) -> None: ...


class Drive:
    """Runs each script on its connection, for some time."""

    def __init__(self, wires: Sequence[Wire], scripts: Sequence[Script], tally: Tally) -> None:
        self._wires = wires
        self._scripts = scripts
        self._tally = tally
        self._flying = 0
        self._end = 0

    def run(self, seconds: float, patience: float) -> Sample:
        """Run for that long, then wait for the last answers, which are not counted."""
        sample = Sample()
        self._flying = len(self._wires)
        with selectors.DefaultSelector() as selector:
            for wire, script in zip(self._wires, self._scripts, strict=True):
                wire.socket.setblocking(False)
                selector.register(wire.socket, selectors.EVENT_READ, (wire, script))
            used = process_time()
            began = perf_counter_ns()
            self._end = began + int(seconds * 1e9)
            try:
                for wire, script in zip(self._wires, self._scripts, strict=True):
                    wire.ask_soon(script)
                while self._flying:
                    ready = selector.select(patience)
                    if not ready:
                        raise_late(patience)
                    now = self._turn(selector, ready, sample.latencies)
                    if now >= self._end and not sample.seconds:
                        sample.seconds = (now - began) / 1e9
                        sample.count = sum(it.count for it in self._scripts)
                        sample.busy = (process_time() - used) / sample.seconds
            except (ServerFailed, Malformed, OSError) as error:
                self._tally.missing += self._flying
                raise ServerFailed(str(error)) from error
        for wire in self._wires:
            self._expect_silence(wire)
        return sample

    def _turn(
        self,
        selector: selectors.BaseSelector,
        ready: list[tuple[selectors.SelectorKey, int]],
        latencies: list[float],
    ) -> int:
        """Read what has arrived, and send the next requests."""
        now = 0
        for key, _ in ready:
            wire, script = key.data
            answer = wire.receive()
            now = perf_counter_ns()
            if answer is None:
                continue
            latencies.append((now - wire.began) / 1e9)
            script.take(answer)
            if answer.head.closes or wire.answers.rest:
                self._tally.doubled += bool(wire.answers.rest)
                selector.unregister(wire.socket)
                wire.close()
                wire.connect()
                wire.socket.setblocking(False)
                selector.register(wire.socket, selectors.EVENT_READ, key.data)
            if now < self._end or not script.at_rest:
                wire.ask_soon(script)
            else:
                self._flying -= 1
        return now

    def _expect_silence(self, wire: Wire) -> None:
        """Check that nothing follows the last answer."""
        with contextlib.suppress(BlockingIOError, ConnectionError):
            self._tally.doubled += bool(wire.socket.recv(CHUNK))


def raise_late(patience: float) -> NoReturn:
    raise ServerFailed(f"no answer within {patience:g} s")
