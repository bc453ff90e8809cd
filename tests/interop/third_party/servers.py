"""The server, in a process of its own, at a port that it keeps when it is started again."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, final

import attrs

SERVER: Final = [sys.executable, str(Path(__file__).parent / "server.py")]
PATIENCE: Final = 20.0
PREFIX: Final = "io.modelcontextprotocol/"
ENVELOPE: Final = {f"{PREFIX}protocolVersion": "2026-07-28", f"{PREFIX}clientCapabilities": {}}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@final
@attrs.define(eq=False)
class HttpServer:
    """The server over HTTP."""

    idle: float = 1800.0
    port: int = attrs.field(factory=free_port)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"

    def start(self) -> None:
        command = [*SERVER, "--http", str(self.port), "--idle", str(self.idle)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, bufsize=0
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline().decode().strip() == self.url

    def stop(self) -> int:
        """Ask it to end.

        Returns:
            its exit status.
        """
        assert self._process is not None
        with self._process as process:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                return process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                raise

    def count_sessions(self) -> int:
        """Return how many sessions it has; asked without one."""
        params = {"name": "sessions", "arguments": {}, "_meta": ENVELOPE}
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        headers = {
            "Accept": "application/json, text/event-stream",
            "Content-Type": "application/json",
            "Mcp-Protocol-Version": "2026-07-28",
            "Mcp-Method": "tools/call",
            "Mcp-Name": "sessions",
        }
        body = json.dumps(message).encode()
        request = urllib.request.Request(self.url, body, headers)  # noqa: S310  # it is http
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:  # noqa: S310
            text: str = json.load(answer)["result"]["content"][0]["text"]
            return int(text.partition(" of ")[0])

    def await_sessions(self, count: int) -> None:
        """Wait until it has so many sessions: clocks of the server end them."""
        end = time.monotonic() + PATIENCE
        while (found := self.count_sessions()) != count:
            assert time.monotonic() < end, f"{found} sessions are left"
            time.sleep(0.1)


@contextmanager
def http_server(idle: float = 1800.0) -> Iterator[HttpServer]:
    server = HttpServer(idle)
    server.start()
    try:
        yield server
    finally:
        assert server.stop() == 0
