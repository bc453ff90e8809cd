"""What happens to a call when its client leaves: `Router.tool(on_disconnect=...)`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.helpers import cancelled, connect, modern as on_a_pipe, request, serving
from tests.transports.http.asgi_client import Client, Response
from tests.transports.http.modern import headers_of, modern
from tests.transports.http.site import Site, bearer, site
from trio_mcp_session import (
    CleanupConfig,
    EndingReason,
    HandlerCrashed,
    NoChannel,
    OnDisconnect,
    RequestContext,
    Router,
    Session,
    SessionLimits,
    TerminationReason,
)
from trio_mcp_session.server.mcp_server import server_of
from trio_mcp_session.transports.http.http_options import HttpOptions

CHOICES: tuple[OnDisconnect | None, ...] = (None, "finish", "adopt", "cancel")
LEFT = EndingReason.CLIENT_LEFT
CALL: Any = {"name": "work", "arguments": {}}


class Desk:
    """A tool that works until it is released, and notes what happens."""

    def __init__(self, on_disconnect: OnDisconnect | None = None) -> None:
        self.router = Router("desk")
        self.router.tool(on_disconnect=on_disconnect)(self.work)
        self.release = trio.Event()
        self.seen: list[object] = []
        self.contexts: list[RequestContext] = []
        self.crash: Exception | None = None
        self.poll = False

    async def work(self, ctx: RequestContext) -> str:
        self.contexts.append(ctx)
        if self.poll:
            ctx.close_stream()
        try:
            await self.release.wait()
            self.seen += ["finished", ctx.ending.reason]
            if self.crash is not None:
                raise self.crash
            return "done"
        except trio.Cancelled:
            self.seen += ["cancelled", ctx.ending.reason]
            raise


async def leave_now(place: Site, *, client: Client | None = None, **more: str) -> None:
    """Make a call, and leave while it runs."""
    async with calling(client or place.client(), **more):
        await trio.sleep(1)
    await trio.sleep(1)


def calling(client: Client, **more: str) -> AbstractAsyncContextManager[Response]:
    message = modern(1, "tools/call", CALL, capabilities={"elicitation": {}})
    return client.stream("POST", message, headers=headers_of(message, **more))


@asynccontextmanager
async def streaming(place: Site, desk: Desk) -> AsyncIterator[Any]:
    """Make a call in a session; yield its sink when its response has become a stream."""
    client = await place.client().initialize()
    async with client.stream("POST", request(1, "tools/call", CALL)) as response:
        await response.started()
        yield desk.contexts[0]._request.sink


def in_flight(place: Site) -> int:
    return place.manager.statistics().in_flight


def is_busy(session: Session) -> bool:
    return session.busy


@pytest.mark.parametrize("choice", [None, "cancel"])
async def test_from_2026_on_a_call_is_cancelled_when_its_client_leaves(
    choice: OnDisconnect | None, autojump_clock: MockClock
) -> None:
    desk = Desk(choice)
    async with site(desk.router) as place:
        await leave_now(place)
        assert desk.seen == ["cancelled", LEFT]
        assert in_flight(place) == 0


@pytest.mark.parametrize("choice", ["finish", "adopt"])
async def test_a_call_that_outlives_its_client_sends_nothing_more(
    choice: OnDisconnect, autojump_clock: MockClock
) -> None:
    desk = Desk(choice)
    async with site(desk.router) as place:
        await leave_now(place)
        (ctx,) = desk.contexts
        assert not desk.seen
        assert ctx.ending.reason is LEFT
        assert ctx.answered
        sent = server_of(place.manager).stateless.counters.messages_sent
        await ctx.progress(1)
        await ctx.notify("notifications/x")
        with pytest.raises(NoChannel):
            await ctx._request.ask("elicitation/create", {})
        # It still counts.
        assert in_flight(place) == 1
        assert server_of(place.manager).is_busy
        desk.release.set()
        await wait_all_tasks_blocked()
        assert desk.seen == ["finished", LEFT]
        assert in_flight(place) == 0
        assert server_of(place.manager).stateless.counters.messages_sent == sent


async def test_a_call_that_outlives_its_client_counts_in_the_limits(
    autojump_clock: MockClock,
) -> None:
    desk = Desk("finish")
    async with site(desk.router, limits=SessionLimits(max_stateless_requests=1)) as place:
        await leave_now(place)
        async with calling(place.client()) as second:
            await trio.sleep(1)
            assert len(desk.contexts) == 1
            desk.release.set()
            assert (await second.json())["result"]["content"][0]["text"] == "done"


async def test_a_call_that_outlives_its_client_keeps_its_deadline(
    autojump_clock: MockClock,
) -> None:
    desk = Desk("finish")
    async with site(desk.router, cleanup=CleanupConfig(request_timeout=10)) as place:
        await leave_now(place)
        assert desk.contexts[0].time_left == 8
        await trio.sleep(8.1)
        assert desk.seen == ["cancelled", LEFT]


@pytest.mark.parametrize("choice", ["finish", "adopt"])
async def test_a_drain_waits_for_it_and_then_ends_it(
    choice: OnDisconnect, autojump_clock: MockClock
) -> None:
    desk = Desk(choice)
    async with site(desk.router) as place:
        session = (await place.client().initialize()).headers["mcp-session-id"]
        await leave_now(place, mcp_session_id=session)
        before = trio.current_time()
        await place.manager.drain(grace=5)
        assert desk.seen == ["cancelled", LEFT]
        assert 5 <= trio.current_time() - before < 6


async def test_a_crash_after_the_client_has_left_is_reported(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk("finish")
    desk.crash = ValueError("it broke")
    async with site(desk.router) as place:
        await leave_now(place)
        desk.release.set()
        await wait_all_tasks_blocked()
        assert "tool 'work' crashed" in caplog.text


async def test_a_call_that_waits_never_begins(autojump_clock: MockClock) -> None:
    desk = Desk("finish")
    async with site(desk.router, limits=SessionLimits(max_stateless_requests=1)) as place:
        await leave_now(place)
        await leave_now(place)
        desk.release.set()
        await wait_all_tasks_blocked()
        assert len(desk.contexts) == 1


# Adoption.


async def test_the_session_that_the_request_names_adopts_the_call(
    autojump_clock: MockClock,
) -> None:
    desk = Desk("adopt")
    async with site(desk.router) as place:
        client = await place.client().initialize()
        (session,) = place.headers()
        await leave_now(place, mcp_session_id=client.headers["mcp-session-id"])
        assert is_busy(session)
        assert session._borrowers is not None
        assert len(session._borrowers) == 1
        desk.contexts[0]._request.check_access()
        desk.crash = ValueError("it broke")
        with session.subscribe() as events:
            desk.release.set()
            await wait_all_tasks_blocked()
            reported = cast("Any", events.receive_nowait()).error
        assert isinstance(reported, HandlerCrashed)
        assert desk.seen == ["finished", LEFT]
        assert not is_busy(session)
        assert session.termination_reason is None
        assert in_flight(place) == 0


async def test_the_end_of_the_session_cancels_an_adopted_call(autojump_clock: MockClock) -> None:
    desk = Desk("adopt")
    async with site(desk.router) as place:
        client = await place.client().initialize()
        (session,) = place.headers()
        place.look()
        await leave_now(place, mcp_session_id=client.headers["mcp-session-id"])
        assert (await client.request("DELETE")).status == 204
        await session.wait_terminated()
        assert desk.seen == ["cancelled", LEFT]
        assert session.termination_reason is TerminationReason.CLIENT_CLOSED
        assert in_flight(place) == 0


async def test_the_time_of_the_session_is_the_time_of_an_adopted_call(
    autojump_clock: MockClock,
) -> None:
    desk = Desk("adopt")
    cleanup = CleanupConfig(max_session_time=100, lifetime_notice=10)
    async with site(desk.router, cleanup=cleanup) as place:
        client = await place.client().initialize()
        async with calling(
            place.client(), mcp_session_id=client.headers["mcp-session-id"]
        ) as response:
            await response.started()
            assert desk.contexts[0].time_left > 1_000
        await trio.sleep(1)
        assert desk.contexts[0].time_left == pytest.approx(100 - trio.current_time())
        desk.release.set()


@pytest.mark.parametrize("named", ["nothing", "a stranger's"])
async def test_no_session_of_another_principal_adopts_the_call(
    named: str, autojump_clock: MockClock
) -> None:
    desk = Desk("adopt")
    async with site(desk.router, authenticate=bearer) as place:
        client = await place.client("alice").initialize()
        (session,) = place.headers()
        session_id = client.headers["mcp-session-id"] if named != "nothing" else "x" * 20
        bob = place.client("bob")
        await leave_now(place, client=bob, mcp_session_id=session_id)
        assert not is_busy(session)
        desk.release.set()
        await wait_all_tasks_blocked()
        assert desk.seen == ["finished", LEFT]


async def test_a_call_that_has_asked_keeps_its_own_session(autojump_clock: MockClock) -> None:
    desk = Desk()

    @desk.router.tool(on_disconnect="adopt")
    async def ask(ctx: RequestContext) -> str:
        await ctx.elicit("?", {"type": "object"}, key="k")
        return await desk.work(ctx)

    async with site(desk.router) as place:
        client = await place.client().initialize()
        session_id = client.headers["mcp-session-id"]
        (session,) = place.headers()
        call: dict[str, Any] = {"name": "ask", "arguments": {}}
        capabilities: Any = {"elicitation": {}}
        message = modern(1, "tools/call", call, capabilities=capabilities)
        asked = await place.client().post(message, headers=headers_of(message))
        answers = {"k": {"action": "accept", "content": {}}}
        call |= {"requestState": asked["result"]["requestState"], "inputResponses": answers}
        message = modern(2, "tools/call", call, capabilities=capabilities)
        headers = headers_of(message, mcp_session_id=session_id)
        async with place.client().stream("POST", message, headers=headers):
            await trio.sleep(1)
        await trio.sleep(1)
        assert not is_busy(session)
        desk.release.set()
        await wait_all_tasks_blocked()
        assert desk.seen == ["finished", LEFT]


# Up to 2025-11-25.


@pytest.mark.parametrize("choice", [None, "finish", "adopt"])
async def test_up_to_2025_the_call_runs_on_and_its_result_can_be_fetched(
    choice: OnDisconnect | None, autojump_clock: MockClock
) -> None:
    desk = Desk(choice)
    async with site(desk.router) as place:
        client = await place.client().initialize()
        async with client.stream("POST", request(1, "tools/call", CALL)) as response:
            event = await response.event()
        await trio.sleep(100)
        assert not desk.seen
        desk.release.set()
        headers = {"last-event-id": event.id}
        async with client.stream("GET", headers=headers) as resumed:
            await resumed.event()  # It opens the stream.
            answer = (await resumed.event()).json
        assert answer["result"]["content"][0]["text"] == "done"
        assert desk.seen == ["finished", None]


@pytest.mark.parametrize("seconds", [0.5, 5], ids=["before", "after"])
async def test_up_to_2025_it_is_cancelled_only_on_request(
    seconds: float, autojump_clock: MockClock
) -> None:
    """Before and after its response has become a stream."""
    assert HttpOptions().stream_after == 2
    desk = Desk("cancel")
    async with site(desk.router) as place:
        client = await place.client().initialize()
        async with client.stream("POST", request(1, "tools/call", CALL)):
            await trio.sleep(seconds)
            assert not desk.seen
        await wait_all_tasks_blocked()
        assert desk.seen == ["cancelled", LEFT]


async def test_a_write_that_fails_shows_that_the_client_has_left(
    autojump_clock: MockClock,
) -> None:
    """The server does not say so: only the next write fails."""
    desk = Desk("cancel")
    async with site(desk.router) as place:
        async with streaming(place, desk) as stream:
            stream._watching.cancel()
        await trio.sleep(20)
        assert desk.seen == ["cancelled", LEFT]


async def test_a_response_that_is_over_cancels_nothing(autojump_clock: MockClock) -> None:
    desk = Desk("cancel")
    async with site(desk.router) as place:
        client = await place.client().initialize()
        desk.release.set()
        answer = await client.post(request(1, "tools/call", CALL))
        assert answer["result"]["content"][0]["text"] == "done"
        # Neither does a stream that the server closes itself.
        desk.release = trio.Event()
        desk.poll = True
        response = await client.request("POST", request(2, "tools/call", CALL))
        assert response.complete
        await trio.sleep(1)
        assert len(desk.seen) == 2
        desk.release.set()
        await wait_all_tasks_blocked()
        assert desk.seen[2:] == ["finished", None]


async def test_the_task_that_watches_the_client_ends_with_the_response(
    autojump_clock: MockClock,
) -> None:
    """Also if the server does not say then that the client has left."""

    def watching(place: Site) -> int:
        return sum("_watch" in task.name for task in place.manager._sessions_nursery.child_tasks)

    desk = Desk("cancel")
    async with site(desk.router) as place:
        client = await place.client().initialize()
        async with client.stream("POST", request(1, "tools/call", CALL)) as response:
            await wait_all_tasks_blocked()
            assert watching(place) == 1
            desk.release.set()
            assert (await response.json())["result"]["content"][0]["text"] == "done"
            await wait_all_tasks_blocked()
            assert watching(place) == 0


async def test_a_server_that_fails_to_tell_cancels_the_call(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk("cancel")

    async def broken() -> None:
        raise OSError("no more")

    async with site(desk.router) as place:
        async with streaming(place, desk) as stream:
            stream.receive = broken
            await stream._watch(trio.CancelScope())
            assert "reading from a client failed" in caplog.text
            await wait_all_tasks_blocked()
            assert desk.seen == ["cancelled", LEFT]


async def test_a_client_that_leaves_when_the_response_is_over_cancels_nothing(
    autojump_clock: MockClock,
) -> None:
    desk = Desk("cancel")
    async with site(desk.router) as place:
        async with streaming(place, desk) as stream:
            stream.watch_client(desk.release.set)  # The first one stays.
            events = iter([{"type": "http.request"}, {"type": "http.disconnect"}])

            async def receive() -> dict[str, str]:
                await trio.lowlevel.checkpoint()
                return next(events)

            stream.receive, on_left = receive, stream._on_left
            stream._on_left = None
            await stream._watch(trio.CancelScope())
            assert desk.seen == []
            stream._on_left = on_left
            desk.release.set()


async def test_a_client_that_cancels_is_obeyed(autojump_clock: MockClock) -> None:
    desk = Desk("finish")
    async with site(desk.router) as place:
        client = await place.client().initialize()
        async with client.stream("POST", request(1, "tools/call", CALL)) as response:
            await response.started()
            assert (await client.request("POST", cancelled(1))).status == 202
            assert "cancelled" in (await response.events())[-1].json["error"]["message"]
        assert desk.seen == ["cancelled", EndingReason.CANCELLED]


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_on_a_pipe_a_call_ends_with_its_connection(
    choice: OnDisconnect | None, era: str, autojump_clock: MockClock
) -> None:
    desk = Desk(choice)
    async with serving(desk.router) as manager:
        peer = await connect(manager)
        if era == "legacy":
            await peer.establish()
        make = request if era == "legacy" else on_a_pipe
        await peer.send(make(1, "tools/call", CALL))
        await wait_all_tasks_blocked()
        await peer.channel.aclose()
        await peer.session.wait_terminated()
        # The end of its input lets a session finish its work within `eof_grace`.
        assert desk.seen == ["cancelled", EndingReason.DRAIN]


def test_an_unknown_choice_is_refused() -> None:
    router = Router("r")
    wrong: Any = "detach"
    with pytest.raises(ValueError, match="on_disconnect must be 'finish', 'adopt', 'cancel' or No"):
        router.tool(on_disconnect=wrong)(Desk().work)
    router.tool(on_disconnect="finish")(Desk().work)
    assert router.tools["work"].on_disconnect == "finish"
