"""An endpoint that declines one of the two eras, request by request."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from trio.testing import MockClock

from tests.helpers import initialize, notification, request, result
from tests.transports.http.modern import MODERN, headers_of, modern
from tests.transports.http.site import Server, Site, json_of, site, works
from trio_mcp_session import Eras, Router, Session, http_app, serve_http
from trio_mcp_session.protocol.revisions import HANDSHAKE_REVISIONS
from trio_mcp_session.server.mcp_server import server_of

LATEST = "2025-11-25"
SESSIONS = list(HANDSHAKE_REVISIONS)
VERSION = "mcp-protocol-version"


async def send(
    place: Site, message: Any, verb: str = "POST", **headers: str
) -> tuple[int, Any, dict[str, str]]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    response = await place.client().request(verb, message, headers=named)
    return response.status, json_of(response), response.headers


async def send_modern(place: Site, message: Any, **more: str) -> tuple[int, Any]:
    headers = {**headers_of(message), **more}
    response = await place.client().request("POST", message, headers=headers)
    return response.status, json_of(response)


def refused(answer: Any) -> tuple[object, int, Any]:
    """The id, the code and the data of an error."""
    return answer.get("id"), answer["error"]["code"], answer["error"].get("data")


NO_REQUESTS = {"supported": SESSIONS, "requested": MODERN}
NO_SESSIONS = {"supported": [MODERN], "requested": LATEST}


# Sessions only.


@pytest.mark.parametrize("method", ["server/discover", "echo", "initialize", "ping", "unknown"])
async def test_sessions_only_declines_stateless_requests(
    method: str, autojump_clock: MockClock
) -> None:
    async with site(Server(eras="legacy").router) as place:
        status, answer = await send_modern(place, modern(1, method))
        assert (status, refused(answer)) == (400, (1, -32022, NO_REQUESTS))
        assert answer["error"]["message"] == (
            "Unsupported protocol version: this server needs a session, send initialize"
        )
        assert server_of(place.manager).stateless.counters.bad_input == 0
        assert place.manager.sessions() == []
        client, _ = await place.open()  # As clients do then that know both.
        assert await works(client)


async def test_sessions_only_checks_the_rest_first(autojump_clock: MockClock) -> None:
    async with site(Server(eras="legacy").router) as place:
        status, answer = await send_modern(place, modern(1, "echo", capabilities=1))
        assert (status, refused(answer)) == (400, (1, -32602, {"supported": SESSIONS}))
        message = modern(1, "echo")
        status, answer = await send_modern(place, message, **{"mcp-method": "other"})
        assert (status, refused(answer)) == (400, (1, -32020, None))


@pytest.mark.parametrize(
    "message",
    [
        request(1, "echo"),
        request(1, "server/discover"),
        initialize(1),
        notification("notifications/cancelled"),
        notification("notifications/cancelled", modern(1, "x")["params"]),
        result(1),
        [request(1, "echo")],
    ],
)
async def test_sessions_only_and_the_header_of_the_other_era(
    message: Any, autojump_clock: MockClock
) -> None:
    async with site(Server(eras="legacy").router) as place:
        status, answer, _ = await send(place, message, mcp_protocol_version=MODERN)
        request_id = (
            message.get("id") if isinstance(message, dict) and "method" in message else None
        )
        assert (status, refused(answer)) == (400, (request_id, -32022, NO_REQUESTS))
        assert place.manager.sessions() == []


async def test_sessions_only_without_a_session(autojump_clock: MockClock) -> None:
    async with site(Server(eras="legacy").router) as place:
        status, answer, _ = await send(place, request(1, "echo"))
        assert (status, refused(answer)) == (400, (1, -32602, {"supported": SESSIONS}))
        assert answer["error"]["message"] == "No session: send initialize first"


@pytest.mark.parametrize("verb", ["GET", "DELETE"])
async def test_sessions_only_and_other_verbs(verb: str, autojump_clock: MockClock) -> None:
    async with site(Server(eras="legacy").router) as place:
        status, answer, _ = await send(place, None, verb, mcp_protocol_version=MODERN)
        assert (status, refused(answer)) == (400, (None, -32022, NO_REQUESTS))
        status, _, headers = await send(place, None, "PUT")
        assert (status, headers["allow"]) == (405, "POST, GET, DELETE")


# No sessions.


@pytest.mark.parametrize("headers", [{}, {"mcp_protocol_version": LATEST}])
@pytest.mark.parametrize("session_id", [None, "some"])
async def test_no_sessions_opens_none(
    headers: dict[str, str], session_id: str | None, autojump_clock: MockClock
) -> None:
    named = headers if session_id is None else {**headers, "mcp_session_id": session_id}
    async with site(Server(eras="modern").router) as place:
        status, answer, sent = await send(place, initialize(1), **named)
        assert (status, refused(answer)) == (400, (1, -32022, NO_SESSIONS))
        assert "no sessions" in answer["error"]["message"]
        assert "mcp-session-id" not in sent
        assert place.manager.sessions() == []
        assert place.manager.statistics().opened == 0


@pytest.mark.parametrize(
    "message, headers, expected",
    [
        (request(1, "echo"), {}, (1, -32602, {"supported": [MODERN]})),
        (request(1, "ping"), {}, (1, -32602, {"supported": [MODERN]})),
        (request(1, "initialize"), {}, (1, -32602, {"supported": [MODERN]})),
        (request(1, "echo"), {VERSION: LATEST}, (1, -32022, NO_SESSIONS)),
        (request(1, "echo"), {VERSION: MODERN}, (1, -32602, {"supported": [MODERN]})),
        (initialize(1), {VERSION: MODERN}, (1, -32602, {"supported": [MODERN]})),
        (notification("notifications/initialized"), {}, (None, -32020, None)),
        (
            notification("notifications/initialized"),
            {VERSION: LATEST},
            (None, -32022, NO_SESSIONS),
        ),
        (result(1), {}, (None, -32600, None)),
        (result(1), {VERSION: LATEST}, (None, -32600, None)),
        ([request(1, "echo")], {}, (None, -32600, None)),
    ],
)
async def test_no_sessions_and_no_envelope(
    message: Any, headers: dict[str, str], expected: Any, autojump_clock: MockClock
) -> None:
    async with site(Server(eras="modern").router) as place:
        response = await place.client().request("POST", message, headers=headers)
        assert (response.status, refused(json_of(response))) == (400, expected)
        assert place.manager.sessions() == []


async def test_no_sessions_serves_the_rest(autojump_clock: MockClock) -> None:
    async with site(Server(eras="modern").router) as place:
        status, answer = await send_modern(place, modern(1, "server/discover"))
        assert (status, answer["result"]["supportedVersions"]) == (200, [MODERN])
        status, answer = await send_modern(place, modern(2, "echo", {"a": 1}))
        assert (status, answer["result"]["a"]) == (200, 1)
        status, answer = await send_modern(place, modern(3, "echo", version=LATEST))
        assert (status, refused(answer)) == (400, (3, -32022, NO_SESSIONS))
        for headers in ({"mcp_protocol_version": MODERN}, {}):
            message = notification("notifications/cancelled", modern(1, "x")["params"])
            status, answer, _ = await send(place, message, **headers)
            assert (status, answer) == (202, None)


@pytest.mark.parametrize("verb", ["GET", "DELETE", "PUT"])
@pytest.mark.parametrize("version", [None, LATEST, MODERN, "1900-01-01"])
async def test_no_sessions_has_one_verb(
    verb: str, version: str | None, autojump_clock: MockClock
) -> None:
    async with site(Server(eras="modern").router) as place:
        named = {"mcp_session_id": "some"}
        if version is not None:
            named["mcp_protocol_version"] = version
        status, _, headers = await send(place, None, verb, **named)
        assert (status, headers["allow"]) == (405, "POST")


# Whose choice it is.


@pytest.mark.parametrize("said", ["both", "legacy", "modern"])
async def test_an_endpoint_may_choose_otherwise(said: Eras, autojump_clock: MockClock) -> None:
    each: dict[Eras, tuple[int, int]] = {
        "both": (200, 200),
        "legacy": (400, 200),
        "modern": (200, 400),
    }
    router = Server(eras=said).router
    for chosen in (None, *each):
        options: dict[str, Any] = {} if chosen is None else {"eras": chosen}
        async with site(router, **options) as place:
            alone, _ = await send_modern(place, modern(1, "echo"))
            session, _, _ = await send(place, initialize(1))
            assert (alone, session) == each[chosen or said]


async def test_a_session_of_another_endpoint_is_none_where_there_are_none(
    autojump_clock: MockClock,
) -> None:
    async with site() as place:
        client, session = await place.open()
        app = http_app(place.manager, eras="modern")
        elsewhere = Site(place.manager, cast("Any", app)).client(headers=client.headers)
        assert (await elsewhere.request("DELETE", None)).status == 405
        assert (await elsewhere.request("POST", request(1, "echo"))).status == 400
        assert session.termination_reason is None
        assert await works(client)


async def test_an_invalid_choice_of_eras_is_refused_at_once() -> None:
    async with site() as place:
        for choice in ("all", ""):
            with pytest.raises(ValueError, match="eras must be"):
                http_app(place.manager, eras=cast("Any", choice))
            with pytest.raises(ValueError, match="eras must be"):
                await serve_http(place.manager, "127.0.0.1:0", eras=cast("Any", choice))


async def test_serving_an_endpoint_that_chooses(autojump_clock: MockClock) -> None:
    async with site() as place:
        app = http_app(place.manager, eras="modern")
        with pytest.raises(ValueError, match="takes the settings of http_app itself"):
            await serve_http(place.manager, "127.0.0.1:0", app=app, eras="modern")


# What the log says.


@asynccontextmanager
async def lifespan(_: Session) -> AsyncIterator[None]:
    yield


async def test_a_lifespan_that_is_not_entered_is_told_once(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with site(Router("shelf", lifespan=lifespan)) as place:
        await place.open()
        await send_modern(place, modern(1, "unknown"))
        assert not caplog.records
        for number in range(2):
            await send_modern(place, modern(number, "server/discover"))
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert "the lifespan of 'shelf' is not entered for it" in record.getMessage()
