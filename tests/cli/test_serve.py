"""`serve` as a program of its own, on real pipes and sockets, hence in real time."""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import termios
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.cli.programs import (
    SERVE,
    HttpClient,
    Lines,
    connect_tcp,
    connect_unix,
    guarded,
    running,
    serving,
    write_toy,
)
from tests.cli.terminal import Terminal
from tests.helpers import initialize, modern
from tests.transports.http.modern import headers_of
from trio_mcp_session.cli.screen import Screen
from trio_mcp_session.cli.serve import Address, Server, parse_address, parse_proxy
from trio_mcp_session.transports.extras import install_command


@pytest.mark.parametrize(
    "text, address, shown",
    [
        ("127.0.0.1:80", Address("127.0.0.1", 80), "127.0.0.1:80"),
        ("localhost:0", Address("localhost", 0), "localhost:0"),
        ("8000", Address("127.0.0.1", 8000), "127.0.0.1:8000"),
        ("[::1]:65535", Address("::1", 65535), "[::1]:65535"),
    ],
)
def test_an_address_is_read_and_shown(text: str, address: Address, shown: str) -> None:
    assert parse_address(text) == address
    assert str(address) == shown


@pytest.mark.parametrize(
    "text", ["", ":80", "::1:80", "host", "host:", "host:x", "host:-1", "host:65536", "host:²"]
)
def test_a_malformed_address_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="must be HOST:PORT"):
        parse_address(text)


async def test_serve_answers_over_stdio(tmp_path: Path) -> None:
    async with serving(tmp_path) as program:
        client = program.stdio
        answer = await client.initialize("ada")
        assert answer["result"]["serverInfo"] == {"name": "toy", "version": "1.0"}
        await client.call("echo", text="hello")
        assert await client.text() == "hello"
        await client.sink.aclose()
        assert await client.lines.rest() == []
        told = await program.stderr.rest()
        assert await program.wait() == 0
    assert told[0].endswith("opened: ada over stdio")
    assert told[1] == "a stray print"
    assert told[2].endswith("ended: ada, client closed")
    assert len(told) == 3


async def test_log_level_hides_lower_levels(tmp_path: Path) -> None:
    async with serving(tmp_path, "--log-level", "error") as program:
        client = program.stdio
        await client.initialize()
        await client.call("fail")
        assert await client.text() == "The tool 'fail' failed with an internal error"
        await client.sink.aclose()
        told = await program.stderr.rest()
        assert await program.wait() == 0
    assert "tool 'fail' crashed: ValueError: a detail" in told[0]
    assert told[-1] == "    ValueError: a detail"


async def test_options_set_limits(tmp_path: Path) -> None:
    async with serving(tmp_path, "--max-message-size", "300", "--max-nesting", "7") as program:
        client = program.stdio
        await client.initialize()
        await client.call("echo", text="x" * 300)
        assert "larger than 300 bytes" in (await client.receive())["error"]["message"]


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
async def test_serve_answers_over_tcp(host: str, tmp_path: Path) -> None:
    if host == "[::1]" and not _has_ipv6():  # pragma: no cover  # the machine decides
        pytest.skip("no IPv6 on this machine")
    async with serving(tmp_path, "--tcp", f"{host}:0") as program:
        told = await program.stderr.next()
        assert told.startswith(f"listening on tcp {host}:")
        for name in ("ada", "ben"):
            client = await connect_tcp(told)
            async with client.sink:
                await client.initialize(name)
                await client.call("echo", text=name)
                assert await client.text() == name
            assert (await program.stderr.until("ended")).endswith(f"{name}, client closed")
        program.process.send_signal(signal.SIGTERM)
        assert await program.wait() == 0


def _has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:  # pragma: no cover  # the machine decides
        return False


async def test_serve_answers_over_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    async with serving(tmp_path, "--unix", str(path)) as program:
        told = await program.stderr.next()
        assert told == f"listening on unix {path}"
        client = await connect_unix(told)
        async with client.sink:
            await client.initialize()
            await client.call("echo", text="hello")
            assert await client.text() == "hello"
        program.process.send_signal(signal.SIGINT)
        assert await program.wait() == 0
    assert not path.exists()


@pytest.mark.parametrize(
    "options, served",
    [
        ([], {"legacy"}),  # As the application says.
        (["--eras", "modern"], {"modern"}),
        (["--eras", "both"], {"legacy", "modern"}),
    ],
)
async def test_eras_option_restricts_all_transports(
    options: list[str], served: set[str], tmp_path: Path
) -> None:
    write_toy(tmp_path)
    path = tmp_path / "toy.py"
    path.write_text(path.read_text("utf-8").replace('"1.0"', '"1.0", eras="legacy"'), "utf-8")
    asked = {"legacy": initialize("legacy"), "modern": modern("modern", "server/discover")}
    ways = ["--stdio", "--tcp", "0", "--unix", str(tmp_path / "socket"), "--http", "0"]
    async with running([*SERVE, *ways, *options], tmp_path) as program:
        tcp, unix, http = [await program.stderr.until("listening on") for _ in range(3)]
        async with AsyncExitStack() as stack:
            clients = [program.stdio, await connect_tcp(tcp), await connect_unix(unix)]
            for client in clients:
                await stack.enter_async_context(client.sink)
                for message in asked.values():
                    await client.sink.send_all(json.dumps(message).encode() + b"\n")
                answers = [await client.receive() for _ in asked]
                assert {one["id"] for one in answers if "result" in one} == served
            web = await HttpClient.connect(http)
            await stack.enter_async_context(web.wire)
            for era, message in asked.items():
                headers = {} if era == "legacy" else headers_of(message)
                answer = await web.wire.request("POST", message, headers)
                assert answer.status == (200 if era in served else 400)


async def test_unknown_eras_are_refused(tmp_path: Path) -> None:
    async with serving(tmp_path, "--eras", "all") as program:
        told = await program.stderr.rest()
        assert await program.wait() == 2
    assert "argument --eras: invalid choice: 'all'" in told[-1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_first_signal_lets_calls_finish(number: signal.Signals, tmp_path: Path) -> None:
    async with serving(tmp_path, "--tcp", "0") as program:
        client = await connect_tcp(await program.stderr.next())
        async with client.sink:
            await client.initialize()
            await client.call("wait_for", name="go")
            await client.call("echo", number=2, text="both have begun")
            assert await client.text() == "both have begun"
            program.process.send_signal(number)
            await program.stderr.until(f"{number.name}: draining")
            # What comes in before the drain has really begun is still answered.
            answer: dict[str, Any] = {}
            while "error" not in answer:
                await client.call("echo", number=3, text="too late?")
                answer = await client.receive()
            assert "shutting down" in answer["error"]["message"]
            (tmp_path / "go").touch()
            assert await client.text() == "it is there"
            assert await client.lines.next() == ""
        assert await program.wait() == 0


async def test_the_second_signal_cancels(tmp_path: Path) -> None:
    async with serving(tmp_path, "--tcp", "0") as program:
        client = await connect_tcp(await program.stderr.next())
        async with client.sink:
            await client.initialize()
            await client.call("wait_for", name="never")
            await client.call("echo", number=2, text="both have begun")
            assert await client.text() == "both have begun"
            program.process.send_signal(signal.SIGTERM)
            await program.stderr.until("SIGTERM: draining")
            program.process.send_signal(signal.SIGINT)
            assert "cancelled" in (await client.receive())["error"]["message"]
            await program.stderr.until("SIGINT: cancelling")
        assert await program.wait() == 128 + signal.SIGINT


async def test_serve_answers_over_stdio_and_tcp_together(tmp_path: Path) -> None:
    """Both are served; when stdio's client has left, the other's calls may finish."""
    async with serving(tmp_path, "--stdio", "--tcp", "127.0.0.1:0") as program:
        other = await connect_tcp(await program.stderr.until("listening"))
        async with other.sink:
            await other.initialize("other")
            await program.stdio.initialize("own")
            await other.call("wait_for", name="go")
            await other.call("echo", number=2, text="both have begun")
            assert await other.text() == "both have begun"
            await program.stdio.sink.aclose()
            await program.stderr.until("own, client closed")
            (tmp_path / "go").touch()
            assert await other.text() == "it is there"
            await program.stderr.until("other, shutdown")
        assert await program.wait() == 0


@pytest.mark.parametrize(
    "options, told",
    [
        (["--tcp", "127.0.0.1:{port}"], "cannot listen on tcp 127.0.0.1:{port}: "),
        (["--http", "127.0.0.1:{port}"], "cannot listen on http 127.0.0.1:{port}: "),
        (["--http", "fd:0"], "cannot listen on http fd:0: Socket operation on non-socket"),
        (["--http", "fd:LISTEN_FDS"], "cannot listen on http fd:LISTEN_FDS: no service manager"),
        (["--http", "fd:LISTEN_FDS", "--reload"], "cannot listen on http fd:LISTEN_FDS: no "),
        (["--unix", "missing/socket"], "cannot listen on unix missing/socket: No such file"),
        (["--unix", "toy.py"], "cannot listen on unix toy.py: toy.py exists, and is not a socket"),
    ],
)
async def test_an_address_that_cannot_be_listened_on_is_named(
    options: list[str], told: str, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with serving(tmp_path, *(one.format(port=port) for one in options)) as program:
            (line,) = await program.stderr.rest()
            assert await program.wait() == 1
    assert line.startswith(f"trio_mcp_session: {told.format(port=port)}")


async def test_without_sessions_any_program_answers_each_request(tmp_path: Path) -> None:
    async with (
        serving(tmp_path, "--http", "0", "--stateless") as one,
        serving(tmp_path, "--http", "0", "--stateless") as two,
    ):
        clients = [await HttpClient.connect(await each.stderr.next()) for each in (one, two)]
        async with clients[0].wire, clients[1].wire:
            opened = await clients[0].wire.request("POST", initialize(0))
            assert (opened.status, opened.headers.get("mcp-session-id")) == (200, None)
            for client in clients:
                assert await client.call("echo", text="hello") == "hello"
            assert (await clients[1].wire.request("GET")).status == 405
        notice = await one.stderr.until("without sessions")
        assert "HttpOptions.stateless" in notice


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
async def test_serve_answers_over_http(host: str, tmp_path: Path) -> None:
    if host == "[::1]" and not _has_ipv6():  # pragma: no cover  # the machine decides
        pytest.skip("no IPv6 on this machine")
    async with serving(tmp_path, "--http", f"{host}:0", "--http", "0") as program:
        client, other = [await HttpClient.connect(await program.stderr.next()) for _ in range(2)]
        async with client.wire, other.wire:
            assert client.url.startswith(f"http://{host}:")
            assert other.url.startswith("http://127.0.0.1:")
            await client.initialize("ada")
            # There is one table of sessions behind all of it.
            other.headers = client.headers
            for one in (client, other):
                assert await one.call("echo", text="hello") == "hello"
            assert (await client.wire.request("DELETE", headers=client.headers)).status == 204
        assert (await program.stderr.until("ended")).endswith("ada, client closed")
        program.process.send_signal(signal.SIGTERM)
        assert await program.wait() == 0


ACTIVATION = """
import os, socket, sys

listening = socket.create_server(("127.0.0.1", 0))
os.dup2(listening.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
port = listening.getsockname()[1]
print(f"listening on http://127.0.0.1:{port}/mcp", file=sys.stderr, flush=True)
os.execv(sys.executable, [sys.executable, "-m", "trio_mcp_session", *sys.argv[1:]])
"""


@pytest.mark.parametrize("options", [[], ["--reload"]])
async def test_serve_answers_on_the_socket_of_a_service_manager(
    tmp_path: Path, options: list[str]
) -> None:
    write_toy(tmp_path)
    command = ["-c", ACTIVATION, "serve", "toy:router", "--http", "fd:LISTEN_FDS", *options]
    async with running(command, tmp_path) as program:
        opened = await program.stderr.next()
        client = await HttpClient.connect(opened)  # Before it serves.
        async with client.wire:
            assert (await program.stderr.until("listening on")).endswith(opened)
            await client.initialize()
            assert await client.call("echo", text="hello") == "hello"
        program.process.send_signal(signal.SIGTERM)
        assert await program.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_http_streams_properly(number: signal.Signals, tmp_path: Path) -> None:
    async with serving(tmp_path, "--http", "0") as program:
        told = await program.stderr.next()
        listening, calling = [await HttpClient.connect(told) for _ in range(2)]
        async with listening.wire, calling.wire:
            await listening.initialize()
            stream = await listening.wire.begin("GET", headers=listening.headers)
            calling.headers = listening.headers
            await calling.begin_call("wait_for", name="go")
            await listening.wire.event(stream)
            program.process.send_signal(number)
            await program.stderr.until(f"{number.name}: draining")
            (tmp_path / "go").touch()
            assert await calling.text() == "it is there"
            await listening.wire.to_the_end(stream)
        assert await program.wait() == 0


async def test_the_second_signal_cuts_http_streams(tmp_path: Path) -> None:
    async with serving(tmp_path, "--http", "0") as program:
        told = await program.stderr.next()
        listening, calling = [await HttpClient.connect(told) for _ in range(2)]
        async with listening.wire, calling.wire:
            await listening.initialize()
            calling.headers = listening.headers
            await calling.begin_call("wait_for", name="never")
            # Answered on another connection: the call before it has begun.
            assert await listening.call("echo", text="both have begun") == "both have begun"
            program.process.send_signal(signal.SIGTERM)
            await program.stderr.until("SIGTERM: draining")
            program.process.send_signal(signal.SIGINT)
            await program.stderr.until("SIGINT: cancelling")
            assert b"it is there" not in await calling.wire.rest()
        assert await program.wait() == 128 + signal.SIGINT


async def test_serve_answers_over_stdio_and_http_together(tmp_path: Path) -> None:
    """When stdio's client has left, the streams of the others end properly."""
    async with serving(tmp_path, "--stdio", "--http", "0") as program:
        other = await HttpClient.connect(await program.stderr.until("listening"))
        async with other.wire:
            await other.initialize("other")
            await program.stdio.initialize("own")
            stream = await other.wire.begin("GET", headers=other.headers)
            await program.stdio.sink.aclose()
            await other.wire.to_the_end(stream)
        assert await program.wait() == 0


async def test_http_host_and_origin_options_allow_names(tmp_path: Path) -> None:
    options = ["--http-host", "mcp.example", "--http-origin", "https://*.app.example"]
    async with serving(tmp_path, "--http", "0", *options) as program:
        client = await HttpClient.connect(await program.stderr.next())
        async with client.wire as wire:

            async def status(**headers: str) -> int:
                return (await wire.request("DELETE", headers=headers)).status

            # 400: it is let in, and names no session.
            assert await status() == 400
            assert await status(Host="localhost:1") == 400
            assert await status(Host="mcp.example", Origin="https://my.app.example") == 400
            assert await status(Host="mcp.example", Origin="https://mcp.example") == 400
            assert await status(Host="evil.example") == 403
            assert await status(Origin="https://evil.example") == 403
    async with serving(tmp_path, "--http", "0") as program:
        client = await HttpClient.connect(await program.stderr.next())
        async with client.wire as wire:
            assert await status(Host="mcp.example") == 403
            assert await status(Origin="http://localhost:5173") == 400


async def test_an_unknown_host_is_logged_with_the_option_that_allows_it(tmp_path: Path) -> None:
    """Behind a proxy, and without the option that names its host."""
    async with serving(tmp_path, "--http", "0") as program:
        client = await HttpClient.connect(await program.stderr.next())
        async with client.wire as wire:
            for _ in range(3):
                answer = await wire.request("POST", b"{}", {"Host": "notes.example.com"})
                assert answer.status == 403
                assert "--http-host" in answer.json["error"]["message"]
            assert (await wire.request("POST", b"{}")).status == 400
        line = await program.stderr.next()
        assert "WARNING HTTP 403 for POST /mcp from 127.0.0.1: Host is not allowed" in line
        assert line.endswith("'notes.example.com'; to accept it: allowed_hosts, --http-host")
        # Not once for each request.
        assert "HTTP 400" in await program.stderr.next()


async def test_trusted_proxy_option_reads_the_forwarded_host(tmp_path: Path) -> None:
    options = ["--trusted-proxy", "127.0.0.1", "--http-host", "notes.example.com"]
    async with serving(tmp_path, "--http", "0", *options) as program:
        client = await HttpClient.connect(await program.stderr.next())
        async with client.wire as wire:
            for host, status in [("notes.example.com", 400), ("evil.example", 403)]:
                headers = {"Host": "backend", "X-Forwarded-Host": host}
                assert (await wire.request("DELETE", headers=headers)).status == status


@pytest.mark.parametrize("text", ["", "localhost", "10.0.0.1/8"])
def test_a_trusted_proxy_must_be_an_address(text: str) -> None:
    assert parse_proxy("10.0.0.0/8") == "10.0.0.0/8"
    with pytest.raises(argparse.ArgumentTypeError, match="trusted_proxies must be addresses"):
        parse_proxy(text)


async def test_a_page_of_an_allowed_origin_gets_cors_headers(tmp_path: Path) -> None:
    origin = "https://app.example"
    async with serving(tmp_path, "--http", "0", "--http-origin", origin) as program:
        client = await HttpClient.connect(await program.stderr.next())
        async with client.wire as wire:
            preflight = {"Origin": origin, "Access-Control-Request-Method": "POST"}
            answer = await wire.request("OPTIONS", headers=preflight)
            assert answer.status == 204
            assert answer.headers["access-control-allow-origin"] == origin


async def test_ready_page_is_503_while_the_command_drains(tmp_path: Path) -> None:
    async with serving(tmp_path, "--http", "0") as program:
        told = await program.stderr.next()
        client, probe = [await HttpClient.connect(told) for _ in range(2)]
        async with client.wire, probe.wire as wire:
            for path in ("/health", "/ready"):
                assert (await wire.request("GET", headers={"Host": "pod"}, path=path)).status == 200
            await client.initialize()
            await client.begin_call("wait_for", name="go")
            assert await HttpClient(client.url, wire, client.headers).call("echo", text="x") == "x"
            program.process.send_signal(signal.SIGTERM)
            await program.stderr.until("SIGTERM: draining")
            assert (await wire.request("GET", path="/ready")).status == 503
            assert (await wire.request("GET", path="/health")).status == 200
            (tmp_path / "go").touch()
            assert await client.text() == "it is there"
        assert await program.wait() == 0


@pytest.mark.parametrize("transport", ["tcp", "http"])
async def test_serving_other_machines_without_authentication_warns(
    transport: str, tmp_path: Path
) -> None:
    async with serving(tmp_path, f"--{transport}", "0.0.0.0:0") as program:
        warning = await program.stderr.next()
        assert "WARNING NO AUTHENTICATION on 0.0.0.0:" in warning
        assert "every program that can reach it can use this server" in warning
        assert (await program.stderr.next()).startswith("listening on")


async def test_http_without_httptools_names_the_extra(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "sys.modules['httptools'] = None\n"
        "from trio_mcp_session.cli import command\n"
        "sys.exit(command.main(['serve', 'toy:router', '--http', '0']))\n"
    )
    write_toy(tmp_path)
    async with running(["-c", script], tmp_path) as program:
        (line,) = await program.stderr.rest()
        assert await program.wait() == 1
    assert line == (
        "trio_mcp_session: the built-in HTTP server needs the extra 'http', which is not "
        f"installed: {install_command('http')}"
    )


async def test_http_with_another_missing_module_shows_the_traceback(tmp_path: Path) -> None:
    """No advice is given that would not help."""
    script = (
        "import sys\n"
        "sys.modules['trio_mcp_session.transports.http1.server'] = None\n"
        "from trio_mcp_session.cli import command\n"
        "sys.exit(command.main(['serve', 'toy:router', '--http', '0']))\n"
    )
    write_toy(tmp_path)
    async with running(["-c", script], tmp_path) as program:
        told = await program.stderr.rest()
        assert await program.wait() == 1
    assert any("ModuleNotFoundError: import of trio_mcp_session" in line for line in told)


async def test_a_missing_application_is_named(tmp_path: Path) -> None:
    command = ["-m", "trio_mcp_session", "serve", "gone:app"]
    async with running(command, tmp_path) as program:
        (line,) = await program.stderr.rest()
        assert await program.wait() == 2
    assert line.startswith("trio_mcp_session: no module named 'gone'")


def test_stdio_with_a_closed_stream_is_refused(tmp_path: Path) -> None:
    (tmp_path / "toy.py").write_text("from trio_mcp_session import Router\napp = Router('x')\n")
    command = f"exec '{sys.executable}' -m trio_mcp_session serve toy:app <&-"
    result = subprocess.run(
        ["/bin/sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert result.stderr == (
        "trio_mcp_session: --stdio needs standard input and output: "
        "standard input was closed when the process started\n"
    )


LATE = """
import argparse, sys, trio
from trio_mcp_session import CleanupConfig, Router, open_session_manager
from trio_mcp_session.cli.screen import Screen
from trio_mcp_session.cli.serve import Server
from trio_mcp_session.cli.shutdown import Shutdown

async def main():
    async with open_session_manager(Router("x")) as manager:
        await manager.drain()
        names = dict(tcp=[], http=[], unix=[], stdio=True, watch=False, reload=False, eras=None)
        names |= dict(admin=None, worker=None, end_when_unused=None)
        options = argparse.Namespace(**names)
        await Server(options, Screen(sys.stderr)).serve(manager, Shutdown(CleanupConfig()))

trio.run(main)
"""


async def test_a_client_that_connects_after_a_drain_gets_an_error(tmp_path: Path) -> None:
    async with running(["-c", LATE], tmp_path) as program:
        answer = await program.stdio.initialize()
        assert answer["error"]["message"] == "server is shutting down"
        assert await program.stdio.lines.rest() == []
        assert await program.stderr.rest() == []
        assert await program.wait() == 0


async def test_a_bug_of_its_own_shows_its_traceback(tmp_path: Path) -> None:
    script = (
        "from trio_mcp_session.cli import command, serve\n"
        "serve.Server.serve = None\n"
        "command.main(['serve', 'toy:router'])\n"
    )
    write_toy(tmp_path)
    async with running(["-c", script], tmp_path) as program:
        told = await program.stderr.rest()
        assert await program.wait() == 1
    assert "TypeError" in told[-1]


async def test_watch_draws_the_table(tmp_path: Path) -> None:
    """On a terminal, the table of sessions is drawn below the log."""
    write_toy(tmp_path)
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, 80))
    process = await trio.lowlevel.open_process(
        [sys.executable, *SERVE, "--watch", "--tcp", "0"],
        stdin=subprocess.DEVNULL,
        stderr=follower,
        cwd=tmp_path,
        env={**os.environ, "TERM": "xterm", "NO_COLOR": "1"},
    )
    os.close(follower)
    terminal = Terminal()
    async with guarded(process):
        async with trio.lowlevel.FdStream(leader) as output:
            seen = b""
            while b"0 open" not in seen or b"listening" not in seen:
                seen += await output.receive_some()
            told = re.search(rb"listening on tcp \S+", seen)
            assert told is not None
            client = await connect_tcp(told[0].decode())
            async with client.sink:
                await client.initialize("ada")
                await client.call("echo", text="hello")
                await client.text()
                while b"3 \xe2\x87\x84 2" not in seen:
                    seen += await output.receive_some()
            process.send_signal(signal.SIGTERM)
            # A terminal without a program on it cannot be read.
            with suppress(trio.BrokenResourceError):
                while chunk := await output.receive_some():
                    seen += chunk
        assert await process.wait() == 0
    terminal.write(seen.decode().replace("\r\n", "\n"))
    assert terminal.cursor_visible
    assert [line.split()[:3] for line in terminal.lines if "×" in line] == [
        ["×", "terminated", "ada"]
    ]
    assert sum("listening on" in line for line in terminal.lines) == 1


async def test_a_terminal_at_standard_input_gets_instructions(tmp_path: Path) -> None:
    write_toy(tmp_path)
    leader, follower = pty.openpty()
    process = await trio.lowlevel.open_process(
        [sys.executable, *SERVE],
        stdin=follower,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
    )
    os.close(follower)
    assert process.stderr is not None
    assert process.stdout is not None
    async with guarded(process):
        async with process.stderr, process.stdout, trio.lowlevel.FdStream(leader) as keyboard:
            assert "Ctrl-D ends it" in await Lines(process.stderr).next()
            await keyboard.send_all(b"\x04")
            assert await process.wait() == 0


def test_in_a_log_of_json_each_line_of_the_command_is_a_record(
    caplog: pytest.LogCaptureFixture,
) -> None:
    screen = Screen(io.StringIO())
    with caplog.at_level(logging.INFO):
        Server(argparse.Namespace(log_format="json"), screen).say("listening on 100% of it")
    assert [record.getMessage() for record in caplog.records] == ["listening on 100% of it"]
