"""`run_stdio` as the last line of a program."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path
from typing import Any, cast

import pytest
import trio

from tests.cli.programs import TOY, HttpClient, Program, running
from tests.helpers import initialize, modern
from tests.transports.http.live import connect
from trio_mcp_session import Router, run_stdio

PROGRAM = f"""{TOY}
from trio_mcp_session import CleanupConfig, SessionConfig, SessionHooks, run_stdio

async def created(session):
    import sys
    print("created", session.client.client_id, file=sys.stderr, flush=True)

config = SessionConfig(cleanup=CleanupConfig(drain_grace=5))
run_stdio(router, config=config, hooks=SessionHooks(on_session_created=created))
"""


async def test_until_the_client_leaves(tmp_path: Path) -> None:
    async with running(["-c", PROGRAM], tmp_path) as program:
        await program.stdio.initialize("ada")
        assert await program.stderr.next() == "created ada"
        await program.stdio.call("echo", text="hello")
        assert await program.stdio.text() == "hello"
        await program.stdio.sink.aclose()
        assert await program.stderr.rest() == ["a stray print"]
        assert await program.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_until_a_signal(number: signal.Signals, tmp_path: Path) -> None:
    async with running(["-c", PROGRAM], tmp_path) as program:
        await program.stdio.initialize()
        await program.stdio.call("wait_for", name="go")
        await program.stdio.call("echo", number=2, text="both have begun")
        assert await program.stdio.text() == "both have begun"
        program.process.send_signal(number)
        (tmp_path / "go").touch()
        assert await program.stdio.text() == "it is there"
        assert await program.stdio.lines.rest() == []
        assert await program.wait() == 0


async def test_the_eras_of_the_client(tmp_path: Path) -> None:
    program_text = PROGRAM.replace("config=config,", 'config=config, eras="legacy",')
    assert program_text != PROGRAM
    async with running(["-c", program_text], tmp_path) as program:
        message = modern(1, "server/discover")
        await program.stdio.sink.send_all(json.dumps(message).encode() + b"\n")
        assert (await program.stdio.receive())["error"]["code"] == -32022
        assert "result" in await program.stdio.initialize()


def test_eras_that_are_none() -> None:
    with pytest.raises(ValueError, match="eras must be"):
        run_stdio(Router("r"), eras=cast("Any", "all"))


HTTP_PROGRAM = f"""{TOY}
import logging
from trio_mcp_session import HttpOptions, run_http

logging.basicConfig(level="INFO", format="%(message)s")
run_http(
    router,
    "0.0.0.0:0",
    allowed_hosts=["notes.example.com"],
    allowed_origins=["https://app.example"],
    options=HttpOptions(trusted_proxies=["127.0.0.0/8"]),
    health_pages=True,
)
"""


async def test_run_http_serves_proxies_pages_and_load_balancers(tmp_path: Path) -> None:
    async with running(["-c", HTTP_PROGRAM], tmp_path) as program:
        assert "NO AUTHENTICATION on 0.0.0.0:" in await program.stderr.next()
        told = (await program.stderr.until("listening on")).replace("0.0.0.0", "127.0.0.1")
        async with (await HttpClient.connect(told)).wire as wire:
            host = {"Host": "backend", "X-Forwarded-Host": "notes.example.com"}
            page = {**host, "Origin": "https://app.example"}
            for headers, status in [(host, 400), (page, 400), ({"Host": "backend"}, 403)]:
                assert (await wire.request("DELETE", headers=headers)).status == status
            assert (await wire.request("GET", path="/ready")).status == 200
        program.process.send_signal(signal.SIGTERM)
        assert await program.wait() == 0


ONE_LINE = f"""{TOY}
from trio_mcp_session import run_http

run_http(router, "127.0.0.1:0")
"""


async def test_run_http_is_one_line(tmp_path: Path) -> None:
    async with running(["-c", ONE_LINE], tmp_path) as program:
        client = await HttpClient.connect(await told_address(program))
        async with client.wire, await connect(client.wire.address) as pages:
            await client.initialize()
            await client.begin_call("wait_for", name="go")
            for path in ("/health", "/ready"):
                assert (await pages.request("GET", path=path)).status == 200
            program.process.send_signal(signal.SIGTERM)
            await program.stderr.until("SIGTERM: draining for up to 3 s; a second signal cancels")
            (tmp_path / "go").touch()
            assert await client.text() == "it is there"
        assert await program.wait() == 0


async def test_run_http_leaves_the_log_of_a_program_as_it_is(tmp_path: Path) -> None:
    text = f"import logging\nlogging.basicConfig(format='+ %(message)s', level=20)\n{ONE_LINE}"
    async with running(["-c", text], tmp_path) as program:
        assert (await program.stderr.next()).startswith("+ listening on")
        program.process.send_signal(signal.SIGTERM)
        assert all(line.startswith("+ ") for line in await program.stderr.rest())
        assert await program.wait() == 0


async def test_run_http_on_an_address_in_use(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        text = ONE_LINE.replace(":0", f":{other.getsockname()[1]}")
        async with running(["-c", text], tmp_path) as program:
            said = b"".join([chunk async for chunk in program.stderr.stream]).decode()
            assert await program.wait() == 1
    assert said.splitlines()[-1].startswith("OSError: [Errno ")
    assert "Exception Group" not in said


async def test_run_http_with_some_revisions_only(tmp_path: Path) -> None:
    text = ONE_LINE.replace(':0")', ':0", eras="modern")')
    async with running(["-c", text], tmp_path) as program:
        client = await HttpClient.connect(await told_address(program))
        async with client.wire:
            answer = await client.wire.request("POST", initialize(0))
            assert answer.json["error"]["code"] == -32022
        program.process.send_signal(signal.SIGTERM)
        assert await program.wait() == 0


async def told_address(program: Program) -> str:
    """The line that tells where a program listens, without what the log puts before it."""
    line = await program.stderr.until("listening on")
    return line[line.index("listening on") :]


FAILING = """
import sys
from contextlib import asynccontextmanager
from trio_mcp_session import Router, run_http, run_stdio

@asynccontextmanager
async def pool(manager):
    raise ValueError("no database")
    yield

router = Router("failing", server_lifespan=pool)
"""


@pytest.mark.parametrize(
    "command",
    [
        ["-c", f"{FAILING}\nrun_stdio(router)"],
        ["-c", f"{FAILING}\nrun_http(router, '127.0.0.1:0', log_level='info')"],
        ["-m", "trio_mcp_session", "serve", "failing:router", "--stdio", "--http", "127.0.0.1:0"],
    ],
    ids=["run_stdio", "run_http", "serve"],
)
async def test_a_server_that_does_not_open_accepts_no_client(
    command: list[str], tmp_path: Path
) -> None:
    (tmp_path / "failing.py").write_text(FAILING, "utf-8")
    async with running(command, tmp_path) as program:
        text = b"".join([chunk async for chunk in program.stderr.stream]).decode()
        assert await program.wait() == 1
        assert await program.stdio.lines.rest() == []
    assert "ValueError: no database" in text
    assert "server lifespan pool failed to open" in text
    assert "Exception Group" not in text
    assert "listening" not in text


SHARED = """
from contextlib import asynccontextmanager
from trio_mcp_session import RequestContext, Router

@asynccontextmanager
async def pool(manager):
    yield ["from the pool"]
    print("the pool is closed")

router = Router("shared", server_lifespan=pool)

@router.tool()
async def use(ctx: RequestContext) -> str:
    return ctx.server_state(pool)[0]
"""


async def test_the_command_opens_and_closes_the_lifespan_of_the_server(tmp_path: Path) -> None:
    (tmp_path / "shared.py").write_text(SHARED, "utf-8")
    command = ["-m", "trio_mcp_session", "serve", "shared:router", "--stdio", "--http", "0"]
    async with running(command, tmp_path) as program:
        client = await HttpClient.connect(await program.stderr.until("listening on"))
        async with client.wire:
            await client.initialize()
            assert await client.call("use") == "from the pool"
            await program.stdio.initialize()
            await program.stdio.call("use")
            assert await program.stdio.text() == "from the pool"
            program.process.send_signal(signal.SIGTERM)
            assert await program.stderr.until("the pool is closed")
        assert await program.wait() == 0


STUCK = """
import trio
from contextlib import asynccontextmanager
from trio_mcp_session import Router, run_http

@asynccontextmanager
async def pool(manager):
    yield
    with trio.CancelScope(shield=True):
        await trio.sleep_forever()

run_http(Router("stuck", server_lifespan=pool), "127.0.0.1:0")
"""


async def test_a_forced_end_names_the_lifespan_that_does_not_close(tmp_path: Path) -> None:
    async with running(["-c", STUCK], tmp_path) as program:
        await program.stderr.until("listening on")
        program.process.send_signal(signal.SIGTERM)
        await program.stderr.until("SIGTERM: draining")
        for _ in range(2):
            await trio.sleep(0.5)
            program.process.send_signal(signal.SIGTERM)
        line = await program.stderr.until("process ended by SIGTERM")
        assert "did not end: server lifespan pool" in line
        assert await program.wait() == 128 + signal.SIGTERM
