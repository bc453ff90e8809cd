"""The official Python client (`mcp`) in its three modes, on asyncio and on Trio."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from tests.interop.cells import HTTP_SERVERS, cells_of, checks_of
from tests.interop.python_bench import StdioBench
from tests.interop.python_change_checks import CHANGES, HANDLES
from tests.interop.python_checks import CALLS, STDIO
from tests.interop.python_http_bench import HttpBench
from tests.interop.python_http_checks import HTTP
from tests.interop.python_question_checks import QUESTIONS
from tests.interop.python_session_checks import SESSIONS
from tests.interop.python_together_checks import TOGETHER

pytestmark = [
    pytest.mark.interop,
    # The client deprecates what the modern revision removed: ping, logging, roots.
    pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning"),
    # It leaves the streams that it reads as they are, which Trio complains about.
    pytest.mark.filterwarnings("ignore:Async generator 'http:ResourceWarning"),
]

HANG_GUARD = 20.0
CLIENTS = {
    f"python, {mode}, on {backend}": (mode, backend)
    for mode in ("legacy", "auto", "2026-07-28")
    for backend in ("asyncio", "trio")
}
COMMON = CALLS | QUESTIONS | CHANGES | HANDLES
CHECKS = {
    "stdio": COMMON | STDIO,
    **dict.fromkeys(HTTP_SERVERS, COMMON | TOGETHER | HTTP | SESSIONS),
}


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

    mode, backend = CLIENTS[client]
    errlog = tmp_path / "stderr"
    bench = (
        HttpBench(server_command, errlog, leave, mode, name=server)
        if server in HTTP_SERVERS
        else StdioBench(server_command, errlog, leave, mode)
    )

    async def main() -> None:
        with anyio.fail_after(HANG_GUARD):
            await CHECKS[server][check](bench)

    # What was there before can wait for its collection.
    gc.freeze()
    try:
        anyio.run(main, backend=backend)
    finally:
        gc.collect()
        print(errlog.read_text() if errlog.exists() else "no server was started")
    assert set(bench.exit_statuses) == {0}


@pytest.mark.parametrize("server", CHECKS)
def test_python_checks_are_the_matrix(server: str) -> None:
    assert list(CHECKS[server]) == checks_of(server)
