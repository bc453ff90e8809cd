"""A neutral load generator for MCP over HTTP: raw HTTP/1.1 over sockets, no client library.

It calls the tool `echo` with a text of 64 bytes that is different in every call, over one
connection or many of them, each with one call at a time, and checks every answer, as JSON or as
server-sent events, with a length or chunked. Each connection has its own session; in the
modern era requests are stateless.

It must be faster than every server. So the sockets are non-blocking, one selector waits for all of
them, and the first answer of a server, checked as JSON, is the template for all others. An answer
that differs from the template is not yet an error: it is parsed and checked. `Sample.busy` is the
share of the time in which the generator did not wait.

    python benchmarks/http_load.py -- python benchmarks/servers/ours_http.py
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Final

from eras import ERAS, LEGACY, TEXT, Era
from http_drive import Drive, Sample, Wire
from http_server import HttpServer
from http_wire import Answer, Malformed, event_messages
from load import FIRST, ServerFailed, Tally
from report import percentile

HELLO: Final = {
    "protocolVersion": LEGACY.revision,
    "capabilities": {},
    "clientInfo": {"name": "load", "version": "1"},
}
INITIALIZED: Final = b'{"jsonrpc":"2.0","method":"notifications/initialized"}'
UNKNOWN: Final = b"%d %d"  # no answer looks like this
SPENT: Final = 1_000  # how many deleted sessions are remembered


class Caller:
    """Calls `echo` repeatedly, in its session if the era has sessions."""

    at_rest: Final = True

    def __init__(self, target: Target, session: bytes) -> None:
        self.count = 0
        self._target = target
        self._session = session
        call = target.era.call
        head = target.post_head(session, len(call % (FIRST, FIRST)))
        self._call = head.replace(b"%", b"%%") + call
        self._number = 0

    def request(self) -> bytes:
        self._number = number = self._target.take_number()
        return self._call % (number, number)

    def take(self, answer: Answer) -> None:
        self.count += 1
        self._target.check(answer, self._number, self._session)


class Churner:
    """Opens a session and deletes it, repeatedly."""

    def __init__(self, target: Target) -> None:
        self.count = 0
        self._target = target
        self._step = 0
        self._session = b""
        self._hello = b""

    @property
    def at_rest(self) -> bool:
        return not self._step

    def request(self) -> bytes:
        target = self._target
        if self._step == 0:
            return target.hello
        if self._step == 1:
            return target.post(self._session, INITIALIZED)
        return target.request(b"DELETE", self._session)

    def take(self, answer: Answer) -> None:
        step, self._step = self._step, (self._step + 1) % 3
        if step == 0:
            self._session = self._target.check_hello(answer)
        elif step == 1:
            self._target.count_if(answer.head.status == 202 and not answer.body)
        else:
            self._target.count_if(answer.head.status in {200, 202, 204})
            self._target.spent.append(self._session)
            self.count += 1


class Target:
    """A server under load, its sessions, and the results of the calls."""

    def __init__(self, port: int, era: Era = LEGACY, *, patience: float = 30) -> None:
        self.port = port
        self.era = era
        self.tally = Tally()
        self.spent: list[bytes] = []
        """Sessions that were deleted."""
        self._patience = patience
        self._sessions: list[bytes] = []
        self._seen: set[bytes] = set()
        self._next = FIRST
        self._template = UNKNOWN
        hello = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": HELLO}
        self.hello = self.post(b"", json.dumps(hello).encode())
        self._hello_template = b""

    # The load

    def calls(self, connections: int, seconds: float) -> Sample:
        """Call over so many connections at once, one call at a time on each."""
        with self._wires(connections) as wires:
            while len(self._sessions) < connections:
                self._sessions.append(self._join(wires[0]))
            callers = [Caller(self, session) for session in self._sessions[:connections]]
            for wire, caller in zip(wires, callers, strict=True):  # to warm up
                request = caller.request()
                caller.take(self._bounded(wire.ask, request))
            return Drive(wires, callers, self.tally).run(seconds, self._patience)

    def churn(self, connections: int, seconds: float) -> Sample:
        """Open and delete sessions over so many connections at once."""
        with self._wires(connections) as wires:
            self.close_session(wires[0], self.open_session(wires[0]))  # to warm up
            churners = [Churner(self) for _ in wires]
            sample = Drive(wires, churners, self.tally).run(seconds, self._patience)
            for session in self.spent[-10:]:
                ping = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
                self.count_if(wires[0].ask(self.post(session, ping)).head.status == 404)
            del self.spent[:-SPENT]
            return sample

    def close(self) -> None:
        """Delete the sessions that `calls` has opened."""
        with self._wires(1) as [wire]:
            while self._sessions:
                if session := self._sessions.pop():
                    self.close_session(wire, session)

    def first_answer(self) -> None:
        """Open a session, if the era has sessions, and call once."""
        with self._wires(1) as [wire]:
            self._join(wire)

    @contextlib.contextmanager
    def _wires(self, count: int) -> Iterator[list[Wire]]:
        wires: list[Wire] = []
        try:
            while len(wires) < count:
                wires.append(Wire(self.port, self._patience))
            yield wires
        finally:
            for wire in wires:
                wire.close()

    def _bounded(self, ask: Callable[[bytes], Answer], request: bytes) -> Answer:
        try:
            return ask(request)
        except (ServerFailed, Malformed, OSError) as error:
            self.tally.missing += 1
            raise ServerFailed(str(error)) from error

    # Sessions

    def _join(self, wire: Wire) -> bytes:
        """Do what a connection needs before its first call.

        Returns:
            the session to call in, empty where there is none.
        """
        session = self.open_session(wire) if self.era.handshake else b""
        if self._template == UNKNOWN:
            self._learn(wire, session)
        return session

    def open_session(self, wire: Wire) -> bytes:
        session = self.check_hello(self._bounded(wire.ask, self.hello))
        if not session:
            raise ServerFailed("no session")
        accepted = self._bounded(wire.ask, self.post(session, INITIALIZED))
        self.count_if(accepted.head.status == 202)
        return session

    def close_session(self, wire: Wire, session: bytes) -> None:
        gone = self._bounded(wire.ask, self.request(b"DELETE", session))
        self.count_if(gone.head.status in {200, 202, 204})

    def _learn(self, wire: Wire, session: bytes) -> None:
        """Make the template from the first answer."""
        number = self.take_number()
        answer = self._bounded(wire.ask, self.post(session, self.era.call % (number, number)))
        self.check(answer, number, session)
        line, *more = bodies(answer) or [b""]
        if more or self.tally.faults:
            raise ServerFailed(f"unexpected answer to tools/call: {answer}")
        template = line.replace(b"%", b"%%").replace(TEXT % number, TEXT)
        self._template = template.replace(b"%d" % number, b"%d")
        if self._template % (number, number) != line:
            raise ServerFailed(f"an answer must hold its id and its text once: {line!r}")

    def open_stream(self, session: bytes) -> Wire:
        """Open a GET stream, and read how it begins."""
        wire = Wire(self.port, self._patience)
        wire.send(self.request(b"GET", session))
        while (head := wire.answers.head) is None:
            if wire.receive() is not None:
                raise ServerFailed("a GET stream ends at once")
        if head.status != 200 or not head.events:
            raise ServerFailed(f"a GET stream begins with {head}")
        return wire

    # Requests

    def post(self, session: bytes, body: bytes) -> bytes:
        return self.post_head(session, len(body)) + body

    def post_head(self, session: bytes, size: int) -> bytes:
        more = b"Content-Type: application/json\r\nContent-Length: %d\r\n" % size
        return self.request(b"POST", session, more)

    def request(self, method: bytes, session: bytes, more: bytes = b"") -> bytes:
        accept = (
            b"text/event-stream" if method == b"GET" else b"application/json, text/event-stream"
        )
        if session:
            more += b"Mcp-Session-Id: %b\r\n" % session
        if session or not self.era.handshake:
            more += self.era.headers
        start = b"%b /mcp HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n" % (method, self.port)
        return start + b"Accept: " + accept + b"\r\n" + more + b"\r\n"

    def take_number(self) -> int:
        number = self._next
        self._next += 1
        return number

    # Answers

    def count_if(self, good: bool) -> None:
        if good:
            self.tally.answers += 1
        else:
            self.tally.wrong += 1

    def check_hello(self, answer: Answer) -> bytes:
        """Check an answer to `initialize`.

        Returns:
            the new session's id, empty if there is none.
        """
        lines = bodies(answer)
        session = answer.head.session
        if lines != [self._hello_template]:
            try:
                [message] = [json.loads(line) for line in lines]
                revision = message["result"]["protocolVersion"]
                good = message["id"] == 0 and revision == self.era.revision
            except (ValueError, LookupError, TypeError):
                good = False
            if not good:
                self.tally.wrong += 1
                return b""
            self._hello_template = lines[0]
        if answer.head.status != 200 or not session:
            self.tally.wrong += 1
            return b""
        if session in self._seen:
            self.tally.crossed += 1
            return b""
        self._seen.add(session)
        self.tally.answers += 1
        return session

    def check(self, answer: Answer, number: int, session: bytes) -> None:
        """Check an answer to a call."""
        head = answer.head
        lines = event_messages(answer.body) if head.events else [answer.body]
        if head.session and head.session != session:
            self.tally.crossed += 1
        elif head.status == 200 and lines == [self._template % (number, number)]:
            self.tally.answers += 1
        else:
            self._judge(answer, lines, number)

    def _judge(self, answer: Answer, lines: list[bytes], number: int) -> None:
        """Parse and check an answer that differs from the template."""
        try:
            messages = [json.loads(line) for line in lines]
        except ValueError:
            self.tally.wrong += 1
            return
        if answer.head.status != 200 or not all(isinstance(it, dict) for it in messages):
            self.tally.wrong += 1
            return
        # The others are requests and notifications of the server.
        results = [message for message in messages if "method" not in message]
        if not results:
            self.tally.missing += 1
            return
        self.tally.doubled += len(results) - 1
        text = self.era.echoed(results[0])
        if text is None or text[:-14] != (TEXT % 0).decode()[:-14]:
            self.tally.wrong += 1
        elif results[0].get("id") != number or text != (TEXT % number).decode():
            self.tally.crossed += 1
        else:
            self.tally.answers += 1


def bodies(answer: Answer) -> list[bytes]:
    """Return the messages of an answer, from JSON or from events."""
    return event_messages(answer.body) if answer.head.events else [answer.body]


def main() -> int:
    parser = argparse.ArgumentParser(description="put load on one server over HTTP")
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--era", choices=ERAS, default=LEGACY.name)
    parser.add_argument("command", nargs="+", help="the server's command line, after --")
    options = parser.parse_args()
    with contextlib.closing(HttpServer(options.command)) as server:
        target = Target(server.port, ERAS[options.era])
        single = target.calls(1, options.seconds)
        used = server.processor_seconds()
        many = target.calls(options.connections, options.seconds)
        used = server.processor_seconds() - used
        churn = target.churn(options.connections, options.seconds) if target.era.handshake else None
        target.close()
    for share in (50, 90, 99, 100):
        print(f"1 connection, p{share:<3}   {percentile(single.latencies, share) * 1e6:.0f} µs")
    each = used / len(many.latencies) * 1e6
    print(f"{options.connections} connections       {many.per_second:,.0f} req/s")
    print(f"  of processor time {each:.0f} µs per call; generator busy {many.busy:.0%}")
    if churn is not None:
        print(f"sessions            {churn.per_second:,.0f} /s; generator busy {churn.busy:.0%}")
    print(f"{target.tally.answers:,} answers: {target.tally}")
    return 1 if target.tally.faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
