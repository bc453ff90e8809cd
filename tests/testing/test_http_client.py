from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.message import Message
from functools import partial
from http.client import IncompleteRead
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import assert_checkpoints

from trio_mcp_session import (
    BoundAddress,
    HttpOptions,
    MemoryEventStore,
    RequestContext,
    Router,
    SessionManager,
    open_session_manager,
    serve_http,
)
from trio_mcp_session.testing import HttpAnswer, http_request, open_http_session

router = Router("demo", "1")
HANG_GUARD = 30.0


@router.tool()
async def add(ctx: RequestContext, a: int, b: int) -> str:
    await ctx.progress(1, 2)
    return str(a + b)


ADD = {"name": "add", "arguments": {"a": 1, "b": 2}, "_meta": {"progressToken": "p"}}


@asynccontextmanager
async def serving(
    bind: str = "127.0.0.1:0", **settings: Any
) -> AsyncIterator[tuple[SessionManager, BoundAddress]]:
    with trio.fail_after(HANG_GUARD):  # noqa: ASYNC100  # the block has some
        async with open_session_manager(router) as manager, trio.open_nursery() as nursery:
            serve = partial(serve_http, **settings)
            (address,) = await nursery.start(serve, manager, bind)
            yield manager, address
            nursery.cancel_scope.cancel(reason="the test is done")


async def test_open_http_session_opens_one_and_returns_its_headers() -> None:
    async with serving() as (manager, address):
        with assert_checkpoints():
            session = await open_http_session(address, X_Trace="1")
        (opened,) = manager.sessions()
        assert session == {"X_Trace": "1", "Mcp_Session_Id": opened.session_id}
        assert opened.state.value == "active"


async def test_open_http_session_raises_with_the_answer_of_a_server_that_refuses() -> None:
    async with serving() as (_, address):
        with pytest.raises(ConnectionError, match=r"^the server did not open a session: 403 "):
            await open_http_session(address, Host="evil.example.com")


async def test_an_answer_in_json() -> None:
    async with serving() as (_, address):
        session = await open_http_session(address)
        with assert_checkpoints():
            answer = await http_request(address, "POST", "ping", {}, **session)
        assert answer.status == 200
        assert answer.headers["content-type"] == "application/json"
        assert answer.messages == [{"jsonrpc": "2.0", "id": 1, "result": {}}]
        with pytest.raises(LookupError):
            _ = answer.last_event_id


async def test_an_answer_in_a_stream_of_events() -> None:
    options = HttpOptions(event_store=MemoryEventStore())
    async with serving(options=options) as (_, address):
        session = await open_http_session(address)
        answer = await http_request(address, "POST", "tools/call", ADD, **session)
        progress, result = answer.messages
        assert progress["method"] == "notifications/progress"
        assert result["result"]["content"] == [{"type": "text", "text": "3"}]
        assert answer.last_event_id in answer.text


def test_the_messages_of_a_stream_may_have_any_text_and_several_lines() -> None:
    # These are ends of lines for ``str.splitlines``, and not in a stream of events.
    told = "a\u2028b\x85c"
    body = f': hello\r\n\r\nid: 1\ndata:\n\nid:2\ndata:{{"told":\ndata: "{told}"}}\n\n'
    headers = Message()
    headers["Content-Type"] = "text/event-stream"
    answer = HttpAnswer(status=200, headers=headers, text=body)
    assert answer.messages == [{"told": told}]
    assert answer.last_event_id == "2"


async def test_a_request_over_a_unix_socket(tmp_path: Path) -> None:
    async with serving(f"unix:{tmp_path}/http") as (_, address):
        session = await open_http_session(address)
        answer = await http_request(address, "POST", "ping", {}, **session)
        assert answer.messages == [{"jsonrpc": "2.0", "id": 1, "result": {}}]


async def test_a_request_without_a_body_to_another_path() -> None:
    async with serving() as (_, address):
        session = await open_http_session(address)
        assert (await http_request(address, "GET", path="/other")).status == 404
        assert (await http_request(address, "DELETE", **session)).status == 204


async def test_http_request_is_started_when_the_headers_of_the_answer_have_arrived() -> None:
    answers: list[HttpAnswer] = []
    async with serving() as (manager, address), trio.open_nursery() as nursery:
        session = await open_http_session(address)

        async def listen(*, task_status: trio.TaskStatus[None]) -> None:  # noqa: ASYNC128
            # `http_request` calls it.
            answers.append(await http_request(address, "GET", task_status=task_status, **session))

        await nursery.start(listen)
        assert not answers
        await manager.drain()
    assert [answer.status for answer in answers] == [200]


async def test_a_cancelled_http_request_closes_its_connection() -> None:
    async with serving() as (_, address), trio.open_nursery() as nursery:
        session = await open_http_session(address)
        await nursery.start(partial(http_request, **session), address, "GET")
        nursery.cancel_scope.cancel(reason="the client leaves")
    assert nursery.cancel_scope.cancelled_caught


async def test_a_connection_that_ends_before_the_answer_is_an_error() -> None:
    beginning = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"

    async def cut(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        for byte in beginning:
            await stream.send_all(bytes([byte]))

    with trio.fail_after(HANG_GUARD):
        async with trio.open_nursery() as nursery:
            serve = partial(trio.serve_tcp, host="127.0.0.1")
            (listener,) = await nursery.start(serve, cut, 0)
            host, port = listener.socket.getsockname()
            with pytest.raises(IncompleteRead):
                await http_request(BoundAddress(host=host, port=port), "GET")
            nursery.cancel_scope.cancel(reason="the test is done")
