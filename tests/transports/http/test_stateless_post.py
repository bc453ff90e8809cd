"""Stateless requests over HTTP: how many, whose, and what they know."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

import pytest
import trio
from msgspec import UNSET
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.helpers import brief, error, request, result
from tests.transports.http.asgi_client import Client, Response
from tests.transports.http.modern import PREFIX, complete, headers_of, modern
from tests.transports.http.site import Server, Site, bearer, json_of, site, works
from trio_mcp_session import (
    Error,
    RequestContext,
    RequestFailed,
    Router,
    SessionLimits,
    current_request,
    current_session,
)
from trio_mcp_session.core.errors import HandlerCrashed, NoChannel, PeerViolation
from trio_mcp_session.core.metrics import SessionCounters
from trio_mcp_session.protocol.jsonrpc import Params
from trio_mcp_session.protocol.revisions import Revision
from trio_mcp_session.server.mcp_server import server_of

INTERNAL, INCAPABLE = -32603, -32021

who: ContextVar[str] = ContextVar("who", default="nobody")


def counters(place: Site) -> SessionCounters:
    return server_of(place.manager).stateless.counters


async def call(place: Site, message: Any, subject: str | None = None) -> Response:
    client = place.client(subject)
    return await client.request("POST", message, headers=headers_of(message))


async def answer(place: Site, message: Any) -> Any:
    response = await call(place, message)
    assert response.status == 200
    return json_of(response)


# Discovery.


async def test_discovery_over_http_describes_the_server_without_a_session(
    autojump_clock: MockClock,
) -> None:
    router = Server(instructions="Be brief.").router

    @router.tool(structured=False)
    async def tool(ctx: RequestContext) -> str:
        return "found"

    async with site(router) as place:
        found = await answer(place, modern(1, "server/discover"))
        assert found == complete(
            1,
            "server",
            supportedVersions=["2026-07-28"],
            capabilities=found["result"]["capabilities"],
            instructions="Be brief.",
            ttlMs=0,
            cacheScope="private",
        )
        assert found["result"]["capabilities"].keys() == {"logging", "tools"}
        called = await answer(place, modern(2, "tools/call", {"name": "tool"}))
        assert called == complete(2, "server", content=[{"type": "text", "text": "found"}])
        assert place.manager.sessions() == []


@pytest.mark.parametrize("failure", [ValueError("bug"), SystemExit(1)], ids=repr)
@pytest.mark.parametrize("what", ["handles_request", "header_parameters", "capabilities"])
async def test_an_application_that_fails_when_it_is_asked(
    what: str,
    failure: BaseException,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    router = Server().router

    @router.request("tools/list")
    async def no_list(ctx: RequestContext) -> None:
        await trio.lowlevel.checkpoint()  # pragma: no cover  # it is refused before

    async with site(router) as place:

        def fail(*_: object) -> Any:
            raise type(failure)(*failure.args)  # One of its own: it would keep the frames alive.

        monkeypatch.setattr(router, what, fail)
        method = "server/discover" if what == "capabilities" else "tools/list"
        with place.manager.subscribe() as events:
            response = await call(place, modern(1, method))
            event = events.receive_nowait()
        assert brief(json_of(response)) == error(1, INTERNAL)
        assert response.status == (200 if what == "capabilities" else 500)
        assert isinstance(event, RequestFailed)
        assert isinstance(event.error, HandlerCrashed)
        monkeypatch.undo()
        assert (await call(place, modern(2, "server/discover"))).status == 200


async def test_a_crash_of_capabilities_fails_discovery_over_http(autojump_clock: MockClock) -> None:
    class Silent:
        def __init__(self, router: Router) -> None:
            self.router = router

        def __getattr__(self, name: str) -> Any:
            return getattr(self.router, name)

        def capabilities(self, revision: Revision) -> Any:
            raise ZeroDivisionError(revision.version)

    silent: Any = Silent(Server().router)
    async with site(silent) as place:
        with place.manager.subscribe() as events:
            told = await answer(place, modern(1, "server/discover"))
            assert brief(told) == error(1, INTERNAL)
            assert "2026" not in told["error"]["message"]
            event = await events.receive()
        assert isinstance(event, RequestFailed)
        assert isinstance(event.error.__cause__, ZeroDivisionError)
        assert await answer(place, modern(2, "echo"))


# How many.


async def test_stateless_requests_above_the_limit_wait_and_then_are_refused_with_503(
    autojump_clock: MockClock,
) -> None:
    server = Server()
    limits = SessionLimits(max_stateless_requests=3, max_queued=2)
    async with site(server.router, limits=limits) as place:
        answered: list[Any] = []

        async def wait(number: int) -> None:
            answered.append(await answer(place, modern(number, "wait")))

        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(wait, number)
                await wait_all_tasks_blocked()
            assert server.started == [0, 1, 2]
            assert place.manager.statistics().in_flight == 3
            response = await call(place, modern("one more", "echo"))
            busy = json_of(response)
            assert (response.status, response.headers["retry-after"]) == (503, "5")
            assert brief(busy) == error("one more", INTERNAL)
            assert "busy" in busy["error"]["message"]
            assert place.refused == {503: 1}
            # What needs no handler, and what has another kind of limit, is served.
            assert "result" in await answer(place, modern(1, "server/discover"))
            assert await works(await place.client().initialize())
            assert answered == []
            server.may_answer.set()
        assert sorted(one["id"] for one in answered) == [0, 1, 2, 3, 4]
        assert sorted(server.started, key=str) == [0, 1, 2, 3, 4]
        # Now there is room again.
        assert "result" in await answer(place, modern("one more", "echo"))


async def test_a_queued_stateless_request_starts_when_a_running_one_disconnects(
    autojump_clock: MockClock,
) -> None:
    server = Server()
    async with site(server.router, limits=SessionLimits(max_stateless_requests=1)) as place:
        async with trio.open_nursery() as nursery:
            message = modern(1, "wait")
            async with place.client().stream("POST", message, headers=headers_of(message)):
                await wait_all_tasks_blocked()
                nursery.start_soon(answer, place, modern(2, "wait"))
                await wait_all_tasks_blocked()
                assert server.started == [1]
            await trio.sleep(0.2)
            assert server.started == [1, 2]
            server.may_answer.set()


# Whose.


async def test_ids_of_different_clients_are_unrelated(autojump_clock: MockClock) -> None:
    router = Router("echo")

    @router.request("echo")
    async def echo(ctx: RequestContext) -> dict[str, Any]:
        await trio.sleep(ctx.params["seconds"])
        return {"text": ctx.params["text"]}

    async with site(router, authenticate=bearer) as place:
        found: dict[str, Any] = {}

        async def ask(subject: str, seconds: float) -> None:
            message = modern(1, "echo", {"seconds": seconds, "text": subject})
            found[subject] = json_of(await call(place, message, subject))

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(ask, f"client {number % 10}{number}", (20 - number) / 10)
        assert found == {name: complete(1, "echo", text=name) for name in found}
        assert len(found) == 20


async def test_the_client_is_asked_for_its_token_each_time(autojump_clock: MockClock) -> None:
    async with site(authenticate=bearer) as place:
        assert (await call(place, modern(1, "echo"), "alice")).status == 200
        assert (await call(place, modern(1, "echo"))).status == 401


# What counts as bad input.


@pytest.mark.parametrize(
    "message, headers, code, bad",
    [
        (modern(1, "nothing"), {}, -32601, False),
        (modern(1, "initialize"), {}, -32601, False),
        (modern(1, "echo", version="1900-01-01"), {}, -32022, False),
        (modern(1, "echo", capabilities=[1]), {}, -32602, True),
        (modern(1, "echo"), {"mcp-method": "wait"}, -32020, True),
        (modern(1, "subscriptions/listen"), {}, -32602, True),
    ],
)
async def test_to_ask_what_there_is_breaks_nothing(
    message: Any, headers: dict[str, str], code: int, bad: bool, autojump_clock: MockClock
) -> None:
    async with site() as place:
        given = {**headers_of(message), **headers}
        with place.manager.subscribe() as events:
            response = await place.client().request("POST", message, headers=given)
            assert brief(json_of(response)) == error(1, code)
            assert counters(place).bad_input == bad
            if bad:
                event = await events.receive()
                assert isinstance(event, RequestFailed)
                assert isinstance(event.error, PeerViolation)
            with pytest.raises(trio.WouldBlock):
                events.receive_nowait()


# What they know.


async def test_no_client_or_capability_is_remembered_between_stateless_requests(
    autojump_clock: MockClock,
) -> None:
    router = Router("forgetful")

    @router.request("roots")
    async def roots(ctx: RequestContext) -> dict[str, Any]:
        return {"roots": await ctx.list_roots()}

    @router.request("who")
    async def tell(ctx: RequestContext) -> dict[str, Any]:
        assert ctx.client is not None
        return {"client": ctx.client.client_id, "version": ctx.protocol_version}

    async with site(router) as place:
        with place.manager.subscribe() as events:
            capable = modern(1, "roots", capabilities={"roots": {}})
            assert brief(await answer(place, capable)) == error(1, INTERNAL)
            event = await events.receive()
            assert isinstance(event, RequestFailed)
            # There is no channel to ask on, but for that the client would be able to answer.
            assert isinstance(event.error.__cause__, NoChannel)
        unable = await call(place, modern(1, "roots"))
        assert (unable.status, brief(json_of(unable))) == (400, error(1, INCAPABLE))
        named = modern(2, "who", **{f"{PREFIX}clientInfo": {"name": "me", "version": "1"}})
        for message, name in [(named, "me"), (modern(2, "who"), "")]:
            expected = complete(2, "forgetful", client=name, version="2026-07-28")
            assert await answer(place, message) == expected


async def test_context_variables_do_not_leak(autojump_clock: MockClock) -> None:
    """One task serves them one after the other: each begins with what the manager began with."""
    router = Router("context")
    tasks: list[trio.lowlevel.Task] = []

    @router.request("who")
    async def tell(ctx: RequestContext) -> dict[str, Any]:
        before = who.get()
        who.set(ctx.params["name"])
        tasks.append(trio.lowlevel.current_task())
        assert current_request() is ctx
        with pytest.raises(LookupError):
            current_session()
        await trio.lowlevel.checkpoint()
        return {"before": before, "now": who.get()}

    who.set("the manager")
    async with site(router) as place:
        # What the server's own tasks have set is nothing to handlers.
        who.set("the server")
        for name in ("alice", "bob", "carol"):
            expected = complete(1, "context", before="the manager", now=name)
            assert await answer(place, modern(1, "who", {"name": name})) == expected
        # A session's request beside it, on the same endpoint.
        client = await place.client().initialize()
        assert (await client.post(request(1, "ping"))) == result(1)
        assert who.get() == "the server"
    assert len(set(tasks)) == 1


async def test_a_parameter_header_without_a_matching_argument_is_refused(
    autojump_clock: MockClock,
) -> None:
    """There is nothing that a header could agree with."""
    wanted: list[Params] = []

    class Wanting:
        def __init__(self, router: Router) -> None:
            self.router = router

        def __getattr__(self, name: str) -> Any:
            return getattr(self.router, name)

        def header_parameters(self, method: str, params: Params) -> Any:
            wanted.append(params)
            return {"Region": ("place",)}

    wanting: Any = Wanting(Server().router)
    async with site(wanting) as place:
        several: list[Any] = [[], "x", None, {}, {"place": None}]
        for arguments in several:
            message = modern(1, "echo", {"arguments": arguments})
            assert "result" in await answer(place, message)
            headers = headers_of(message, mcp_param_region="eu")
            refused = await place.client().request("POST", message, headers=headers)
            assert (refused.status, brief(json_of(refused))) == (400, error(1, -32020))
    assert len(wanted) == 10


# What is reported.


async def test_stateless_requests_over_http_are_counted(autojump_clock: MockClock) -> None:
    async with site() as place:
        message = modern(1, "echo")
        response = await call(place, message)
        found = counters(place)
        assert (found.messages_received, found.requests) == (1, 1)
        assert (found.messages_sent, found.bytes_sent) == (1, len(response.body))
        assert found.bytes_received > 0
        assert (found.errors, found.bad_input, found.cancelled, found.dropped) == (0, 0, 0, 0)
        with place.manager.subscribe() as events:
            wrong = await place.client().request("POST", message)
            assert wrong.status == 400
            event = await events.receive()
        assert isinstance(event, RequestFailed)
        assert isinstance(event.error, PeerViolation)
        assert (found.messages_received, found.requests, found.bad_input) == (2, 1, 1)
        assert place.refused == {400: 1}
        await call(place, modern(1, "roots"))
        assert (found.errors, place.refused) == (1, {400: 1})


async def test_a_handler_that_fails(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    router = Router("failing")

    @router.request("fail")
    async def fail(ctx: RequestContext) -> None:
        raise ZeroDivisionError("secret")

    async with site(router) as place:
        with place.manager.subscribe() as events:
            response = await call(place, modern(1, "fail"))
            event = await events.receive()
        assert (response.status, brief(json_of(response))) == (200, error(1, INTERNAL))
        assert b"secret" not in response.body
        assert isinstance(event, RequestFailed)
        assert not isinstance(event, Error)
        assert isinstance(event.error, HandlerCrashed)
        assert "secret" in caplog.text


async def test_a_client_that_does_not_wait(autojump_clock: MockClock) -> None:
    server = Server()
    async with site(server.router) as place:
        message = modern(1, "wait")
        async with place.client().stream("POST", message, headers=headers_of(message)) as response:
            await wait_all_tasks_blocked()
            response.stall()
            server.may_answer.set()
            await wait_all_tasks_blocked()
        assert not response.complete
        assert counters(place).cancelled == 0


async def test_ids_are_told_apart_by_type(autojump_clock: MockClock) -> None:
    async with site() as place:
        for request_id in (0, "", "0", 2**53, -1):
            told = await answer(place, modern(request_id, "echo"))
            assert (told["id"], type(told["id"])) == (request_id, type(request_id))
            refused = await call(place, modern(request_id, "no"))
            assert json_of(refused).get("id", UNSET) == request_id


async def test_one_client_of_both_eras(autojump_clock: MockClock) -> None:
    """What the session has negotiated does not apply to stateless requests."""
    async with site() as place:
        client, session = await place.open()
        message = modern(1, "roots")
        both = {**client.headers, **headers_of(message)}
        # The session has declared that it can; the request has not.
        unable = await Client(place.app, {}, client.scope).request(
            "POST", message, headers={**both, "mcp-session-id": session.session_id}
        )
        assert (unable.status, brief(json_of(unable))) == (400, error(1, INCAPABLE))
        assert session.metrics.errors == 0
        assert await works(client)
