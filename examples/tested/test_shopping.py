"""Ten tests of the server in ``shopping.py``, with clients of both eras, in memory and over HTTP.

They need pytest and pytest-trio: ``python -m pytest examples/tested``.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

import pytest
import trio
from shopping import Store, make_server
from trio.testing import MockClock

from trio_mcp_session import CleanupFailed, McpError, SessionManager, open_session_manager
from trio_mcp_session.testing import (
    Client,
    FailureCheck,
    check_leaks,
    connect_client,
    connect_http_client,
)

Connect = Callable[..., AbstractAsyncContextManager[Client[Any]]]


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
async def check() -> AsyncIterator[FailureCheck]:
    """Fail a test that leaves something behind, or in which anything fails unexpectedly."""
    async with check_leaks(strict=True) as check:
        yield check


@pytest.fixture
async def manager(store: Store, check: FailureCheck) -> AsyncIterator[SessionManager]:
    async with open_session_manager(make_server(store)) as manager:
        yield manager


@pytest.fixture(params=["legacy", "modern", "legacy over HTTP", "modern over HTTP"])
def connect(request: pytest.FixtureRequest, manager: SessionManager) -> Connect:
    """A client of each era, in memory and over HTTP: each test runs with all four."""
    era, _, http = request.param.partition(" over ")
    if http:
        return partial(connect_http_client, manager, era=era)
    return partial(connect_client, manager, era=era)


async def accept(question: dict[str, Any]) -> dict[str, Any]:
    assert question["message"] == "Save the list?"
    return {"action": "accept", "content": {}}


async def decline(_: dict[str, Any]) -> dict[str, Any]:
    return {"action": "decline"}


async def opened(client: Client[Any]) -> str:
    result = await client.call_tool("open_list")
    assert result.structured is not None
    return str(result.structured["list_id"])


async def test_the_model_learns_how_long_a_list_lives(connect: Connect) -> None:
    async with connect() as client:
        tools = {tool["name"]: tool for tool in await client.list_tools()}
        assert "Expires after 10 minutes without use." in tools["open_list"]["description"]


async def test_items_are_added_with_progress(connect: Connect) -> None:
    async with connect() as client:
        arguments = {"list_id": await opened(client), "items": ["milk", "eggs"]}
        call = {"name": "add_items", "arguments": arguments}
        pending = await client.start_request("tools/call", call, progress=True)
        assert (await pending.wait())["content"][0]["text"] == "2"
        assert [one["progress"] for one in pending.progress] == [1, 2]


async def test_an_empty_call_tells_the_model_the_way_out(connect: Connect) -> None:
    async with connect() as client:
        arguments: dict[str, Any] = {"list_id": await opened(client), "items": []}
        result = await client.call_tool("add_items", arguments)
        assert result.is_error
        assert "pass at least one" in result.text


async def test_a_list_is_saved_if_the_user_agrees(connect: Connect, store: Store) -> None:
    async with connect(elicit=accept) as client:
        await client.set_log_level("info")
        list_id = await opened(client)
        await client.call_tool("add_items", {"list_id": list_id, "items": ["milk"]})
        async with client.subscribe("shopping://saved"):
            assert (await client.call_tool("close_list", {"list_id": list_id})).text == "Closed."
            await client.wait_notification("notifications/resources/updated")
        log = await client.wait_notification("notifications/message")
        assert log["data"] == "closed a list"
        assert json.loads((await client.read_resource("shopping://saved")).text) == [["milk"]]
    assert store.saved == [["milk"]]


async def test_a_list_stays_open_if_the_user_declines(connect: Connect, store: Store) -> None:
    async with connect(elicit=decline) as client:
        list_id = await opened(client)
        result = await client.call_tool("close_list", {"list_id": list_id})
        assert result.text == "The list stays open."
        assert store.saved == []


async def test_a_clean_up_that_fails(connect: Connect, store: Store, check: FailureCheck) -> None:
    store.down = True
    check.expect(CleanupFailed, match="the store is down")
    async with connect(elicit=accept) as client:
        list_id = await opened(client)
        await client.call_tool("close_list", {"list_id": list_id})
    assert store.saved == []


async def test_an_unused_list_expires(
    connect: Connect, store: Store, autojump_clock: MockClock
) -> None:
    async with connect() as client:
        list_id = await opened(client)
        await trio.sleep(700)  # Virtual time: this test takes some milliseconds.
        result = await client.call_tool("add_items", {"list_id": list_id, "items": ["milk"]})
        assert result.is_error
        assert list_id in result.text
        assert store.saved == [[]]


async def test_lists_of_different_clients_are_apart(connect: Connect) -> None:
    async with connect() as ann, connect() as bob:
        first, second = await opened(ann), await opened(bob)
        assert first != second
        await ann.call_tool("add_items", {"list_id": first, "items": ["milk"]})
        result = await bob.call_tool("add_items", {"list_id": second, "items": ["eggs"]})
        assert result.structured == {"result": 1}


async def test_prompts_and_completions(connect: Connect) -> None:
    async with connect() as client:
        assert (await client.complete("meal", "p", prompt="plan")).values == ["pizza", "pancakes"]
        assert "what soup needs" in (await client.get_prompt("plan", {"meal": "soup"})).text


async def test_an_unknown_resource_is_an_error(connect: Connect) -> None:
    async with connect() as client:
        with pytest.raises(McpError, match="not found"):
            await client.read_resource("shopping://nothing")
