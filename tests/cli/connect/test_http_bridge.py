"""The bridge to HTTP on real pipes and sockets, to servers of every kind."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio

from tests.cli.connect.peers import (
    MODERN,
    STREAM,
    Got,
    Send,
    bridged,
    error,
    event,
    reply,
    result,
    with_session,
)
from trio_mcp_session.cli.connect import http_bridge
from trio_mcp_session.cli.connect.http_bridge import SERVER_LEFT

# The HTTP client leaves generators to the garbage collector, which Trio complains about.
pytestmark = pytest.mark.filterwarnings("ignore:Async generator 'http:ResourceWarning")


TOKEN = "a-token-of-a-test"  # noqa: S105


async def test_a_session_of_the_host_has_its_headers_and_is_deleted_in_the_end() -> None:
    async def script(got: Got, send: Send) -> None:
        if not await with_session(got, send):
            await send(reply(200, result(got.json["id"], ok=True)))

    async with bridged(script, token=TOKEN) as one:
        await one.initialize()
        assert await one.request("ping", 7) == result(7, ok=True)
        ending = await one.leave()
    assert ending.host_left
    assert one.said == []
    first, *others = one.got
    assert "mcp-session-id" not in first.headers
    assert {got.headers["mcp-session-id"] for got in others} == {"s1"}
    assert {got.headers["mcp-protocol-version"] for got in others} == {"2025-11-25"}
    assert {got.headers["authorization"] for got in one.got} == {f"Bearer {TOKEN}"}
    assert one.got[-1].method == "DELETE"
    assert [got.method for got in one.got].count("DELETE") == 1


async def test_a_request_of_2026_07_28_has_the_headers_that_repeat_it_and_no_session() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "x-mcp-header": "A"}}}

    async def script(got: Got, send: Send) -> None:
        if got.json["method"] == "tools/list":
            tools = [{"name": "t", "inputSchema": schema}, {"name": "u", "inputSchema": None}]
            await send(reply(200, result(got.json["id"], tools=tools)))
        else:
            await send(reply(200, result(got.json["id"])))

    async with bridged(script) as one:
        await one.request("tools/list", 1, _meta=MODERN)
        await one.request("tools/call", 2, _meta=MODERN, name="t", arguments={"a": "é"})
        await one.request("tools/call", 3, _meta=MODERN, name="u", arguments={"a": "é"})
        assert (await one.leave()).host_left
    listed, called, other = one.got
    assert listed.headers["mcp-method"] == "tools/list"
    assert listed.headers["mcp-protocol-version"] == "2026-07-28"
    assert called.headers["mcp-name"] == "t"
    assert called.headers["mcp-param-a"] == "=?base64?w6k=?="
    assert "mcp-param-a" not in other.headers


async def test_a_call_whose_headers_are_refused_is_repeated_with_those_of_the_listed_tool() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "x-mcp-header": "A"}}}

    async def script(got: Got, send: Send) -> None:
        number = got.json["id"]
        if got.json["method"] == "tools/list":
            page = got.json["params"].get("cursor")
            if page is None:
                await send(reply(200, result(number, tools=[], nextCursor="2")))
            else:
                tools = [{"name": "t", "inputSchema": schema}]
                await send(STREAM + event(result(number, tools=tools)))
        elif "mcp-param-a" in got.headers:
            await send(reply(200, result(number, ok=True)))
        else:
            await send(reply(400, error(number, -32020, "Header mismatch")))

    async with bridged(script) as one:
        call = {"_meta": MODERN, "name": "t", "arguments": {"a": "b"}}
        assert await one.request("tools/call", 5, **call) == result(5, ok=True)
        # A tool that is not listed with headers is refused as the server says.
        answer = await one.request("tools/call", 6, **{**call, "name": "other"})
        assert answer["error"]["code"] == -32020


async def test_a_list_of_tools_that_fails_leaves_the_refusal_as_it_is() -> None:
    async def script(got: Got, send: Send) -> None:
        if got.json["method"] == "tools/list":
            await send(reply(202))
        else:
            await send(reply(400, error(got.json["id"], -32020, "Header mismatch")))

    async with bridged(script) as one:
        answer = await one.request("tools/call", 5, _meta=MODERN, name="t", arguments={"a": "b"})
        assert answer["error"]["code"] == -32020


async def test_a_list_of_tools_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_bridge, "MAX_PAGES", 3)

    async def script(got: Got, send: Send) -> None:
        if got.json["method"] == "tools/list":
            await send(reply(200, result(got.json["id"], tools=[], nextCursor="more")))
        else:
            await send(reply(400, error(got.json["id"], -32020, "Header mismatch")))

    async with bridged(script) as one:
        answer = await one.request("tools/call", 5, _meta=MODERN, name="t", arguments={"a": "b"})
        assert answer["error"]["code"] == -32020
    assert len(one.got) == 1 + 3


async def test_cancelling_a_request_of_2026_07_28_closes_its_stream() -> None:
    closed = trio.Event()

    async def script(got: Got, send: Send) -> bool:
        if got.json["method"] == "ping":
            await send(reply(200, result(got.json["id"])))
            return False
        await send(STREAM + event({"jsonrpc": "2.0", "method": "notifications/progress"}))
        try:
            while True:
                await send(b": still here\n\n")
                await trio.sleep(0.001)
        finally:
            closed.set()

    async with bridged(script) as one:
        await one.host.send("tools/call", {"_meta": MODERN, "name": "t"}, 5)
        assert (await one.host.receive())["method"] == "notifications/progress"
        await one.host.send("notifications/cancelled", {"requestId": 5})
        await closed.wait()
        # It gets no answer, and what comes next is served.
        assert await one.request("ping", 6, _meta=MODERN) == result(6)
        assert len(one.got) == 2
        assert (await one.leave()).host_left


async def test_cancelling_an_older_request_is_told_to_the_server() -> None:
    cancelled = trio.Event()

    async def script(got: Got, send: Send) -> None:
        if got.method == "POST" and b"cancelled" in got.body:
            cancelled.set()
        if not await with_session(got, send):
            await cancelled.wait()
            await send(reply(200, error(got.json["id"], -32800, "cancelled")))

    async with bridged(script) as one:
        await one.initialize()
        await one.host.send("tools/call", {"name": "t"}, 5)
        await one.host.send("notifications/cancelled", {"requestId": 5})
        assert (await one.host.receive())["error"]["code"] == -32800


async def test_events_of_a_stream_are_lines_in_their_order_and_a_pretty_message_is_one_line() -> (
    None
):
    notice = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"n": 1}}

    async def script(got: Got, send: Send) -> bool:
        if got.json["method"] == "pretty":
            text = json.dumps(result(got.json["id"]), indent=2).encode()
            await send(reply(200, text, Content_Type="application/json; charset=utf-8"))
            return False
        await send(STREAM + event(notice))
        await send(event(result(got.json["id"], done=True)))
        return True

    async with bridged(script) as one:
        await one.host.send("tools/call", {"_meta": MODERN, "name": "t"}, 5)
        assert await one.host.receive() == notice
        assert await one.host.receive() == result(5, done=True)
        assert await one.request("pretty", 6, _meta=MODERN) == result(6)


async def test_a_stream_that_is_cut_is_resumed_after_its_last_event() -> None:
    resumed: list[str] = []

    async def script(got: Got, send: Send) -> bool:
        if got.method == "GET" and "last-event-id" in got.headers:
            resumed.append(got.headers["last-event-id"])
            if len(resumed) == 1:
                return True  # Cut before the head of an answer.
            if len(resumed) == 2:
                await send(STREAM + event({"jsonrpc": "2.0", "method": "m"}, "e2"))
            elif len(resumed) == 3:
                await send(STREAM + event(None, "e2"))
            else:
                await send(STREAM + event(result(5, rest=True), "e3"))
            return True
        if await with_session(got, send):
            return False
        head = STREAM.replace(b"Connection: close", b"Content-Length: 1000")
        await send(head + event(None, "e1", retry=1) + b"id: lost\ndata: half")
        return True

    async with bridged(script) as one:
        await one.initialize()
        assert (await one.request("tools/call", 5, name="t"))["method"] == "m"
        assert await one.host.receive() == result(5, rest=True)
        assert (await one.leave()).host_left
    assert resumed == ["e1", "e1", "e2", "e2"]


@pytest.mark.parametrize(
    "answer, told",
    [
        (reply(204), "has ended the stream"),
        (reply(410, error(None, -32600, "purged")), "purged"),
        (b"", "the connection to the server was lost, and the answer with it"),
    ],
)
async def test_a_stream_that_cannot_be_resumed_is_an_error(answer: bytes, told: str) -> None:
    async def script(got: Got, send: Send) -> bool:
        if got.method == "GET" and "last-event-id" in got.headers:
            await send(answer)
            return not answer
        if await with_session(got, send):
            return False
        await send(STREAM + event(None, "e1", retry=1))
        return True

    async with bridged(script) as one:
        await one.initialize()
        failed = await one.request("tools/call", 5, name="t")
        assert failed["id"] == 5
        assert told in failed["error"]["message"]


@pytest.mark.parametrize("answer", [b"", STREAM + event({"jsonrpc": "2.0", "method": "m"})])
async def test_a_request_whose_connection_breaks_is_an_error(answer: bytes) -> None:
    async def script(got: Got, send: Send) -> bool:
        await send(answer.replace(b"Connection: close", b"Content-Length: 1000"))
        return True

    async with bridged(script) as one:
        failed = await one.request("tools/call", 5, _meta=MODERN, name="t")
        if answer:
            assert failed["method"] == "m"
            failed = await one.host.receive()
        assert failed["id"] == 5
        assert "the connection to the server was lost" in failed["error"]["message"]


@pytest.mark.parametrize(
    "answer, code, told, data",
    [
        (reply(401), -32603, "HTTP 401 Some Reason; give a valid token", {"httpStatus": 401}),
        (
            reply(421, b"not here", Content_Type="text/plain"),
            -32603,
            "belongs to another server",
            {"httpStatus": 421},
        ),
        (
            reply(503, error(None, -32603, "shutting down"), Retry_After="7"),
            -32603,
            "shutting down",
            {"httpStatus": 503, "retryAfter": "7"},
        ),
        (reply(400, error(5, -32602, "bad", data=[1])), -32602, "bad", [1]),
        (reply(404, error(5, -32601, "no such method")), -32601, "no such", {"httpStatus": 404}),
        (reply(307, Location="http://x.test"), -32603, "HTTP 307", {"httpStatus": 307}),
        (reply(599, b"x" * 70_000), -32603, "HTTP 599", {"httpStatus": 599}),
    ],
)
async def test_a_refusal_is_an_error_with_the_id_of_the_request(
    answer: bytes, code: int, told: str, data: object
) -> None:
    async def script(got: Got, send: Send) -> None:
        await send(answer)

    async with bridged(script) as one:
        for number in (5, 5):  # The bridge continues.
            failed = (await one.request("tools/call", number, _meta=MODERN))["error"]
            assert failed["code"] == code
            assert told in failed["message"]
            assert failed["data"] == data
        assert (await one.leave()).host_left


@pytest.mark.parametrize(
    "answer, told",
    [
        (reply(202), "has not answered"),
        (reply(200), "has not answered"),
        (reply(200, b"<html>", Content_Type="text/html"), "has not answered"),
        (reply(200, b"{"), "not JSON-RPC"),
        (reply(200, b"[1]"), "not JSON-RPC"),
        (reply(200, result(5, text="x" * 100_000)), "larger than 100000 bytes"),
        (STREAM + event(result(5, text="x" * 100_000)), "larger than 100000 bytes"),
    ],
)
async def test_what_is_not_an_answer_is_an_error(answer: bytes, told: str) -> None:
    async def script(got: Got, send: Send) -> bool:
        await send(answer)
        return answer.startswith(STREAM)

    async with bridged(script) as one:
        failed = await one.request("tools/call", 5, _meta=MODERN)
        assert failed["id"] == 5
        assert told in failed["error"]["message"]


async def test_a_session_that_the_server_has_ended_ends_the_bridge_with_all_requests_answered() -> (
    None
):
    async def script(got: Got, send: Send) -> None:
        if await with_session(got, send):
            return
        if got.json["id"] == 2:
            await trio.sleep_forever()
        await send(reply(404, error(got.json["id"], -32600, "Session not found")))

    async with bridged(script) as one:
        await one.initialize()
        await one.host.send("tools/call", {"name": "t"}, 2)
        failed = await one.request("tools/call", 3, name="t")
        other = await one.host.receive()
        await one.ended.wait()
    assert (failed["id"], other["id"]) == (3, 2)
    told = "the server has ended the session (HTTP 404): Session not found"
    assert failed["error"]["message"] == other["error"]["message"] == told
    assert one.failure is not None
    assert str(one.failure) == told
    assert one.failure.status == SERVER_LEFT
    assert "DELETE" not in [got.method for got in one.got]


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_session_that_has_ended_is_noticed_by_its_stream_and_by_notifications(
    method: str,
) -> None:
    async def script(got: Got, send: Send) -> None:
        if got.method == method and b"initialize" not in got.body:
            await send(reply(404))
        else:
            await with_session(got, send)

    async with bridged(script) as one:
        await one.host.initialize()
        if method == "POST":
            await one.host.send("notifications/roots/list_changed")
        await one.ended.wait()
    assert one.failure is not None
    assert str(one.failure) == "the server has ended the session (HTTP 404)"


async def test_the_stream_of_the_session_is_carried_and_opened_again() -> None:
    opened: list[str | None] = []

    async def script(got: Got, send: Send) -> bool:
        if got.method != "GET":
            return not await with_session(got, send)
        opened.append(got.headers.get("last-event-id"))
        number = len(opened)
        if number in {2, 6}:
            return True  # The connection is lost.
        if number == 4:
            await send(reply(410))
        elif number == 5:
            await send(reply(500))
        elif number == 8:
            await send(reply(204))
        else:
            message = {"jsonrpc": "2.0", "method": "n", "params": {"n": number}}
            too_long = {**message, "params": "x" * 100_000}
            await send(STREAM + event(message, f"e{number}", retry=1) + event(too_long))
            await send(event("no message", f"f{number}"))
        return True

    async with bridged(script) as one:
        await one.host.initialize()
        assert [(await one.host.receive())["params"]["n"] for _ in range(3)] == [1, 3, 7]
        while len(opened) < 8:  # noqa: ASYNC110  # the server is real
            await trio.sleep(0.001)
        await one.host.send("notifications/initialized")  # It opens no second one.
        assert (await one.leave()).host_left
    assert opened == [None, "f1", "f1", "f3", None, None, None, "f7"]
    assert [line for line in one.said if "larger" in line]
    assert [line for line in one.said if "not JSON-RPC" in line]
    assert [line for line in one.said if "messages of the server were lost: " in line]
    assert [line for line in one.said if "the stream of the session: " in line]


async def test_what_the_host_answers_reaches_the_server_and_a_refusal_is_said() -> None:
    question = {"jsonrpc": "2.0", "id": "q", "method": "roots/list"}
    answered = trio.Event()

    async def script(got: Got, send: Send) -> bool:
        if got.method == "POST" and got.json.get("id") == "q":
            await send(reply(400))
            answered.set()
        elif not await with_session(got, send):
            await send(STREAM + event(question))
            await answered.wait()
            await send(event(result(got.json["id"])))
            return True
        return False

    async with bridged(script) as one:
        await one.initialize()
        assert await one.request("tools/call", 5, name="t") == question
        await one.send(result("q", roots=[]))
        assert await one.host.receive() == result(5)
    refused = "the server refuses the request: HTTP 400 Some Reason"
    assert one.said == [f"an answer was not delivered: {refused}"]


async def test_a_notification_that_the_server_does_not_take_holds_nothing_up_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_bridge, "ANSWER_TIMEOUT", 0.01)

    async def script(got: Got, send: Send) -> None:
        if "id" not in got.json:
            await trio.sleep_forever()
        await send(reply(200, result(got.json["id"])))

    async with bridged(script) as one:
        await one.host.send("notifications/x")
        assert await one.request("ping", 1) == result(1)
    assert one.said == ["notifications/x was not taken by the server within 0.01 s"]


@pytest.mark.parametrize(
    "line, code, number",
    [
        (b"{", -32700, None),
        (b'{"jsonrpc":"2.0","id":5,"method":7}', -32600, 5),
        (b"[[]]", -32600, None),
        (b'{"jsonrpc":"2.0","id":"\\ud800","method":"m"}', -32600, None),
        (b'{"jsonrpc":"2.0","id":5,"method":"m","params":"' + b"x" * 100_000 + b'"}', -32600, 5),
    ],
)
async def test_a_bad_message_of_the_host_is_an_error_and_ends_nothing(
    line: bytes, code: int, number: int | None
) -> None:
    async def script(got: Got, send: Send) -> None:
        await send(reply(200, result(got.json["id"])))

    async with bridged(script) as one:
        await one.host.sink.send_all(line + b"\n")
        failed = await one.host.receive()
        assert failed["error"]["code"] == code
        assert failed.get("id") == number
        assert await one.request("ping", 1) == result(1)
    assert len(one.got) == 1


async def test_a_byte_order_mark_and_malformed_params_are_left_to_the_server() -> None:
    async def script(got: Got, send: Send) -> None:
        await send(reply(200, result(got.json["id"])))

    async with bridged(script) as one:
        mark = b"\xef\xbb\xbf"
        await one.host.sink.send_all(mark + b'{"jsonrpc":"2.0","id":1,"method":"m","params":[]}\n')
        assert await one.host.receive() == result(1)


async def test_an_answer_of_the_host_that_is_too_large_fails_the_question() -> None:
    async def script(got: Got, send: Send) -> None:
        await with_session(got, send)

    async with bridged(script) as one:
        await one.send(result("q", text="x" * 100_000))
        await one.send({"jsonrpc": "2.0", "method": "notifications/x", "params": "x" * 100_000})
        await one.host.sink.send_all(b'{"half')
        await one.leave()
    (got,) = one.got
    assert got.json["id"] == "q"
    assert "larger than 100000 bytes" in got.json["error"]["message"]
    too_large = "message is larger than 100000 bytes (--max-message-size)"
    assert one.said == [
        f"a notification of the host was dropped: {too_large}",
        "standard input ended in the middle of a message",
    ]


async def test_a_batch_is_carried_whole_and_each_of_its_requests_answered() -> None:
    async def script(got: Got, send: Send) -> None:
        assert isinstance(got.json, list)
        await send(reply(200, [result(1), result("b")]))

    async with bridged(script) as one:
        one_, two = ({"jsonrpc": "2.0", "id": i, "method": "ping"} for i in (1, "b"))
        await one.send([one_, two, {"jsonrpc": "2.0", "method": "notifications/x"}])
        assert await one.host.receive() == [result(1), result("b")]
        assert (await one.leave()).host_left


async def test_requests_beyond_the_limit_are_answered_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_bridge, "MAX_REQUESTS", 2)
    release = trio.Event()

    async def script(got: Got, send: Send) -> None:
        await release.wait()
        await send(reply(200, result(got.json["id"])))

    async with bridged(script) as one:
        for number in (1, 2, 3):
            await one.host.send("ping", {"_meta": MODERN}, number)
        busy = await one.host.receive()
        assert busy["id"] == 3
        assert "busy" in busy["error"]["message"]
        release.set()
        assert {(await one.host.receive())["id"] for _ in range(2)} == {1, 2}
        assert await one.request("ping", 4) == result(4)


async def test_messages_beyond_the_memory_of_the_bridge_are_refused_one_by_one() -> None:
    async def script(got: Got, send: Send) -> None:
        if got.json["id"] < 9:
            await trio.sleep_forever()
        await send(reply(200, result(got.json["id"], text="x" * 90_000)))

    async with bridged(script) as one:
        for number in range(1, 5):
            await one.host.send("m", {"_meta": MODERN, "text": "x" * 90_000}, number)
        busy = await one.request("m", 5, _meta=MODERN, text="x" * 90_000)
        assert busy["id"] == 5
        assert "busy" in busy["error"]["message"]
        busy = await one.request("m", 9, _meta=MODERN)
        assert busy["id"] == 9
        assert "the answers of the server are too large" in busy["error"]["message"]
        one.bridge.stop()


async def test_after_the_end_of_input_requests_have_a_grace_and_subscriptions_none() -> None:
    release = trio.Event()

    async def script(got: Got, send: Send) -> None:
        if got.json["method"] == "subscriptions/listen":
            await send(STREAM + event({"jsonrpc": "2.0", "method": "n"}))
            await trio.sleep_forever()
        release.set()
        await send(reply(200, result(got.json["id"])))

    async with bridged(script) as one:
        await one.host.send("subscriptions/listen", {"_meta": MODERN}, 1)
        assert (await one.host.receive())["method"] == "n"
        await one.host.send("ping", {"_meta": MODERN}, 2)
        ending = await one.leave()
        assert await one.host.receive() == result(2)
        assert (await one.host.receive())["id"] == 1
    assert ending.scope.deadline > trio.current_time()


async def test_a_request_that_exceeds_the_grace_is_answered_with_an_error() -> None:
    async def script(got: Got, send: Send) -> None:
        await trio.sleep_forever()

    async with bridged(script, grace=0.01) as one:
        await one.host.send("ping", {"_meta": MODERN}, 2)
        ending = await one.leave()
        failed = await one.host.receive()
    assert ending.host_left
    assert failed["id"] == 2
    assert "before the answer came" in failed["error"]["message"]


async def test_a_host_that_no_longer_reads_ends_the_bridge_and_its_session() -> None:
    async def script(got: Got, send: Send) -> None:
        if not await with_session(got, send):  # pragma: no branch
            # The host may have gone before the call.
            await trio.sleep_forever()  # pragma: no cover

    async with bridged(script) as one:
        await one.initialize()
        await one.host.send("tools/call", {"name": "t"}, 5)
        await one.host.lines.stream.aclose()
        await one.ended.wait()
    assert one.ending is not None
    assert one.ending.host_left
    assert one.got[-1].method == "DELETE"


async def test_a_host_that_does_not_read_stops_the_reading_of_the_server() -> None:
    sent = 0
    message = event({"jsonrpc": "2.0", "method": "n", "params": {"text": "x" * 50_000}})

    async def script(got: Got, send: Send) -> bool:
        nonlocal sent
        await send(STREAM)
        for _ in range(400):
            await send(message)
            sent += 1
        await send(event(result(got.json["id"])))
        return True

    async with bridged(script) as one:
        await one.host.send("tools/call", {"_meta": MODERN}, 1)
        before = -1
        while before != sent:  # Until buffers are full.
            before = sent
            await trio.sleep(0.05)
        assert sent < 400
        assert one.bridge._budget.held <= 4 * 100_000
        received: Any = {}
        while "id" not in received:
            received = await one.host.receive()
        assert sent == 400
    assert one.bridge._budget.held == 0


async def test_a_signal_ends_the_session() -> None:
    async def script(got: Got, send: Send) -> None:
        if not await with_session(got, send):
            await trio.sleep_forever()

    async with bridged(script) as one:
        await one.initialize()
        await one.host.send("tools/call", {"name": "t"}, 5)
        while b"tools/call" not in one.got[-1].body:  # noqa: ASYNC110  # the server is real
            await trio.sleep(0.001)
        one.bridge.stop()
        assert (await one.host.receive())["id"] == 5
        await one.ended.wait()
    assert one.got[-1].method == "DELETE"


async def test_a_session_that_cannot_be_deleted_holds_nothing_up() -> None:
    async def script(got: Got, send: Send) -> bool:
        if got.method == "DELETE":
            return True
        return not await with_session(got, send)

    async with bridged(script) as one:
        await one.initialize()
        assert (await one.leave()).host_left
    assert one.got[-1].method == "DELETE"


@pytest.mark.parametrize("can, listens", [(True, True), (False, True), (True, False)])
async def test_a_server_that_is_gone_is_started_again_if_that_is_possible(
    can: bool, listens: bool
) -> None:
    asked: list[int] = []

    async def script(got: Got, send: Send) -> None:
        await send(reply(200, result(got.json["id"])))

    async def restart() -> bool:
        asked.append(1)
        if listens:
            one.bridge._session._client._url = url
        return can

    async with bridged(script, restart=restart) as one:
        url = one.bridge._session._client._url
        # Nothing listens there.
        one.bridge._session._client._url = "http://127.0.0.1:1/mcp"
        answer = await one.request("ping", 1, _meta=MODERN)
        if can and listens:
            assert answer == result(1)
        else:
            assert "cannot connect to the server: " in answer["error"]["message"]
    assert asked == [1]


async def test_the_error_of_initialize_opens_no_session() -> None:
    async def script(got: Got, send: Send) -> None:
        answers = [error(7, -32600, "of another request"), error(got.json["id"], -32602, "bad")]
        await send(STREAM.replace(b"close", b"keep-alive") + b"".join(map(event, answers)))
        await trio.sleep_forever()

    async with bridged(script) as one:
        assert (await one.host.initialize())["id"] == 7
        assert (await one.host.receive())["error"]["message"] == "bad"
        assert one.bridge._session.version is None
        await one.leave()
    assert [got.method for got in one.got] == ["POST"]


async def test_what_is_not_a_list_of_tools_teaches_nothing() -> None:
    bad = {"name": "t", "inputSchema": {"x-mcp-header": "A"}}

    async def script(got: Got, send: Send) -> None:
        tools: object = [bad] if got.json["id"] == 1 else 5
        await send(reply(200, result(got.json["id"], tools=tools)))

    async with bridged(script) as one:
        for number in (1, 2):
            assert "result" in await one.request("tools/list", number, _meta=MODERN)
        call = {"name": "t", "arguments": {"a": 1}}
        await one.request("tools/call", 3, _meta=MODERN, **call)
    assert not [name for name in one.got[-1].headers if name.startswith("mcp-param")]
