"""What is special about a test client over HTTP; `test_client_eras` has what it shares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import trio
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked

from trio_mcp_session import (
    CleanupConfig,
    HttpOptions,
    McpError,
    MemoryEventStore,
    Principal,
    RequestContext,
    Router,
    SessionConfig,
    TerminationReason,
    http_app,
    open_session_manager,
)
from trio_mcp_session.testing import (
    Client,
    ClientEraName,
    ConnectionEnded,
    HttpRefused,
    assert_no_leaks,
    check_leaks,
    connect_http_client,
    hang,
    modern,
)
from trio_mcp_session.testing.event_parser import EventParser
from trio_mcp_session.transports.http.authentication import AuthenticationFailed

router = Router("demo", "1")
ERAS: list[ClientEraName] = ["legacy", "modern"]
PLACED = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "x-mcp-header": "City"},
        "at": {
            "type": "object",
            "properties": {"hour": {"type": "integer", "x-mcp-header": "Hour"}},
        },
    },
}


@router.tool()
async def echo(text: str) -> str:
    return text


@router.tool("größe")
async def size() -> str:
    return "12"


@router.tool()
async def sleep(ctx: RequestContext, seconds: float) -> None:
    await ctx.progress(1)
    await trio.sleep(seconds)


@router.tool()
async def count(ctx: RequestContext, to: int) -> str:
    for number in range(to):
        await ctx.progress(number + 1, to)
    return "done"


@router.tool()
async def poll(ctx: RequestContext) -> str:
    await ctx.progress(1, 2)
    assert ctx.close_stream(retry=3)
    await ctx.progress(2, 2)
    await trio.sleep(1)
    return "resumed"


@router.tool()
async def pong(ctx: RequestContext) -> str:
    return str(await ctx.session.ask("ping"))


@router.tool()
async def revision(ctx: RequestContext) -> str:
    return ctx.headers["mcp-protocol-version"]


@router.tool(input_schema=PLACED)
async def weather(ctx: RequestContext, arguments: dict[str, Any]) -> str:
    return str(arguments)


async def authenticate(_scope: object, headers: Mapping[str, str]) -> Principal:
    await trio.lowlevel.checkpoint()
    if headers.get("authorization") != "Bearer secret":
        raise AuthenticationFailed(www_authenticate="Bearer")
    return Principal("ann")


def summary(client: Client[Any]) -> list[tuple[str, int]]:
    return [(one.verb, one.status) for one in client.server_end.responses]


async def test_what_a_legacy_client_sends(autojump_clock: MockClock) -> None:
    async with check_leaks(strict=True), open_session_manager(router) as manager:
        async with connect_http_client(manager) as client:
            session = client.session
            assert session.session_id == client.server_end.session_id
            assert "1 requests open" in repr(client.server_end)
            assert (await client.call_tool("echo", {"text": "a"})).text == "a"
            assert manager.broadcast("notifications/x").sent == 1
            await client.wait_notification("notifications/x")
            assert (await client.call_tool("pong")).text == "{}"
            assert (await client.call_tool("revision")).text == client.protocol_version
        assert set(summary(client)[-2:]) == {("GET", 200), ("DELETE", 204)}
        assert session.termination_reason is TerminationReason.CLIENT_CLOSED
        assert client.server_end.responses[0].headers["mcp-session-id"] == session.session_id
        assert_no_leaks(manager, live=())


async def test_what_a_modern_client_sends(autojump_clock: MockClock) -> None:
    async with check_leaks(strict=True), open_session_manager(router) as manager:
        async with connect_http_client(manager, era="modern") as client:
            with pytest.raises(LookupError, match="no session"):
                _ = client.session
            assert (await client.call_tool("größe")).text == "12"
            for arguments in ({"city": "Köln", "at": {"hour": 3}}, {"city": " x"}, {"at": 3}, {}):
                result = await client.call_tool("weather", arguments)
                assert result.text == str(arguments)
            with pytest.raises(McpError, match="Method not found"):
                await client.request("nothing")
            await client.notify("notifications/roots/list_changed")
            # The headers of a test may be wrong on purpose.
            client.server_end.headers["Mcp-Method"] = "tools/list"
            with pytest.raises(McpError, match="Mcp-Method does not agree"):
                await client.call_tool("echo", {"text": "a"})
        assert summary(client)[-3:] == [("POST", 404), ("POST", 202), ("POST", 400)]


async def test_a_notification_cancels_a_modern_request_by_closing_its_response(
    autojump_clock: MockClock,
) -> None:
    async with check_leaks(strict=True), open_session_manager(router) as manager:
        async with connect_http_client(manager, era="modern") as client:
            params = {"name": "sleep", "arguments": {"seconds": 100}}
            pending = await client.start_request("tools/call", params)
            await client.notify("notifications/cancelled", {"requestId": 99})
            await client.notify("notifications/cancelled", {"requestId": pending.id})
            await trio.sleep(1)
            assert manager.statistics().in_flight == 0
            assert not pending.done


async def test_leaving_waits_until_the_application_has_ended_all_requests(
    autojump_clock: MockClock,
) -> None:
    ended: list[float] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        await trio.sleep(1)
        ended.append(trio.current_time())

    async with open_session_manager(router) as manager:
        with trio.fail_after(5):
            async with connect_http_client(manager, app=app, version=None) as client:
                await client.start_request("tools/list")
    assert ended == [1]


async def test_a_full_client_holds_up_the_application(autojump_clock: MockClock) -> None:
    written: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for number in range(9):
            data = b'data: {"jsonrpc":"2.0","method":"notifications/x"}\n\n'
            await send({"type": "http.response.body", "body": data, "more_body": True})
            written.append(number)

    async with open_session_manager(router) as manager:
        async with connect_http_client(manager, app=app, version=None, capacity=2) as client:
            client.stall()
            pending = await client.start_request("tools/list")
            await wait_all_tasks_blocked()
            assert written == [0, 1]
            client.resume()
            with pytest.raises(HttpRefused):
                await pending.wait()
            assert len(client.notifications) == len(written) == 9


async def test_a_cancelled_request_needs_no_answer(autojump_clock: MockClock) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await trio.sleep(1)
        await send({"type": "http.response.start", "status": 202, "headers": []})
        await send({"type": "http.response.body"})

    async with open_session_manager(router) as manager:
        async with connect_http_client(manager, app=app, version=None) as client:
            pending = await client.start_request("tools/list")
            pending.cancel()
            await trio.sleep(2)
            assert client.strays == []
            assert summary(client) == [("POST", 202), ("POST", 202)]


async def test_stateless_requests_of_a_client_without_a_handshake(
    autojump_clock: MockClock,
) -> None:
    async with check_leaks(strict=True), open_session_manager(router) as manager:
        async with connect_http_client(manager, version=None) as client:
            params = modern({"name": "echo", "arguments": {"text": "a"}})
            assert (await client.request("tools/call", params))["resultType"] == "complete"
            # This one has no session, and no GET stream.
            with pytest.raises(McpError, match="_meta"):
                await client.request("tools/list")
            assert "DELETE" not in dict(summary(client))


async def test_a_server_without_sessions(autojump_clock: MockClock) -> None:
    async with check_leaks(strict=True), open_session_manager(router) as manager:
        app = http_app(manager, options=HttpOptions(stateless=True))
        async with connect_http_client(manager, app=app) as client:
            assert (await client.call_tool("echo", {"text": "a"})).text == "a"
            assert client.server_end.session_id is None


@pytest.mark.parametrize("era", ERAS)
async def test_requests_have_the_headers_of_the_test(
    era: ClientEraName, autojump_clock: MockClock
) -> None:
    async with check_leaks(strict=True), open_session_manager(router) as manager:
        app = http_app(manager, path="/here", authenticate=authenticate)
        with pytest.raises(HttpRefused, match="HTTP status 401") as caught:
            await connect_http_client(manager, era=era, app=app, path="/here").__aenter__()
        assert caught.value.status == 401
        assert caught.value.headers["www-authenticate"] == "Bearer"
        assert "Authentication required" in caught.value.text
        headers = {"Authorization": "Bearer secret"}
        async with connect_http_client(
            manager, era=era, app=app, path="/here", headers=headers
        ) as client:
            assert (await client.call_tool("echo", {"text": "a"})).text == "a"
            del client.server_end.headers["Authorization"]
            with pytest.raises(HttpRefused):
                await client.call_tool("echo", {"text": "a"})
            with pytest.raises(HttpRefused, match="the message was not answered"):
                await client.notify("notifications/x")
        with pytest.raises(ValueError, match="principal= is for the default app="):
            connect_http_client(manager, app=app, principal=Principal("ann"))
    assert manager.sessions() == []


async def test_raw_messages(autojump_clock: MockClock) -> None:
    async with check_leaks(strict=True), open_session_manager(router) as manager:
        async with connect_http_client(manager, version="2025-03-26") as client:
            with pytest.raises(HttpRefused, match="HTTP status 400"):
                await client.send_raw(b"{")
            ping = b'{"jsonrpc":"2.0","id":"a","method":"ping"}'
            await client.send_raw(b"[%b]" % ping)
            assert (await client.wait_stray())["id"] == "a"
            with pytest.raises(RuntimeError, match="use drop"):
                await client.send_eof()


async def test_a_stream_that_the_server_closes_is_resumed(autojump_clock: MockClock) -> None:
    async with check_leaks(strict=True), open_session_manager(router) as manager:
        app = http_app(manager, options=HttpOptions(event_store=MemoryEventStore()))
        async with connect_http_client(manager, app=app) as client:
            start = trio.current_time()
            pending = await client.start_request(
                "tools/call", {"name": "poll", "arguments": {}}, progress=True
            )
            assert (await pending.wait())["content"][0]["text"] == "resumed"
            assert [one["progress"] for one in pending.progress] == [1, 2]
            assert trio.current_time() == start + 3
            # A client that leaves meanwhile does not resume.
            pending = await client.start_request(
                "tools/call", {"name": "poll", "arguments": {}}, progress=True
            )
            await trio.sleep(0.5)
        with pytest.raises(ConnectionEnded):
            await pending.wait()


async def test_a_client_that_drops_while_it_waits_to_resume(autojump_clock: MockClock) -> None:
    async with check_leaks(strict=True), open_session_manager(router) as manager:
        app = http_app(manager, options=HttpOptions(event_store=MemoryEventStore()))
        async with connect_http_client(manager, app=app) as client:
            await client.start_request(
                "tools/call", {"name": "poll", "arguments": {}}, progress=True
            )
            await trio.sleep(0.5)
            client.drop()
            await trio.sleep(5)
            for send in (client.notify, client.start_request):
                with pytest.raises(ConnectionEnded):
                    await send("ping")
            with pytest.raises(trio.ClosedResourceError):
                client.server_end.send_nowait(b"{}")


async def test_the_end_of_the_session_closes_the_connection(autojump_clock: MockClock) -> None:
    async with check_leaks(strict=True), open_session_manager(router) as manager:
        async with connect_http_client(manager) as client:
            session = client.session
            session.terminate()
            await client.wait_closed()
            with pytest.raises(LookupError):
                _ = client.session
            with pytest.raises(ConnectionEnded):
                await client.list_tools()


async def test_a_lost_stream_does_not_close_the_connection(autojump_clock: MockClock) -> None:
    async with check_leaks(strict=True), open_session_manager(router) as manager:
        app = http_app(manager, options=HttpOptions(max_streams=1))
        async with connect_http_client(manager, app=app) as client:
            await client.server_end.open_stream()  # It takes the first one over.
            await wait_all_tasks_blocked()
            assert not client.closed
            assert (await client.call_tool("echo", {"text": "a"})).text == "a"


async def test_a_client_that_does_not_read(autojump_clock: MockClock) -> None:
    async with check_leaks(strict=True), open_session_manager(router) as manager:
        async with connect_http_client(manager, capacity=2) as client:
            client.stall()
            pending = await client.start_request(
                "tools/call", {"name": "count", "arguments": {"to": 9}}, progress=True
            )
            await wait_all_tasks_blocked()
            assert pending.progress == []
            client.resume()
            await pending.wait()
            assert len(pending.progress) == 9
            client.stall()
            await client.start_request(
                "tools/call", {"name": "count", "arguments": {"to": 9}}, progress=True
            )
            await wait_all_tasks_blocked()


async def test_an_application_that_raises_fails_the_test(autojump_clock: MockClock) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await trio.lowlevel.checkpoint()
        raise ValueError("broken application")

    async with open_session_manager(router) as manager:
        with pytest.raises(ValueError, match="broken application"):
            async with connect_http_client(manager, app=app):
                pass  # pragma: no cover  # not entered


async def test_an_application_that_answers_nothing(autojump_clock: MockClock) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "http.request"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"null"})

    async with open_session_manager(router) as manager:
        with pytest.raises(HttpRefused, match="initialize was not answered: HTTP status 200"):
            await connect_http_client(manager, app=app).__aenter__()


async def test_a_cancelled_block_tells_the_session_to_end(autojump_clock: MockClock) -> None:
    async with check_leaks(strict=True), open_session_manager(router) as manager:
        with trio.move_on_after(1):
            async with connect_http_client(manager) as client:
                session = client.session
                await hang()
        assert session.termination_reason is TerminationReason.CLIENT_CLOSED
        assert "DELETE" not in dict(summary(client))


async def test_an_idle_session_ends_in_virtual_time(autojump_clock: MockClock) -> None:
    config = SessionConfig(cleanup=CleanupConfig(max_idle_time=3600, cleanup_interval=0))
    async with check_leaks(strict=True), open_session_manager(router, config=config) as manager:
        async with connect_http_client(manager) as client:
            assert await client.session.wait_terminated() is TerminationReason.IDLE
            assert trio.current_time() == 3600


async def test_the_calls_of_a_connection_are_checkpoints(autojump_clock: MockClock) -> None:
    async with open_session_manager(router) as manager:
        async with connect_http_client(manager) as client:
            connection = client.server_end
            with assert_checkpoints():
                await connection.send_batch([])
            assert not connection.needs_flush
            with assert_checkpoints():
                await connection.aclose()
            with assert_checkpoints():
                await connection.wait_idle()


async def test_a_closed_manager_connects_no_client() -> None:
    async with open_session_manager(router) as manager:
        pass
    with pytest.raises((RuntimeError, HttpRefused, McpError)):
        await connect_http_client(manager).__aenter__()


def test_events_come_in_pieces() -> None:
    parser = EventParser()
    stream = (
        b": hello\r\n\r\nid: 1\nretry: 1500\ndata: \n\nevent: message\ndata: a\ndata: b\n\nid:\n\n"
    )
    found = [data for byte in stream for data in parser.feed(bytes([byte]))]
    assert found == [b"a\nb"]
    assert parser.last_event_id is None
    assert parser.retry == 1.5
