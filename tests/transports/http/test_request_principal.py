"""A handler sees the principal, the headers and the scope of its own request."""

from __future__ import annotations

import gc
import weakref
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.helpers import listening, notification, request, result
from tests.transports.http.modern import headers_of, modern
from tests.transports.http.site import Site, json_of, site
from trio_mcp_session import HandleKind, Principal, RequestContext, RequestSource, Router
from trio_mcp_session.transports.asgi import Scope
from trio_mcp_session.transports.http.session_sink import SessionSink
from trio_mcp_session.transports.http.session_streams import streams_of


@asynccontextmanager
async def open_box() -> AsyncIterator[list[Any]]:
    yield []


BOXES = HandleKind("boxes", open_box)


class Claim:
    """An object in the claims of a token."""


async def by_role(scope: Scope, headers: Mapping[str, str]) -> Principal:
    """The user is always the same; the token says the role."""
    role = headers["authorization"]
    scope["state"] = {"role": role}
    return Principal("ada", "id", claims={"role": role, "object": Claim()}, scopes=[role])


def roles() -> tuple[Router, list[Any]]:
    router = Router("server")
    seen: list[Any] = []

    def look(ctx: RequestContext) -> dict[str, Any]:
        assert ctx.principal is not None
        assert ctx.asgi_scope is not None
        found = {
            "claim": ctx.principal.claims.get("role"),
            "scopes": sorted(ctx.principal.scopes),
            "header": ctx.headers["Authorization"],
            "state": ctx.asgi_scope["state"]["role"],
        }
        seen.append(found["claim"])
        return found

    @router.request("look")
    async def _(ctx: RequestContext) -> dict[str, Any]:
        return look(ctx)

    @router.request("wait")
    async def _(ctx: RequestContext) -> dict[str, Any]:
        look(ctx)
        await ctx.notify("notifications/begun")
        await trio.sleep(60)
        return look(ctx)

    @router.tool()
    async def ask(ctx: RequestContext) -> str:
        before = look(ctx)["claim"]
        await ctx.list_roots()
        return f"{before} {look(ctx)['claim']}"

    @router.tool()
    async def keep(ctx: RequestContext) -> str:
        return await ctx.open_handle(BOXES)

    @router.notification("notifications/progress")
    async def _(ctx: RequestContext) -> None:
        look(ctx)
        await ctx.notify("notifications/seen")
        assert not ctx.close_stream()

    return router, seen


def as_(role: str) -> dict[str, str]:
    return {"authorization": role}


def found(role: str) -> dict[str, Any]:
    return {"claim": role, "scopes": [role], "header": role, "state": role}


async def open_as(place: Site, role: str, version: str = "2025-11-25") -> Any:
    return await place.client(headers=as_(role)).initialize(version)


async def test_in_a_session_each_request_has_the_rights_of_its_own_token(
    autojump_clock: MockClock,
) -> None:
    router, seen = roles()
    async with site(router, authenticate=by_role) as place:
        client = await open_as(place, "admin")
        assert await client.post(request(1, "look")) == result(1, found("admin"))
        answer = await client.post(request(2, "look"), headers=as_("reader"))
        assert answer == result(2, found("reader"))
        # What runs for the administrator is not changed by that.
        async with client.stream("POST", request(3, "wait")) as response:
            await response.event()
            assert (await response.event()).json == notification("notifications/begun")
            await client.post(request(4, "look"), headers=as_("reader"))
            assert (await response.event()).json == result(3, found("admin"))
        seen.clear()
        changed = notification("notifications/progress")
        assert (await client.request("POST", changed, headers=as_("reader"))).status == 202
        await wait_all_tasks_blocked()
        assert seen == ["reader"]


async def test_requests_of_a_batch_have_the_rights_of_its_token(
    autojump_clock: MockClock,
) -> None:
    router, seen = roles()
    async with site(router, authenticate=by_role) as place:
        client = await open_as(place, "admin", "2025-03-26")
        batch = [request(1, "look"), request(2, "look"), notification("notifications/progress")]
        answers = await client.post(batch, headers=as_("reader"))
        answers.sort(key=lambda answer: answer["id"])
        assert answers == [result(1, found("reader")), result(2, found("reader"))]
        await wait_all_tasks_blocked()
        assert seen == ["reader"] * 3


async def test_a_stateless_request_has_the_rights_of_its_own_token(
    autojump_clock: MockClock,
) -> None:
    router, _ = roles()
    async with site(router, authenticate=by_role) as place:
        for role in ("admin", "reader"):
            message = modern(1, "look")
            client = place.client(headers=as_(role))
            answer = await client.post(message, headers=headers_of(message))
            assert found(role).items() <= answer["result"].items()


async def test_a_parked_handler_has_the_rights_of_the_last_retry(
    autojump_clock: MockClock,
) -> None:
    router, _ = roles()
    async with site(router, authenticate=by_role) as place:
        first = modern(1, "tools/call", {"name": "ask"}, capabilities={"roots": {}})
        client = place.client(headers=as_("admin"))
        asked = (await client.post(first, headers=headers_of(first)))["result"]
        (parked,) = place.manager.sessions()
        assert parked.principal == Principal("ada", "id")
        assert not parked.principal.claims
        (key,) = asked["inputRequests"]
        again = modern(
            2,
            "tools/call",
            {
                "name": "ask",
                "requestState": asked["requestState"],
                "inputResponses": {key: {"roots": []}},
            },
            capabilities={"roots": {}},
        )
        client = place.client(headers=as_("reader"))
        answer = (await client.post(again, headers=headers_of(again)))["result"]
        assert answer["content"][0]["text"] == "admin reader"


class Watched:
    """Authenticates as `by_role`, and notes which claims are in memory."""

    def __init__(self) -> None:
        self.claims: list[weakref.ref[Claim]] = []

    async def __call__(self, scope: Scope, headers: Mapping[str, str]) -> Principal:
        principal = await by_role(scope, headers)
        self.claims.append(weakref.ref(principal.claims["object"]))
        return principal

    def in_memory(self) -> list[bool]:
        gc.collect()
        return [one() is not None for one in self.claims]


async def test_sessions_and_handles_keep_no_claims(autojump_clock: MockClock) -> None:
    router, _ = roles()
    authenticate = Watched()
    async with site(router, authenticate=authenticate) as place:
        client = await open_as(place, "admin")
        await client.post(request(1, "tools/call", {"name": "keep", "arguments": {}}))
        await wait_all_tasks_blocked()
        assert len(place.manager.sessions()) == 2
        for session in place.manager.sessions():
            assert session.principal == Principal("ada", "id")
            assert not session.principal.claims
            assert not session.principal.scopes
        assert authenticate.in_memory() == [False] * 3


async def test_a_subscription_keeps_no_claims_of_another_one(autojump_clock: MockClock) -> None:
    router, _ = roles()
    authenticate = Watched()
    message = listening(1, toolsListChanged=True)
    headers = {**headers_of(message), **as_("admin")}
    async with site(router, authenticate=authenticate) as place, trio.open_nursery() as nursery:

        async def listen(*, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
            with trio.CancelScope() as scope:
                stream = place.client().stream("POST", message, headers=headers)
                async with stream as response:
                    await response.event()
                    task_status.started(scope)
                    await trio.sleep_forever()

        first = await nursery.start(listen)
        second = await nursery.start(listen)
        first.cancel()
        await trio.sleep(10)
        assert place.manager.statistics().listens == 1
        assert authenticate.in_memory() == [False, True]
        second.cancel()


async def test_an_unauthenticated_request_has_headers_and_a_scope(
    autojump_clock: MockClock,
) -> None:
    router = Router("server")

    @router.request("look")
    async def _(ctx: RequestContext) -> dict[str, Any]:
        assert ctx.asgi_scope is not None
        assert ctx.headers is ctx.headers
        return {
            "tenant": ctx.headers["x-tenant"],
            "path": ctx.asgi_scope["path"],
            "principal": None if ctx.principal is None else ctx.principal.issuer,
        }

    async with site(router) as place:
        client = await place.client(headers={"X-Tenant": "acme"}).initialize()
        answer = json_of(await client.request("POST", request(1, "look")))
        seen = {"tenant": "acme", "path": "/mcp", "principal": "a connection"}
        assert answer == result(1, seen)


@pytest.mark.parametrize("scope", [None, {}, {"headers": []}])
def test_a_source_without_headers_has_none(scope: Any) -> None:
    source = RequestSource(asgi_scope=scope)
    assert source.headers == {}
    assert repr(source) == "<RequestSource of None>"


async def test_what_a_notification_handler_sends_goes_to_the_stream_of_the_session(
    autojump_clock: MockClock,
) -> None:
    async with site() as place:
        _, session = await place.open()
        streams = streams_of(session)
        sink = SessionSink(streams, RequestSource())
        assert sink.connected is streams.connected is False
        assert sink.reachable is streams.reachable is True
        assert sink.send_message(b"{}")
        await sink.wait_writable()
        sink.send_no_result()
        with pytest.raises(AssertionError, match="own stream"):
            sink.send_result(b"{}")
