"""The admin address: its pages, and what they are protected by."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_open_metrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text
from trio.testing import MockClock

from tests.helpers import serving
from tests.telemetry.ways import way_to
from tests.transports.http.asgi_client import Client
from trio_mcp_session import (
    PrometheusMetrics,
    Router,
    SessionManager,
    open_session_manager,
    serve_admin,
    serve_http,
)
from trio_mcp_session.admin.admin_app import AdminApp
from trio_mcp_session.admin.metrics_page import metrics_page
from trio_mcp_session.transports.asgi import Receive, Scope, Send
from trio_mcp_session.transports.http.json_response import respond

TOKEN = "0123456789abcdef"  # noqa: S105  # of tests
LOOPBACK = {"server": ("127.0.0.1", 9000)}
router = Router("r")


@router.tool()
async def hello() -> str:
    return "hello"


async def page(scope: Scope, receive: Receive, send: Send) -> None:
    await respond(send, 200, b"a page")


def client_of(app: AdminApp, host: str = "localhost:9000", **scope: Any) -> Client:
    return Client(app, {"host": host}, {**LOOPBACK, **scope})


async def test_the_page_has_statistics_and_counts_in_both_formats(
    autojump_clock: MockClock,
) -> None:
    metrics = PrometheusMetrics()
    async with open_session_manager(router, instrumentation=metrics) as manager:
        client = client_of(AdminApp({"/metrics": metrics_page(manager)}))
        async with way_to(manager, "memory", is_modern=False) as other:
            await other.call("tools/call", {"name": "hello"})
            text = await client.request("GET", path="/metrics", headers={"accept": "text/plain"})
            accept = "application/openmetrics-text; version=1.0.0"
            openly = await client.request("GET", path="/metrics", headers={"accept": accept})
            secret = manager.sessions()[0].session_id
    assert text.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert openly.headers["content-type"] == (
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    )
    for answer, parse in ((text, parse_text), (openly, parse_open_metrics)):
        assert answer.headers["cache-control"] == "no-store"
        body = answer.body.decode()
        assert secret not in body
        found = {
            sample.name: sample.value
            for family in parse(body)
            for sample in family.samples
            if sample.labels in ({}, {"tool": "hello", "outcome": "ok"}, {"tool": "hello"})
        }
        assert found["mcp_sessions_opened_total"] == 1
        assert found["mcp_tool_calls_total"] == 1
        assert found["mcp_tool_duration_seconds_count"] == 1


async def test_without_counting_the_page_has_the_statistics(autojump_clock: MockClock) -> None:
    async with serving(router) as manager:
        client = client_of(AdminApp({"/metrics": metrics_page(manager)}))
        answer = await client.request("GET", path="/metrics")
        assert b"mcp_active_sessions" in answer.body
        assert b"mcp_tool_calls" not in answer.body
        assert (await client.request("HEAD", path="/metrics")).status == 200
        refused = await client.request("POST", path="/metrics")
        assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    "host, headers, status",
    [
        ("localhost:9000", {}, 200),
        ("127.0.0.1:9000", {}, 200),
        ("evil.example", {}, 403),
        ("localhost:9000", {"origin": "https://evil.example"}, 403),
        ("localhost:9000", {"origin": "http://localhost:3000"}, 403),
        ("localhost:9000", {"origin": "http://localhost:9000"}, 200),
    ],
)
async def test_pages_of_others_are_refused(
    host: str, headers: dict[str, str], status: int, autojump_clock: MockClock
) -> None:
    client = client_of(AdminApp({"/page": page}), host)
    assert (await client.request("GET", path="/page", headers=headers)).status == status


async def test_hosts_may_be_listed(autojump_clock: MockClock) -> None:
    client = client_of(AdminApp({"/page": page}, allowed_hosts=["pod"]), "pod:9000")
    assert (await client.request("GET", path="/page")).status == 200


@pytest.mark.parametrize(
    "given, status",
    [
        ([], 401),
        ([b"Bearer " + TOKEN.encode()], 200),
        ([b"bearer  " + TOKEN.encode() + b" "], 200),
        ([b"Bearer " + TOKEN.encode()[:-1]], 401),
        ([b"Bearer \xff"], 401),
        ([b"Basic " + TOKEN.encode()], 401),
        ([b"Bearer " + TOKEN.encode()] * 2, 401),
    ],
)
@pytest.mark.parametrize("path", ["/page", "/other"])
async def test_every_path_needs_the_token(
    given: list[bytes], status: int, path: str, autojump_clock: MockClock
) -> None:
    client = client_of(AdminApp({"/page": page}, token=TOKEN))
    more = [(b"authorization", one) for one in given]
    answer = await client.request("GET", path=path, more_headers=more)
    assert answer.status == (404 if status == 200 and path == "/other" else status)
    assert answer.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)


async def test_other_scopes_are_left_alone(autojump_clock: MockClock) -> None:
    scope: Any = {"type": "lifespan"}
    await AdminApp({})(scope, trio.sleep_forever, trio.sleep_forever)  # type: ignore[arg-type]  # not called


@asynccontextmanager
async def managed() -> AsyncIterator[tuple[SessionManager, trio.Nursery]]:
    """A manager, and real sockets."""
    with trio.fail_after(30):
        async with open_session_manager(router) as manager, trio.open_nursery() as nursery:
            yield manager, nursery
            nursery.cancel_scope.cancel()


async def fetch(host: str, port: int, *headers: str, path: str = "/metrics") -> str:
    async with await trio.open_tcp_stream(host, port) as stream:
        lines = (f"GET {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers)
        await stream.send_all(("\r\n".join(lines) + "\r\n\r\n").encode())
        return b"".join([chunk async for chunk in stream]).decode()


async def test_it_serves_on_loopback_until_the_manager_is_drained() -> None:
    async with managed() as (manager, nursery):
        async with trio.open_nursery() as inner:
            (bound,) = await inner.start(serve_admin, manager, "127.0.0.1:0")
            assert "mcp_draining 0" in await fetch(bound.host, bound.port)
            nursery.start_soon(manager.drain)
        with pytest.raises(OSError, match="connect"):
            await fetch(bound.host, bound.port)


async def test_an_address_for_others_needs_a_token() -> None:
    async with managed() as (manager, nursery):
        with pytest.raises(ValueError, match="can be reached by other machines: set a token"):
            await serve_admin(manager, "0.0.0.0:0")
        serve = partial(serve_admin, token=TOKEN)
        (bound,) = await nursery.start(serve, manager, "0.0.0.0:0")
        assert "401" in (await fetch("127.0.0.1", bound.port)).splitlines()[0]
        answer = await fetch("127.0.0.1", bound.port, f"Authorization: Bearer {TOKEN}")
        assert "200" in answer.splitlines()[0]


async def test_a_unix_socket_needs_no_token(tmp_path: Path) -> None:
    async with managed() as (manager, nursery):
        (bound,) = await nursery.start(serve_admin, manager, f"unix:{tmp_path / 'admin'}")
        async with await trio.open_unix_socket(str(bound.unix_path)) as stream:
            await stream.send_all(b"GET /metrics HTTP/1.0\r\n\r\n")
            assert b"200" in await stream.receive_some(12)


async def test_it_never_shares_the_address_of_clients() -> None:
    async with managed() as (manager, nursery):
        (bound,) = await nursery.start(serve_http, manager, "127.0.0.1:0")
        with pytest.raises(OSError, match="in use"):
            await serve_admin(manager, str(bound))
        assert "404" in (await fetch(bound.host, bound.port)).splitlines()[0]


@pytest.mark.parametrize(
    "token, why",
    [
        (TOKEN[:-1], "at least 16 characters"),
        (f"{TOKEN[:-1]} ", "letters, digits"),
        (f"{TOKEN}ü", "letters, digits"),
    ],
)
async def test_a_bad_token_is_refused_and_not_shown(token: str, why: str) -> None:
    async with managed() as (manager, _):
        with pytest.raises(ValueError, match=why) as caught:
            await serve_admin(manager, token=token)
        assert token not in str(caught.value)
