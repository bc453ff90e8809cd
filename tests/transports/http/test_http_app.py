"""`http_app`: where the endpoint is found, and what two of them share."""

from __future__ import annotations

from typing import Any

import pytest
from trio.testing import MockClock, assert_no_checkpoints

from tests.helpers import initialize, request, result, serving
from tests.transports.http.asgi_client import Client
from tests.transports.http.site import LOCAL, Server, json_of, never, site, works
from trio_mcp_session.transports.http.http_app import http_app

FOUND, NOT_FOUND = 200, 404


@pytest.mark.parametrize(
    "path, scope, status",
    [
        ("/mcp", {"path": "/mcp"}, FOUND),
        ("/mcp", {"path": "/mcp/"}, FOUND),
        ("/mcp/", {"path": "/mcp"}, FOUND),
        ("/mcp", {"path": "/"}, NOT_FOUND),
        ("/mcp", {"path": ""}, NOT_FOUND),
        ("/mcp", {"path": "/mcp/more"}, NOT_FOUND),
        ("/mcp", {"path": "/mcpmore"}, NOT_FOUND),
        ("/mcp", {"path": "/MCP"}, NOT_FOUND),
        ("/mcp", {"path": "mcp"}, NOT_FOUND),
        ("/a/b", {"path": "/a/b"}, FOUND),
        ("/", {"path": "/"}, FOUND),
        ("/", {"path": ""}, FOUND),
        ("", {"path": "/"}, FOUND),
        ("/", {"path": "/mcp"}, NOT_FOUND),
        (None, {"path": "/mcp"}, FOUND),
        (None, {"path": "/any/thing"}, FOUND),
        (None, {"path": ""}, FOUND),
        # Mounted below a path, which servers tell within the path, or beside it.
        ("/mcp", {"path": "/app/mcp", "root_path": "/app"}, FOUND),
        ("/mcp", {"path": "/app/mcp/", "root_path": "/app"}, FOUND),
        ("/mcp", {"path": "/app/mcp", "root_path": "/app/"}, FOUND),
        ("/mcp", {"path": "/mcp", "root_path": "/app"}, FOUND),
        ("/mcp", {"path": "/mcp", "root_path": "/m"}, FOUND),
        ("/mcp", {"path": "/mcp/mcp", "root_path": "/mcp"}, FOUND),
        ("/mcp", {"path": "/app", "root_path": "/app"}, NOT_FOUND),
        ("/mcp", {"path": "/app/app/mcp", "root_path": "/app"}, NOT_FOUND),
        ("/mcp", {"path": "/application/mcp", "root_path": "/app"}, NOT_FOUND),
        ("/mcp", {"path": "/app/mcp"}, NOT_FOUND),
        ("/", {"path": "/app", "root_path": "/app"}, FOUND),
        ("/", {"path": "/app/", "root_path": "/app"}, FOUND),
        ("/", {"path": "/app/mcp", "root_path": "/app"}, NOT_FOUND),
        (None, {"path": "/app/mcp", "root_path": "/app"}, FOUND),
    ],
    ids=str,
)
async def test_the_endpoint_answers_at_its_path_only(
    path: str | None, scope: dict[str, str], status: int, autojump_clock: MockClock
) -> None:
    async with site(path=path) as place:
        response = await place.client().request(json=initialize(), **scope)
        assert response.status == status
        if status == NOT_FOUND:
            # It says so as the protocol does, for a client that has the wrong address.
            assert json_of(response)["error"]["code"] == -32600
        place.look()


async def test_a_path_begins_with_a_slash(autojump_clock: MockClock) -> None:
    async with serving(Server().router) as manager:
        with pytest.raises(ValueError, match="must begin with a slash: 'mcp'"):
            http_app(manager, path="mcp")


async def test_by_default_it_is_mcp(autojump_clock: MockClock) -> None:
    async with serving(Server().router) as manager:
        with assert_no_checkpoints():
            app = http_app(manager)
        client = Client(app, LOCAL, {"server": ("127.0.0.1", 8000)})
        assert (await client.request(json=initialize(), path="/mcp")).status == FOUND
        assert (await client.request(json=initialize(), path="/")).status == NOT_FOUND


async def test_a_server_that_leaves_out_the_root_path(autojump_clock: MockClock) -> None:
    async with site() as place:
        scope: dict[str, Any] = {"type": "http", "method": "PUT", "path": "/mcp", "headers": []}
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        await place.app(scope, never, send)
        assert sent[0]["status"] == 405


async def test_two_endpoints_of_one_manager_share_its_sessions(autojump_clock: MockClock) -> None:
    async with site() as place:
        client, _ = await place.open()
        other = Client(http_app(place.manager, path="/other"), client.headers, client.scope)
        assert await other.post(request(1, "echo"), path="/other") == result(1)
        assert await works(client)


async def test_two_managers_share_nothing(autojump_clock: MockClock) -> None:
    async with site() as one, site() as other:
        client, _ = await one.open()
        stranger = Client(other.app, client.headers, client.scope)
        assert (await stranger.request(json=request(1, "echo"))).status == NOT_FOUND
        assert await works(client)
