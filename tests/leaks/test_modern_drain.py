"""A drain with two hundred each of handlers that wait, subscriptions, handles, and tasks.

Half of their clients are on pipes, half come over HTTP. What waits for a client ends at once, what
works has the grace, and no client waits for another one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial

import attrs
import trio
from trio.testing import MockClock

from trio_mcp_session import Session, SessionKind, SessionLimits, TerminationReason as R
from trio_mcp_session.server.mcp_server import server_of

from .modern import CLINGING, Asker, Call, Conversation, HttpCall, PipeAsker, PipeCall, World, world

EACH = 200
GRACE = 3
LIMITS = SessionLimits(max_stateless_requests=4 * EACH)


@attrs.define(eq=False)
class Crowd:
    """The clients, and what each of them has there."""

    here: World
    askers: list[Asker] = attrs.field(factory=list)
    talks: list[Conversation] = attrs.field(factory=list)
    boxes: list[str] = attrs.field(factory=list)
    listens: list[Call] = attrs.field(factory=list)

    async def come(self, number: int) -> None:
        user = None if number % 4 == 0 else f"user {number}"
        asker = await self.here.come("pipe" if number % 2 else "http", user)
        self.askers.append(asker)
        self.listens.append(await asker.listen())
        self.talks.append(await self.here.ask(asker, "quiz" if number % 3 else "inquire"))
        self.boxes.append(await self.here.open_box(asker))

    async def use(self, numbers: Sequence[int], tool: str, key: str) -> list[Call]:
        """Let some use their handles."""
        return [
            await self.askers[number].call(tool, {"box": self.boxes[number], "key": key})
            for number in numbers
        ]

    async def go_on(self, numbers: Sequence[int]) -> list[Call]:
        """Let some clients retry, so that their handlers work."""
        return [await self.talks[number].come_back(self.askers[number]) for number in numbers]

    def release(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            self.here.server.gate(str(self.talks[number].arguments["key"])).set()

    def of_kind(self, kind: SessionKind) -> list[Session]:
        return self.here.manager.sessions(lambda session: session.kind is kind)

    def start_drain(self) -> None:
        self.here.nursery.start_soon(partial(self.here.manager.drain, grace=GRACE))


@asynccontextmanager
async def crowd() -> AsyncIterator[Crowd]:
    async with world(LIMITS) as here:
        them = Crowd(here)
        for number in range(EACH):
            await them.come(number)
        await here.settle()
        assert len(server_of(here.manager).subscriptions) == EACH
        assert len(them.of_kind(SessionKind.PARKED)) == EACH
        assert len(them.of_kind(SessionKind.HANDLE)) == EACH
        yield them
        assert not here.manager.sessions()
        assert not len(server_of(here.manager).subscriptions)
        # A client that is cancelled along with its manager stops reading.
        listens = [one for one in them.listens if not here.scope.cancel_called or is_http(one)]
        assert all(is_told(call) for call in listens)


def is_http(call: Call) -> bool:
    return isinstance(call, HttpCall)


def is_told(call: Call) -> bool:
    """Whether a subscription came to its proper end: a result, and the end of its stream."""
    complete = not isinstance(call, HttpCall) or call.exchange.complete
    return call.over and complete and call.answer is not None and "result" in call.answer


# Of those that answer with questions, in the middle of the crowd.
QUIZ = [number for number in range(EACH) if number % 3]
DONE, NEVER = QUIZ[:20], QUIZ[20:40]


async def test_what_waits_for_clients_ends_at_once(autojump_clock: MockClock) -> None:
    async with crowd() as them:
        start = trio.current_time()
        report = await them.here.manager.drain()
        assert trio.current_time() == start
        assert len(report.completed) == 2 * EACH + EACH // 2  # Half of them have a connection.
        assert not report.cancelled
        await them.here.settle()
        assert not them.here.server.held


async def test_working_handlers_have_the_grace_of_a_drain_and_delay_no_others(
    autojump_clock: MockClock,
) -> None:
    async with crowd() as them:
        attached = await them.go_on([*DONE, *NEVER])
        used = [
            *await them.use(DONE, "use", "done"),
            *await them.use(NEVER, "use", "never"),
        ]
        await them.here.settle()
        start = trio.current_time()
        them.start_drain()
        await them.here.settle()
        assert len(them.of_kind(SessionKind.PARKED)) == 40
        assert len(them.of_kind(SessionKind.HANDLE)) == 40
        assert not len(server_of(them.here.manager).subscriptions)
        assert them.here.server.held == 80

        await trio.sleep(1)
        them.here.server.gate("done").set()
        them.release(DONE)
        await them.here.settle()
        assert [call.outcome for call in used] == ["done"] * 20 + ["nothing"] * 20
        # They would ask once more, and no client could retry with the answer.
        assert [call.outcome for call in attached] == ["failed"] * 20 + ["nothing"] * 20
        assert len(them.of_kind(SessionKind.PARKED)) == len(them.of_kind(SessionKind.HANDLE)) == 20

        await them.here.manager.wait_drained()
        assert trio.current_time() == start + GRACE
        await them.here.settle()
        assert all(call.over for call in (*attached, *used))
        assert {call.outcome for call in (*attached[20:], *used[20:])} <= {"-32603", "failed"}


async def test_a_task_that_resists_cancellation_delays_only_its_own_handle_in_a_drain(
    autojump_clock: MockClock,
) -> None:
    async with crowd() as them:
        used = await them.use(QUIZ[:20], "clutch", "never")
        clinging = [await them.here.ask(asker, "cling") for asker in them.askers[:20]]
        await them.here.settle()
        parked = them.of_kind(SessionKind.PARKED)
        start = trio.current_time()
        them.start_drain()
        await them.here.settle()
        assert sum(not session._finished for session in parked) == len(clinging)
        await trio.sleep(CLINGING)
        await them.here.settle()
        assert all(session._finished for session in parked)
        assert {session.termination_reason for session in parked} == {R.SHUTDOWN}
        await them.here.manager.wait_drained()
        assert trio.current_time() <= start + GRACE + CLINGING
        await them.here.settle()
        assert all(call.over for call in used)


async def test_listeners_that_do_not_read_delay_a_drain_by_one_flush_budget(
    autojump_clock: MockClock,
) -> None:
    async with crowd() as them:
        deaf = [asker for asker in them.askers if isinstance(asker, PipeAsker)][:20]
        streams = [call.exchange for call in them.listens if isinstance(call, HttpCall)][:20]
        for asker in deaf:
            asker.client.stall()
        for exchange in streams:
            exchange.stop_reading()
        for _ in range(3):
            them.here.manager.notify_list_changed("tools")
        await them.here.settle()
        start = trio.current_time()
        await them.here.manager.drain()
        assert trio.current_time() <= start + them.here.manager.config.cleanup.flush_budget
        await them.here.settle()
        assert not len(server_of(them.here.manager).subscriptions)
        for asker in deaf:
            asker.client.resume()
        for exchange in streams:
            exchange.read_on()
        await them.here.settle()


async def test_a_manager_that_is_cancelled_ends_them_all_at_once(
    autojump_clock: MockClock,
) -> None:
    async with crowd() as them:
        calls = [
            *await them.go_on(QUIZ[:20]),
            *await them.use(QUIZ[:20], "use", "never"),
        ]
        await them.here.settle()
        start = trio.current_time()
        them.here.scope.cancel()
        with trio.CancelScope(shield=True):
            await trio.sleep(GRACE)
            assert not them.here.manager.sessions()
            assert all(call.over for call in calls)
        assert trio.current_time() == start + GRACE


@attrs.define(eq=False)
class TaskCrowd:
    """Clients with a task each, and a subscription to it."""

    here: World
    ids: dict[str, str] = attrs.field(factory=dict)
    """The key of each task, by its id."""
    listens: dict[str, Call] = attrs.field(factory=dict)
    """The subscription to each task, by its id."""

    async def come(self, number: int) -> None:
        user = None if number % 4 == 0 else f"user {number}"
        asker = await self.here.come("pipe" if number % 2 else "http", user)
        key = f"task {number}"
        tool = "survey" if number % 3 == 0 else "toil"
        task_id = await self.here.begin_task(asker, tool, key=key)
        self.ids[task_id] = key
        if number % 3 == 1:
            self.here.server.gate(key).set()
        self.listens[task_id] = await asker.listen({"taskIds": [task_id]})
        await self.here.settle()

    def statuses(self) -> Mapping[str, int]:
        return self.here.manager.statistics().tasks

    def heard(self) -> Counter[str]:
        """Return what clients were told last of their tasks."""
        return Counter(statuses_in(call)[-1] for call in self.listens.values())


def statuses_in(call: Call) -> list[str]:
    """Return the statuses of tasks that a subscription has told."""
    if isinstance(call, HttpCall):
        told = [(one.get("method"), one.get("params")) for one in call.exchange.messages]
    else:
        assert isinstance(call, PipeCall)
        told = list(call.client.notifications)
    return [params["status"] for method, params in told if method == "notifications/tasks"]


async def test_tasks_have_the_grace_of_a_drain_and_their_clients_hear_how_they_end(
    autojump_clock: MockClock,
) -> None:
    async with world(LIMITS) as here:
        them = TaskCrowd(here)
        for number in range(EACH):
            await them.come(number)
        asking, resting = len(range(0, EACH, 3)), len(range(1, EACH, 3))
        working = EACH - asking - resting
        assert them.statuses() == {
            "working": working,
            "input_required": asking,
            "completed": resting,
        }
        start = trio.current_time()
        here.nursery.start_soon(partial(here.manager.drain, grace=GRACE))
        await here.settle()
        # What is at rest is removed at once, and the subscriptions to it end.
        assert them.statuses() == {"working": working, "input_required": asking}
        assert len(server_of(here.manager).subscriptions) == working + asking

        await trio.sleep(1)
        done = [task_id for task_id, key in them.ids.items() if int(key[5:]) % 3 == 2][:20]
        for task_id in done:
            here.server.gate(them.ids[task_id]).set()
        await here.settle()
        assert [statuses_in(them.listens[one])[-1] for one in done] == ["completed"] * 20
        assert all(is_told(them.listens[one]) for one in done)
        assert them.statuses() == {"working": working - 20, "input_required": asking}

        await here.manager.wait_drained()
        assert trio.current_time() == start + GRACE
        await here.settle()
        assert them.heard() == {
            "completed": resting + 20,
            "failed": working - 20 + asking,
        }
        assert all(is_told(call) for call in them.listens.values())
        assert here.server.cancelled == working - 20 + asking
        assert not here.manager.sessions()
        assert not len(server_of(here.manager).subscriptions)


async def test_tasks_that_wait_for_their_clients_fail_when_the_grace_of_a_drain_is_over(
    autojump_clock: MockClock,
) -> None:
    async with world(LIMITS) as here:
        askers = [await here.come(how, "ann") for how in ("pipe", "http")]
        tasks = [await here.begin_task(asker, "survey") for asker in askers]
        listens = [await asker.listen({"taskIds": tasks}) for asker in askers]
        await here.settle()
        here.nursery.start_soon(partial(here.manager.drain, grace=GRACE))
        await here.settle()
        sulking = [await asker.call("sulk", {"key": "late"}) for asker in askers]
        await here.settle()
        assert [call.outcome for call in sulking] == ["-32603"] * 2
        await here.manager.wait_drained()
        await here.settle()
        assert [statuses_in(call)[-1] for call in listens] == ["failed"] * 2
