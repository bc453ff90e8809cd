"""Subscriptions: what begins one, what its client is told and when, and what ends it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, final

import attrs
import msgspec
import pytest
import trio
from hypothesis import example, given, settings, strategies as st
from trio.testing import (
    MockClock,
    assert_checkpoints,
    assert_no_checkpoints,
    wait_all_tasks_blocked,
)

from tests.helpers import (
    ACKNOWLEDGED,
    OpenOutlet,
    Peer,
    acknowledged,
    admit_stateless,
    brief,
    cancelled,
    changed,
    connect,
    ended,
    error,
    initialize,
    leftovers,
    listening,
    modern,
    modern_result,
    notification,
    request,
    serving,
    tagged,
    told,
)
from trio_mcp_session import (
    BroadcastReport,
    CleanupConfig,
    McpError,
    Principal,
    RequestContext,
    Router,
    Session,
    SessionLimits,
    SessionManager,
    SessionState,
    TerminationReason,
    open_session_manager,
)
from trio_mcp_session.protocol.envelope import read_envelope
from trio_mcp_session.protocol.jsonrpc import Request, encode_json
from trio_mcp_session.server.client_connection import client_of
from trio_mcp_session.server.mcp_server import server_of
from trio_mcp_session.server.request import InFlightRequest
from trio_mcp_session.testing import find_leaks

ALL: dict[str, Any] = {
    "toolsListChanged": True,
    "promptsListChanged": True,
    "resourcesListChanged": True,
    "resourceSubscriptions": ["a:", "b:"],
}
INTERNAL = -32603


@final
class Desk:
    """An application that has everything that can change, and requests that wait."""

    def __init__(self) -> None:
        self.router = Router("desk", resource_subscriptions=True)
        self.release = trio.Event()
        for method in ("tools/list", "prompts/list", "resources/list", "wait"):
            self.router.request(method)(self.wait)
        self.router.request("change")(self.change)
        self.router.request("drain")(self.drain)

    async def wait(self, ctx: RequestContext) -> None:
        await self.release.wait()

    async def change(self, ctx: RequestContext) -> dict[str, Any]:
        with assert_no_checkpoints():
            tools = ctx.notify_list_changed("tools")
            resource = ctx.notify_resource_updated("a:")
        return {"tools": attrs.asdict(tools), "resource": attrs.asdict(resource)}

    async def drain(self, ctx: RequestContext) -> None:
        async with trio.open_nursery() as nursery:
            # Its tasks are the handler's as well.
            nursery.start_soon(ctx.manager.drain)
            nursery.start_soon(self.release.wait)


@pytest.fixture
def desk() -> Desk:
    return Desk()


@final
@attrs.define(eq=False)
class Response(OpenOutlet):
    """Where what one request is told goes, as a response over HTTP is."""

    room: float = 1_000_000
    heard: list[Any] = attrs.field(factory=list)
    cut: int = 0
    more_room: trio.Event = attrs.field(factory=trio.Event)
    breaks: Exception | None = None
    leave: Callable[[], None] | None = None
    """What happens where there is no room, as with a stream that is closed for its reader."""

    def send_result(self, frame: bytes) -> None:
        self.heard.append(told(msgspec.json.decode(frame)))

    def send_no_result(self) -> None:
        self.cut += 1

    def send_message(self, frame: bytes) -> bool:
        if self.room < 1:
            if self.leave is None:
                return False
            self.leave()
            return True
        self.room -= 1
        self.heard.append(msgspec.json.decode(frame))
        return True

    def make_room(self, count: float = 1) -> None:
        self.room += count
        self.more_room.set()
        self.more_room = trio.Event()

    async def wait_writable(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.room < 1:
            await self.more_room.wait()
            if self.breaks is not None:
                raise self.breaks

    def take(self) -> list[Any]:
        """What was heard since the last look."""
        heard, self.heard = self.heard, []
        return heard


def post(
    manager: SessionManager,
    request_id: int | str,
    wanted: Mapping[str, Any] = ALL,
    *,
    principal: Principal | None = None,
    room: float = 1_000_000,
) -> tuple[InFlightRequest, Response]:
    """Listen as over HTTP: on a way of its own, with an id that means nothing to others."""
    message = listening(request_id, **wanted)
    response = Response(room)
    in_flight = admit_stateless(
        manager,
        Request(message["id"], message["method"], message["params"]),
        response,
        read_envelope(message["params"]),
        principal,
    )
    return in_flight, response


async def listener(manager: SessionManager, *ids: object, **options: Any) -> Peer:
    """A client of a pipe that listens to everything, under these ids."""
    peer = await connect(manager, **options)
    for request_id in ids:
        await peer.send(listening(request_id, **ALL))
    assert await peer.waiting() == [acknowledged(one, **ALL) for one in ids]
    return peer


@contextmanager
def writers(manager: SessionManager, count: int) -> Iterator[None]:
    """So many tasks more are in the sessions nursery when the block is left."""
    before = len(manager._sessions_nursery.child_tasks)
    yield
    assert len(manager._sessions_nursery.child_tasks) - before == count


# What one is told.


async def test_each_subscription_on_a_pipe_receives_what_its_filter_names(
    desk: Desk, autojump_clock: MockClock
) -> None:
    async with serving(desk.router) as manager:
        peer = await connect(manager)
        filters: dict[object, dict[str, Any]] = {
            1: {"toolsListChanged": True},
            "1": {"toolsListChanged": True, "resourceSubscriptions": ["a:"]},
            "": {"promptsListChanged": True, "resourcesListChanged": True},
            0: {"resourceSubscriptions": ["a:", "b:", "a:"]},
            "nothing": {"toolsListChanged": False},
        }
        for request_id, wanted in filters.items():
            await peer.send(listening(request_id, **wanted))
        assert await peer.waiting() == [
            acknowledged(1, toolsListChanged=True),
            acknowledged("1", toolsListChanged=True, resourceSubscriptions=["a:"]),
            acknowledged("", promptsListChanged=True, resourcesListChanged=True),
            acknowledged(0, resourceSubscriptions=["a:", "b:"]),
            acknowledged("nothing"),
        ]
        expected: dict[str, list[object]] = {
            "tools": [1, "1"],
            "prompts": [""],
            "resources": [""],
            "a:": ["1", 0],
            "b:": [0],
            "c:": [],
        }
        for what, ids in expected.items():
            with assert_no_checkpoints():
                report = tell(manager, what)
            assert report == BroadcastReport(sent=0, dropped=0, listeners=len(ids))
            assert await peer.waiting() == [changed(one, what) for one in ids]
        assert manager.statistics().listens == 5
        assert "5 open" in repr(server_of(manager).subscriptions)
        (first, *_) = server_of(manager).subscriptions._table.values()
        assert repr(first) == "<ListenSubscription id=1 to 1 topics>"
        await peer.channel.aclose()


def tell(manager: SessionManager, what: Any) -> BroadcastReport:
    """Tell that a list has changed, or a resource."""
    if ":" in what:
        return manager.notify_resource_updated(what)
    return manager.notify_list_changed(what)


async def test_sessions_and_subscriptions_are_told_each_in_its_way(
    desk: Desk, autojump_clock: MockClock
) -> None:
    async with serving(desk.router) as manager:
        old, new, both = await connect(manager), await connect(manager), await connect(manager)
        await old.establish()
        await both.establish()
        assert "result" in await old.ask(1, "resources/subscribe", {"uri": "a:"})
        await new.send(listening(7, toolsListChanged=True))
        await both.send(listening(7, resourceSubscriptions=["a:"]))
        for one in (new, both):
            assert len(await one.waiting()) == 1
        assert manager.notify_list_changed("tools") == BroadcastReport(
            sent=2, dropped=0, listeners=1
        )
        untagged = notification("notifications/tools/list_changed")
        assert await old.waiting() == await both.waiting() == [untagged]
        assert await new.waiting() == [changed(7, "tools")]
        assert manager.notify_resource_updated("a:") == BroadcastReport(
            sent=1, dropped=0, listeners=1
        )
        assert await old.waiting() == [
            notification("notifications/resources/updated", {"uri": "a:"})
        ]
        assert await both.waiting() == [changed(7, "a:")]
        assert await new.waiting() == []
        for peer in (old, new, both):
            await peer.channel.aclose()


@pytest.mark.parametrize(
    "method, params, hears",
    [
        ("notifications/tools/list_changed", None, True),
        ("notifications/prompts/list_changed", {}, True),
        ("notifications/resources/list_changed", {"_meta": {"x": 1}, "y": 2}, True),
        ("notifications/resources/updated", {"uri": "a:", "title": "A"}, True),
        ("notifications/resources/updated", {"uri": "c:"}, False),
        ("notifications/resources/updated", None, False),
        ("notifications/message", {"level": "info", "data": 1}, False),
        ("notifications/told", {"uri": "a:"}, False),
        ("a:", None, False),
    ],
)
async def test_broadcasts_reach_subscriptions_only_for_change_notifications(
    method: str,
    params: dict[str, Any] | None,
    hears: bool,
    desk: Desk,
    autojump_clock: MockClock,
) -> None:
    async with serving(desk.router) as manager:
        peer = await listener(manager, 7)
        assert manager.broadcast(method, params).listeners == hears
        expected = tagged(7, method, **(params or {}))
        said = (params or {}).get("_meta", {})
        expected["params"]["_meta"] = {**said, **tagged(7, method)["params"]["_meta"]}
        assert await peer.waiting() == [expected] * hears
        # Single sessions are meant: a subscription is not one.
        assert manager.broadcast(method, params, where=lambda _: True).listeners == 0
        assert await peer.waiting() == []
        await peer.channel.aclose()


async def test_there_are_three_lists(desk: Desk, autojump_clock: MockClock) -> None:
    async with serving(desk.router) as manager:
        for what in ("roots", "", "Tools", "resources/templates"):
            wrong: Any = what
            with pytest.raises(ValueError, match="tools, prompts, resources"):
                manager.notify_list_changed(wrong)


@pytest.mark.parametrize("era", ["in a session", "standing for itself"])
async def test_handlers_notify_subscriptions_of_changes(
    era: str, desk: Desk, autojump_clock: MockClock
) -> None:
    async with serving(desk.router) as manager:
        peer = await listener(manager, 7)
        worker = await connect(manager)
        if era == "in a session":
            await worker.establish()
            answer = await worker.ask(1, "change")
            # It is established itself, and is notified of lists.
            assert answer["method"] == "notifications/tools/list_changed"
            answer = await worker.receive()
        else:
            await worker.send(modern(1, "change"))
            answer = await worker.receive()
        sent = int(era == "in a session")
        assert answer["result"]["tools"] == {"sent": sent, "dropped": 0, "listeners": 1}
        assert answer["result"]["resource"] == {"sent": 0, "dropped": 0, "listeners": 1}
        assert await peer.waiting() == [changed(7, "tools"), changed(7, "a:")]
        for one in (peer, worker):
            await one.channel.aclose()


async def test_a_thousand_hear_what_was_encoded_once(
    desk: Desk, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(desk.router) as manager:
        posted = [post(manager, number)[1] for number in range(1_000)]
        encoded: list[object] = []

        def counting(value: object) -> bytes:
            encoded.append(value)
            return encode_json(value)

        monkeypatch.setattr("trio_mcp_session.protocol.subscription_messages.encode_json", counting)
        assert manager.notify_resource_updated("a:").listeners == 1_000
        # The method, the name of the tag, and the parameters.
        assert len(encoded) == 3
        for number, response in enumerate(posted):
            assert response.heard == [acknowledged(number, **ALL), changed(number, "a:")]


# What may begin one.


async def test_a_subscription_to_a_server_without_changes_is_acknowledged_and_ended(
    autojump_clock: MockClock,
) -> None:
    async with serving(Router("empty")) as manager:
        peer = await connect(manager)
        await peer.send(listening(1, **ALL))
        assert await peer.waiting() == [acknowledged(1)]
        assert manager.broadcast("notifications/tools/list_changed").listeners == 0
        # A subscription to nothing receives the end all the same.
        await manager.drain()
        assert [told(one) for one in await peer.waiting()] == [ended(1)]


async def test_a_subscription_with_bad_params_is_refused_and_its_id_stays_free(
    desk: Desk, autojump_clock: MockClock
) -> None:
    limits = SessionLimits(max_subscriptions=1)
    async with serving(desk.router, limits=limits) as manager:
        peer = await connect(manager)
        for wanted in ({"toolsListChanged": 1}, {"resourceSubscriptions": ["a:", "b:"]}):
            await peer.send(listening(1, **wanted))
            assert [brief(one) for one in await peer.waiting()] == [error(1, -32602)]
        assert peer.session.metrics.bad_input == 2
        assert peer.session.metrics.errors == 2
        _, response = post(manager, 1)
        assert [brief(one) for one in response.heard] == [error(1, -32602)]
        assert server_of(manager).stateless.counters.bad_input == 1
        assert manager.statistics().listens == 0
        # The id is free again.
        await peer.send(listening(1))
        assert await peer.waiting() == [acknowledged(1)]
        await peer.channel.aclose()


async def test_a_crash_of_capabilities_refuses_the_subscription(
    desk: Desk, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Silent:
        def __getattr__(self, name: str) -> Any:
            return getattr(desk.router, name)

        def capabilities(self, revision: object) -> Any:
            raise McpError(7, "secret")

    silent: Any = Silent()
    async with serving(silent) as manager:
        peer = await connect(manager)
        await peer.send(listening(1))
        assert await peer.waiting() == [error(1, INTERNAL, "Internal error")]
        assert "capabilities of the application crashed: McpError: secret" in caplog.text
        assert manager.statistics().listens == 0
        await peer.channel.aclose()


async def test_subscriptions_above_max_listens_are_refused(
    desk: Desk, autojump_clock: MockClock
) -> None:
    async with serving(desk.router, limits=SessionLimits(max_listens=3)) as manager:
        peer = await listener(manager, 1, 2)
        in_flight, response = post(manager, 3)
        assert response.heard == [acknowledged(3, **ALL)]
        _, refused = post(manager, 4)
        await peer.send(listening(5))
        busy = error(5, INTERNAL, "Server is busy: too many subscriptions are open")
        assert await peer.waiting() == [busy]
        assert refused.heard == [error(4, INTERNAL)]
        metrics = peer.session.metrics
        assert (metrics.requests, metrics.errors, metrics.bad_input) == (2, 1, 0)
        # Each that ends makes room.
        server_of(manager).cancel(in_flight)
        await peer.send(listening(5))
        assert await peer.waiting() == [acknowledged(5)]
        await peer.send(cancelled(1))
        await wait_all_tasks_blocked()
        assert post(manager, 6)[1].heard == [acknowledged(6, **ALL)]
        await peer.channel.aclose()


async def test_subscriptions_above_the_limit_of_one_principal_are_refused(
    desk: Desk, autojump_clock: MockClock
) -> None:
    alice, bob = Principal("alice"), Principal("bob")
    async with serving(desk.router, limits=SessionLimits(max_listens_per_principal=2)) as manager:
        # On a pipe or not: it is the same principal.
        pipe = await listener(manager, 1, principal=alice)
        in_flight, response = post(manager, 1, principal=alice)
        assert response.heard == [acknowledged(1, **ALL)]
        _, refused = post(manager, 2, principal=alice)
        assert [brief(one) for one in refused.heard] == [error(2, INTERNAL)]
        assert post(manager, 2, principal=bob)[1].heard == [acknowledged(2, **ALL)]
        # Without a principal there is nothing to count by.
        for number in range(5):
            assert post(manager, number)[1].heard == [acknowledged(number, **ALL)]
        # A connection without a name is one of its own.
        for _ in range(2):
            nameless = await listener(manager, 1, 2)
            await nameless.send(listening(3))
            assert [brief(one) for one in await nameless.waiting()] == [error(3, INTERNAL)]
            await nameless.channel.aclose()
        server_of(manager).cancel(in_flight)
        assert post(manager, 3, principal=alice)[1].heard == [acknowledged(3, **ALL)]
        await pipe.channel.aclose()


async def test_the_limit_of_one_principal_does_not_apply_without_a_principal(
    desk: Desk, autojump_clock: MockClock
) -> None:
    async with serving(desk.router, limits=SessionLimits(max_listens_per_principal=0)) as manager:
        assert post(manager, 1)[1].heard == [acknowledged(1, **ALL)]
        refused = post(manager, 1, principal=Principal("alice"))[1]
        assert [brief(one) for one in refused.heard] == [error(1, INTERNAL)]


async def test_by_default_ten_thousand(desk: Desk, autojump_clock: MockClock) -> None:
    async with serving(desk.router) as manager:
        with writers(manager, 0):
            posted = [post(manager, 1)[1] for _ in range(10_001)]
            assert manager.statistics().listens == 10_000
            assert [brief(one) for one in posted.pop().heard] == [error(1, INTERNAL)]
            assert manager.notify_list_changed("tools").listeners == 10_000
        # Their end does not stall the others: each hundred they get a turn.
        with assert_checkpoints():
            await manager.drain()
        assert trio.current_time() == 0
        expected = [acknowledged(1, **ALL), changed(1, "tools"), ended(1)]
        assert all(response.heard == expected for response in posted)


# What it is not: work.


async def test_a_subscription_does_not_keep_its_session_from_being_idle(
    desk: Desk, autojump_clock: MockClock
) -> None:
    cleanup = CleanupConfig(idle_after=10, connection_idle_time=100, cleanup_interval=0)
    async with serving(desk.router, cleanup=cleanup) as manager:
        peer = await listener(manager, 1)
        session = peer.session
        assert (session.busy, session.metrics.in_flight) == (False, 0)
        assert manager.statistics().in_flight == 0
        await trio.sleep(11)
        assert session.state is SessionState.IDLE
        # Nor is it activity to be told something.
        manager.notify_list_changed("tools")
        assert await peer.waiting() == [changed(1, "tools")]
        assert session.state is SessionState.IDLE
        assert await session.wait_terminated() is TerminationReason.IDLE
        assert trio.current_time() == 100
        assert [told(one) for one in await peer.waiting()] == [ended(1)]


async def test_subscriptions_on_a_pipe_start_no_tasks(
    desk: Desk, autojump_clock: MockClock
) -> None:
    async with serving(desk.router) as manager:
        peer = await connect(manager)
        with writers(manager, 0):
            await peer.send(*(listening(number, **ALL) for number in range(50)))
            assert len(await peer.waiting()) == 50
            manager.notify_list_changed("tools")
            assert len(await peer.waiting()) == 50
        await peer.channel.aclose()


async def test_a_subscription_does_not_count_to_the_request_limit(
    desk: Desk, autojump_clock: MockClock
) -> None:
    limits = SessionLimits(max_in_flight=1, max_queued=0, max_stateless_requests=1)
    async with serving(desk.router, limits=limits) as manager:
        peer = await listener(manager, 1, 2, 3)
        await peer.send(modern(4, "wait"))
        desk.release.set()
        assert [told(one) for one in await peer.waiting()] == [modern_result(4)]
        assert server_of(manager).no_turn_for(None, at_once=False) is None
        assert peer.session.metrics.requests == 4
        await peer.channel.aclose()


# Its id, on a pipe.


async def test_its_id_is_taken_and_cancels_it(desk: Desk, autojump_clock: MockClock) -> None:
    async with serving(desk.router) as manager:
        peer = await listener(manager, 1, "1")
        other = await listener(manager, 1)
        for message in (listening(1), modern(1, "wait"), request(1, "wait"), initialize(1)):
            await peer.send(message)
            assert [brief(one) for one in await peer.waiting()] == [error(1, -32600)]
        await peer.send(cancelled(True), cancelled(None), cancelled("2"))
        manager.notify_list_changed("prompts")
        assert await peer.waiting() == [changed(1, "prompts"), changed("1", "prompts")]
        assert await other.waiting() == [changed(1, "prompts")]
        await peer.send(cancelled(1), cancelled(1))
        assert await peer.waiting() == []
        assert peer.session.metrics.cancelled == 1
        manager.notify_list_changed("tools")
        assert await peer.waiting() == [changed("1", "tools")]
        assert await other.waiting() == [changed(1, "tools")]
        # Now it is free.
        await peer.send(listening(1))
        assert await peer.waiting() == [acknowledged(1)]
        for one in (peer, other):
            await one.channel.aclose()


async def test_ids_of_different_clients_are_unrelated(
    desk: Desk, autojump_clock: MockClock
) -> None:
    async with serving(desk.router) as manager:
        posted = [post(manager, 1) for _ in range(3)]
        with assert_no_checkpoints():
            server_of(manager).cancel(posted[1][0])
            server_of(manager).cancel(posted[1][0])
        assert server_of(manager).stateless.counters.cancelled == 1
        manager.notify_list_changed("tools")
        heard = [acknowledged(1, **ALL), changed(1, "tools")]
        assert [one.heard for _, one in posted] == [heard, heard[:1], heard]
        assert [one.cut for _, one in posted] == [0, 1, 0]


# A client that reads slowly.


async def test_what_changed_is_kept_once_each_and_in_order(
    desk: Desk, autojump_clock: MockClock
) -> None:
    async with serving(desk.router) as manager:
        _, response = post(manager, 1, room=1)
        _, other = post(manager, 2)
        assert response.take() == [acknowledged(1, **ALL)]
        with writers(manager, 1):
            for what in ("a:", "tools", "b:", "a:", "tools", "prompts", "a:"):
                assert tell(manager, what).listeners == 2
                await wait_all_tasks_blocked()
        assert response.take() == []
        # No other subscription is held up.
        assert len(other.take()) == 8
        response.make_room(1)
        await wait_all_tasks_blocked()
        assert response.take() == [changed(1, "a:")]
        # It changed again after it was told: that is new.
        tell(manager, "a:")
        with writers(manager, -1):
            response.make_room(100)
            await wait_all_tasks_blocked()
        assert response.take() == [changed(1, one) for one in ("tools", "b:", "prompts", "a:")]
        tell(manager, "b:")
        assert response.take() == [changed(1, "b:")]
        assert find_leaks(manager) == []


async def test_the_last_word_on_a_change_is_what_is_told(
    desk: Desk, autojump_clock: MockClock
) -> None:
    async with serving(desk.router) as manager:
        _, response = post(manager, 1, room=1)
        for title in ("old", "new"):
            manager.broadcast("notifications/resources/updated", {"uri": "a:", "title": title})
        response.make_room(10)
        await wait_all_tasks_blocked()
        (_, told_of) = response.heard
        assert told_of["params"]["title"] == "new"


async def test_the_acknowledgement_waits_first_in_line(
    desk: Desk, autojump_clock: MockClock
) -> None:
    async with serving(desk.router) as manager:
        _, response = post(manager, 1, room=0)
        tell(manager, "tools")
        await wait_all_tasks_blocked()
        assert response.heard == []
        response.make_room(10)
        await wait_all_tasks_blocked()
        assert response.heard == [acknowledged(1, **ALL), changed(1, "tools")]


async def test_one_that_could_not_be_acknowledged_is_refused(
    desk: Desk, autojump_clock: MockClock
) -> None:
    async with serving(desk.router) as manager:
        _, response = post(manager, 1, room=0)
        tell(manager, "tools")
        await manager.drain()
        assert [brief(one) for one in response.heard] == [error(1, INTERNAL)]


@pytest.mark.parametrize("room", [0, 1, 2, 3])
async def test_a_drain_sends_the_pending_changes_that_fit_then_the_end(
    room: int, desk: Desk, autojump_clock: MockClock
) -> None:
    async with serving(desk.router) as manager:
        _, response = post(manager, 1, room=1)
        tell(manager, "tools")
        tell(manager, "prompts")
        response.take()
        await wait_all_tasks_blocked()
        response.room = room
        with writers(manager, -1):
            await manager.drain()
            await wait_all_tasks_blocked()
        changes = [changed(1, "tools"), changed(1, "prompts")][:room]
        assert response.heard == [*changes, ended(1)]


async def test_cancelled_with_a_backlog(desk: Desk, autojump_clock: MockClock) -> None:
    async with serving(desk.router) as manager:
        in_flight, response = post(manager, 1, room=1)
        tell(manager, "tools")
        await wait_all_tasks_blocked()
        with writers(manager, -1):
            server_of(manager).cancel(in_flight)
            response.make_room(10)
            await wait_all_tasks_blocked()
        assert response.heard == [acknowledged(1, **ALL)]
        assert response.cut == 1


async def test_cancelled_when_there_is_room_again_but_its_writer_has_not_run(
    desk: Desk, autojump_clock: MockClock
) -> None:
    async with serving(desk.router) as manager:
        in_flight, response = post(manager, 1, room=1)
        tell(manager, "tools")
        await wait_all_tasks_blocked()
        with writers(manager, -1):
            response.make_room(10)
            server_of(manager).cancel(in_flight)
            await wait_all_tasks_blocked()
        assert response.heard == [acknowledged(1, **ALL)]
        assert response.cut == 1


async def test_cancelled_before_its_writer_has_begun(desk: Desk, autojump_clock: MockClock) -> None:
    async with serving(desk.router) as manager:
        in_flight, response = post(manager, 1, room=1)
        tell(manager, "tools")
        server_of(manager).cancel(in_flight)
        response.make_room(10)
        await wait_all_tasks_blocked()
        assert response.heard == [acknowledged(1, **ALL)]


@pytest.mark.parametrize("when", ["told", "written", "ended"])
async def test_a_stream_that_ends_while_it_is_written_to(
    when: str, desk: Desk, autojump_clock: MockClock
) -> None:
    async with serving(desk.router) as manager:
        in_flight, response = post(manager, 1, room=1)
        _, other = post(manager, 2)
        if when != "told":
            tell(manager, "tools")
            tell(manager, "prompts")
            await wait_all_tasks_blocked()
        response.leave = lambda: server_of(manager).cancel(in_flight)
        if when == "told":
            tell(manager, "tools")
        elif when == "written":
            response.make_room(0)
        else:
            server_of(manager).subscriptions._table[in_flight].end()
        await wait_all_tasks_blocked()
        assert response.heard == [acknowledged(1, **ALL)]
        assert response.cut == 1
        assert other.heard[1] == changed(2, "tools")
        assert manager.statistics().listens == 1
        assert find_leaks(manager) == []


async def test_a_subscription_cancelled_during_a_broadcast_receives_nothing_after_its_end(
    desk: Desk, autojump_clock: MockClock
) -> None:
    """Nothing comes after the end, also where all are being told already."""
    async with serving(desk.router) as manager:
        _, first = post(manager, 1, room=1)
        in_flight, second = post(manager, 2)
        first.leave = lambda: server_of(manager).cancel(in_flight)
        tell(manager, "tools")
        assert second.cut == 1
        assert second.heard == [acknowledged(2, **ALL)]


async def test_a_broken_listen_connection_does_not_end_the_manager(
    desk: Desk, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(desk.router) as manager:
        _, response = post(manager, 1, room=1)
        response.breaks = ZeroDivisionError("a bug of its own")
        with writers(manager, 0):
            tell(manager, "tools")
            await wait_all_tasks_blocked()
            response.make_room(0)
            await wait_all_tasks_blocked()
        assert "writing to a subscription failed; closing it" in caplog.text
        assert response.cut == 1
        assert manager.statistics().listens == 0


async def test_a_connection_that_fails_in_the_moment_of_the_end(
    desk: Desk, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(desk.router) as manager:
        in_flight, response = post(manager, 1, room=1)
        tell(manager, "tools")
        await wait_all_tasks_blocked()
        response.breaks = ZeroDivisionError("a bug of its own")
        response.make_room(0)
        server_of(manager).subscriptions._table[in_flight].end()
        await wait_all_tasks_blocked()
        assert "writing to a subscription failed; closing it" in caplog.text
        # It has had its end.
        assert response.heard == [acknowledged(1, **ALL), ended(1)]
        assert response.cut == 0


async def test_a_pipe_that_is_not_read(desk: Desk, autojump_clock: MockClock) -> None:
    """The real thing: what is kept comes when the client reads again."""
    async with serving(desk.router, limits=SessionLimits(max_output=1)) as manager:
        peer = await listener(manager, 1, 2, capacity=3)
        for _ in range(5):
            for what in ("tools", "prompts", "a:"):
                tell(manager, what)
            await wait_all_tasks_blocked()
        heard: list[Any] = []
        while more := await peer.waiting():
            heard += more
        for request_id in (1, 2):
            own = [one for one in heard if one["params"] == changed(request_id, "a:")["params"]]
            assert len(own) in (1, 2)
        # Each received every change, at most twice: once at once, once from what was kept.
        for what in ("tools", "prompts", "a:"):
            for request_id in (1, 2):
                assert 1 <= heard.count(changed(request_id, what)) <= 2
        tell(manager, "tools")
        assert await peer.waiting() == [changed(1, "tools"), changed(2, "tools")]
        await peer.channel.aclose()


async def test_a_pipe_that_is_never_read_again(desk: Desk, autojump_clock: MockClock) -> None:
    limits, cleanup = SessionLimits(max_output=1), CleanupConfig(send_timeout=7)
    async with serving(desk.router, limits=limits, cleanup=cleanup) as manager:
        peer = await listener(manager, 1, capacity=2)
        for what in ("tools", "prompts", "a:", "b:", "resources"):
            tell(manager, what)
        assert await peer.session.wait_terminated() is TerminationReason.UNRESPONSIVE
        assert trio.current_time() == 7
        await wait_all_tasks_blocked()
        assert find_leaks(manager) == []
        assert manager.statistics().listens == 0


# The ends.


@pytest.mark.parametrize(
    "how, hears",
    [
        ("terminate", True),
        ("session drain", True),
        ("manager drain", True),
        ("revoke", True),
        ("end of file", True),
        ("drop", False),
    ],
)
async def test_the_end_of_a_connection_ends_its_subscriptions(
    how: str, hears: bool, desk: Desk, autojump_clock: MockClock
) -> None:
    alice = Principal("alice")
    async with serving(desk.router) as manager, trio.open_nursery() as nursery:
        peer = await listener(manager, 1, "1", principal=alice)
        await peer.send(modern(9, "wait"))
        await wait_all_tasks_blocked()
        match how:
            case "terminate":
                peer.session.terminate()
            case "session drain":
                nursery.start_soon(peer.session.drain)
            case "manager drain":
                nursery.start_soon(manager.drain)
            case "revoke":
                assert manager.revoke(alice) == 1
            case "end of file":
                await peer.channel.send_eof()
            case _:
                await peer.channel.aclose()
        if hears:
            heard = [told(one) for one in await peer.waiting()]
            assert heard[:2] == [ended(1), ended("1")]
            # Work has a grace where there is one.
            graceful = how in ("session drain", "manager drain", "end of file")
            assert [brief(one) for one in heard[2:]] == [error(9, INTERNAL)] * (not graceful)
            tell(manager, "tools")
            assert await peer.waiting() == []
        else:
            await peer.session.wait_terminated()
        assert manager.statistics().listens == 0
        desk.release.set()
        await peer.session.wait_terminated()
        assert leftovers(manager, peer.session) == []


async def test_a_draining_session_refuses_new_subscriptions(
    desk: Desk, autojump_clock: MockClock
) -> None:
    async with serving(desk.router) as manager, trio.open_nursery() as nursery:
        peer = await connect(manager)
        await peer.send(modern(9, "wait"))
        nursery.start_soon(peer.session.drain)
        await wait_all_tasks_blocked()
        await peer.send(listening(1))
        assert [brief(one) for one in await peer.waiting()] == [error(1, INTERNAL)]
        desk.release.set()


async def test_revoke_ends_only_the_subscriptions_of_the_principal(
    desk: Desk, autojump_clock: MockClock
) -> None:
    alice, bob = Principal("alice"), Principal("bob")
    async with serving(desk.router) as manager:
        _, first = post(manager, 1, principal=alice)
        _, second = post(manager, 1, principal=bob)
        _, third = post(manager, 1)
        with assert_no_checkpoints():
            assert manager.revoke(alice) == 0  # Of sessions there was none.
        assert first.take() == [acknowledged(1, **ALL), ended(1)]
        tell(manager, "tools")
        assert (len(first.heard), len(second.heard), len(third.heard)) == (0, 2, 2)


@pytest.mark.parametrize("how", ["drain", "leave", "error", "cancel"])
async def test_the_end_of_the_manager_ends_each_subscription(
    how: str, desk: Desk, autojump_clock: MockClock
) -> None:
    responses: list[Response] = []
    with trio.CancelScope() as scope, suppress(McpError):
        async with open_session_manager(desk.router) as manager:
            responses += [post(manager, number, room=1)[1] for number in range(250)]
            peer = await listener(manager, 1)
            responses[7].room = 0
            tell(manager, "tools")
            match how:
                case "drain":
                    await manager.drain()
                    late = post(manager, 999)[1]
                    assert [brief(one) for one in late.heard] == [error(999, INTERNAL)]
                case "error":
                    raise McpError(1, "")
                case "cancel":
                    scope.cancel()
                    await trio.sleep_forever()
                case _:
                    pass
    assert trio.current_time() == 0
    for number, response in enumerate(responses):
        assert response.heard == [acknowledged(number, **ALL), ended(number)]
    heard = [told(one) for one in await peer.waiting()]
    assert heard == [changed(1, "tools"), ended(1)]
    assert leftovers(manager, peer.session) == []
    assert find_leaks(manager) == []


async def test_subscriptions_end_without_a_wait_for_slow_sessions(
    desk: Desk, autojump_clock: MockClock
) -> None:
    """What takes long to be cleaned up holds up no last word."""

    @asynccontextmanager
    async def slow_to_leave(session: Session) -> AsyncIterator[None]:
        yield
        with trio.CancelScope(shield=True):
            await trio.sleep(100)

    responses: list[Response] = []

    async def serve() -> None:
        with suppress(McpError):
            async with open_session_manager(desk.router) as manager:
                await manager.create_session(lifespan=slow_to_leave)
                responses.append(post(manager, 1)[1])
                raise McpError(1, "")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        await trio.sleep(1)
        assert responses[0].heard == [acknowledged(1, **ALL), ended(1)]
    assert trio.current_time() == 100


async def test_a_cancelled_drain_of_subscriptions_is_completed_when_the_manager_is_left(
    desk: Desk, autojump_clock: MockClock
) -> None:
    async with serving(desk.router) as manager:
        posted = [post(manager, number)[1] for number in range(250)]
        with trio.CancelScope() as scope:
            scope.cancel()
            await manager.drain()
        await wait_all_tasks_blocked()
        # It is begun again when the manager is left.
        assert manager.statistics().listens == 250
    assert all(response.heard[1:] == [ended(n)] for n, response in enumerate(posted))


async def test_a_subscription_may_be_cancelled_while_all_are_ended(
    desk: Desk, autojump_clock: MockClock
) -> None:
    async with serving(desk.router) as manager, trio.open_nursery() as nursery:
        posted = [post(manager, number) for number in range(350)]
        nursery.start_soon(server_of(manager).subscriptions.end)
        while not posted[0][0].answered:  # noqa: ASYNC110  # that is what it is about
            await trio.lowlevel.checkpoint()
        last, response = posted[-1]
        server_of(manager).cancel(last)
        await wait_all_tasks_blocked()
        assert last.answered
        assert response.heard == [acknowledged(349, **ALL)]
        assert posted[0][1].heard[1:] == [ended(0)]


async def test_an_end_result_that_cannot_be_completed_becomes_an_internal_error(
    desk: Desk, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Nameless:
        def __getattr__(self, name: str) -> Any:
            if name == "server_info":
                raise ZeroDivisionError
            return getattr(desk.router, name)

    nameless: Any = Nameless()
    async with serving(nameless) as manager:
        _, response = post(manager, 1)
        await manager.drain()
        assert [brief(one) for one in response.heard[1:]] == [error(1, INTERNAL)]


# Tasks that may not wait for the end.


@pytest.mark.parametrize("over", ["a pipe", "HTTP"])
async def test_a_modern_handler_cannot_drain_its_manager(
    over: str, desk: Desk, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(desk.router) as manager:
        if over == "HTTP":
            message = modern(1, "drain")
            response = Response()
            admit_stateless(
                manager,
                Request(1, "drain", message["params"]),
                response,
                read_envelope(message["params"]),
            )
            await wait_all_tasks_blocked()
            answers = response.heard
        else:
            peer = await connect(manager)
            await peer.send(modern(1, "drain"))
            answers = await peer.waiting()
            await peer.channel.aclose()
        assert [brief(one) for one in answers] == [error(1, INTERNAL)]
        assert "cannot wait for the end of its" in caplog.text
        assert not manager.statistics().draining
        with assert_checkpoints():
            await manager.drain()


# Leaks that the check finds.


async def test_find_leaks_reports_left_over_subscriptions(
    desk: Desk, autojump_clock: MockClock
) -> None:
    async with serving(desk.router) as manager:
        in_flight, response = post(manager, 1, principal=Principal("alice"))
        listens = server_of(manager).subscriptions
        assert find_leaks(manager) == []
        listen = listens._table[in_flight]
        response.reachable = False
        assert find_leaks(manager) == [
            f"{listen!r} is still open without its connection or its manager"
        ]
        response.reachable = True
        theirs = listens._held_by.pop(Principal("alice"))
        assert find_leaks(manager) == [
            f"subscriptions are not those of their principals: {listens._held_by!r}"
        ]
        listens._held_by[Principal("alice")] = theirs
        listens._listeners["nothing", None] = {}
        index = "the index of topics knows subscriptions that have ended"
        assert find_leaks(manager) == [index]
        del listens._listeners["nothing", None]
        del listens._table[in_flight]
        assert index in find_leaks(manager)
        listens._table[in_flight] = listen
        peer = await listener(manager, 1)
        client = client_of(peer.session)
        held = client.stateless_queue()
        (kept,) = held._subscriptions.values()
        await peer.channel.aclose()
        await peer.session.wait_terminated()
        await wait_all_tasks_blocked()
        peer.session._connection = client  # As if it had not let it go.
        client.stateless_requests = held
        held._subscriptions[1] = kept
        assert any("subscriptions of its client" in one for one in find_leaks(manager))
        held._subscriptions.clear()
        assert find_leaks(manager) == []


async def test_find_leaks_allows_the_writer_of_a_live_subscription_only(
    desk: Desk, autojump_clock: MockClock
) -> None:
    async with serving(desk.router) as manager:
        in_flight, _ = post(manager, 1, room=1)
        tell(manager, "tools")
        await wait_all_tasks_blocked()
        assert find_leaks(manager) == []
        listen = server_of(manager).subscriptions._table.pop(in_flight)
        assert any("belongs to no session" in one for one in find_leaks(manager))
        server_of(manager).subscriptions._table[in_flight] = listen
    assert manager._is_left
    server_of(manager).subscriptions._table[in_flight] = listen
    assert any("without its connection or its manager" in one for one in find_leaks(manager))


# Any order of everything.

TOPICS = ("tools", "prompts", "a:", "b:")
LISTENERS = 3
steps = st.one_of(
    st.tuples(st.just("listen"), st.integers(0, LISTENERS - 1), st.sets(st.sampled_from(TOPICS))),
    st.tuples(st.just("cancel"), st.integers(0, LISTENERS - 1), st.none()),
    st.tuples(st.just("end"), st.integers(0, LISTENERS - 1), st.none()),
    st.tuples(st.just("tell"), st.sampled_from(TOPICS), st.none()),
    st.tuples(st.just("room"), st.integers(0, LISTENERS - 1), st.integers(0, 3)),
    st.tuples(st.just("turn"), st.none(), st.none()),
    st.tuples(st.just("drain"), st.none(), st.none()),
)


@final
@attrs.define(eq=False)
class Model:
    """One subscription, as its client has to see it."""

    wanted: set[str]
    in_flight: InFlightRequest
    response: Response
    pending: list[str] = attrs.field(factory=list)
    """What changed and was not sent since, in its order."""
    over: bool = False

    def check(self) -> None:
        """Hold what was heard against what happened."""
        heard = self.response.take()
        for one in heard:
            assert "method" in one, one
            self.hear(one)

    def hear(self, one: Any) -> None:
        if one["method"] == ACKNOWLEDGED:
            assert self.pending[0] == ACKNOWLEDGED
            self.pending.pop(0)
            return
        (what,) = (topic for topic in TOPICS if one == changed("x", topic))
        assert what in self.wanted
        assert self.pending.pop(0) == what


def filter_of(topics: set[str]) -> dict[str, Any]:
    return {
        "toolsListChanged": "tools" in topics,
        "promptsListChanged": "prompts" in topics,
        "resourceSubscriptions": sorted(one for one in topics if ":" in one),
    }


@settings(max_examples=200, deadline=None)
@given(st.lists(steps, max_size=30), st.integers(0, 2))
@example(
    [
        ("listen", 0, {"tools", "a:"}),
        ("tell", "tools", None),
        ("tell", "a:", None),
        ("room", 0, 2),
        ("end", 0, None),  # before the writer has its turn
        ("listen", 0, {"tools"}),
        ("drain", None, None),
    ],
    0,
)
def test_any_order_of_listens_changes_and_drains_delivers_what_the_model_says(
    script: list[tuple[str, Any, Any]], room: int
) -> None:
    async def play() -> None:
        desk = Desk()
        async with serving(desk.router) as manager:
            there: dict[int, Model] = {}
            gone: list[Model] = []
            for step, which, how in script:
                await take(manager, there, gone, step, which, how, room)
                for model in there.values():
                    model.check()
                assert manager.statistics().listens == len(there)
            # A client that reads receives everything that is left.
            for model in there.values():
                model.response.make_room(100)
            await wait_all_tasks_blocked()
            for model in there.values():
                model.check()
                assert model.pending == []
            await manager.drain()
            for model in there.values():
                assert model.response.take() == [ended("x")]
            for model in gone:
                assert model.response.take() == []
        assert leftovers(manager) == []

    trio.run(play)


async def take(
    manager: SessionManager,
    there: dict[int, Model],
    gone: list[Model],
    step: str,
    which: Any,
    how: Any,
    room: int,
) -> None:
    """Do one step, with the system and with the model."""
    model = there.get(which)
    if step == "listen" and model is None:
        in_flight, response = post(manager, "x", filter_of(how), room=room)
        if manager.statistics().draining:
            assert [brief(one) for one in response.heard] == [error("x", INTERNAL)]
        else:
            there[which] = Model(how, in_flight, response, [ACKNOWLEDGED])
    elif step == "tell":
        listeners = [one for one in there.values() if which in one.wanted]
        assert tell(manager, which).listeners == len(listeners)
        for one in listeners:
            one.pending[:] = dict.fromkeys([*one.pending, which])
    elif step == "cancel" and model is not None:
        server_of(manager).cancel(model.in_flight)
        model.check()
        gone.append(there.pop(which))
    elif step == "end" and model is not None:
        server_of(manager).subscriptions._table[model.in_flight].end()
        end_heard(model)
        gone.append(there.pop(which))
    elif step == "room" and model is not None:
        model.response.make_room(how)
    elif step == "turn":
        await wait_all_tasks_blocked()
        assert find_leaks(manager, among=()) == []
    elif step == "drain":
        await manager.drain()
        for one in there.values():
            end_heard(one)
        gone += there.values()
        there.clear()


def end_heard(model: Model) -> None:
    """The end is the last thing, behind what there was room for."""
    *before, last = model.response.take()
    for one in before:
        model.hear(one)
    begun = ACKNOWLEDGED not in model.pending
    assert brief(last) == (ended("x") if begun else error("x", INTERNAL))
