"""Clients that accept one form of an answer only: they are answered in that form."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.helpers import brief, error, initialize, notification, result
from tests.transports.http.asgi_client import Client
from tests.transports.http.live import SERVERS, ServerName, live
from tests.transports.http.modern import complete, headers_of, modern
from tests.transports.http.scripted import did, do, messages, progressed, said, settle, site
from trio_mcp_session.server.mcp_server import server_of
from trio_mcp_session.transports.http.http_options import SlowReader

JSON, EVENTS = "application/json", "text/event-stream"
ONLY_JSON, ONLY_EVENTS = {"accept": JSON}, {"accept": EVENTS}
TALKS = (["progress", 1], ["say", 2], ["sleep", 30])


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("accept", [JSON, EVENTS])
async def test_a_whole_session_in_one_form(accept: str, server: ServerName) -> None:
    """From raw bytes: the handshake, a notification, a call."""
    async with live(server=server) as it, await it.connect() as wire:
        headers = {"Accept": accept}
        opened = await wire.request("POST", initialize("hello"), headers)
        assert (opened.status, opened.headers["content-type"]) == (200, accept)
        headers["Mcp-Session-Id"] = opened.headers["mcp-session-id"]
        if accept == EVENTS:
            assert opened.headers["x-accel-buffering"] == "no"
            opened.ended = False
            assert (await wire.message(opened))["id"] == "hello"
        else:
            assert opened.json["id"] == "hello"
        done = await wire.request("POST", notification("notifications/initialized"), headers)
        assert (done.status, done.body) == (202, b"")
        params = {"name": "echo", "arguments": {"text": "hey"}}
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        answer = await wire.request("POST", message, headers)
        assert (answer.status, answer.headers["content-type"]) == (200, accept)
        told = (await wire.message(answer)) if accept == EVENTS else answer.json
        assert told["result"]["content"][0]["text"] == "hey"
        stream = await wire.begin("GET", headers=headers)
        assert stream.status == (200 if accept == EVENTS else 406)


@pytest.mark.parametrize("answers", ["auto", "sse"])
async def test_a_session_that_accepts_json_only_gets_the_result_and_no_other_message(
    answers: str, autojump_clock: MockClock
) -> None:
    async with site(answers=answers) as s:
        client = await s.client()
        response = await client.request("POST", do(1, *TALKS), headers=ONLY_JSON)
        assert response.headers["content-type"] == JSON
        assert await response.json() == did(1)
        assert s.session_of(client).metrics.dropped == 2


async def test_a_session_that_accepts_json_only_cannot_be_asked_and_not_poll(
    autojump_clock: MockClock,
) -> None:
    async with site() as s:
        client = await s.client()
        response = await client.request("POST", do(1, ["ask", 5]), headers=ONLY_JSON)
        assert brief(await response.json()) == error(1, -32603)
        response = await client.request("POST", do(2, ["let go"]), headers=ONLY_JSON)
        assert await response.json() == did(2, False)


async def test_a_session_that_accepts_events_only_can_resume(autojump_clock: MockClock) -> None:
    async with site() as s:
        client = await s.client()
        async with client.stream("POST", do(1, *TALKS), headers=ONLY_EVENTS) as response:
            assert messages(await response.events()) == [
                progressed(1),
                said(2),
                did(1),
            ]


def ask(request_id: object, *steps: Any) -> dict[str, Any]:
    return modern(request_id, "do", {"steps": steps}, progressToken="t")


@pytest.mark.parametrize("policy", SlowReader)
async def test_a_modern_request_that_accepts_json_only(
    policy: SlowReader, autojump_clock: MockClock
) -> None:
    async with site(slow_reader=policy) as s:
        message = ask(1, *TALKS)
        headers = {**headers_of(message), **ONLY_JSON}
        async with Client(s.app).stream("POST", message, headers=headers) as response:
            await settle()
            await trio.sleep(10)
            # It is watched, and needs no quick clock.
            assert len(s.app.stateless_ticker) == 0
            told = await response.json()
        assert told == complete(1, "script", did=[])
        assert response.headers["content-type"] == JSON
        assert server_of(s.manager).stateless.counters.dropped == 2


async def test_a_modern_request_that_accepts_events_only(autojump_clock: MockClock) -> None:
    async with site() as s:
        client = Client(s.app)
        message = ask(1)
        headers = {**headers_of(message), **ONLY_EVENTS}
        async with client.stream("POST", message, headers=headers) as response:
            assert messages(await response.events()) == [complete(1, "script", did=[])]
        # An error with a status of its own is JSON, as every error of HTTP.
        message = modern(2, "roots")
        headers = {**headers_of(message), **ONLY_EVENTS}
        refused = await client.request("POST", message, headers=headers)
        assert refused.status == 404
        assert refused.headers["content-type"] == JSON


async def test_a_subscription_is_a_stream_of_events(autojump_clock: MockClock) -> None:
    async with site() as s:
        message = modern(1, "subscriptions/listen", {"notifications": {}})
        headers = {**headers_of(message), **ONLY_JSON}
        refused = await Client(s.app).request("POST", message, headers=headers)
        assert refused.status == 406
        assert brief(await refused.json()) == error(1, -32600)
        assert "text/event-stream" in refused.body.decode()


@pytest.mark.parametrize("status", [202, 406])
async def test_messages_without_an_answer(status: int, autojump_clock: MockClock) -> None:
    async with site() as s:
        client = await s.client()
        accept = "text/html" if status == 406 else JSON
        response = await client.request("POST", result(99), headers={"accept": accept})
        assert response.status == status
