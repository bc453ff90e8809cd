"""The official Python client (`mcp`, legacy mode), on asyncio and on Trio."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from tests.interop.cells import HTTP_SERVERS, cells_of, checks_of
from tests.interop.python_bench import HttpBench, StdioBench
from tests.interop.python_checks import COMMON, STDIO
from tests.interop.python_http_checks import HTTP

pytestmark = [
    pytest.mark.interop,
    # The client deprecates what the modern revision removed: ping, logging, roots.
    pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning"),
    # It leaves the streams that it reads as they are, which Trio complains about.
    pytest.mark.filterwarnings("ignore:Async generator 'http:ResourceWarning"),
]

HANG_GUARD = 20.0
CLIENTS = ("python on asyncio", "python on trio")
CHECKS = {"stdio": COMMON | STDIO, **dict.fromkeys(HTTP_SERVERS, COMMON | HTTP)}


@pytest.mark.parametrize("client, server, check", cells_of(*CLIENTS))
def test_python_client(
    client: str,
    server: str,
    check: str,
    server_command: list[str],
    tmp_path: Path,
    figure: Callable[[str], None],
) -> None:
    def leave(text: str) -> None:
        figure(f"{client}, {server}: {text}")

    errlog = tmp_path / "stderr"
    bench = (
        HttpBench(server_command, errlog, leave, name=server)
        if server in HTTP_SERVERS
        else StdioBench(server_command, errlog, leave)
    )

    async def main() -> None:
        with anyio.fail_after(HANG_GUARD):
            await CHECKS[server][check](bench)

    try:
        anyio.run(main, backend=client.rpartition(" ")[2])
    finally:
        gc.collect()
        print(errlog.read_text() if errlog.exists() else "no server was started")
    assert set(bench.exit_statuses) == {0}


@pytest.mark.parametrize("server", CHECKS)
def test_python_checks_are_the_matrix(server: str) -> None:
    assert list(CHECKS[server]) == checks_of(server)
