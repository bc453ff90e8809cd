"""Ten official clients through ten bridges to one server, and SIGKILL in each phase.

Afterwards nothing is left: no process, no session after its clocks, no socket file, no lock.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

from tests.cli.programs import Program, running

pytestmark = [
    pytest.mark.interop,
    # It leaves the streams that it reads as they are, which Trio complains about.
    pytest.mark.filterwarnings("ignore:Async generator 'http:ResourceWarning"),
]

HOSTS = 10
GUARD = 240.0
"""Seconds for all: twenty processes start at once."""

PROGRAM = """
import os
from contextlib import asynccontextmanager

import trio
from trio_mcp_session import RequestContext, Router


@asynccontextmanager
async def open_pool(manager):
    while os.path.exists("hold"):
        await trio.sleep(0.01)
    with open("pools.txt", "a") as file:
        print(os.getpid(), file=file)
    yield os.getpid()


router = Router("pool", "1.0", server_lifespan=open_pool)


@router.tool()
async def pool(ctx: RequestContext) -> int:
    return ctx.server_state(open_pool)


@router.tool()
async def wait(ctx: RequestContext, name: str) -> str:
    open(f"{name}.begun", "w").close()
    await trio.sleep_forever()
"""


@attrs.frozen
class Shared:
    """A server that is started on demand."""

    folder: Path
    path: str
    address: str
    listen: str
    unused: int

    @classmethod
    def at(cls, folder: Path, *, http: bool, unused: int = 1) -> Shared:
        (folder / "shared.py").write_text(PROGRAM, "utf-8")
        path = str(folder / "pool.sock")
        if http:
            return cls(folder, path, f"http+unix:{path}", f"--http unix:{path}", unused)
        return cls(folder, path, f"unix:{path}", f"--unix {path}", unused)

    @property
    def bridge(self) -> list[str]:
        """The command line of a bridge, without Python."""
        # Where a bridge over HTTP is killed, its session ends by these.
        clocks = "--request-timeout 2 --max-idle-time 1 --handshake-timeout 1"
        clocks += f" --cleanup-interval 0.1 --end-when-unused {self.unused}"
        serve = f"-m trio_mcp_session serve shared:router {self.listen} {clocks}"
        start = f"{shlex.quote(sys.executable)} {serve}"
        options = ["--start", start, "--start-log", "server.txt"]
        return ["-m", "trio_mcp_session", "connect", self.address, *options]

    def client(self, **mode: Any) -> Client:
        parameters = StdioServerParameters(
            command=sys.executable, args=self.bridge, cwd=str(self.folder), env=dict(os.environ)
        )
        return Client(stdio_client(parameters), **mode)

    def processes(self, command: str) -> list[int]:
        """The ids of its processes that run a command."""
        found = []
        for entry in filter(str.isdigit, os.listdir("/proc")):
            with suppress(OSError):
                words = Path("/proc", entry, "cmdline").read_bytes().decode().split("\0")
                if "trio_mcp_session" in words and self.path in " ".join(words):
                    index = words.index("trio_mcp_session")
                    if words[index + 1] == command:
                        found.append(int(entry))
        return found

    async def wait_all_gone(self) -> None:
        """Wait until nothing runs; check that nothing is left."""
        while self.processes("connect") or self.processes("serve"):  # noqa: ASYNC110
            await trio.sleep(0.02)
        left = {name for name in os.listdir(self.folder) if name.startswith("pool.sock")}
        assert left == set()

    @property
    def log(self) -> str:
        return (self.folder / "server.txt").read_text("utf-8")

    @property
    def pools(self) -> list[int]:
        """The process of each pool that was opened."""
        return [int(line) for line in (self.folder / "pools.txt").read_text("utf-8").split()]

    def exists(self, name: str) -> bool:
        return (self.folder / name).exists()


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110  # of processes
        await trio.sleep(0.02)


async def pool_of(client: Client) -> int:
    result = await client.call_tool("pool", {})
    assert result.structured_content is not None
    found: int = result.structured_content["result"]
    return found


@pytest.mark.parametrize("http", [False, True], ids=["socket", "http"])
@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
async def test_ten_official_clients_share_one_pool_through_ten_bridges(
    mode: str, http: bool, tmp_path: Path, figure: Callable[[str], None]
) -> None:
    shared = Shared.at(tmp_path, http=http)
    pools: list[int] = []
    everybody = trio.Event()

    async def be_a_host() -> None:
        async with shared.client(mode=mode) as client:
            pools.append(await pool_of(client))
            if len(pools) == HOSTS:
                everybody.set()
            await everybody.wait()
            assert await pool_of(client) == pools[0]

    with trio.fail_after(GUARD):
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(HOSTS):
                nursery.start_soon(be_a_host)
            await everybody.wait()
            took = trio.current_time() - began
            assert len(shared.processes("connect")) == HOSTS
            assert len(shared.processes("serve")) == 1
        await shared.wait_all_gone()
    assert len(set(pools)) == 1
    assert shared.pools == [pools[0]]
    assert shared.log.count("listening on") == 1
    opened, ended = shared.log.count(" opened: "), shared.log.count(" ended: ")
    assert opened == ended
    figure(
        f"connect, {'http' if http else 'socket'}, {mode}: {HOSTS} clients, {HOSTS} bridges, "
        f"1 server, {len(shared.pools)} pool, {opened} sessions, all ended; ready in {took:.1f} s; "
        "left: no process, no socket file, no lock"
    )


async def initialize(bridge: Program) -> None:
    answer = await bridge.stdio.initialize()
    assert "result" in answer, answer


async def begin_call(shared: Shared, bridge: Program, name: str) -> None:
    await initialize(bridge)
    await bridge.stdio.call("wait", name=name)
    await until(lambda: shared.exists(f"{name}.begun"))


PHASES = ["starting", "connected", "initialized", "calling", "leaving"]


@pytest.mark.parametrize("http", [False, True], ids=["socket", "http"])
@pytest.mark.parametrize("phase", PHASES)
async def test_a_bridge_that_is_killed_in_any_phase_leaves_nothing_and_disturbs_no_other(
    phase: str, http: bool, tmp_path: Path
) -> None:
    # The server that a killed bridge has started must not end before the next host comes.
    shared = Shared.at(tmp_path, http=http, unused=600 if phase == "starting" else 1)
    with trio.fail_after(GUARD):
        async with running(shared.bridge, tmp_path) as bridge:
            if phase == "starting":
                (tmp_path / "hold").touch()
                await until(lambda: shared.processes("serve"))
            elif phase == "connected":
                await until(lambda: shared.exists("pool.sock"))
            elif phase == "initialized":
                await initialize(bridge)
            else:
                await begin_call(shared, bridge, "victim")
            if phase == "leaving":
                await bridge.stdio.sink.aclose()
            bridge.process.kill()
            assert await bridge.wait() == -signal.SIGKILL
            # Another host is served all the same, by the same server where that still runs.
            (tmp_path / "hold").unlink(missing_ok=True)
            async with shared.client(mode="legacy") as client:
                assert await pool_of(client) in shared.pools
        if phase == "starting":
            (server,) = shared.processes("serve")
            os.kill(server, signal.SIGTERM)
        await shared.wait_all_gone()
    assert len(shared.pools) == shared.log.count("listening on")
    assert shared.log.count(" opened: ") == shared.log.count(" ended: ")
    if phase == "starting":
        assert len(shared.pools) == 1


@pytest.mark.parametrize("http", [False, True], ids=["socket", "http"])
async def test_a_host_that_is_killed_leaves_nothing(http: bool, tmp_path: Path) -> None:
    shared = Shared.at(tmp_path, http=http)
    # The host is a shell, whose end closes both pipes of the bridge.
    words = shlex.join([sys.executable, *shared.bridge])
    script = f"mkfifo in out; {words} <in >out & exec 3>in 4<out; cat toy.json >&3; exec sleep 600"
    message = (
        '{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25",'
        '"capabilities":{},"clientInfo":{"name":"shell","version":"1"}}}\n'
    )
    (tmp_path / "toy.json").write_text(message, "utf-8")
    with trio.fail_after(GUARD):
        async with trio.open_nursery() as nursery:
            run = partial(trio.run_process, cwd=tmp_path, check=False)
            host: trio.Process = await nursery.start(run, ["sh", "-c", script])
            await until(lambda: shared.exists("server.txt") and " opened: " in shared.log)
            host.kill()
        await shared.wait_all_gone()
    assert shared.log.count(" opened: ") == shared.log.count(" ended: ") == 1


@pytest.mark.parametrize("http", [False, True], ids=["socket", "http"])
async def test_a_server_that_is_killed_is_told_to_each_host_and_started_again(
    http: bool, tmp_path: Path
) -> None:
    shared = Shared.at(tmp_path, http=http)
    with trio.fail_after(GUARD):
        async with running(shared.bridge, tmp_path) as bridge:
            await begin_call(shared, bridge, "call")
            (server,) = shared.processes("serve")
            os.kill(server, signal.SIGKILL)
            if http:
                assert "lost" in (await bridge.stdio.receive())["error"]["message"]
                # The next request meets a new server, which does not know the session.
                await bridge.stdio.call("pool", number=2)
                failed = await bridge.stdio.receive()
                assert "the server has ended the session" in failed["error"]["message"]
            assert await bridge.stdio.lines.rest() == []
            assert await bridge.wait() == 4
        async with shared.client(mode="legacy") as client:
            assert await pool_of(client) == shared.pools[-1] != server
        await shared.wait_all_gone()
