"""The leak proof of tasks: a thousand sessions of tasks that end in all ways, and bulk.

As in `test_modern_bulk`, each ends among others that live on, and leaves nothing.
"""

from __future__ import annotations

import gc
from collections import Counter
from math import inf

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_mcp_session import (
    Principal,
    Session,
    SessionConfig,
    SessionKind,
    SessionLimits,
    TerminationReason as R,
    open_session_manager,
)
from trio_mcp_session.server.detached import DetachedCall
from trio_mcp_session.server.promotion import Promotion
from trio_mcp_session.server.request import InFlightRequest
from trio_mcp_session.server.request_queue import Worker
from trio_mcp_session.server.task import ServerTask, task_of
from trio_mcp_session.transports.http.http_options import SlowReader

from .modern import (
    ANSWERS,
    CLINGING,
    MODERN_CLOCKS,
    PROMOTED_AFTER,
    TASK_RESULT,
    TASK_RETENTION,
    TASK_TIMEOUT,
    Asker,
    Conversation,
    PipeAsker,
    world,
)
from .test_bulk import roll_many
from .test_modern_bulk import CONFIG, MINE, ONE_EACH, ModernWave, http_asker, new_endpoint

TASK_CONFIG = attrs.evolve(CONFIG, limits=attrs.evolve(CONFIG.limits, max_task_result=TASK_RESULT))
ONE_TASK = attrs.evolve(ONE_EACH, max_sessions_of={SessionKind.TASK: 1})
BULK = 2_000


@attrs.define(eq=False)
class TaskWave(ModernWave):
    """A wave of clients whose calls become tasks."""

    config: SessionConfig = TASK_CONFIG

    async def begin_task(self, asker: Asker, tool: str = "toil") -> tuple[str, str, Session]:
        """Let a client call a tool; return the key, the id of the task, and its session."""
        key = self.new_name()
        call = await asker.call(tool, {"key": key})
        await call.wait_over()
        assert call.outcome == "task", call.answer
        return key, call.task_id, self.task_session(call.task_id)

    def task_session(self, task_id: str) -> Session:
        session = self.manager.store.get(task_id, SessionKind.TASK)
        assert session is not None
        return session

    async def status(self, asker: Asker, task_id: str) -> str:
        call = await asker.about_task("get", task_id)
        await call.wait_over()
        assert call.answer is not None
        return str(call.answer["result"]["status"] if call.outcome == "done" else call.outcome)

    async def update(self, asker: Asker, task_id: str, *keys: str) -> None:
        answers = {key: ANSWERS[key] for key in keys}
        call = await asker.about_task("update", task_id, inputResponses=answers)
        await call.wait_over()
        assert call.outcome == "done", call.answer

    async def cancel(self, asker: Asker, task_id: str) -> None:
        call = await asker.about_task("cancel", task_id)
        await call.wait_over()
        assert call.outcome == "done", call.answer

    # Those that come to an end, and are kept for a while.

    async def work_and_expire(self) -> None:
        async with self.asker() as asker:
            tool = self.random.choice(["toil", "sulk", "burst", "protest", "flood"])
            key, task_id, session = await self.begin_task(asker, tool)
            assert await self.status(asker, task_id) == "working"
            await self.pause()
            self.server.gate(key).set()
            await wait_all_tasks_blocked()
            ends_as = "failed" if tool in ("protest", "flood") else "completed"
            assert await self.status(asker, task_id) == ends_as
            await self.has_ended(session, R.LIFETIME)
            assert await self.status(asker, task_id) == "-32602"

    async def answer_in_parts(self) -> None:
        async with self.asker() as asker:
            _, task_id, session = await self.begin_task(asker, "survey")
            for keys in ("a", "ax", "", "b", "c"):
                assert await self.status(asker, task_id) == "input_required"
                await self.update(asker, task_id, *(key for key in keys if key in ANSWERS))
                await wait_all_tasks_blocked()
            assert await self.status(asker, task_id) == "completed"
            await self.has_ended(session, R.LIFETIME)

    async def never_answer(self) -> None:
        async with self.asker() as asker:
            _, task_id, session = await self.begin_task(asker, "survey")
            for _ in range(3):
                assert await self.status(asker, task_id) == "input_required"
                await trio.sleep(TASK_TIMEOUT / 3)
            await wait_all_tasks_blocked()
            assert await self.status(asker, task_id) == "completed"  # With ``isError``.
            await self.has_ended(session, R.LIFETIME)

    async def be_cancelled(self) -> None:
        async with self.asker() as asker:
            tool = self.random.choice(["toil", "survey", "sulk"])
            _, task_id, session = await self.begin_task(asker, tool)
            await self.pause()
            if self.random.random() < 0.5:
                await self.cancel(asker, task_id)
            else:
                assert self.manager.cancel_task(task_id)
            await trio.sleep(CLINGING)
            await wait_all_tasks_blocked()
            assert await self.status(asker, task_id) == "cancelled"
            await self.cancel(asker, task_id)
            await self.has_ended(session, R.LIFETIME)

    # Those that become tasks late, or never.

    async def become_a_task_late(self) -> None:
        async with self.asker() as asker:
            key = self.new_name()
            call = await asker.call("maybe", {"key": key})
            await call.wait_over()
            assert call.outcome == "task"
            session = self.task_session(call.task_id)
            call.withdraw()  # It has been answered: this changes nothing.
            self.server.gate(key).set()
            await self.has_ended(session, R.LIFETIME)

    async def finish_before(self) -> None:
        async with self.asker() as asker:
            key = self.new_name()
            call = await asker.call("maybe", {"key": key})
            await trio.sleep(PROMOTED_AFTER / 2)
            self.server.gate(key).set()
            await call.wait_over()
            assert call.outcome == "done"

    async def ask_first(self) -> None:
        async with self.asker() as asker:
            talk = Conversation("prepare", {"key": self.new_name()})
            await self.hear(talk, await talk.begin(asker), "asked")
            parked = self.parked(talk)
            await self.pause()
            call = await talk.come_back(asker)
            await self.hear(talk, call, "task")
            await self.has_ended(parked, R.REQUESTED)
            session = self.task_session(call.task_id)
            await self.cancel(asker, call.task_id)
            await self.has_ended(session, R.LIFETIME)

    async def withdraw_before(self) -> None:
        async with self.asker() as asker:
            call = await asker.call("maybe", {"key": self.new_name()})
            await trio.sleep(PROMOTED_AFTER / 2)
            call.withdraw()
            await trio.sleep(PROMOTED_AFTER)

    async def vanish_while_it_is_opened(self) -> None:
        user = self.new_name()
        for tool in ("toil", "maybe"):
            async with self.asker("pipe", user, name="created hangs") as asker:
                assert isinstance(asker, PipeAsker)
                await asker.call(tool, {"key": self.new_name()})
                await trio.sleep(0.5 + PROMOTED_AFTER * (tool == "maybe"))
                asker.client.drop()
            await self.has_ended(self.opened_for(user)[-1], R.CANCELLED)

    async def be_refused(self) -> None:
        user = self.new_name()
        for name in ("veto", "created hangs"):
            async with self.asker(user=user, name=name) as asker:
                call = await asker.call("toil", {"key": self.new_name()})
                await call.wait_over()
                assert call.outcome == "failed"
                key = self.new_name()
                late = await asker.call("maybe", {"key": key})
                await trio.sleep(PROMOTED_AFTER + 2)
                self.server.gate(key).set()
                await late.wait_over()
                assert late.outcome == "done"
        for session in self.opened_for(user):
            await self.has_ended(session, R.REQUESTED)

    # Those that are ended by something else.

    async def vanish_at_work(self) -> None:
        """Without authentication the tasks of a connection end with it."""
        async with self.asker("pipe", None) as asker:
            assert isinstance(asker, PipeAsker)
            sessions = [(await self.begin_task(asker, tool))[2] for tool in ("survey", "sulk")]
            connection: Session = asker.client.session
            reason = self.random.choice([R.CLIENT_CLOSED, R.TRANSPORT_FAILED])
            if reason is R.CLIENT_CLOSED:
                asker.client.drop()
            else:
                asker.client.server_end.fail()
            for session in (connection, *sessions):
                await self.has_ended(session, reason)

    async def ask_by_another_connection(self) -> None:
        user = self.new_name()
        async with self.asker(user=user) as asker:
            key, task_id, session = await self.begin_task(asker)
            await asker.listen({"taskIds": [task_id]})
        async with self.asker(user=user) as asker, self.asker() as other:
            assert await self.status(other, task_id) == "-32602"
            assert await self.status(asker, task_id) == "working"
            self.server.gate(key).set()
            await self.has_ended(session, R.LIFETIME)

    async def lose_its_principal(self) -> None:
        user = self.new_name()
        async with self.asker("http", user) as asker:
            sessions = [
                (await self.begin_task(asker, tool))[2] for tool in ("survey", "sulk", "toil")
            ]
            await asker.call("maybe", {"key": self.new_name()})
            await wait_all_tasks_blocked()
            self.manager.revoke(Principal(user))
            for session in sessions:
                await self.has_ended(session, R.REVOKED)
            await trio.sleep(1)

    async def end_a_task(self) -> None:
        async with self.asker() as asker:
            for tool in ("survey", "sulk"):
                _, task_id, session = await self.begin_task(asker, tool)
                listen = await asker.listen({"taskIds": [task_id]})
                session.terminate()
                await self.has_ended(session, R.REQUESTED)
                assert await self.status(asker, task_id) == "-32602"
                listen.withdraw()
                _, _, session = await self.begin_task(asker, tool)
                await session.drain(grace=1)
                await self.has_ended(session, R.SHUTDOWN)

    async def make_room(self) -> None:
        """One place: a task at rest may lose it, and one that works does not."""
        config = attrs.evolve(self.config, limits=ONE_TASK)
        async with open_session_manager(self.server.router(), config=config) as manager:
            endpoint = new_endpoint(manager, SlowReader.BLOCK)
            user = self.new_name()
            for other, reason in ((user, R.REPLACED), (self.new_name(), R.EVICTED)):
                async with (
                    http_asker(endpoint, user) as first,
                    http_asker(endpoint, other) as second,
                ):
                    key = self.new_name()
                    await (await first.call("toil", {"key": key})).wait_over()
                    call = await second.call("toil", {"key": self.new_name()})
                    await call.wait_over()
                    assert call.outcome == "failed"
                    old = manager.sessions(lambda session: session.termination_reason is None)
                    self.server.gate(key).set()
                    call = await second.call("toil", {"key": self.new_name()})
                    await call.wait_over()
                    assert call.outcome == "task"
                    (session,) = old
                    assert await session.wait_terminated() is reason
                    self.ended[reason] += 1
                    assert manager.cancel_task(call.task_id)

    # Those that stay until the manager ends them.

    async def stay_at_work(self) -> None:
        async with self.asker("http") as asker:
            _, task_id, session = await self.begin_task(asker, "sulk")
            await asker.listen({"taskIds": [task_id]})
            session.renew(MINE * MINE)
            self.scope_of(session).deadline = inf
            await self.has_ended(session, R.SHUTDOWN, R.CANCELLED)

    def scope_of(self, session: Session) -> trio.CancelScope:
        task = task_of(session)
        assert task is not None
        assert task._call is not None
        return task._call.worker.scope


async def test_a_thousand_sessions_of_tasks_leave_nothing(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("CRITICAL", logger="trio_mcp_session")
    ended = await roll_many(TaskWave, 2663)
    assert set(ended) >= {R.LIFETIME, R.REQUESTED, R.REVOKED, R.SHUTDOWN, R.CANCELLED, R.EVICTED}


COUNTED = (Session, ServerTask, DetachedCall, InFlightRequest, Worker, Promotion)


def objects() -> Counter[type]:
    """Count the objects that tasks are made of."""
    gc.collect()
    return Counter(type(one) for one in gc.get_objects() if type(one) in COUNTED)


@pytest.mark.parametrize("how", ["pipe", "http"])
async def test_two_thousand_tasks_leave_nothing(how: str, autojump_clock: MockClock) -> None:
    limits = SessionLimits(max_sessions_of={SessionKind.TASK: BULK}, max_tasks_per_principal=BULK)
    # The connection stays.
    clocks = attrs.evolve(MODERN_CLOCKS, max_session_time=1e6, connection_idle_time=1e6)
    async with world(limits, clocks) as here:
        asker = await here.come(how, "ann")
        await here.begin_task(asker)
        await trio.sleep(TASK_TIMEOUT + TASK_RETENTION + 2)
        assert not here.manager.list_tasks()
        here.seen.clear()
        here.exchanges.clear()
        before = objects()

        tools = ("toil", "survey", "sulk", "toil")
        ids = [await here.begin_task(asker, tools[number % 4]) for number in range(BULK)]
        assert here.manager.statistics().tasks == {"working": BULK * 3 // 4, "input_required": 500}
        for number, task_id in enumerate(ids):
            if number % 2:
                await asker.about_task("cancel", task_id)
        await trio.sleep(CLINGING)
        await here.settle()
        assert here.manager.statistics().tasks == {"working": BULK // 2, "cancelled": BULK // 2}
        kept = objects()
        assert kept[ServerTask] == kept[Session] - before[Session] == BULK
        # What only keeps its outcome is small.
        assert kept[DetachedCall] == kept[Promotion] == BULK // 2

        await trio.sleep(TASK_TIMEOUT + TASK_RETENTION + 2)
        await here.check()
        assert not here.manager.list_tasks()
        here.seen.clear()
        here.exchanges.clear()
        assert objects() == before
