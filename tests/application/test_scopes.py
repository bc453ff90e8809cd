"""Scopes of tools where there is no HTTP, and what handlers get to know of their connection."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from tests.helpers import initialize, notification, request, serving
from tests.rounds import town
from trio_mcp_session import McpError, Principal, RequestContext, Router, serve_stream
from trio_mcp_session.testing import ClientEraName, connect_client, connect_http_client


def locked() -> Router:
    router = Router("server")

    @router.tool(scopes="files:write")
    async def write(ctx: RequestContext) -> str:
        return "written"

    @router.request("look")
    async def look(ctx: RequestContext) -> dict[str, Any]:
        assert ctx.principal is not None
        assert ctx.asgi_scope is None
        assert ctx.headers == {}
        assert ctx.session.principal == (None if ctx.principal.issuer else ctx.principal)
        return {"claims": dict(ctx.principal.claims)}

    return router


async def test_a_client_in_memory_without_a_principal_needs_no_scopes(
    autojump_clock: MockClock,
) -> None:
    async with serving(locked()) as manager, connect_client(manager) as client:
        assert (await client.call_tool("write")).text == "written"


async def test_a_client_with_a_principal_needs_the_scopes(autojump_clock: MockClock) -> None:
    async with serving(locked()) as manager:
        allowed = Principal("ada", scopes=["files:write"])
        async with connect_client(manager, principal=allowed) as client:
            assert (await client.call_tool("write")).text == "written"
        for principal in (Principal("ada"), Principal("ada", scopes=["files:read"])):
            async with connect_client(manager, principal=principal) as client:
                with pytest.raises(McpError, match="the scopes: files:write") as caught:
                    await client.call_tool("write")
                assert caught.value.data == {"requiredScopes": ["files:write"]}


@pytest.mark.parametrize("scopes", [None, "files:read", "files:write"])
async def test_a_client_over_a_byte_stream_needs_the_scopes(
    scopes: str | None, autojump_clock: MockClock
) -> None:
    """A stream may be a network connection: no client on it is trusted for that alone."""
    principal = None if scopes is None else Principal("ada", scopes=scopes)
    async with serving(locked()) as manager, trio.open_nursery() as nursery:
        ours, theirs = memory_stream_pair()
        nursery.start_soon(partial(serve_stream, manager, theirs, principal=principal))
        for message in (
            initialize(),
            notification("notifications/initialized"),
            request(1, "tools/call", {"name": "write", "arguments": {}}),
        ):
            await ours.send_all(msgspec.json.encode(message) + b"\n")
        await wait_all_tasks_blocked()
        await ours.send_eof()
        received = b"".join([chunk async for chunk in ours])
        answer = msgspec.json.decode(received.splitlines()[-1])
        assert answer["id"] == 1
        assert ("result" in answer) is (scopes == "files:write")


@pytest.mark.parametrize("mounted", [False, True])
@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_a_client_over_http_without_authentication_may_do_what_needs_no_scopes(
    era: ClientEraName, mounted: bool, autojump_clock: MockClock
) -> None:
    router = locked()

    @router.tool()
    async def read(ctx: RequestContext) -> str:
        return "read"

    served, prefix = router, ""
    if mounted:
        served, prefix = Router("outer"), "inner_"
        served.mount(router, prefix="inner")
    async with serving(served) as manager, connect_http_client(manager, era=era) as client:
        assert len((await client.request("tools/list"))["tools"]) == 2
        assert (await client.call_tool(f"{prefix}read")).text == "read"
        with pytest.raises(McpError, match="the scopes: files:write"):
            await client.call_tool(f"{prefix}write")


async def test_a_connection_has_claims_and_no_headers(autojump_clock: MockClock) -> None:
    principal = Principal("ada", claims={"pid": 7})
    async with serving(locked()) as manager:
        async with connect_client(manager, principal=principal) as client:
            assert await client.request("look") == {"claims": {"pid": 7}}
            owner = client.session.principal
            assert owner == principal
            assert owner is not None
            assert not owner.claims
        # Another connection of the same principal has its own.
        async with connect_client(manager, principal=Principal("ada")) as client:
            assert await client.request("look") == {"claims": {}}
        async with connect_client(manager) as client:
            assert await client.request("look") == {"claims": {}}


async def test_a_client_without_a_principal_may_call_what_needs_no_scopes_over_http(
    autojump_clock: MockClock,
) -> None:
    inner, outer = locked(), Router("outer")

    @inner.tool()
    async def greet() -> str:
        return "hello"

    outer.mount(inner, prefix="in")
    for router, prefix in ((inner, ""), (outer, "in_")):
        async with town(router) as here:
            client = here.http()
            assert (await client.call(f"{prefix}greet")).text == "hello"
            assert (await client.call(f"{prefix}write")).answer["error"]["data"] == {
                "requiredScopes": ["files:write"]
            }
