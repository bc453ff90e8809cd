"""nginx with the configuration of docs/production.md, before the command."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.cli.programs import HttpClient, Program, guarded, running
from tests.helpers import initialize, request
from tests.interop.test_supergateway import free_port
from tests.transports.http.live import connect
from trio_mcp_session import BoundAddress

# Debian has it where only administrators look for programs.
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(NGINX is None, reason="nginx is not installed"),
]

PAGE = Path(__file__).parents[2] / "docs" / "production.md"
PUBLIC = "notes.example.com"
HOST = {"Host": PUBLIC}

PROGRAM = """
import trio
from trio_mcp_session import RequestContext, Router

router = Router("notes", "1.0")


@router.tool()
async def wait_for(ctx: RequestContext, name: str) -> str:
    await ctx.progress(1, 2)
    while not await trio.Path(name).exists():
        await trio.sleep(0.01)
    return "it is there"


@router.tool()
async def size(ctx: RequestContext, text: str) -> int:
    return len(text)
"""


def documented(port: int, backend: str) -> str:
    """The configuration of the documentation, without TLS, on a free port."""
    text: str
    (text, *_) = re.findall(r"```nginx\n(upstream.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    for pattern, instead in [
        (r"server 127\.0\.0\.1:8000;", f"server {backend};"),
        (r"listen 443 ssl;", f"listen 127.0.0.1:{port};"),
        (r" *ssl_certificate.*\n", ""),
    ]:
        text, count = re.subn(pattern, instead, text)
        assert count, pattern
    return text


def forwarding(port: int, backend: str) -> str:
    """The same, but nginx sends its own name for the server in Host."""
    (lines,) = re.findall(
        r"```nginx\n(proxy_set_header X-Forwarded-Host.*?)```", PAGE.read_text("utf-8"), re.DOTALL
    )
    text, count = re.subn(r" *proxy_set_header Host .*\n", lines, documented(port, backend))
    assert count == 1
    return text


@asynccontextmanager
async def nginx(config: str, folder: Path) -> AsyncIterator[None]:
    """Run nginx for the length of a block."""
    assert NGINX is not None
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        "daemon off; master_process off;"
        f"pid {folder}/pid; error_log stderr notice; events {{}}"
        f"http {{ access_log off; {temporary}\n{config}\n}}",
        "utf-8",
    )
    process = await trio.lowlevel.open_process(
        [NGINX, "-p", str(folder), "-c", "nginx.conf", "-e", "stderr"],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    async with guarded(process):
        yield


@asynccontextmanager
async def serving(folder: Path, bind: str, *options: str) -> AsyncIterator[tuple[Program, str]]:
    """Run the command; its address."""
    (folder / "notes.py").write_text(PROGRAM, "utf-8")
    command = ["-m", "trio_mcp_session", "serve", "notes:router", "--http", bind, *options]
    async with running(command, folder) as program:
        line = await program.stderr.until("listening on http")
        yield program, line.removeprefix("listening on http://").removesuffix("/mcp")


async def client_at(port: int) -> HttpClient:
    """A client of nginx, as soon as that listens."""
    while True:
        try:
            wire = await connect(BoundAddress(host="127.0.0.1", port=port))
        except OSError:
            await trio.sleep(0.01)
        else:
            return HttpClient(f"http://127.0.0.1:{port}/mcp", wire, dict(HOST))


async def test_the_documented_nginx_configuration_works(tmp_path: Path) -> None:
    port = free_port()
    async with (
        serving(tmp_path, "127.0.0.1:0", "--http-host", PUBLIC) as (program, backend),
        nginx(documented(port, backend), tmp_path),
    ):
        client = await client_at(port)
        async with client.wire as wire:
            opened = await wire.request("POST", initialize(), HOST)
            assert opened.status == 200
            headers = {**HOST, "Mcp-Session-Id": opened.headers["mcp-session-id"]}
            # Events come when they are sent.
            params = {"name": "wait_for", "arguments": {"name": "go"}}
            call: Any = request(1, "tools/call", {**params, "_meta": {"progressToken": 1}})
            answer = await wire.begin("POST", call, headers)
            message = await wire.message(answer)
            assert message["method"] == "notifications/progress"
            (tmp_path / "go").touch()
            assert (await wire.message(answer))["result"]["content"][0]["text"] == "it is there"
            await wire.to_the_end(answer)
            # A large body is let through, up to the server's own limit.
            params = {"name": "size", "arguments": {"text": "x" * 3_900_000}}
            answer = await wire.request("POST", request(2, "tools/call", params), headers)
            assert answer.json["result"]["content"][0]["text"] == "3900000"
            # A page of the public name is the server's own; `Origin` has no port with https.
            page = {**headers, "Origin": f"https://{PUBLIC}"}
            assert (await wire.request("POST", request(3, "ping"), page)).status == 200
            assert (await wire.request("DELETE", headers=headers)).status == 204
        program.process.send_signal(signal.SIGTERM)
        assert await program.wait() == 0


@pytest.mark.parametrize(
    "bind, options, status, record",
    [
        # The option that the documentation names was forgotten.
        ("127.0.0.1:0", [], 403, f"'{PUBLIC}'; to accept it: allowed_hosts, --http-host"),
        # One rule for all connections of a listener, also for those through loopback.
        ("0.0.0.0:0", [], 200, None),
        ("0.0.0.0:0", ["--http-host", "other.example"], 403, "--http-host"),
    ],
)
async def test_a_server_without_its_public_name_refuses_requests_of_nginx(
    bind: str, options: Sequence[str], status: int, record: str | None, tmp_path: Path
) -> None:
    port = free_port()
    async with (
        serving(tmp_path, bind, *options) as (program, backend),
        nginx(documented(port, backend), tmp_path),
    ):
        client = await client_at(port)
        async with client.wire as wire:
            answer = await wire.request("POST", initialize(), HOST)
            assert answer.status == status
            if record is not None:
                assert "--http-host" in answer.json["error"]["message"]
                assert (await program.stderr.until("HTTP 403")).endswith(record)
            # DNS rebinding through the proxy.
            page = {**HOST, "Origin": f"https://{PUBLIC}"}
            assert (await wire.request("POST", initialize(), page)).status == 403


@pytest.mark.parametrize("trusted, status", [("127.0.0.1", 200), ("192.0.2.1", 403)])
async def test_a_proxy_that_forwards_the_host(trusted: str, status: int, tmp_path: Path) -> None:
    port = free_port()
    options = ["--http-host", PUBLIC, "--trusted-proxy", trusted]
    async with (
        serving(tmp_path, "127.0.0.1:0", *options) as (program, backend),
        nginx(forwarding(port, backend), tmp_path),
    ):
        client = await client_at(port)
        async with client.wire as wire:
            page = {**HOST, "Origin": f"https://{PUBLIC}"}
            assert (await wire.request("POST", initialize(), page)).status == status
            # What the client itself sends has no effect.
            deceiving = {"Host": "evil.example", "X-Forwarded-Host": PUBLIC, "Forwarded": "host=x"}
            assert (await wire.request("POST", initialize(), deceiving)).status == 403
            record = await program.stderr.until("HTTP 403")
            shown = "'evil.example'" if status == 200 else "'notes'"
            assert f"{shown}; to accept it" in record
            assert "from 127.0.0.1" in record


async def test_preflights_and_health_pages_pass_the_proxy(tmp_path: Path) -> None:
    port = free_port()
    options = ["--http-host", PUBLIC, "--http-origin", "https://app.example"]
    async with (
        serving(tmp_path, "127.0.0.1:0", *options) as (_, backend),
        nginx(documented(port, backend).replace("location /mcp", "location /"), tmp_path),
    ):
        client = await client_at(port)
        async with client.wire as wire:
            page = {**HOST, "Origin": "https://app.example"}
            preflight = {**page, "Access-Control-Request-Method": "POST"}
            answer = await wire.request("OPTIONS", headers=preflight)
            assert answer.status == 204
            assert answer.headers["access-control-allow-origin"] == "https://app.example"
            answer = await wire.request("POST", initialize(), page)
            assert "Mcp-Session-Id" in answer.headers["access-control-expose-headers"]
            assert (await wire.request("GET", headers=HOST, path="/ready")).status == 200
