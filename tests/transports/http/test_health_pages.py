from __future__ import annotations

from functools import partial
from math import inf

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.helpers import initialize, serving
from tests.transports.http.asgi_client import Client
from tests.transports.http.live import SERVERS, ServerName, live
from trio_mcp_session import Router, http_app, serve_http, with_health_pages
from trio_mcp_session.transports.asgi import ASGIApplication, Receive, Scope, Send

PAGES = ["/health", "/ready"]


async def test_pages_are_ok_for_any_host_and_without_credentials(
    autojump_clock: MockClock,
) -> None:
    async with serving(Router("x")) as manager:
        app = with_health_pages(manager, http_app(manager, allowed_hosts=["notes.example.com"]))
        client = Client(app, {"host": "10.0.0.7:8000"})
        for path in PAGES:
            answer = await client.request("GET", path=path)
            assert (answer.status, answer.body) == (200, b"ok\n")
            assert answer.headers["cache-control"] == "no-store"
            assert (await client.request("HEAD", path=path)).status == 200
            answer = await client.request("POST", path=path)
            assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")
        assert (await client.request("GET", path="/health/more")).status == 404
        good = {"host": "notes.example.com"}
        assert (await client.request(json=initialize(), headers=good)).status == 200


async def test_ready_is_503_from_retire_on(autojump_clock: MockClock) -> None:
    async with serving(Router("x")) as manager:
        client = Client(with_health_pages(manager, http_app(manager)))
        await manager.retire(0)
        answer = await client.request("GET", path="/ready")
        assert (answer.status, answer.body) == (503, b"draining\n")
        assert (await client.request("GET", path="/health")).status == 200


async def test_other_scopes_reach_the_application(autojump_clock: MockClock) -> None:
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await trio.lowlevel.checkpoint()
        seen.append(scope["type"])

    async with serving(Router("x")) as manager:
        with_pages: ASGIApplication = with_health_pages(manager, app)
        await with_pages({"type": "lifespan"}, trio.sleep_forever, trio.sleep_forever)  # type: ignore[arg-type]  # not called
    assert seen == ["lifespan"]


@pytest.mark.parametrize("server", SERVERS)
async def test_serve_http_has_pages_if_asked(server: ServerName) -> None:
    async with live(server=server, health_pages=True) as it, await it.connect() as wire:
        for path in PAGES:
            for method in ("GET", "HEAD"):
                answer = await wire.request(method, headers={"Host": "pod"}, path=path)
                assert answer.status == 200
        own = await it.open_session()
        await own.echo("hello")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(it.manager.retire, inf)
            await wait_all_tasks_blocked()
            assert (await wire.request("GET", path="/ready")).status == 503
            assert (await wire.request("GET", path="/health")).status == 200
            nursery.cancel_scope.cancel()
    async with live(server=server) as it, await it.connect() as wire:
        assert (await wire.request("GET", path="/health")).status == 404


async def test_pages_stand_in_front_of_an_own_application() -> None:
    async with live() as it, trio.open_nursery() as nursery:
        app = http_app(it.manager, path="/notes")
        serve = partial(serve_http, app=app, health_pages=True)
        (address,) = await nursery.start(serve, it.manager, "127.0.0.1:0")
        async with await it.connect(address) as wire:
            assert (await wire.request("GET", path="/ready")).status == 200
            assert (await wire.request("POST", path="/notes")).status == 400
        nursery.cancel_scope.cancel()
