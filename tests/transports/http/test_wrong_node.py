"""Several processes over HTTP: names carry the node, and requests of other nodes get 421."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Any

import pytest
from trio.testing import MockClock

from tests.helpers import brief, error, initialize, request
from tests.transports.http.asgi_client import Response
from tests.transports.http.modern import TASKS, headers_of, modern
from tests.transports.http.site import Server, Site, json_of, site
from trio_mcp_session import HandleKind, HttpOptions, RequestContext, Router
from trio_mcp_session.core.node import node_of

HEADER = HttpOptions(wrong_node_header=("X-Accel-Redirect", "@{node}"))
ABLE: Mapping[str, Any] = {"elicitation": {}, **TASKS}


@asynccontextmanager
async def open_cart() -> AsyncIterator[list[str]]:
    yield []


CARTS = HandleKind[list[str]]("cart", open_cart)


def shop() -> Router:
    """An application with a handle, a question and a task."""
    router = Server().router

    @router.tool()
    async def new_cart(ctx: RequestContext) -> str:
        return await ctx.open_handle(CARTS)

    @router.tool()
    async def add(ctx: RequestContext, cart: Annotated[str, CARTS] = "") -> int:
        async with ctx.use_handle(CARTS, cart) as things:
            things.append("one")
            return len(things)

    @router.tool()
    async def ask(ctx: RequestContext) -> str:
        return (
            await ctx.elicit("How many?", {"type": "object", "properties": {}}, timeout=60)
        ).action

    @router.tool(task="required")
    async def work(ctx: RequestContext) -> str:
        return "done"

    return router


async def send(place: Site, message: Any, **headers: str | None) -> Response:
    return await place.client().request("POST", message, headers=headers_of(message, **headers))


async def result_of(place: Site, name: str, arguments: Any = None, **headers: str | None) -> Any:
    """The result of calling a tool."""
    params = {"name": name, "arguments": arguments or {}}
    message = modern(1, "tools/call", params, capabilities=ABLE)
    response = await send(place, message, **headers)
    assert response.status == 200
    return json_of(response)["result"]


def is_sent_to(node: str, response: Response, request_id: object = 1) -> bool:
    """Whether a response says that the request belongs to a node."""
    body = error(request_id, -32600, f"This is not the node {node} that the request names")
    return (
        response.status == 421
        and json_of(response) == body
        and response.headers["x-accel-redirect"] == f"@{node}"
    )


async def test_every_name_begins_with_the_node(autojump_clock: MockClock) -> None:
    async with site(shop(), node="n1") as place:
        client = await place.client().initialize()
        cart = (await result_of(place, "new_cart"))["content"][0]["text"]
        asked = await result_of(place, "ask")
        task = await result_of(place, "work")
        assert client.headers["mcp-session-id"].startswith("n1.")
        assert cart.startswith("cart_n1.")
        assert asked["requestState"].startswith("n1.")
        assert task["taskId"].startswith("n1.")


async def test_a_node_serves_its_own_names(autojump_clock: MockClock) -> None:
    async with site(shop(), node="n1", options=HEADER) as place:
        client = await place.client().initialize()
        assert (await client.request("POST", request(1, "echo", {}))).status == 200
        cart = (await result_of(place, "new_cart"))["content"][0]["text"]
        added = await result_of(place, "add", {"cart": cart}, mcp_param_handle=cart)
        assert added["structuredContent"] == {"result": 1}
        asked = await result_of(place, "ask")
        state = asked["requestState"]
        (key,) = asked["inputRequests"]
        retry = {
            "name": "ask",
            "arguments": {},
            "requestState": state,
            "inputResponses": {key: {"action": "decline"}},
        }
        answered = await send(place, modern(1, "tools/call", retry, capabilities=ABLE))
        assert json_of(answered)["result"]["content"][0]["text"] == "decline"
        task_id = (await result_of(place, "work"))["taskId"]
        got = await send(place, modern(1, "tasks/get", {"taskId": task_id}, capabilities=ABLE))
        assert json_of(got)["result"]["taskId"] == task_id


@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
async def test_a_session_of_another_node_is_sent_there(
    method: str, autojump_clock: MockClock
) -> None:
    async with site(shop(), node="n1", options=HEADER) as place:
        client = place.client(headers={"mcp-session-id": "n2.0123456789", "accept": "*/*"})
        message = request(1, "echo", {}) if method == "POST" else b""
        response = await client.request(method, message)
        assert response.status == 421
        assert response.headers["x-accel-redirect"] == "@n2"
        assert place.refused == {421: 1}


HANDLE: dict[str, Any] = {"name": "add", "arguments": {"cart": "cart_n2.0123456789"}}
OTHERS: list[tuple[str, dict[str, Any], str | None]] = [
    ("tools/call", HANDLE, "cart_n2.0123456789"),
    ("tools/call", {"name": "ask", "requestState": "n2.abc.def"}, None),
    ("tools/call", {**HANDLE, "requestState": "n2.abc.def"}, "cart_n2.0123456789"),
    *((f"tasks/{what}", {"taskId": "n2.0123456789"}, None) for what in ("get", "cancel")),
    ("tasks/update", {"taskId": "n2.0123456789", "inputResponses": {}}, None),
    ("subscriptions/listen", {"notifications": {"taskIds": ["n2.012", "n2.345"]}}, None),
]


@pytest.mark.parametrize("method, params, handle", OTHERS)
async def test_a_name_of_another_node_is_sent_there(
    method: str, params: dict[str, Any], handle: str | None, autojump_clock: MockClock
) -> None:
    async with site(shop(), node="n1", options=HEADER) as place:
        message = modern(1, method, params, capabilities=ABLE)
        response = await send(place, message, mcp_param_handle=handle)
        assert is_sent_to("n2", response)


@pytest.mark.parametrize("method, params, handle", OTHERS)
async def test_names_of_a_node_that_is_gone_are_unknown(
    method: str, params: dict[str, Any], handle: str | None, autojump_clock: MockClock
) -> None:
    async with site(shop(), node="n1", options=HEADER) as place:
        message = modern(1, method, params, capabilities=ABLE)
        headers = headers_of(message, mcp_param_handle=handle, x_node_gone="n2")
        async with place.client().stream("POST", message, headers=headers) as response:
            assert (await response.started()).status == 200
        # The proxy says it of another node.
        response = await send(place, message, mcp_param_handle=handle, x_node_gone="n3")
        assert is_sent_to("n2", response)


async def test_a_session_of_a_node_that_is_gone_is_unknown(autojump_clock: MockClock) -> None:
    async with site(node="n1") as place:
        client = place.client(headers={"mcp-session-id": "n2.0123456789", "x-node-gone": "n2"})
        assert (await client.request("POST", request(1, "echo"))).status == 404


async def test_without_a_header_the_status_says_it(autojump_clock: MockClock) -> None:
    async with site(node="n1") as place:
        client = place.client(headers={"mcp-session-id": "n2.0123456789"})
        response = await client.request("POST", request(1, "echo"))
        assert response.status == 421
        assert "x-accel-redirect" not in response.headers


@pytest.mark.parametrize(
    "params",
    [
        {"name": "add", "arguments": {"cart": "cart_other"}},
        {"name": "add", "arguments": {"cart": "N2.other"}},
        {"name": "add", "arguments": {}},
        {"name": "add"},
        {"name": "add", "arguments": []},
        {"name": "new_cart", "arguments": {"cart": "cart_n2.x"}},
        {"name": "ask", "requestState": 3},
    ],
)
async def test_requests_that_name_no_node_are_served(
    params: dict[str, Any], autojump_clock: MockClock
) -> None:
    async with site(shop(), node="n1") as place:
        message = modern(1, "tools/call", params, capabilities=ABLE)
        arguments = params.get("arguments")
        handle = arguments.get("cart") if isinstance(arguments, dict) else None
        header = handle if params["name"] == "add" else None
        assert (await send(place, message, mcp_param_handle=header)).status == 200


@pytest.mark.parametrize("tasks", [["n2.x", "n3.x"], ["n1.x", "n2.x"], ["n2.x", "x"], "n2.x", None])
async def test_a_subscription_to_tasks_of_several_nodes_is_served_here(
    tasks: Any, autojump_clock: MockClock
) -> None:
    async with site(shop(), node="n1") as place:
        message = modern(
            1, "subscriptions/listen", {"notifications": {"taskIds": tasks}}, capabilities=ABLE
        )
        client = place.client()
        async with client.stream("POST", message, headers=headers_of(message)) as response:
            assert (await response.started()).status == 200


async def test_a_client_whose_session_is_at_another_node_can_open_one(
    autojump_clock: MockClock,
) -> None:
    async with site(node="n1") as place:
        client = place.client(headers={"mcp-session-id": "n2.0123456789"})
        response = await client.request("POST", initialize())
        assert response.status == 200
        assert node_of(response.headers["mcp-session-id"]) == "n1"


async def test_without_a_label_no_name_is_of_another_node(autojump_clock: MockClock) -> None:
    async with site(shop()) as place:
        client = place.client(headers={"mcp-session-id": "n2.0123456789"})
        assert (await client.request("POST", request(1, "echo"))).status == 404
        message = modern(1, "tasks/get", {"taskId": "n2.0123456789"}, capabilities=ABLE)
        assert brief(json_of(await send(place, message))) == error(1, -32602)


# Clients up to 2025-11-25, without sessions.


async def test_a_handle_of_an_older_client_without_a_session_is_sent_to_its_node(
    autojump_clock: MockClock,
) -> None:
    options = HttpOptions(stateless=True, wrong_node_header=("X-Accel-Redirect", "@{node}"))
    async with site(shop(), node="n1", options=options) as place:
        client = place.client(headers={"mcp-protocol-version": "2025-11-25"})
        response = await client.request("POST", request(1, "tools/call", HANDLE))
        assert is_sent_to("n2", response)
        made = await client.post(request(2, "tools/call", {"name": "new_cart"}))
        cart = made["result"]["content"][0]["text"]
        params = {"name": "add", "arguments": {"cart": cart}}
        added = await client.post(request(3, "tools/call", params))
        assert added["result"]["structuredContent"] == {"result": 1}


async def test_an_application_that_does_not_say_what_it_serves_to_an_older_client(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Any:
        raise ValueError("a detail")

    router = shop()
    async with site(router, node="n1", options=HttpOptions(stateless=True)) as place:
        client = place.client(headers={"mcp-protocol-version": "2025-11-25"})
        monkeypatch.setattr(router, "header_parameters", fail)
        response = await client.request("POST", request(1, "tools/call", HANDLE))
        assert response.status == 500
        assert brief(json_of(response)) == error(1, -32603)
        monkeypatch.undo()
        assert (await client.request("POST", request(2, "tools/list"))).status == 200
