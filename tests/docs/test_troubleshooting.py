"""Each text of the page about troubleshooting is what the library says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_mcp_session import (
    BearerAuth,
    CleanupConfig,
    HandleKind,
    McpError,
    RequestContext,
    Router,
    SessionConfig,
    SessionLimits,
    SessionManager,
    TerminationReason,
    open_session_manager,
    serve_http,
)
from trio_mcp_session.testing import Client, connect_client, http_request, modern

PAGE = (Path(__file__).parents[2] / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
HEADINGS = re.findall(r"^### `(.+)`$", PAGE, re.MULTILINE)
VERSION = "io.modelcontextprotocol/protocolVersion"

MODEL: dict[str, tuple[str, dict[str, Any]]] = {
    "Invalid arguments: product: missing; count: Expected int, got str": ("price", {"count": "a"}),
    "The tool 'divide' failed with an internal error": ("divide", {"a": 1, "b": 0}),
    "The tool 'crawl' took too long, and was cancelled": ("crawl", {}),
    "the client cannot be asked: it did not declare the capability elicitation": ("book", {}),
    "no handle 'cart_x': it is unknown, or has expired; open another one": (
        "show_cart",
        {"cart_id": "cart_x"},
    ),
}
NO_SESSION = "a request of this revision has no session; use a handle instead"
BUSY = "Server is busy: too many requests are in flight"
ENDED = "Session has ended: idle"
NO_TOKEN = "This server needs a bearer token"  # noqa: S105  # a text


CARTS = HandleKind[AsyncExitStack]("cart", AsyncExitStack)
router = Router("shop")


@router.tool()
async def price(product: str, count: int) -> None: ...


@router.tool()
async def divide(a: float, b: float) -> float:
    return a / b


@router.tool()
async def crawl() -> None:
    await trio.sleep_forever()


@router.tool()
async def book(ctx: RequestContext) -> None:
    await ctx.elicit("Shall I?", {"type": "object", "properties": {}})


@router.tool()
async def show_cart(ctx: RequestContext, cart_id: str) -> None:
    ctx.get_handle(CARTS, cart_id)


@router.tool()
async def count_calls(ctx: RequestContext) -> None:
    ctx.session.metrics  # noqa: B018  # it raises


# In memory, in virtual time.

Use = Callable[[SessionManager, Client[Any]], Awaitable[str]]
CONFIG = SessionConfig(
    cleanup=CleanupConfig(request_timeout=60), limits=SessionLimits(max_in_flight=1, max_queued=0)
)


def in_memory(use: Use) -> str:
    async def main() -> str:
        async with open_session_manager(router, config=CONFIG) as manager:
            async with connect_client(manager) as client:
                return await use(manager, client)

    return trio.run(main, clock=MockClock(autojump_threshold=0))


async def error_of(request: Awaitable[object]) -> str:
    with pytest.raises(McpError) as caught:
        await request
    return caught.value.message


@pytest.mark.parametrize("text", MODEL)
def test_what_the_model_reads(text: str) -> None:
    tool, arguments = MODEL[text]

    async def use(_: SessionManager, client: Client[Any]) -> str:
        answer = await client.call_tool(tool, arguments)
        assert answer.is_error
        return answer.text

    # The headings cannot have the backticks.
    assert in_memory(use).replace("`", "") == text


def test_what_the_model_reads_without_a_session() -> None:
    async def use(_: SessionManager, client: Client[Any]) -> str:
        result = await client.request("tools/call", modern({"name": "count_calls"}))
        text: str = result["content"][0]["text"]
        return text

    assert in_memory(use) == NO_SESSION


def too_new() -> dict[str, Any]:
    params = modern({"name": "price"})
    return {**params, "_meta": {**params["_meta"], VERSION: "2099-01-01"}}


CLIENT: dict[str, tuple[str, dict[str, Any]]] = {
    "Unknown tool: 'prise'": ("tools/call", {"name": "prise"}),
    "Method not found": ("resources/read", {"uri": "shop://cart"}),
    "Unsupported protocol version": ("tools/call", too_new()),
}


@pytest.mark.parametrize("text", CLIENT)
def test_what_the_client_reports(text: str) -> None:
    async def use(_: SessionManager, client: Client[Any]) -> str:
        return await error_of(client.request(*CLIENT[text]))

    assert in_memory(use) == text


def test_what_the_client_reports_of_one_call_too_many() -> None:
    async def use(_: SessionManager, client: Client[Any]) -> str:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.call_tool, "crawl")
            await wait_all_tasks_blocked()
            said = await error_of(client.request("tools/call", {"name": "crawl"}))
            nursery.cancel_scope.cancel()
        return said

    assert in_memory(use) == BUSY


def test_what_the_client_reports_of_a_session_that_ends() -> None:
    async def use(manager: SessionManager, client: Client[Any]) -> str:
        said: list[str] = []

        async def call() -> None:
            said.append(await error_of(client.request("tools/call", {"name": "crawl"})))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            await wait_all_tasks_blocked()
            client.session.terminate(TerminationReason.IDLE)
        return said[0]

    assert in_memory(use) == ENDED


# Over HTTP.

ASKED: dict[str, tuple[int, dict[str, str]]] = {
    "Session not found": (404, {"Mcp_Session_Id": "gone"}),
    "Host is not allowed (option of the server: allowed_hosts, --http-host)": (
        403,
        {"Host": "mcp.example.org"},
    ),
    "Origin is not allowed (option of the server: allowed_origins, --http-origin)": (
        403,
        {"Origin": "https://app.example.org"},
    ),
    "No session: send initialize first, or name a protocol version in params._meta": (400, {}),
}


async def ask(headers: dict[str, Any], **options: Any) -> tuple[int, str]:
    async with open_session_manager(router) as manager, trio.open_nursery() as nursery:
        serve = partial(serve_http, manager, "127.0.0.1:0", **options)
        (address,) = await nursery.start(serve)
        answer = await http_request(address, "POST", "tools/list", {}, **headers)
        nursery.cancel_scope.cancel()
    return answer.status, json.loads(answer.text)["error"]["message"]


@pytest.mark.parametrize("text", ASKED)
async def test_what_is_answered_over_http(text: str) -> None:
    status, headers = ASKED[text]
    assert await ask(headers) == (status, text)


async def test_what_is_answered_without_a_token() -> None:
    assert await ask({}, authenticate=BearerAuth(refuse)) == (401, NO_TOKEN)


async def refuse(token: str) -> None: ...


# The command.

COMMANDS = {
    "no module named 'server'": "server:router",
    "module 'json' has no 'router'": "json:router",
    "expected MODULE:APP, not 'json'": "json",
}


@pytest.mark.parametrize("text", COMMANDS)
def test_what_the_command_says(text: str, tmp_path: Path) -> None:
    command = (sys.executable, "-m", "trio_mcp_session", "serve", COMMANDS[text])
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"trio_mcp_session: {text}")


def test_each_text_of_the_page_is_provoked() -> None:
    provoked = [*MODEL, NO_SESSION, *CLIENT, BUSY, ENDED, *ASKED, NO_TOKEN, *COMMANDS]
    assert provoked == HEADINGS
