"""Handles as handlers and clients see them: in both eras, on every transport."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, final

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.application.client import ERAS, Client, D, M, connected
from tests.helpers import Peer, connect, modern, request, serving
from tests.transports.http.asgi_client import Client as HttpClient
from tests.transports.http.modern import headers_of
from tests.transports.http.site import Site, bearer, site
from trio_mcp_session import (
    Handle,
    HandleKind,
    LifespanFailed,
    Principal,
    RequestContext,
    Router,
    Session,
    SessionKind,
    SessionManager,
    TerminationReason,
    ToolError,
    UnknownHandle,
)

ALICE = Principal("alice")
both_eras = pytest.mark.parametrize("version", [D, M])


@final
@attrs.define(eq=False)
class Cart:
    """What the handles of these tests stand for."""

    owner: str
    items: list[str] = attrs.field(factory=list[str])
    closed: bool = False


@final
class Shop:
    """A server with carts: the tools that a specification's example would have."""

    def __init__(self, **settings: Any) -> None:
        self.carts: list[Cart] = []
        self.kind = HandleKind[Cart]("cart", self.open_cart, idle_timeout=600, **settings)
        self.contexts: list[RequestContext] = []
        self.router = Router("shop")
        for tool in (self.create, self.add, self.show, self.close, self.list, self.whose):
            self.router.tool()(tool)
        self.router.tool("hold", description=f"Hold a cart. {self.kind.expiry}")(self.hold)
        self.router.request("shop/create")(self.create_by_request)
        self.router.request("shop/show")(self.show_by_request)
        self.router.request("shop/list")(self.list_by_request)

    @asynccontextmanager
    async def open_cart(self, owner: str) -> AsyncIterator[Cart]:
        if owner == "nobody":
            raise ToolError("carts have owners")
        cart = Cart(owner)
        self.carts.append(cart)
        yield cart
        cart.closed = True

    async def create(self, ctx: RequestContext, owner: str = "me") -> Mapping[str, str]:
        return {"cart": await ctx.open_handle(self.kind, owner)}

    async def add(self, ctx: RequestContext, cart: str, item: str) -> str:
        async with ctx.use_handle(self.kind, cart) as found:
            found.items.append(item)
            return f"{len(found.items)} items"

    async def show(self, ctx: RequestContext, cart: str) -> str:
        handle = ctx.get_handle(self.kind, cart)
        return ", ".join([f"of {handle.value.owner}", *handle.value.items])

    async def close(self, ctx: RequestContext, cart: str) -> str:
        return "closed" if await ctx.close_handle(self.kind, cart) else "there was none"

    async def list(self, ctx: RequestContext) -> Mapping[str, Any]:
        return {"carts": [handle.handle_id for handle in ctx.list_handles(self.kind)]}

    async def hold(self, ctx: RequestContext, cart: str) -> None:
        self.contexts.append(ctx)
        async with ctx.use_handle(self.kind, cart):
            await trio.sleep_forever()

    async def whose(self, ctx: RequestContext) -> Mapping[str, Any]:
        who = ctx.principal
        return {"subject": who and who.subject, "issuer": who and who.issuer}

    async def create_by_request(self, ctx: RequestContext) -> Mapping[str, str]:
        return await self.create(ctx)

    async def show_by_request(self, ctx: RequestContext, params: dict[str, Any]) -> None:
        await self.show(ctx, params["cart"])

    async def list_by_request(self, ctx: RequestContext) -> Mapping[str, Any]:
        return await self.list(ctx)


def text_of(result: Any) -> str:
    ((content,), error) = result["content"], result.get("isError", False)
    return ("error: " if error else "") + str(content["text"])


async def create(client: Client) -> str:
    cart: str = (await client.call("create"))["structuredContent"]["cart"]
    return cart


def handles_of(manager: SessionManager) -> list[Session]:
    return manager.sessions(lambda session: session.kind is SessionKind.HANDLE)


# One handler text for all revisions.


@pytest.mark.parametrize("version", ERAS)
async def test_handle_is_used_by_several_calls(version: str) -> None:
    shop = Shop()
    async with connected(shop.router, version) as client:
        created = await client.call("create", owner="ada")
        text = created["content"][0]["text"]
        (session,) = handles_of(client.manager)
        cart = session.session_id
        assert text == f'{{"cart":"{cart}"}}'
        assert text_of(await client.call("add", cart=cart, item="tea")) == "1 items"
        assert text_of(await client.call("add", cart=cart, item="milk")) == "2 items"
        assert text_of(await client.call("show", cart=cart)) == "of ada, tea, milk"
        assert cart in text_of(await client.call("list"))
        assert text_of(await client.call("close", cart=cart)) == "closed"
        assert shop.carts[0].closed
        assert text_of(await client.call("close", cart=cart)) == "there was none"
        assert handles_of(client.manager) == []


async def test_expiry_of_a_handle_kind_in_a_description() -> None:
    async with connected(Shop().router) as client:
        tools = (await client.request("tools/list"))["tools"]
        (description,) = [tool["description"] for tool in tools if tool["name"] == "hold"]
        assert description == "Hold a cart. Expires after 10 minutes without use."


@both_eras
async def test_handle_errors_are_tool_results(version: str) -> None:
    """With the text, and without a crash report: `connected` would have seen that."""
    shop = Shop(max_per_principal=1)
    async with connected(shop.router, version) as client:
        for tool in ("show", "hold"):
            assert text_of(await client.call(tool, cart="cart_1")) == (
                "error: no handle 'cart_1': it is unknown, or has expired; open another one"
            )
        await create(client)
        assert text_of(await client.call("create")) == (
            "error: too many 'cart' handles for this user (limit: 1)"
        )


@both_eras
async def test_handle_errors_outside_of_tools_are_errors(version: str) -> None:
    shop = Shop(max_per_principal=1)
    async with connected(shop.router, version) as client:
        error = await client.refused("shop/show", {"cart": "cart_1"})
        assert (error["code"], error["message"]) == (-32602, str(UnknownHandle("cart_1")))
        await client.request("shop/create")
        error = await client.refused("shop/create")
        assert error["code"] == -32603
        assert error["message"] == "too many 'cart' handles for this user (limit: 1)"


@both_eras
async def test_opener_may_raise_tool_error(version: str) -> None:
    async with connected(Shop().router, version) as client:
        result = await client.call("create", owner="nobody")
        assert text_of(result) == "error: carts have owners"
        # It is told as the failure of a session, too.
        await wait_all_tasks_blocked()
        (error,) = client.errors
        assert isinstance(error, LifespanFailed)
        assert isinstance(error.__cause__, ToolError)
        client.errors.clear()
        assert handles_of(client.manager) == []


@both_eras
async def test_handle_that_ends_cancels_its_use(version: str, autojump_clock: MockClock) -> None:
    shop = Shop(lifetime=5)
    async with connected(shop.router, version) as client:
        cart = await create(client)
        result = await client.call("hold", cart=cart)
        ended = UnknownHandle(cart, TerminationReason.LIFETIME)
        assert text_of(result) == f"error: {ended}"
        assert trio.current_time() == 5


@both_eras
async def test_cancelled_request_does_not_end_the_handle(version: str) -> None:
    shop = Shop()
    async with connected(shop.router, version) as client:
        cart = await create(client)
        (session,) = handles_of(client.manager)
        holding = await client.ask("tools/call", {"name": "hold", "arguments": {"cart": cart}})
        await wait_all_tasks_blocked()
        assert session._busy == 1
        await client.notify("notifications/cancelled", {"requestId": holding})
        await wait_all_tasks_blocked()
        assert session._busy == 0
        assert text_of(await client.call("add", cart=cart, item="tea")) == "1 items"


@both_eras
async def test_handle_stays_in_use_during_a_question(version: str) -> None:
    """Also where the handler has no request in the meantime."""
    shop = Shop()

    @shop.router.tool()
    async def check_out(ctx: RequestContext, cart: str) -> str:
        async with ctx.use_handle(shop.kind, cart) as found:
            sure = await ctx.elicit("Sure?", {"type": "object"}, key="sure")
            found.items.append(sure.action)
            return str(len(found.items))

    async with connected(shop.router, version, capabilities={"elicitation": {}}) as client:
        cart = await create(client)
        (session,) = handles_of(client.manager)
        params: dict[str, Any] = {"name": "check_out", "arguments": {"cart": cart}}
        checking = await client.ask("tools/call", params)
        question = await client.receive()
        adding = {"name": "add", "arguments": {"cart": cart, "item": "tea"}}
        adding_id = await client.ask("tools/call", adding)
        await wait_all_tasks_blocked()
        assert session._busy == 2
        answer = {"action": "accept", "content": {}}
        if version == D:
            await client.send({"id": question["id"], "result": answer})
        else:
            assert question["result"]["resultType"] == "input_required"
            params["requestState"] = question["result"]["requestState"]
            params["inputResponses"] = {"sure": answer}
            checking = await client.ask("tools/call", params)
        assert text_of((await client.answer_to(checking))["result"]) == "1"
        assert text_of((await client.answer_to(adding_id))["result"]) == "2 items"
        assert shop.carts[0].items == ["accept", "tea"]
        assert session._busy == 0


# Whose it is.


async def call(peer: Peer, request_id: object, tool: str, /, **arguments: Any) -> Any:
    answer = await peer.ask(request_id, "tools/call", {"name": tool, "arguments": arguments})
    return answer["result"]


async def modern_call(peer: Peer, request_id: object, tool: str, /, **arguments: Any) -> Any:
    await peer.send(modern(request_id, "tools/call", {"name": tool, "arguments": arguments}))
    return (await peer.receive())["result"]


async def http_call(client: HttpClient, tool: str, /, **arguments: Any) -> Any:
    """Call a tool with a stateless request."""
    message = modern(1, "tools/call", {"name": tool, "arguments": arguments})
    return (await client.post(message, headers=headers_of(message)))["result"]


async def legacy_http_call(client: HttpClient, tool: str, /, **arguments: Any) -> Any:
    message = request(1, "tools/call", {"name": tool, "arguments": arguments})
    return (await client.post(message))["result"]


async def test_handles_of_one_connection_are_unknown_to_another() -> None:
    """Without authentication, and also where one of them is modern."""
    shop = Shop()
    async with serving(shop.router) as manager:
        one, other = await connect(manager), await connect(manager)
        await one.establish()
        cart = (await call(one, 1, "create"))["structuredContent"]["cart"]
        assert text_of(await call(one, 2, "show", cart=cart)) == "of me"
        # The same pipe, whatever the era.
        assert text_of(await modern_call(one, 3, "show", cart=cart)) == "of me"
        assert (await modern_call(one, 4, "list"))["structuredContent"] == {"carts": [cart]}
        unknown = f"error: {UnknownHandle(cart)}"
        assert text_of(await modern_call(other, 5, "show", cart=cart)) == unknown
        assert text_of(await modern_call(other, 6, "close", cart=cart)) == "there was none"
        assert (await modern_call(other, 7, "list"))["structuredContent"] == {"carts": []}
        whose = [
            (await modern_call(peer, 8, "whose"))["structuredContent"] for peer in (one, other)
        ]
        assert whose[0] != whose[1]
        assert one.session.session_id not in str(whose)
        await one.channel.aclose()
        await other.channel.aclose()


@both_eras
@pytest.mark.parametrize(
    "end, reason",
    [
        ("leaves", TerminationReason.CLIENT_CLOSED),
        ("is ended", TerminationReason.EVICTED),
        ("is drained", TerminationReason.SHUTDOWN),
    ],
)
async def test_handles_of_a_connection_end_with_it(
    version: str, end: str, reason: TerminationReason, autojump_clock: MockClock
) -> None:
    shop = Shop()
    async with serving(shop.router) as manager:
        peer = await connect(manager)
        bystander = await connect(manager)
        await bystander.establish()
        await call(bystander, 1, "create")
        speak = modern_call if version == M else call
        if version == D:
            await peer.establish()
        await speak(peer, 1, "create")
        *_, session = handles_of(manager)
        connection = peer.session
        if end == "leaves":
            await peer.channel.aclose()
        elif end == "is ended":
            connection.terminate(reason)
        else:
            await connection.drain()
        assert await connection.wait_terminated() is reason
        assert await session.wait_terminated() is reason
        assert [cart.closed for cart in shop.carts] == [False, True]
        await bystander.channel.aclose()


async def test_handles_of_an_http_session_end_with_it() -> None:
    shop = Shop()
    async with site(shop.router) as here:
        client, header_session = await here.open()
        cart = (await legacy_http_call(client, "create"))["structuredContent"]["cart"]
        (session,) = handles_of(here.manager)
        here.look()
        assert text_of(await legacy_http_call(client, "show", cart=cart)) == "of me"
        assert (await client.request("DELETE")).status == 204
        assert await header_session.wait_terminated() is TerminationReason.CLIENT_CLOSED
        assert await session.wait_terminated() is TerminationReason.CLIENT_CLOSED
        assert shop.carts[0].closed


async def test_principal_finds_its_handles_on_every_connection() -> None:
    """From another connection, in another era, over another transport: and it outlives them."""
    shop = Shop()
    async with site(shop.router, authenticate=bearer) as here:
        alice, bob = here.client("alice"), here.client("bob")
        pipe = await connect(here.manager, principal=ALICE)
        await pipe.establish()
        legacy, header_session = await here.open("alice")
        cart = (await legacy_http_call(legacy, "create"))["structuredContent"]["cart"]
        here.look()
        assert text_of(await http_call(alice, "add", cart=cart, item="tea")) == "1 items"
        assert text_of(await call(pipe, 1, "add", cart=cart, item="milk")) == "2 items"
        assert text_of(await modern_call(pipe, 2, "show", cart=cart)) == "of me, tea, milk"
        assert (await legacy.request("DELETE")).status == 204
        await header_session.wait_terminated()
        await pipe.channel.aclose()
        await pipe.session.wait_terminated()
        assert text_of(await http_call(alice, "show", cart=cart)) == "of me, tea, milk"
        for answer in (
            await http_call(bob, "show", cart=cart),
            await http_call(bob, "add", cart=cart, item="beer"),
        ):
            assert text_of(answer) == f"error: {UnknownHandle(cart)}"
        assert (await http_call(bob, "list"))["structuredContent"] == {"carts": []}
        assert (await http_call(alice, "list"))["structuredContent"] == {"carts": [cart]}
        assert (await http_call(alice, "whose"))["structuredContent"]["subject"] == "alice"
        assert here.manager.revoke(ALICE) == 1
        revoked = UnknownHandle(cart, TerminationReason.REVOKED)
        assert text_of(await http_call(alice, "show", cart=cart)) == f"error: {revoked}"
        assert text_of(await http_call(bob, "show", cart=cart)) == f"error: {UnknownHandle(cart)}"


async def _create_without_a_principal(here: Site, shop: Shop) -> tuple[HttpClient, str]:
    client = here.client()
    cart = (await http_call(client, "create"))["structuredContent"]["cart"]
    here.look()
    assert handles_of(here.manager)[0].principal is None
    return client, cart


async def test_without_authentication_the_id_gives_access() -> None:
    shop = Shop(max_per_principal=1)
    async with site(shop.router) as here:
        client, cart = await _create_without_a_principal(here, shop)
        another = here.client()
        assert text_of(await http_call(another, "show", cart=cart)) == "of me"
        assert text_of(await http_call(client, "list")) == (
            "error: handles can be listed for authenticated clients only"
        )
        message = modern(2, "shop/list")
        answer = await client.post(message, headers=headers_of(message))
        assert answer["error"]["code"] == -32602
        whose = await http_call(client, "whose")
        assert whose["structuredContent"] == {"subject": None, "issuer": None}
        # A session without authentication has a principal all the same, a different one.
        legacy, _ = await here.open()
        answer = await legacy_http_call(legacy, "show", cart=cart)
        assert text_of(answer) == f"error: {UnknownHandle(cart)}"
        await http_call(
            client, "create"
        )  # Without a principal there is no quota; the kind has one.
        here.look()


async def test_handle_limits_without_a_principal() -> None:
    shop = Shop(max_handles=1)
    async with site(shop.router) as here:
        client, _ = await _create_without_a_principal(here, shop)
        assert text_of(await http_call(client, "create")) == (
            "error: too many 'cart' handles (limit: 1)"
        )


async def test_draining_server_opens_no_handle(autojump_clock: MockClock) -> None:
    shop = Shop()
    may_create = trio.Event()

    @shop.router.tool()
    async def create_later(ctx: RequestContext) -> Mapping[str, str]:
        await may_create.wait()
        return await shop.create(ctx)

    async with serving(shop.router) as manager, trio.open_nursery() as nursery:
        peer = await connect(manager)
        await peer.establish()
        params = {"name": "create_later", "arguments": {}}
        await peer.send(request(1, "tools/call", params))
        await wait_all_tasks_blocked()
        nursery.start_soon(manager.drain)
        await wait_all_tasks_blocked()
        may_create.set()
        assert text_of((await peer.receive())["result"]) == "error: server is shutting down"


@both_eras
async def test_handle_opened_after_the_end_of_its_session_ends_at_once(
    version: str, autojump_clock: MockClock
) -> None:
    """By a task that has its context from a handler, and outlives the connection."""
    shop = Shop()
    opened: list[tuple[Handle[Cart] | None, str]] = []
    async with serving(shop.router) as manager, trio.open_nursery() as nursery:

        async def open_late(ctx: RequestContext) -> None:
            await trio.sleep(100)
            cart = await ctx.open_handle(shop.kind, "late")
            (session,) = manager.sessions()
            opened.append((session.handle, cart))
            with pytest.raises(UnknownHandle):
                ctx.get_handle(shop.kind, cart)
            assert await session.wait_terminated() is TerminationReason.CLIENT_CLOSED

        @shop.router.request("shop/late")
        async def late(ctx: RequestContext) -> None:
            nursery.start_soon(open_late, ctx)

        peer = await connect(manager)
        if version == D:
            await peer.establish()
            await peer.ask(1, "shop/late")
        else:
            await peer.send(modern(1, "shop/late"))
            await peer.receive()
        await peer.channel.aclose()
        await peer.session.wait_terminated()
        await trio.sleep(101)
        ((handle, cart),) = opened
        assert handle is not None
        assert handle.handle_id == cart
        assert shop.carts[0].closed


async def test_handle_opened_after_the_end_of_its_request_stays(
    autojump_clock: MockClock,
) -> None:
    """The session's own tasks may do it: it is the connection that counts."""
    shop = Shop()
    opened: list[str] = []

    async def open_late(ctx: RequestContext) -> None:
        await trio.sleep(1)
        opened.append(await ctx.open_handle(shop.kind, "late"))

    @shop.router.request("shop/late")
    async def late(ctx: RequestContext) -> None:
        ctx.session.start_soon(open_late, ctx)

    async with connected(shop.router) as client:
        await client.request("shop/late")
        await trio.sleep(2)
        assert text_of(await client.call("show", cart=opened[0])) == "of late"
