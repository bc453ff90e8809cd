"""The three libraries that the same server is written on, and how each of them serves it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Thread, Timer
from typing import Final, final

import attrs
import pytest

from tests.interop.third_party.environments import python_of

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[2]
STDIO: Final = "stdio"
HTTP: Final = "http"
TRANSPORTS: Final = (STDIO, HTTP)
PATIENCE: Final = 30.0
"""Seconds for a server to start, or to end. Only a hang takes as long."""


@final
@attrs.frozen
class Library:
    """A library, and the server that is written on it."""

    server: Path
    """The whole server, in one file. As a program it serves over stdio."""

    over_http: Sequence[str]
    """Arguments of Python that serve it over Streamable HTTP instead, on a free port."""

    requirements: Sequence[str] = ()
    """What its environment has; it is this one if there are none."""

    def python(self, environments: Path) -> str:
        """Return the Python that runs the server."""
        if not self.requirements:
            return sys.executable
        return str(python_of(environments / self.server.stem, self.requirements))

    @contextmanager
    def serving_http(self, environments: Path) -> Iterator[str]:
        """Serve it over Streamable HTTP for the length of a block; its URL.

        Where the block fails, the server is killed.
        """
        command = [self.python(environments), *self.over_http]
        environment = {**os.environ, "PYTHONPATH": str(self.server.parent)}
        with subprocess.Popen(
            command, env=environment, stderr=subprocess.PIPE, encoding="utf-8"
        ) as process:
            assert process.stderr is not None
            # It must not wait for room to write more.
            rest = Thread(target=process.stderr.read)
            try:
                with _killed_after(PATIENCE, process):
                    url = _url_in(process.stderr)
                rest.start()
                yield url
                process.terminate()
                with _killed_after(PATIENCE, process):
                    rest.join()
            finally:
                process.kill()

    def count_lines(self) -> int:
        """Return how many lines of the server are neither blank nor a comment."""
        lines = map(str.strip, self.server.read_text("utf-8").splitlines())
        return sum(bool(line) and not line.startswith("#") for line in lines)


def _url_in(told: Iterable[str]) -> str:
    """Return the URL of the endpoint from what a server says when it has started."""
    lines: list[str] = []
    for line in told:
        lines.append(line)
        if found := re.search(r"http://127\.0\.0\.1:[1-9]\d*", line):
            return f"{found[0]}/mcp"
    pytest.fail("".join(lines))  # pragma: no cover  # where it cannot start


@contextmanager
def _killed_after(seconds: float, process: subprocess.Popen[str]) -> Iterator[None]:
    """Kill a process that hangs."""
    timer = Timer(seconds, process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


OURS: Final = "trio_mcp_session"
MCP: Final = "mcp"
FASTMCP: Final = "fastmcp"

LIBRARIES: Final[Mapping[str, Library]] = {
    OURS: Library(
        ROOT / "examples" / "everything.py",
        ["-m", "trio_mcp_session", "serve", "everything:router", "--http", "127.0.0.1:0"],
    ),
    MCP: Library(
        HERE / "mcp_server.py",
        ["-c", "import mcp_server; mcp_server.server.run('streamable-http', port=0)"],
        ["mcp==2.3.0"],
    ),
    FASTMCP: Library(
        HERE / "fastmcp_server.py",
        ["-c", "import fastmcp_server; fastmcp_server.server.run('http', port=0)"],
        ["fastmcp==4.2.3", "mcp==2.3.0"],
    ),
}
