from __future__ import annotations

import json
from typing import Any

import pytest
import trio
from trio.testing import (
    MockClock,
    assert_checkpoints,
    assert_no_checkpoints,
    wait_all_tasks_blocked,
)

from trio_mcp_session import (
    CleanupConfig,
    McpError,
    Principal,
    RequestContext,
    Router,
    SessionConfig,
    SessionLimits,
    SessionManager,
    SessionState,
    TerminationReason,
    ToolError,
    open_session_manager,
)
from trio_mcp_session.testing import (
    Client,
    ConnectionEnded,
    FaultyChannel,
    PendingRequest,
    assert_no_leaks,
    connect_client,
    hang,
)

router = Router("demo", "1")
REVISIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")


@router.tool()
async def add(ctx: RequestContext, a: int, b: int = 0) -> str:
    return str(a + b)


@router.tool()
async def point(ctx: RequestContext) -> dict[str, int]:
    return {"x": 1}


@router.tool()
async def fail(ctx: RequestContext) -> str:
    raise ToolError("no")


@router.tool()
async def count(ctx: RequestContext, to: int) -> str:
    for number in range(to):
        await ctx.progress(number, to)
    return "done"


@router.tool()
async def sleep(ctx: RequestContext, seconds: float) -> str:
    await trio.sleep(seconds)
    return "awake"


@router.tool()
async def ask(ctx: RequestContext, what: str) -> str:
    if what == "elicit":
        return (await ctx.elicit("who?", {"type": "object"}, timeout=5)).action
    if what == "sample":
        answer = await ctx.sample([], max_tokens=1)
        return str(answer["model"])
    roots = await ctx.list_roots()
    return ",".join(root["uri"] for root in roots)


@pytest.mark.parametrize("version", REVISIONS)
async def test_the_client_completes_the_handshake_in_every_revision(
    version: str, autojump_clock: MockClock
) -> None:
    async with open_session_manager(router) as manager:
        async with connect_client(manager, version=version, name="me") as client:
            await client.ping()
            assert client.protocol_version == version == client.session.protocol_version
            assert client.initialize_result is not None
            assert client.initialize_result["serverInfo"]["name"] == "demo"
            assert client.session.client is not None
            assert client.session.client.client_id == "me"
            assert client.session.state is SessionState.ACTIVE
            assert (await client.call_tool("add", {"a": 1, "b": 2})).text == "3"
        assert client.closed
        assert_no_leaks(manager, live=())


@pytest.mark.parametrize("version", REVISIONS)
async def test_a_broadcast_right_after_connecting_reaches_it(
    version: str, autojump_clock: MockClock
) -> None:
    async with (
        open_session_manager(router) as manager,
        connect_client(manager, version=version) as client,
    ):
        report = manager.broadcast("notifications/x")
        assert (report.sent, report.dropped) == (1, 0)
        with trio.fail_after(1):
            await client.wait_notification("notifications/x")


@pytest.mark.parametrize("still_there", [False, True])
async def test_a_session_that_ends_in_the_handshake_is_not_waited_for(
    still_there: bool, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def end_first(client: Client[Any], method: str) -> None:
        assert method == "notifications/initialized"
        client.session.terminate()
        if not still_there:
            await client.wait_closed()

    monkeypatch.setattr(Client, "notify", end_first)
    async with open_session_manager(router) as manager:
        with trio.fail_after(5):
            async with connect_client(manager) as client:
                assert client.initialize_result is not None


async def test_a_client_without_a_handshake_sends_only_explicit_requests(
    autojump_clock: MockClock,
) -> None:
    async with open_session_manager(router) as manager:
        async with connect_client(manager, version=None, principal=Principal("ann")) as client:
            with pytest.raises(LookupError, match="no handshake"):
                _ = client.protocol_version
            await client.ping()
            assert client.session.principal == Principal("ann")
            assert client.session.state is SessionState.INITIALIZING
            with pytest.raises(McpError) as caught:
                await client.request("tools/list")
            assert caught.value.code == -32602
            await client.initialize("2025-03-26", capabilities={"x": {}}, confirm=False)
            await wait_all_tasks_blocked()
            assert client.session.state is SessionState.INITIALIZING
            assert client.session.client is not None
            assert client.session.client.capabilities == {"x": {}}


async def test_a_refused_handshake_comes_out_of_the_block(autojump_clock: MockClock) -> None:
    config = SessionConfig(limits=SessionLimits(max_sessions=1))
    async with open_session_manager(router, config=config) as manager:
        async with connect_client(manager):
            with pytest.raises(McpError, match="limit: 1"):
                await connect_client(manager).__aenter__()
            async with connect_client(manager, version=None) as client:
                with pytest.raises(LookupError):
                    _ = client.session


async def test_call_tool_returns_results_and_request_raises_errors(
    autojump_clock: MockClock,
) -> None:
    async with open_session_manager(router) as manager, connect_client(manager) as client:
        result = await client.call_tool("point")
        assert result.structured == {"x": 1}
        assert not result.is_error
        assert (await client.call_tool("fail")).is_error
        with pytest.raises(McpError) as caught:
            await client.request("nothing")
        assert caught.value.code == -32601


async def test_progress_reaches_its_request(autojump_clock: MockClock) -> None:
    async with open_session_manager(router) as manager, connect_client(manager) as client:
        arguments = {"name": "count", "arguments": {"to": 3}, "_meta": {"mine": 1}}
        pending = await client.start_request("tools/call", arguments, progress=True)
        await pending.wait()
        assert [one["progress"] for one in pending.progress] == [0, 1, 2]
        assert [method for method, _ in client.notifications] == ["notifications/progress"] * 3
        await client.call_tool("count", {"to": 1}, progress=True)
        await client.call_tool("count", {"to": 1})
        assert len(client.notifications) == 4
        late = {"progressToken": pending.id, "progress": 9}
        await client.session.notify("notifications/progress", late)
        await client.ping()
        assert len(pending.progress) == 3


async def test_every_call_is_a_checkpoint_or_is_not_async(autojump_clock: MockClock) -> None:
    async with open_session_manager(router) as manager:
        with assert_checkpoints():
            connecting = connect_client(manager)
            client = await connecting.__aenter__()
        with assert_checkpoints():
            pending = await client.start_request("ping")
        with assert_checkpoints():
            await pending.wait()
        with assert_checkpoints():
            await pending.wait()
        with assert_checkpoints():
            await client.ping()
        with assert_checkpoints():
            await client.notify("notifications/initialized")
        with assert_checkpoints():
            await client.send_raw(b"{")
        with assert_checkpoints():
            assert (await client.wait_stray())["error"]["code"] == -32700
        with assert_checkpoints():
            await client.wait_stray()
        with assert_no_checkpoints():
            client.stall()
            client.stall()
            client.resume()
            client.resume()
            pending.cancel()
        with assert_checkpoints():
            await client.send_eof()
        with assert_checkpoints():
            await client.wait_closed()
        with assert_no_checkpoints():
            client.drop()
        with assert_checkpoints():
            await client.wait_closed()
        with assert_checkpoints():
            await connecting.__aexit__(None, None, None)


async def test_raw_frames_both_ways(autojump_clock: MockClock) -> None:
    async with open_session_manager(router) as manager:
        async with connect_client(manager, version="2025-03-26") as client:
            del client.received[:]
            batch = [
                {"jsonrpc": "2.0", "id": "a", "method": "ping"},
                {"jsonrpc": "2.0", "id": "b", "method": "ping"},
            ]
            await client.send_raw(json.dumps(batch).encode())
            await client.wait_stray(lambda message: message["id"] == "b")
            assert {message["id"] for message in client.strays} == {"a", "b"}
            assert len(client.received) == 1
            assert client.received[0].startswith(b"[")


async def test_cancelling_a_request_tells_the_server(autojump_clock: MockClock) -> None:
    async with open_session_manager(router) as manager, connect_client(manager) as client:
        with trio.move_on_after(1):
            await client.call_tool("sleep", {"seconds": 100})
        await client.ping()
        assert client.session.metrics.cancelled == 1
        assert client.session.metrics.in_flight == 0
        pending = await client.start_request(
            "tools/call", {"name": "sleep", "arguments": {"seconds": 100}}
        )
        assert "waiting" in repr(pending)
        pending.cancel("no need")
        pending.cancel()
        assert "done" in repr(pending)
        with pytest.raises(ConnectionEnded, match="was not answered"):
            await pending.wait()
        await client.ping()
        assert client.session.metrics.cancelled == 2
        assert trio.current_time() == 1


async def test_a_cancelled_start_sends_nothing(autojump_clock: MockClock) -> None:
    async with open_session_manager(router) as manager, connect_client(manager) as client:
        await client.ping()
        before = client.session.metrics.messages_received
        with trio.CancelScope() as scope:
            scope.cancel()
            await client.start_request("ping")
        assert scope.cancelled_caught
        assert not client._pending
        await client.ping()
        assert client.session.metrics.messages_received == before + 1


async def test_initialize_is_never_cancelled(autojump_clock: MockClock) -> None:
    async with open_session_manager(router) as manager:
        async with connect_client(manager, version=None) as client:
            client.stall()
            with trio.move_on_after(1):
                await client.initialize()
            client.resume()
            await client.ping()
            assert client.session.metrics.messages_received == 2
            assert [message["id"] for message in client.strays] == [1]


async def test_pending_requests_fail_when_the_connection_ends(autojump_clock: MockClock) -> None:
    async with open_session_manager(router) as manager, connect_client(manager) as client:
        session = client.session

        async def drop_later() -> None:
            await trio.sleep(1)
            client.drop()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drop_later)
            with pytest.raises(ConnectionEnded):
                await client.call_tool("sleep", {"seconds": 100})
        for method in (client.start_request, client.notify):
            with pytest.raises(ConnectionEnded):
                await method("ping")
        with pytest.raises(ConnectionEnded, match="no notification x"):
            await client.wait_notification("x")
        assert "closed" in repr(client)
        assert await session.wait_terminated() is TerminationReason.CLIENT_CLOSED


async def test_the_end_comes_while_a_request_waits_to_be_sent(autojump_clock: MockClock) -> None:
    async with open_session_manager(router) as manager:
        async with connect_client(manager, capacity=1, through=FaultyChannel) as client:
            client.server_end.stall()

            async def start() -> None:
                with pytest.raises(ConnectionEnded, match="connection is over"):
                    while True:
                        await client.start_request("ping")

            async with trio.open_nursery() as nursery:
                nursery.start_soon(start)
                await wait_all_tasks_blocked()
                client.drop()
            assert not client._pending


async def test_the_end_of_the_stream_leaves_answers_readable(autojump_clock: MockClock) -> None:
    async with open_session_manager(router) as manager, connect_client(manager) as client:
        session = client.session
        pending = await client.start_request(
            "tools/call", {"name": "sleep", "arguments": {"seconds": 0.1}}
        )
        await client.send_eof()
        assert (await pending.wait())["content"][0]["text"] == "awake"
        await client.wait_closed()
        assert session.termination_reason is TerminationReason.CLIENT_CLOSED


async def test_wait_notification_returns_the_first_match(autojump_clock: MockClock) -> None:
    async with open_session_manager(router) as manager, connect_client(manager) as client:
        await client.ping()

        async def tell() -> None:
            for number in range(3):
                await trio.sleep(1)
                await client.session.notify("notifications/test", {"number": number})

        async with trio.open_nursery() as nursery:
            nursery.start_soon(tell)
            params = await client.wait_notification(
                "notifications/test", lambda params: params["number"] == 1
            )
            assert params == {"number": 1}
            assert trio.current_time() == 2


async def test_the_client_answers_questions_with_its_callbacks(autojump_clock: MockClock) -> None:
    asked: list[dict[str, Any]] = []

    async def elicit(params: dict[str, Any]) -> dict[str, Any]:
        asked.append(params)
        return {"action": "accept", "content": {}}

    async def sample(params: dict[str, Any]) -> dict[str, Any]:
        return {"model": "m"}

    async with open_session_manager(router) as manager:
        async with connect_client(
            manager, elicit=elicit, sample=sample, roots=[{"uri": "file:///a"}]
        ) as client:
            assert client.session.client is not None
            assert client.session.client.capabilities == {
                "elicitation": {},
                "sampling": {},
                "roots": {"listChanged": True},
            }
            assert (await client.call_tool("ask", {"what": "elicit"})).text == "accept"
            assert asked[0]["message"] == "who?"
            assert (await client.call_tool("ask", {"what": "sample"})).text == "m"
            assert (await client.call_tool("ask", {"what": "roots"})).text == "file:///a"
            assert await client.session.ask("ping") == {}
            with pytest.raises(McpError) as caught:
                await client.session.ask("unheard/of")
            assert caught.value.code == -32601


async def test_a_question_may_be_refused_or_forgotten(autojump_clock: MockClock) -> None:
    async def refuse(params: dict[str, Any]) -> None:
        raise McpError(-1, "rather not", {"why": 1})

    async with open_session_manager(router) as manager:
        async with connect_client(
            manager, answerers={"a": refuse, "b": lambda _: hang()}
        ) as client:
            with pytest.raises(McpError) as caught:
                await client.session.ask("a")
            assert (caught.value.code, caught.value.data) == (-1, {"why": 1})
            with trio.move_on_after(1):
                await client.session.ask("b")
            await client.wait_notification("notifications/cancelled")
            await wait_all_tasks_blocked()
            assert not client._questions
            await client.session.notify("notifications/cancelled", {"requestId": 99})
            await client.ping()


async def test_an_answer_after_the_connection_is_lost_is_dropped(autojump_clock: MockClock) -> None:
    release = trio.Event()

    async def answer(_: dict[str, Any]) -> None:
        with trio.CancelScope(shield=True):
            await release.wait()

    async with open_session_manager(router) as manager:
        async with connect_client(manager, answerers={"a": answer}) as client:
            client.session.start_soon(client.session.ask, "a")
            await wait_all_tasks_blocked()
            client.drop()
            release.set()
            await wait_all_tasks_blocked()
            assert not client._questions


async def test_a_failing_answerer_fails_the_test(autojump_clock: MockClock) -> None:
    async def answer(_: dict[str, Any]) -> None:
        raise AssertionError("not this question")

    async with open_session_manager(router) as manager:
        with pytest.raises(AssertionError, match="not this question"):
            async with connect_client(manager, elicit=answer) as client:
                await client.call_tool("ask", {"what": "elicit"})
        assert_no_leaks(manager, live=())


async def test_a_stalled_client_stops_its_server(autojump_clock: MockClock) -> None:
    config = SessionConfig(limits=SessionLimits(max_output=64))
    async with open_session_manager(router, config=config) as manager:
        async with connect_client(manager, capacity=4) as client:
            session = client.session
            await client.ping()
            client.stall()
            waiting: list[PendingRequest] = []
            with trio.move_on_after(1):
                while True:
                    waiting.append(await client.start_request("ping"))
            assert not any(one.done for one in waiting)
            assert 8 < len(waiting) < 20
            client.resume()
            for one in waiting:
                await one.wait()
            client.stall()
            with pytest.raises(ConnectionEnded):
                while True:
                    await client.start_request("ping")
            assert session.termination_reason is TerminationReason.UNRESPONSIVE
            assert trio.current_time() == 31


async def test_a_stall_may_be_renewed_before_it_is_noticed(autojump_clock: MockClock) -> None:
    async with open_session_manager(router) as manager, connect_client(manager) as client:
        client.stall()
        await wait_all_tasks_blocked()
        client.resume()
        client.stall()
        pending = await client.start_request("ping")
        await trio.sleep(1)
        assert not pending.done
        client.resume()
        await pending.wait()


async def test_cancelling_with_no_room_to_say_so(autojump_clock: MockClock) -> None:
    async with open_session_manager(router) as manager:
        async with connect_client(manager, capacity=1, through=FaultyChannel) as client:
            await client.ping()
            client.server_end.stall()
            pending = await client.start_request("ping")
            pending.cancel()
            client.server_end.resume()
            await client.ping()
            assert client.session.metrics.cancelled == 0
            pending = await client.start_request("ping")
            client._channel.close()
            pending.cancel()
            assert pending.done


async def test_leaving_ends_the_session_also_where_the_server_is_stalled(
    autojump_clock: MockClock,
) -> None:
    async with open_session_manager(router) as manager:
        async with connect_client(manager, through=FaultyChannel) as client:
            session = client.session
            client.server_end.stall()
        assert session.termination_reason is TerminationReason.CLIENT_CLOSED
        assert_no_leaks(manager, live=())


async def test_errors_of_the_body_come_out_bare(autojump_clock: MockClock) -> None:
    async with open_session_manager(router) as manager:
        with pytest.raises(ValueError, match="mine"):
            async with connect_client(manager):
                raise ValueError("mine")
        with trio.move_on_after(1) as scope:
            async with connect_client(manager):
                await hang()
        assert scope.cancelled_caught
        await wait_all_tasks_blocked()
        assert_no_leaks(manager, live=())


async def test_a_closed_manager_connects_no_client() -> None:
    async with open_session_manager(router) as manager:
        pass
    with pytest.raises(RuntimeError, match="closed"):
        await connect_client(manager).__aenter__()


async def test_leaving_with_a_request_in_flight(autojump_clock: MockClock) -> None:
    async with open_session_manager(router) as manager:
        async with connect_client(manager) as client:
            await client.start_request("tools/call", {"name": "sleep", "arguments": {"seconds": 9}})
            await client.ping()
        assert trio.current_time() == CleanupConfig().eof_grace
        assert_no_leaks(manager, live=())


def test_client_and_pending_request_have_no_public_constructor() -> None:
    with pytest.raises(TypeError):
        Client()  # type: ignore[call-arg]  # never gets that far
    with pytest.raises(TypeError):
        PendingRequest()  # type: ignore[call-arg]  # never gets that far


async def test_two_clients_know_their_own_session(autojump_clock: MockClock) -> None:
    async def name_of(manager: SessionManager, name: str) -> None:
        async with connect_client(manager, name=name) as client:
            assert client.session.client is not None
            assert client.session.client.client_id == name
            assert "0 requests" in repr(client)

    async with open_session_manager(router) as manager:
        async with trio.open_nursery() as nursery:
            for name in ("a", "b", "c"):
                nursery.start_soon(name_of, manager, name)
