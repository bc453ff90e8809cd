"""A server that declines one of the two eras, frame by frame on a connection."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast, final

import pytest
import trio
from trio.testing import MockClock

from tests.helpers import (
    LATEST,
    MODERN,
    Peer,
    brief,
    cancelled,
    connect,
    error,
    initialize,
    modern,
    modern_result,
    notification,
    request,
    result,
    serving,
    told,
)
from trio_mcp_session import (
    Eras,
    NoSession,
    RequestContext,
    Router,
    Session,
    SessionManager,
    SessionState,
    connect_memory,
    open_session_manager,
)
from trio_mcp_session.protocol.revisions import HANDSHAKE_REVISIONS
from trio_mcp_session.server.mcp_server import server_of

SESSIONS = list(HANDSHAKE_REVISIONS)
NEEDS_A_SESSION = {
    "code": -32022,
    "message": "Unsupported protocol version: this server needs a session, send initialize",
    "data": {"supported": SESSIONS, "requested": MODERN},
}


def make_router(**settings: Any) -> Router:
    router = Router("r", **settings)

    @router.request("echo")
    async def echo(ctx: RequestContext) -> dict[str, Any]:
        return {"version": ctx.protocol_version}

    return router


def violations(peer: Peer) -> int:
    return peer.session.metrics.bad_input


# Sessions only.


@pytest.mark.parametrize(
    "method", ["echo", "server/discover", "subscriptions/listen", "initialize", "ping", "unknown"]
)
@pytest.mark.parametrize("shaken", [False, True])
async def test_sessions_only_declines_stateless_requests(
    method: str, shaken: bool, autojump_clock: MockClock
) -> None:
    async with serving(make_router(eras="legacy")) as manager:
        peer = await connect(manager)
        if shaken:
            await peer.establish()
        await peer.send(modern(1, method))
        assert await peer.receive() == {"jsonrpc": "2.0", "id": 1, "error": NEEDS_A_SESSION}
        # To ask what there is breaks nothing, and uses nothing.
        assert violations(peer) == 0
        assert peer.session.state is (SessionState.ACTIVE if shaken else SessionState.INITIALIZING)
        # A client that knows both continues in this way, on the same connection.
        if not shaken:
            await peer.establish()
        assert await peer.ask(2, "echo") == result(2, {"version": LATEST})
        await peer.channel.aclose()


async def test_sessions_only_and_half_an_envelope(autojump_clock: MockClock) -> None:
    async with serving(make_router(eras="legacy")) as manager:
        peer = await connect(manager)
        for broken in (modern(1, "echo", version=5), modern(1, "echo", capabilities=5)):
            await peer.send(broken)
            answer = await peer.receive()
            assert brief(answer) == error(1, -32602)
            # What it says is served is.
            assert answer["error"]["data"] == {"supported": SESSIONS}
        await peer.channel.aclose()


async def test_sessions_only_knows_no_discovery(autojump_clock: MockClock) -> None:
    async with serving(make_router(eras="legacy")) as manager:
        peer = await connect(manager)
        for method in ("server/discover", "echo"):
            answer = await peer.ask(1, method)
            assert answer["error"] == {
                "code": -32602,
                "message": "No session: send initialize first",
                "data": {"supported": SESSIONS},
            }
        await peer.establish()
        assert brief(await peer.ask(2, "server/discover")) == error(2, -32601)
        assert await peer.ask(3, "ping") == result(3)
        await peer.channel.aclose()


async def test_sessions_only_and_a_batch(autojump_clock: MockClock) -> None:
    async with serving(make_router(eras="legacy")) as manager:
        peer = await connect(manager)
        await peer.establish("2025-03-26")
        await peer.send([modern(1, "echo"), request(2, "echo")])
        answers = await peer.receive()
        assert answers == [
            {"jsonrpc": "2.0", "id": 1, "error": NEEDS_A_SESSION},
            result(2, {"version": "2025-03-26"}),
        ]
        await peer.channel.aclose()


# No sessions.


async def test_no_sessions_declines_the_handshake(autojump_clock: MockClock) -> None:
    async with serving(make_router(eras="modern")) as manager:
        peer = await connect(manager)
        await peer.send(initialize(1))
        answer = await peer.receive()
        assert answer["error"] == {
            "code": -32022,
            "message": "Unsupported protocol version: this server has no sessions, each request "
            f"has to name {MODERN} in params._meta",
            "data": {"supported": [MODERN], "requested": LATEST},
        }
        assert violations(peer) == 0
        assert peer.session.protocol_version is None
        # What a client sends behind it all the same has no effect.
        await peer.send(
            notification("notifications/initialized"),
            cancelled(1),
            result(5),
            request(2, "echo"),
            request(3, "ping"),
            request(4, "initialize", {}),
            [request(6, "echo")],
        )
        answers = [await peer.receive() for _ in range(4)]
        assert [brief(answer) for answer in answers] == [
            error(2, -32602),
            error(3, -32602),
            error(4, -32602),
            error(None, -32600),
        ]
        assert all(one["error"]["data"] == {"supported": [MODERN]} for one in answers[:3])
        assert await peer.waiting() == []
        # And a client that speaks it is served.
        await peer.send(modern(7, "echo"))
        state = peer.session.state
        assert told(await peer.receive()) == modern_result(7, {"version": MODERN})
        assert (state, peer.session.state) == (SessionState.INITIALIZING, SessionState.ACTIVE)
        await peer.channel.aclose()


async def test_no_sessions_is_discovered(autojump_clock: MockClock) -> None:
    async with serving(make_router(eras="modern")) as manager:
        peer = await connect(manager)
        await peer.send(modern(1, "server/discover"))
        answer = await peer.receive()
        assert answer["result"]["supportedVersions"] == [MODERN]
        await peer.send(modern(2, "echo", version="1900-01-01"))
        refused = (await peer.receive())["error"]
        assert (refused["code"], refused["data"]) == (
            -32022,
            {"supported": [MODERN], "requested": "1900-01-01"},
        )
        await peer.channel.aclose()


async def test_no_sessions_in_a_drain(autojump_clock: MockClock) -> None:
    async with serving(make_router(eras="modern")) as manager:
        peer = await connect(manager)
        with peer.session.lease():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(manager.drain)
                await trio.testing.wait_all_tasks_blocked()
                answer = await peer.ask(1, "initialize", {"protocolVersion": LATEST})
                assert answer["error"]["message"] == "server is shutting down"
                nursery.cancel_scope.cancel()
        await peer.channel.aclose()


# Whose choice it is.


async def serves(manager: SessionManager, eras: Eras | None) -> set[str]:
    """Which eras a connection serves: found out by asking."""
    peer = await connect(manager, eras=eras)
    await peer.send(modern("modern", "echo"), initialize("legacy"))
    answers = [await peer.receive() for _ in range(2)]
    served = {one["id"] for one in answers if "result" in one}
    await peer.channel.aclose()
    return served


EACH: dict[Eras, set[str]] = {
    "both": {"modern", "legacy"},
    "legacy": {"legacy"},
    "modern": {"modern"},
}


@pytest.mark.parametrize("said", EACH)
async def test_a_connection_may_choose_otherwise(said: Eras, autojump_clock: MockClock) -> None:
    async with serving(make_router(eras=said)) as manager:
        assert await serves(manager, None) == EACH[said]
        for chosen, served in EACH.items():
            assert await serves(manager, chosen) == served
        # The choice of one connection does not apply to others.
        assert await serves(manager, None) == EACH[said]


@final
class Foreign:
    """An application that does not know of eras."""

    def __init__(self, router: Router) -> None:
        self._router = router

    def __getattr__(self, name: str) -> Any:
        if name == "eras":
            raise AttributeError(name)
        return getattr(self._router, name)


async def test_an_application_that_does_not_know_of_eras(autojump_clock: MockClock) -> None:
    async with serving(cast("Any", Foreign(make_router(eras="legacy")))) as manager:
        assert await serves(manager, None) == EACH["both"]
        assert await serves(manager, "legacy") == EACH["legacy"]


async def test_a_choice_that_is_none_is_the_callers_error(autojump_clock: MockClock) -> None:
    async with serving(make_router()) as manager:
        with pytest.raises(ValueError, match="eras must be"):
            await connect_memory(manager, eras=cast("Any", "all"))
        assert await serves(manager, None) == EACH["both"]


# What the log says.


@asynccontextmanager
async def lifespan(_: Session) -> AsyncIterator[None]:
    yield


def shelf(**settings: Any) -> Router:
    router = Router("shelf", **settings)

    @router.tool()
    async def put(ctx: RequestContext) -> str:
        return repr(ctx.session)

    @router.tool()
    async def look(ctx: RequestContext) -> str:
        return "nothing"

    @router.request("put")
    async def put_by_method(ctx: RequestContext) -> None:
        with pytest.raises(NoSession):
            _ = ctx.session

    return router


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]


def call(request_id: object, tool: object) -> dict[str, Any]:
    return modern(request_id, "tools/call", {"name": tool, "arguments": {}})


WAY_OUT = (
    "; keep what outlives a request behind a handle (HandleKind), or decline such clients: "
    'Router(eras="legacy")'
)


async def ask(peer: Peer, message: object) -> Any:
    await peer.send(message)
    return await peer.receive()


async def test_a_tool_that_asks_for_its_session_is_named_once(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):  # Once for each manager.
        caplog.clear()
        async with serving(shelf()) as manager:
            peer, other = await connect(manager), await connect(manager)
            await other.establish()
            assert "result" in await other.ask(1, "tools/call", {"name": "put"})
            assert (await ask(peer, call(1, "look")))["result"]["content"][0]["text"] == "nothing"
            assert warnings(caplog) == []
            for _ in range(2):
                assert (await ask(peer, call(2, "put")))["result"]["isError"]
            await ask(peer, modern(3, "put"))
            await ask(other, call(4, "put"))
            (said,) = warnings(caplog)
            assert said == (
                "tool 'put' of 'shelf' used ctx.session, and a request of 2026-07-28 has no session"
                + WAY_OUT
            )
            assert caplog.records[-1].name == "trio_mcp_session"
            for one in (peer, other):
                await one.channel.aclose()


async def test_a_handler_that_asks_for_its_session(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(shelf()) as manager:
        peer = await connect(manager)
        await ask(peer, modern(1, "put", {"name": "not a tool"}))
        (said,) = warnings(caplog)
        assert said.startswith("handler of put of 'shelf' used ctx.session")
        await peer.channel.aclose()


async def test_names_in_the_log_are_short(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    router = Router("s" * 1000)

    @router.request("tools/call")
    async def call_any(ctx: RequestContext) -> None:
        with pytest.raises(NoSession):
            _ = ctx.session

    async with serving(router) as manager:
        peer = await connect(manager)
        await ask(peer, call(1, "a\nforged line" + "t" * 1000))
        (said,) = warnings(caplog)
        assert "\n" not in said
        assert len(said) < 500
        await peer.channel.aclose()


async def test_a_lifespan_that_is_not_entered_is_told_once(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(shelf(lifespan=lifespan)) as manager:
        peer = await connect(manager)
        await peer.establish()
        await ask(peer, modern(1, "unknown"))
        assert warnings(caplog) == []  # It did not come for anything that there is.
        for number in range(2):
            await ask(peer, modern(number, "server/discover"))
        await ask(peer, call(3, "put"))
        (said,) = warnings(caplog)
        assert said == (
            "a client of 2026-07-28 has no session, so the lifespan of 'shelf' is not entered "
            "for it" + WAY_OUT
        )
        await peer.channel.aclose()


@pytest.mark.parametrize("settings", [{"eras": "legacy", "lifespan": lifespan}, {}])
async def test_what_serves_all_its_clients_says_nothing(
    settings: dict[str, Any], autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(shelf(**settings)) as manager:
        peer = await connect(manager)
        await ask(peer, modern(1, "server/discover"))
        await ask(peer, call(2, "look"))
        await peer.establish()
        await peer.ask(3, "tools/call", {"name": "put"})
        assert warnings(caplog) == []
        await peer.channel.aclose()


async def test_a_manager_without_an_application_has_nothing_to_say() -> None:
    async with open_session_manager() as manager:
        with pytest.raises(RuntimeError, match="without an application"):
            server_of(manager).served.get()
