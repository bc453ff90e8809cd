"""Subscriptions to tasks: what their clients are told, when, and what ends them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.helpers import LISTEN, PREFIX, SUBSCRIPTION_ID, Peer, modern
from tests.rounds import ALL, Call, Pipe, Town, accept, town
from tests.tasking import (
    BOTH,
    NEEDED,
    UNKNOWN,
    WITH_TASKS,
    Workshop,
    ask_for,
    cancel,
    client_of,
    get,
    heard,
    id_of,
    listen,
    start,
    states_heard,
    statuses,
    text_in,
    update,
)
from trio_mcp_session import (
    CleanupConfig,
    McpError,
    Principal,
    RequestContext,
    Router,
    SessionLimits,
    TerminationReason,
    connect_memory,
    open_session_manager,
)
from trio_mcp_session.server.mcp_server import server_of


def agreed(call: Call) -> Mapping[str, Any]:
    """The filter that a subscription is acknowledged with."""
    first = heard(call)[0]
    assert first["method"] == "notifications/subscriptions/acknowledged"
    wanted: Mapping[str, Any] = first["params"]["notifications"]
    return wanted


def ended(call: Call) -> bool:
    if call.answer is None:
        return False
    assert call.result["resultType"] == "complete"
    assert call.result["_meta"][SUBSCRIPTION_ID] == call.id
    return True


# Its beginning.


@BOTH
async def test_a_subscription_to_tasks_needs_the_extension(
    way: str, autojump_clock: MockClock
) -> None:
    async with town(Workshop().router) as here:
        client = await client_of(here, way)
        task_id = await start(client, "work")
        for ids in ([task_id], [], "x", None):
            params = {"notifications": {"taskIds": ids}}
            refused = await client.begin(LISTEN, params, capabilities=ALL)
            assert refused.code == -32021
            assert refused.answer["error"]["data"] == NEEDED
            if way == "http":
                assert refused.status == 400
        # Others do not need it.
        other = await client.begin(LISTEN, {"notifications": {}}, capabilities=ALL)
        assert agreed(other) == {}


@BOTH
@pytest.mark.parametrize("ids", [None, "x", {"x": 1}, [1], ["x", None], [["x"]]], ids=str)
async def test_the_ids_have_to_be_a_list_of_texts(
    ids: object, way: str, autojump_clock: MockClock
) -> None:
    async with town(Workshop().router) as here:
        client = await client_of(here, way)
        refused = await client.begin(LISTEN, {"notifications": {"taskIds": ids}})
        assert refused.error == (-32602, "taskIds must be a list of strings")
        here.look()
        assert here.mistakes == ["a subscription with bad parameters"]


@BOTH
async def test_a_subscription_to_more_tasks_than_its_limit_is_refused(
    way: str, autojump_clock: MockClock
) -> None:
    async with town(Workshop().router, limits=SessionLimits(max_subscriptions=2)) as here:
        client = await client_of(here, way)
        ids = [await start(client, "work") for _ in range(3)]
        assert agreed(await listen(client, *ids[:2])) == {"taskIds": ids[:2]}
        refused = await listen(client, *ids)
        assert refused.error == (-32602, "No more than 2 tasks can be subscribed to")


@BOTH
async def test_a_server_without_tasks_ignores_the_ids(way: str, autojump_clock: MockClock) -> None:
    router = Router("none", resource_subscriptions=True)

    @router.resource("a:")
    def a() -> None: ...

    async with town(router) as here:
        client = await client_of(here, way)
        params = {"notifications": {"taskIds": 5, "resourceSubscriptions": ["a:"]}}
        for capabilities in (ALL, WITH_TASKS):
            call = await client.begin(LISTEN, params, capabilities=capabilities)
            assert agreed(call) == {"resourceSubscriptions": ["a:"]}


@BOTH
async def test_only_known_tasks_of_its_own_are_agreed_to(
    way: str, autojump_clock: MockClock
) -> None:
    cleanup = CleanupConfig(task_retention=5, cleanup_interval=1)
    async with town(Workshop().router, cleanup=cleanup) as here:
        ann, bob = await client_of(here, way, "ann"), await client_of(here, way, "bob")
        expired = await start(ann, "work", seconds=0)
        await trio.sleep(7)
        foreign = await start(bob, "work")
        own, over = await start(ann, "work"), await start(ann, "work", seconds=0)
        call = await listen(ann, "x" * 10_240, own, foreign, over, expired, own, "☃")
        assert agreed(call) == {"taskIds": [own, over]}
        # A snapshot of each at once: it may have changed since its client was given it.
        assert states_heard(call) == [await get(ann, own), await get(ann, over)]
        await cancel(bob, foreign)
        assert len(heard(call)) == 3
        none = await listen(ann, foreign)
        assert agreed(none) == {"taskIds": []}
        assert states_heard(none) == []


# What it is told.


@BOTH
async def test_a_subscription_is_told_what_a_client_that_asks_is_told(
    way: str, autojump_clock: MockClock
) -> None:
    async with town(Workshop().router) as here:
        client = await client_of(here, way, "ann")
        task_id = await start(client, "ask", times=2)
        call = await listen(client, task_id)
        asked = [await get(client, task_id)]
        await trio.sleep(1)
        await update(client, task_id, {"name": accept(name="x")})
        asked.append(await get(client, task_id))
        await update(client, task_id, {"name-2": accept(name="y")})
        asked.append(await get(client, task_id))
        assert text_in(asked[-1]) == "x y"
        told = states_heard(call)
        assert [one["status"] for one in told] == [
            "input_required",
            "working",
            "input_required",
            "working",
            "completed",
        ]
        assert told[0::2] == asked
        await trio.sleep(10_000)
        assert not ended(call)


@BOTH
async def test_every_end_is_told(way: str, autojump_clock: MockClock) -> None:
    router = Workshop().router

    @router.tool(task="required")
    async def error() -> None:
        await trio.sleep(1)
        raise McpError(7, "no", {"why": 1})

    async with town(router) as here:
        client = await client_of(here, way)
        ids = [
            await start(client, "work", seconds=1),
            await start(client, "error"),
            await start(client, "work"),
        ]
        calls = [await listen(client, one) for one in ids]
        await cancel(client, ids[2])
        await trio.sleep(2)
        for task_id, call, expected in zip(
            ids, calls, ["completed", "failed", "cancelled"], strict=True
        ):
            assert statuses(call) == ["working", expected]
            assert states_heard(call)[-1] == await get(client, task_id)


@BOTH
async def test_progress_and_log_messages_are_not_on_its_stream(
    way: str, autojump_clock: MockClock
) -> None:
    router = Router("workshop")

    @router.tool(task="optional", promote_after=1)
    async def work(ctx: RequestContext) -> None:
        for number in range(4):
            await ctx.progress(number, message=f"step {number}")
            await ctx.log("error", "log")
            await trio.sleep(0.6)

    async with town(router) as here:
        client = await client_of(here, way)
        level: dict[str, Any] = {f"{PREFIX}logLevel": "debug"}
        call = await client.call("work", **level)
        await trio.sleep(1.1)
        before = [one["method"] for one in call.notes]
        assert before.count("notifications/progress") == 2
        subscription = await listen(client, id_of(call), **level)
        await trio.sleep(10)
        methods = {one.get("method") for one in heard(subscription)[1:]}
        assert methods == {None}  # They are states of the task.
        said = [one.get("statusMessage") for one in states_heard(subscription)]
        assert said == ["step 1", "step 2", "step 3", None]
        assert [one["method"] for one in call.notes] == before
        notes = client.notes if isinstance(client, Pipe) else []
        assert "notifications/progress" not in {one["method"] for one in notes}
        logs = [one for one in notes if one["method"] == "notifications/message"]
        assert len(logs) == (2 if way == "pipe" else 0)  # From the time in which it was a request.


@BOTH
async def test_several_subscriptions_are_notified_of_one_task(
    way: str, autojump_clock: MockClock
) -> None:
    async with town(Workshop().router) as here:
        clients = [await client_of(here, way, "ann") for _ in range(3)]
        task_id = await start(clients[0], "work", seconds=1)
        calls = [await listen(one, task_id) for one in clients]
        await calls[1].leave()
        await trio.sleep(2)
        assert [statuses(one) for one in (calls[0], calls[2])] == [["working", "completed"]] * 2
        assert statuses(calls[1]) == ["working"]


async def test_a_client_that_does_not_read_gets_the_newest_state_of_each_task(
    autojump_clock: MockClock,
) -> None:
    """And what waits for it is not a copy of the result, which is counted for the task."""
    router = Workshop().router

    @router.tool(task="required")
    async def chatter(ctx: RequestContext) -> str:
        await trio.sleep(1)
        for number in range(2_000):
            await ctx.progress(number, message=f"{number} " + "x" * 1_000)
        await trio.sleep(10)
        return "y" * 10_000

    async with open_session_manager(router) as manager:
        channel = await connect_memory(manager, capacity=5, principal=Principal("ann"))
        await wait_all_tasks_blocked()
        peer = Peer(channel, manager.sessions()[0])
        ids = []
        for number in range(2):
            params = {"name": "chatter", "arguments": {}}
            call = modern(number, "tools/call", params, capabilities=WITH_TASKS)
            await peer.send(call)
            ids.append((await peer.receive())["result"]["taskId"])
        params = {"notifications": {"taskIds": ids}}
        await peer.send(modern("s", LISTEN, params, capabilities=WITH_TASKS))
        await wait_all_tasks_blocked()
        (subscription,) = server_of(manager).subscriptions._table.values()
        await trio.sleep(5)
        await trio.sleep(10)
        assert subscription._backlog is not None
        assert len(subscription._backlog) <= 2
        assert not any(hasattr(one, "tagged") for one in subscription._backlog.values())
        told = [await peer.receive() for _ in range(5)]
        await wait_all_tasks_blocked()
        told += await peer.waiting()
        last = {
            one["params"]["taskId"]: one["params"]
            for one in told
            if one["method"] == "notifications/tasks"
        }
        assert set(last) == set(ids)
        assert all(len(text_in(one)) == 10_000 for one in last.values())
        assert len(told) < 1_500  # of four thousand changes
        await channel.aclose()


@BOTH
async def test_a_task_that_is_removed_ends_no_subscription(
    way: str, autojump_clock: MockClock
) -> None:
    cleanup = CleanupConfig(task_retention=5, cleanup_interval=1)
    async with town(Workshop().router, cleanup=cleanup) as here:
        client = await client_of(here, way, "ann")
        first, second = (
            await start(client, "work", seconds=1),
            await start(client, "work", seconds=20),
        )
        call = await listen(client, first, second)
        await trio.sleep(10)
        assert (await ask_for(client, first)).error == UNKNOWN
        assert not ended(call)
        await trio.sleep(15)
        assert [one["taskId"] for one in states_heard(call)] == [first, second, first, second]


# Room.


@BOTH
@pytest.mark.parametrize("how", ["poll", "listen", "listen before"])
async def test_a_task_whose_outcome_was_sent_makes_room_for_the_next_of_its_principal(
    how: str, way: str, autojump_clock: MockClock
) -> None:
    limits = SessionLimits(max_tasks_per_principal=2)
    async with town(Workshop().router, limits=limits) as here:
        client = await client_of(here, way, "ann")
        working = await start(client, "work")
        over = await start(client, "work", seconds=1)
        if how == "listen before":
            await listen(client, over)
        await trio.sleep(2)
        if how != "listen before":
            # Its client does not know the outcome yet.
            refused = await client.call("work")
            assert refused.complaint == "too many task sessions for this user (limit: 2)"
            await (get if how == "poll" else listen)(client, over)
        newest = await start(client, "work")
        assert (await ask_for(client, over)).error == UNKNOWN
        assert here.manager.statistics().ended == {TerminationReason.REPLACED: 1}
        refused = await client.call("work")
        assert refused.complaint == "too many task sessions for this user (limit: 2)"
        for one in (working, newest):
            assert (await get(client, one))["status"] == "working"


# Its end.


@BOTH
@pytest.mark.parametrize("how", ["terminate", "revoke"])
async def test_a_task_that_the_server_ends_is_told_as_failed_first(
    how: str, way: str, autojump_clock: MockClock
) -> None:
    async with town(Workshop().router) as here:
        client = await client_of(here, way, "ann")
        task_id = await start(client, "work")
        call = await listen(client, task_id)
        if how == "terminate":
            here.manager.terminate_session(task_id)
        else:
            here.manager.revoke(Principal("ann"))
        await wait_all_tasks_blocked()
        assert statuses(call) == ["working", "failed"]
        ended_by_server = "the server ended the task: requested"
        said = ended_by_server if how == "terminate" else "access was revoked"
        last = states_heard(call)[-1]
        assert last["error"] == {"code": -32603, "message": said}
        assert last["statusMessage"] == said
        assert ended(call) is (how == "revoke")


@asynccontextmanager
async def draining(here: Town, grace: float) -> AsyncIterator[None]:
    """Drain a server while the block runs, and wait for it then."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(here.manager.drain, grace=grace))
        await wait_all_tasks_blocked()
        yield


@BOTH
async def test_in_a_drain_a_subscription_ends_after_the_last_of_its_tasks(
    way: str, autojump_clock: MockClock
) -> None:
    async with town(Workshop().router) as here:
        client = await client_of(here, way, "ann")
        ids = [await start(client, "work", seconds=seconds) for seconds in (0, 10, 20)]
        both = await listen(client, *ids)
        first = await listen(client, ids[0], ids[1])
        over = await listen(client, ids[0])
        nothing = await listen(client)
        async with draining(here, 100):
            assert ended(over)
            assert ended(nothing)
            assert not ended(first)
            await trio.sleep(11)
            assert ended(first)
            assert statuses(first) == ["completed", "working", "completed"]
            assert not ended(both)
        await wait_all_tasks_blocked()
        assert ended(both)
        assert statuses(both)[3:] == ["completed", "completed"]
        assert text_in(states_heard(both)[-1]) == "done"


@BOTH
@pytest.mark.parametrize("tool", ["work", "ask"])
async def test_without_grace_the_end_of_its_tasks_is_told_before_it_ends(
    tool: str, way: str, autojump_clock: MockClock
) -> None:
    async with town(Workshop().router) as here:
        for user in ("ann", None):
            client = await client_of(here, way, user)
            call = await listen(client, await start(client, tool))
            here.nursery.start_soon(check_end, call)
        await here.manager.drain(grace=5)
        await trio.sleep(2)


async def check_end(call: Call) -> None:
    """Wait for the end of a subscription, and check it."""
    await trio.sleep(6)
    assert ended(call)
    last = states_heard(call)[-1]
    assert last["status"] == "failed"
    assert last["error"] == {"code": -32603, "message": "server is shutting down"}


@BOTH
async def test_a_subscription_that_waits_for_a_task_may_be_cancelled_in_a_drain(
    way: str, autojump_clock: MockClock
) -> None:
    async with town(Workshop().router) as here:
        client = await client_of(here, way, "ann")
        call = await listen(client, await start(client, "work", seconds=50))
        async with draining(here, 100):
            await call.leave()
        assert call.answer is None


async def test_a_subscription_on_a_pipe_keeps_its_connection_until_its_tasks_are_over(
    autojump_clock: MockClock,
) -> None:
    cleanup = CleanupConfig(connection_idle_time=10, cleanup_interval=1)
    async with town(Workshop().router, cleanup=cleanup) as here:
        starter = await client_of(here, "http", "ann")
        client = await client_of(here, "pipe", "ann")
        assert isinstance(client, Pipe)
        task_id = await start(starter, "work", seconds=50)
        call = await listen(client, task_id)
        await listen(client, task_id)
        await trio.sleep(51)
        assert client.session in here.manager.list_sessions()
        assert statuses(call) == ["working", "completed"]
        await trio.sleep(11)
        assert client.session not in here.manager.list_sessions()


async def test_a_drain_of_the_connection_alone_lets_its_subscriptions_wait_for_their_tasks(
    autojump_clock: MockClock,
) -> None:
    async with town(Workshop().router) as here:
        client = await client_of(here, "pipe", "ann")
        assert isinstance(client, Pipe)
        call = await listen(client, await start(client, "work", seconds=20))
        await client.session.drain(grace=100)
        assert statuses(call) == ["working", "completed"]
        assert ended(call)


async def test_a_cancelled_subscription_does_not_keep_its_connection(
    autojump_clock: MockClock,
) -> None:
    cleanup = CleanupConfig(connection_idle_time=10, cleanup_interval=1)
    async with town(Workshop().router, cleanup=cleanup) as here:
        client = await client_of(here, "pipe", "ann")
        assert isinstance(client, Pipe)
        call = await listen(client, await start(client, "work"))
        await call.leave()
        await trio.sleep(12)
        assert client.session not in here.manager.list_sessions()


async def test_the_stream_of_a_subscription_that_breaks_ends_it(
    autojump_clock: MockClock,
) -> None:
    """Although its task ends in the same moment."""
    async with town(Workshop().router) as here:
        client = await client_of(here, "pipe", "ann")
        assert isinstance(client, Pipe)
        task_id = await start(client, "work")
        await listen(client, task_id)
        (subscription,) = server_of(here.manager).subscriptions._table.values()

        class Broken:
            def __getattr__(self, name: str) -> Any:
                return getattr(sink, name)

            def send_message(self, frame: bytes) -> bool:
                raise OSError("broken")

        sink = subscription.request.sink
        subscription.request.sink = Broken()
        await cancel(client, task_id)
        await wait_all_tasks_blocked()
        assert len(server_of(here.manager).subscriptions) == 0
        assert isinstance(here.crash(), OSError)
        assert (await get(client, task_id))["status"] == "cancelled"
