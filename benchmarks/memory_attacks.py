"""Clients that try to fill the memory of a server: what each sends, and what the server holds.

    python benchmarks/memory_attacks.py

A new server process is attacked over loopback in each way, while a client at another address calls
a tool. README.md explains the table. The exit status is 1 where the memory grows by more than twice
the budget of one address.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, Self

import trio
from processes import processor_seconds, resident_bytes, wait_quiet
from report import table

from trio_mcp_session import RequestContext, Router, open_session_manager, serve_http

MIB: Final = 2**20
ATTACKER: Final = "127.0.0.2"
GOOD: Final = "127.0.0.3"
BUDGET: Final = 64 * MIB
"""`SessionLimits.max_party_bytes`: all attackers have one address."""
VERSION: Final = "2025-11-25"
PATIENCE: Final = 60.0
QUIET: Final = 0.15
"""Seconds of processor time within one second that the good client takes, and a little more."""


# The server.


async def serve() -> None:
    router = Router(name="attacked", version="1.0")

    @router.tool()
    async def echo(ctx: RequestContext, text: str) -> str:
        """Return the text."""
        return text

    @router.tool()
    async def hold(ctx: RequestContext, data: list[Any]) -> str:
        """Keep the arguments for some time."""
        await trio.sleep(PATIENCE)
        return str(len(data))

    @router.tool()
    async def ask(ctx: RequestContext, data: list[Any]) -> str:
        """Ask the client something, which parks the handler."""
        await ctx._request.ask("roots/list")
        return str(len(data))

    @router.tool()
    async def fill(ctx: RequestContext, size: int) -> str:
        """Send log messages of that many bytes, which are kept for a client that resumes."""
        for _ in range(size // 10_000):
            await ctx.log("error", "x" * 10_000)
        return "filled"

    async with open_session_manager(router) as manager, trio.open_nursery() as nursery:
        (address,) = await nursery.start(serve_http, manager, "127.0.0.1:0")
        print(re.findall(r":(\d+)", str(address))[-1], flush=True)


# Clients, without the library.


class Client:
    """One connection from one address."""

    def __init__(self, port: int, address: str) -> None:
        self.http = http.client.HTTPConnection(
            "127.0.0.1", port, timeout=PATIENCE, source_address=(address, 0)
        )
        self.session: dict[str, str] = {}

    def post(self, message: dict[str, Any] | bytes, **headers: str) -> tuple[int, bytes]:
        body = message if isinstance(message, bytes) else json.dumps(message).encode()
        self.http.request("POST", "/mcp", body, {**HEADERS, **self.session, **headers})
        answer = self.http.getresponse()
        name = answer.getheader("mcp-session-id")
        if name is not None:
            self.session = {"Mcp-Session-Id": name, "MCP-Protocol-Version": VERSION}
        return answer.status, answer.read()

    def open(self) -> None:
        status, _ = self.post(initialize({}))
        assert status == 200, status
        self.post({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def send(self, data: bytes) -> socket.socket:
        """Send bytes on a connection of its own, and read nothing."""
        self.http.connect()
        assert self.http.sock is not None
        self.http.sock.settimeout(10)
        with suppress(OSError):  # The server may have answered already, and closed it.
            self.http.sock.sendall(data)
        return self.http.sock


HEADERS: Final = {
    "Content-Type": "application/json",
    "Accept": "application/json, text/event-stream",
}


def initialize(capabilities: object) -> dict[str, Any]:
    params = {
        "protocolVersion": VERSION,
        "capabilities": capabilities,
        "clientInfo": {"name": "attack", "version": "1"},
    }
    return {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}


def call(name: str, number: int, size: int) -> bytes:
    """Encode a call whose argument is a list of empty objects."""
    head = b'{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"%b",' % (
        number,
        name.encode(),
    )
    return head + b'"arguments":{"data":[%b{}]}}}' % (b"{}," * (size // 3))


def raw(body: bytes, headers: dict[str, str], *, length: int | None = None) -> bytes:
    lines = [f"{name}: {value}\r\n" for name, value in {**HEADERS, **headers}.items()]
    head = "POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\n" + "".join(lines)
    return f"{head}Content-Length: {length or len(body)}\r\n\r\n".encode() + body


# Attacks: each returns how many bytes it sent, and what keeps its connections open.

Attack = Callable[[int], tuple[int, object]]


def large_initialize(port: int) -> tuple[int, object]:
    """20 ``initialize`` of 3.8 MiB."""
    kept = [Client(port, ATTACKER) for _ in range(20)]
    body = json.dumps(initialize({"x": [{}]})).encode()
    body = body.replace(b"[{}]", b"[%b{}]" % (b"{}," * int(3.8 * MIB / 3)))
    for client in kept:
        with suppress(OSError):
            client.post(body)
    return len(body) * len(kept), kept


def many_requests(port: int) -> tuple[int, object]:
    """320 requests of 140 KiB in one session."""
    first = Client(port, ATTACKER)
    first.open()
    kept: list[object] = [first]
    sent = 0
    for number in range(320):
        body = call("hold", number, 140_000)
        kept.append(Client(port, ATTACKER).send(raw(body, first.session)))
        sent += len(body)
    return sent, kept


def parked_handlers(port: int) -> tuple[int, object]:
    """320 handlers that wait for a retry, with 140 KiB of arguments."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {"roots": {}},
    }
    headers = {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": "ask"}
    client = Client(port, ATTACKER)
    sent = 0
    for number in range(320):
        body = call("ask", number, 140_000)
        body = body.replace(b'"params":{', b'"params":{"_meta":%b,' % json.dumps(meta).encode())
        client.post(body, **headers)
        sent += len(body)
    return sent, client


def resumed_streams(port: int) -> tuple[int, object]:
    """384 streams that are resumed in three sessions, and not read."""
    kept: list[object] = []
    sent = 0
    for _ in range(3):
        client = Client(port, ATTACKER)
        client.open()
        client.post(
            {
                "jsonrpc": "2.0",
                "id": 1,
                "method": "logging/setLevel",
                "params": {"level": "debug"},
            }
        )
        params = {"name": "fill", "arguments": {"size": 900_000}}
        message = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params}
        _, stream = client.post(message)
        event = re.findall(rb"id: (\S+)", stream)[0].decode()
        headers = {**client.session, "Last-Event-ID": event, "Accept": "text/event-stream"}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        request = f"GET /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\n{lines}\r\n".encode()
        for _ in range(128):
            kept.append(Client(port, ATTACKER).send(request))
            sent += len(request)
        kept.append(client)
    return sent, kept


def unfinished_bodies(port: int) -> tuple[int, object]:
    """150 bodies of 4 MiB, without their last byte."""
    body = b" " * (4 * MIB - 1)
    request = raw(body, {}, length=4 * MIB)
    return 150 * len(body), [Client(port, ATTACKER).send(request) for _ in range(150)]


def small_chunks(port: int) -> tuple[int, object]:
    """A body of 500,000 chunks of one byte."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())
    head = f"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\n{lines}Transfer-Encoding: chunked\r\n\r\n"
    request = head.encode() + b"1\r\n \r\n" * 500_000
    return len(request), Client(port, ATTACKER).send(request)


def unread_answers(port: int) -> tuple[int, object]:
    """300 calls with answers of 1 MiB, which are not read."""
    first = Client(port, ATTACKER)
    first.open()
    params = {"name": "echo", "arguments": {"text": "x" * MIB}}
    message = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params}
    body = json.dumps(message).encode()
    kept: list[object] = [first]
    kept += [Client(port, ATTACKER).send(raw(body, first.session)) for _ in range(300)]
    return 300 * len(body), kept


ATTACKS: Final[tuple[Attack, ...]] = (
    large_initialize,
    many_requests,
    parked_handlers,
    resumed_streams,
    unfinished_bodies,
    small_chunks,
    unread_answers,
)


# Measuring.


class Watch:
    """A thread that looks at the memory of a process."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.top = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def now(self) -> int:
        return resident_bytes(self._pid)

    def _run(self) -> None:
        while not self._over.wait(0.01):
            self.top = max(self.top, self.now())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


class GoodClient:
    """A thread that calls a tool, one call at a time, with a pause in between."""

    def __init__(self, port: int) -> None:
        self._client = Client(port, GOOD)
        self._client.open()
        self.times: list[float] = []
        self.failed = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        params = {"name": "echo", "arguments": {"text": "hello"}}
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        while not self._over.wait(0.02):
            start = time.perf_counter()
            try:
                status, body = self._client.post(message)
                self.failed += status != 200 or b"hello" not in body
            except (OSError, http.client.HTTPException):
                self.failed += 1
            self.times.append(time.perf_counter() - start)

    def take(self) -> float:
        """Return the median of the calls since the last time, in milliseconds."""
        times, self.times = self.times, []
        return statistics.median(times) * 1000 if times else float("nan")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


@contextmanager
def server() -> Iterator[tuple[int, int]]:
    """Run a server; yield its process and its port."""
    command = [sys.executable, __file__, "--serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            assert process.stdout is not None
            yield process.pid, int(process.stdout.readline())
        finally:
            process.kill()


def measure(attack: Attack) -> tuple[list[str], bool]:
    with server() as (pid, port), Watch(pid) as watch, GoodClient(port) as good:
        time.sleep(1)
        alone, before, busy = good.take(), watch.now(), processor_seconds(pid)
        watch.top = before
        sent, kept = attack(port)
        wait_quiet(pid, QUIET)
        beside, top, busy = good.take(), watch.top, processor_seconds(pid) - busy
        del kept
        time.sleep(3)
        after, failed = watch.now(), good.failed
    held = top - before <= 2 * BUDGET
    row = [
        (attack.__doc__ or "").rstrip("."),
        *(f"{size / MIB:,.0f}" for size in (sent, before, top, after)),
        f"{busy:.1f}",
        f"{alone:.1f}",
        f"{beside:.1f}",
        str(failed),
        "yes" if held else "NO",
    ]
    return row, held and not failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--only", help="the name of one attack")
    options = parser.parse_args()
    if options.serve:
        trio.run(serve)
        return 0
    chosen = [one for one in ATTACKS if options.only in (None, one.__name__)]
    results = [measure(attack) for attack in chosen]
    header = [
        "attack",
        "sent MiB",
        "before",
        "top",
        "after",
        "busy s",
        "p50 ms",
        "beside",
        "failed",
        "held",
    ]
    print(table(header, [row for row, _ in results]))
    return 0 if all(held for _, held in results) else 1


if __name__ == "__main__":
    sys.exit(main())
