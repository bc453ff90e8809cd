"""`Router(server_lifespan=...)`: what all clients of a server share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import attrs
import pytest
import trio

from tests.application.client import ERAS, M, connected, envelope_of
from trio_mcp_session import (
    HandleKind,
    HttpOptions,
    RequestContext,
    Router,
    ServerLifespan,
    Session,
    SessionManager,
    current_session,
    open_session_manager,
    serve_http,
)
from trio_mcp_session.testing import http_request, open_http_session


@attrs.define(eq=False)
class Pool:
    """Something that all clients share."""

    uses: int = 0
    closed: bool = False

    def use(self) -> int:
        assert not self.closed
        self.uses += 1
        return self.uses


@attrs.define(eq=False)
class Server:
    """A router with a server lifespan."""

    pools: list[Pool] = attrs.field(factory=list)

    def router(self, notes: list[str] | None = None) -> Router:
        @asynccontextmanager
        async def pool(_: SessionManager) -> AsyncIterator[Pool]:
            self.pools.append(Pool())
            yield self.pools[-1]
            self.pools[-1].closed = True

        @asynccontextmanager
        async def of_session(session: Session) -> AsyncIterator[None]:
            assert notes is not None
            notes.append(f"opened {session.server_state(pool).use()}")
            yield
            notes.append(f"closed {session.server_state(pool).use()}")

        @asynccontextmanager
        async def opener() -> AsyncIterator[int]:
            yield current_session().server_state(pool).use()

        kind = HandleKind[int]("use", opener)
        router = Router(
            "shared", server_lifespan=pool, lifespan=None if notes is None else of_session
        )
        assert router.server_lifespans == (pool,)

        @router.tool()
        async def use(ctx: RequestContext) -> int:
            return ctx.server_state(pool).use()

        @router.tool()
        async def use_in_handle(ctx: RequestContext) -> int:
            async with ctx.use_handle(kind, await ctx.open_handle(kind)) as number:
                return number

        @router.tool()
        async def use_another(ctx: RequestContext) -> int:
            another: ServerLifespan[int] = Server().router().server_lifespans[0]
            return ctx.server_state(another)

        return router


@pytest.mark.parametrize("version", ERAS)
async def test_handlers_get_the_value_of_the_server_lifespan(version: str) -> None:
    server = Server()
    async with connected(server.router(), version) as client:
        for number in ("1", "2"):
            assert (await client.call("use"))["content"][0]["text"] == number
        assert (await client.call("use_in_handle"))["content"][0]["text"] == "3"
        (pool,) = server.pools
        assert not pool.closed
        assert (await client.call("use_another"))["isError"]
        assert isinstance(await client.crash(), LookupError)
    assert pool.closed


async def test_lifespans_of_sessions_get_the_value_of_the_server_lifespan_to_their_end() -> None:
    notes: list[str] = []
    server = Server()
    async with connected(server.router(notes)) as client:
        await client.call("use")
    assert notes == ["opened 1", "closed 3"]
    assert server.pools[0].closed


def test_a_router_without_a_server_lifespan_has_none() -> None:
    assert Router("plain").server_lifespans == ()


@pytest.mark.parametrize("stateless", [False, True])
async def test_over_http_all_requests_get_one_value_of_the_server_lifespan(stateless: bool) -> None:
    server = Server()
    call = {"name": "use", "arguments": {}}
    modern = {**call, "_meta": envelope_of()}
    headers = {"Mcp_Protocol_Version": M, "Mcp_Method": "tools/call", "Mcp_Name": "use"}
    answers = []
    with trio.fail_after(20):
        async with open_session_manager(server.router()) as manager, trio.open_nursery() as nursery:
            options = HttpOptions(stateless=stateless)
            serve = partial(serve_http, options=options)
            (address,) = await nursery.start(serve, manager, "127.0.0.1:0")
            legacy = {} if stateless else await open_http_session(address)
            for params, with_headers in ((call, legacy), (modern, headers)):
                answer = await http_request(address, "POST", "tools/call", params, **with_headers)
                answers += [one["result"]["content"][0]["text"] for one in answer.messages]
            nursery.cancel_scope.cancel()
    assert answers == ["1", "2"]
    assert server.pools[0].closed
