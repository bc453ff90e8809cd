from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.cli.programs import connect_unix, serving
from trio_mcp_session import open_session_manager
from trio_mcp_session.cli import command
from trio_mcp_session.cli.unused import wait_unused
from trio_mcp_session.server.mcp_server import server_of


async def test_a_manager_is_unused_after_some_time_without_sessions_and_requests(
    autojump_clock: MockClock,
) -> None:
    async with open_session_manager() as manager, trio.open_nursery() as nursery:

        async def be_used() -> None:
            session = await manager.create_session()
            await trio.sleep(100)
            session.terminate()
            await trio.sleep(5)
            # A request without a session that is over before the next look.
            server_of(manager).stateless.counters.requests += 1

        nursery.start_soon(be_used)
        await wait_unused(manager, 10)
        assert 115 <= trio.current_time() <= 117


async def test_a_manager_that_no_client_has_ever_used_is_unused(autojump_clock: MockClock) -> None:
    async with open_session_manager() as manager:
        await wait_unused(manager, 10)
        assert 10 <= trio.current_time() <= 11.5


async def test_serve_ends_after_some_time_without_clients(tmp_path: Path) -> None:
    async with serving(tmp_path, "--unix", "s.sock", "--end-when-unused", "0.2") as program:
        told = await program.stderr.next()
        client = await connect_unix(f"listening on unix {tmp_path / 's.sock'}")
        async with client.sink:
            assert "result" in await client.initialize()
        assert told.startswith("listening")
        assert await program.stderr.until("no client") == "no client for 0.2 s; the server ends"
        assert await program.wait() == 0
    assert "s.sock" not in os.listdir(tmp_path)


@pytest.mark.parametrize("text", ["0", "-1", "inf", "nan", "soon"])
def test_a_time_that_is_none_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(["serve", "m:a", "--http", "0", "--end-when-unused", text])
    assert f"must be a number of seconds, not '{text}'" in capsys.readouterr().err


def test_a_server_over_stdio_ends_with_its_client_anyway(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command.main(["serve", "m:a", "--end-when-unused", "60"]) == 2
    assert "--end-when-unused is not for --stdio" in capsys.readouterr().err
