"""Pages of allowed origins: preflights, and headers that let them read the answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from trio.testing import MockClock

from tests.helpers import initialize, request
from tests.transports.http.asgi_client import Client
from tests.transports.http.live import SERVERS, ServerName, live
from tests.transports.http.modern import headers_of, modern
from tests.transports.http.site import bearer, site, token

APP = "https://app.example"
ALLOWED: dict[str, Any] = {"allowed_origins": [APP, "http://localhost:*"]}
PREFLIGHT = {
    "origin": APP,
    "access-control-request-method": "POST",
    "access-control-request-headers": "content-type,mcp-session-id,x-api-key",
}


def cors(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.startswith("access-control-")}


async def test_a_preflight_of_an_allowed_origin_is_answered(autojump_clock: MockClock) -> None:
    async with site(**ALLOWED, authenticate=bearer) as place:
        answer = await place.client().request("OPTIONS", headers=PREFLIGHT)
        assert answer.status == 204
        assert cors(answer.headers) == {
            "access-control-allow-origin": APP,
            "access-control-allow-methods": "POST, GET, DELETE",
            "access-control-allow-headers": "content-type,mcp-session-id,x-api-key",
            "access-control-max-age": "7200",
            "access-control-expose-headers": (
                "Mcp-Session-Id, MCP-Protocol-Version, WWW-Authenticate, Retry-After"
            ),
        }
        assert answer.headers["vary"] == "Origin"
        assert place.refused == {}


@pytest.mark.parametrize(
    "headers, name, value",
    [
        ({"access-control-request-headers": None}, "access-control-allow-headers", None),
        ({"access-control-request-headers": "a\x00b"}, "access-control-allow-headers", None),
        ({"access-control-request-headers": "x" * 5000}, "access-control-allow-headers", None),
        (
            {"access-control-request-private-network": "true"},
            "access-control-allow-private-network",
            "true",
        ),
        ({}, "access-control-allow-private-network", None),
        ({"origin": "HTTP://LocalHost:1"}, "access-control-allow-origin", "HTTP://LocalHost:1"),
    ],
)
async def test_what_a_preflight_allows(
    headers: dict[str, str | None], name: str, value: str | None, autojump_clock: MockClock
) -> None:
    async with site(**ALLOWED) as place:
        answer = await place.client().request("OPTIONS", headers={**PREFLIGHT, **headers})
        assert answer.status == 204
        assert answer.headers.get(name) == value


@pytest.mark.parametrize(
    "settings, headers, status",
    [
        (ALLOWED, {"origin": "https://evil.example"}, 403),
        (ALLOWED, {"host": "evil.example"}, 403),
        # Not of a browser.
        (ALLOWED, {"origin": None}, 405),
        (ALLOWED, {"access-control-request-method": None}, 405),
        # Without a list the pages of this machine are accepted, but get no CORS.
        ({}, {"origin": "http://localhost:5173"}, 405),
        ({}, {}, 403),
    ],
)
async def test_other_preflights_are_refused(
    settings: dict[str, Any],
    headers: dict[str, str | None],
    status: int,
    autojump_clock: MockClock,
) -> None:
    async with site(**settings) as place:
        answer = await place.client().request("OPTIONS", headers={**PREFLIGHT, **headers})
        assert answer.status == status
        assert answer.headers.get("access-control-allow-methods") is None
        assert place.refused == {status: 1}


async def test_a_preflight_for_another_path_is_refused(autojump_clock: MockClock) -> None:
    async with site(**ALLOWED) as place:
        answer = await place.client().request("OPTIONS", headers=PREFLIGHT, path="/other")
        assert answer.status == 404


async def test_an_allowed_page_can_read_answers_and_errors(autojump_clock: MockClock) -> None:
    async with site(**ALLOWED, authenticate=bearer) as place:
        page = place.client(headers={"origin": APP})
        listing = modern(1, "echo")
        answers = [
            await page.request(json=initialize()),
            await page.request(json=initialize(), headers=token("ada")),
            await page.request("DELETE", headers={**token("ada"), "mcp-session-id": "gone"}),
            await page.request("PUT", headers=token("ada")),
            await page.request(json=listing, headers={**headers_of(listing), **token("ada")}),
        ]
        assert [answer.status for answer in answers] == [401, 200, 404, 405, 200]
        for answer in answers:
            assert answer.headers["access-control-allow-origin"] == APP
            assert "Mcp-Session-Id" in answer.headers["access-control-expose-headers"]
            assert answer.headers["vary"] == "Origin"
        opened = Client(
            place.app,
            {
                **page.headers,
                **token("ada"),
                "mcp-session-id": answers[1].headers["mcp-session-id"],
            },
            page.scope,
        )
        async with opened.stream("GET") as stream:
            await stream.started()
            assert stream.status == 200
            assert stream.headers["access-control-allow-origin"] == APP


@pytest.mark.parametrize("origin", [None, "http://localhost:8000", "https://evil.example"])
async def test_other_answers_have_no_cors_headers(
    origin: str | None, autojump_clock: MockClock
) -> None:
    # Of no page, of the server's own page, and of a page that is refused.
    headers = {} if origin is None else {"origin": origin}
    async with site(allowed_origins=[APP]) as place:
        answer = await place.client(headers=headers).request(json=initialize())
        assert answer.status == (403 if origin == "https://evil.example" else 200)
        assert cors(answer.headers) == {}
    async with site() as place:
        answer = await place.client(headers={"origin": "http://localhost:1"}).request(
            json=initialize()
        )
        assert answer.status == 200
        assert cors(answer.headers) == {}


@pytest.mark.parametrize("server", SERVERS)
async def test_preflight_and_call_on_real_sockets(server: ServerName) -> None:
    async with live(server=server, **ALLOWED) as it, await it.connect() as wire:
        answer = await wire.request("OPTIONS", headers={**PREFLIGHT, "Content-Type": None})
        assert answer.status == 204
        assert answer.headers["access-control-allow-origin"] == APP
        # The connection can be used again.
        answer = await wire.request("POST", request(1, "ping"), {"Origin": APP})
        assert answer.status == 400
        assert answer.headers["access-control-allow-origin"] == APP
