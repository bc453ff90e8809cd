"""Stateless requests on real sockets, of both servers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.helpers import brief, error, notification
from tests.transports.http.live import (
    SERVERS,
    Answer,
    Headers,
    Live,
    ServerName,
    Wire,
    call,
    watched,
    write_request,
)
from tests.transports.http.modern import complete, headers_of, modern
from trio_mcp_session.server.mcp_server import server_of

on_both_servers = pytest.mark.parametrize("server", SERVERS)
vanishing = pytest.mark.parametrize("how", ["closes", "resets"])


def headers_for(message: Mapping[str, Any]) -> Headers:
    return {**headers_of(message)}


async def ask(wire: Wire, message: Mapping[str, Any]) -> Answer:
    return await wire.request("POST", message, headers_for(message))


def says(request_id: object, text: str) -> dict[str, Any]:
    found = complete(request_id, "toy", content=[{"type": "text", "text": text}])
    found["result"]["_meta"]["io.modelcontextprotocol/serverInfo"]["version"] = "1"
    return found


async def leave(wire: Wire, how: str) -> None:
    await wait_all_tasks_blocked()
    if how == "closes":
        await wire.aclose()
    else:
        await wire.reset()
    await wait_all_tasks_blocked()


def in_flight(it: Live) -> int:
    """What runs besides the bystander's call."""
    return it.manager.statistics().in_flight - 1


@on_both_servers
async def test_a_conversation_on_one_connection(server: ServerName, mock_clock: MockClock) -> None:
    async with watched(server) as it, it.undisturbed({400: 1, 404: 1, 405: 2}):
        async with await it.connect() as wire:
            found = await ask(wire, modern(1, "server/discover"))
            assert (found.status, found.json["id"]) == (200, 1)
            assert found.json["result"]["supportedVersions"] == ["2026-07-28"]
            listed = await ask(wire, modern(1, "tools/list"))
            names = [tool["name"] for tool in listed.json["result"]["tools"]]
            assert names == ["echo", "many", "wait"]
            for text in ("one", "two"):
                answer = await ask(wire, modern(1, "tools/call", call("echo", text=text)))
                assert (answer.status, answer.json) == (200, says(1, text))
                assert "mcp-session-id" not in answer.headers
            gone = await ask(wire, modern(1, "ping"))
            assert (gone.status, brief(gone.json)) == (404, error(1, -32601))
            wrong = await wire.request("POST", modern(1, "tools/list"))
            assert (wrong.status, brief(wrong.json)) == (400, error(1, -32020))
            for verb in ("GET", "DELETE"):
                refused = await wire.request(verb, headers={"MCP-Protocol-Version": "2026-07-28"})
                assert (refused.status, refused.headers["allow"]) == (405, "POST")
            # The other era, on the same connection.
            own = await it.open_session(wire=wire)
            await own.echo("a session's")
            again = await ask(own.wire, modern(2, "tools/call", call("echo", text="three")))
            assert again.json == says(2, "three")
            await wire.request("DELETE", headers=own.headers)


@on_both_servers
async def test_a_stateless_call_on_a_real_server_streams_its_notifications(
    server: ServerName, mock_clock: MockClock
) -> None:
    async with watched(server) as it, it.undisturbed():
        async with await it.connect() as wire:
            message = modern(1, "tools/call", call("wait", name="own", say=True))
            answer = await wire.begin("POST", message, headers_for(message))
            assert answer.headers["content-type"] == "text/event-stream"
            assert answer.headers["x-accel-buffering"] == "no"
            assert await wire.message(answer) == notification("notifications/begun")
            it.toy.release("own")
            event = await wire.event(answer)
            assert event.keys() == {"event", "data"}
            assert await wire.to_the_end(answer) == b""
            # The connection is as good as before.
            again = await ask(wire, modern(1, "tools/call", call("echo", text="more")))
            assert again.json == says(1, "more")


@on_both_servers
@vanishing
@pytest.mark.parametrize("say", [True, False])
@pytest.mark.parametrize("seconds", [0, 2])
async def test_a_client_that_leaves_cancels(
    seconds: float, say: bool, how: str, server: ServerName, mock_clock: MockClock
) -> None:
    async with watched(server) as it, it.undisturbed():
        wire = await it.connect()
        message = modern(1, "tools/call", call("wait", name="own", say=say))
        if say:
            answer = await wire.begin("POST", message, headers_for(message))
            assert await wire.message(answer) == notification("notifications/begun")
        else:
            await wire.send(write_request("POST", message, headers_for(message)))
        await it.pass_time(seconds)
        assert in_flight(it) == 1
        await leave(wire, how)
        await it.pass_time(1)
        assert in_flight(it) == 0
        assert server_of(it.manager).stateless.counters.cancelled == 1
        it.toy.release("own")
        await wait_all_tasks_blocked()
        assert "own" not in it.toy.finished


@on_both_servers
async def test_a_drain_answers_stateless_calls_before_the_server_ends(
    server: ServerName, mock_clock: MockClock
) -> None:
    """Each request has its answer before the server ends."""
    async with watched(server) as it:
        wires = [await it.connect() for _ in range(2)]
        answers = []
        for wire, say in zip(wires, (True, False), strict=True):
            message = modern(1, "tools/call", call("wait", name="own", say=say))
            await wire.send(write_request("POST", message, headers_for(message)))
            await wait_all_tasks_blocked()
        await it.manager.drain(grace=0)
        streaming, pending = wires
        answer = await streaming.head()
        assert await streaming.message(answer) == notification("notifications/begun")
        answers.append(await streaming.message(answer))
        await streaming.to_the_end(answer)
        answers.append((await pending.answer()).json)
        assert list(map(brief, answers)) == [error(1, -32603)] * 2
        await it.served.returned.wait()
