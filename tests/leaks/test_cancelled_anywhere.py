"""Cancelling the manager, or a task that opens a session, at every step of a busy scenario.

An instrument cancels after the first step of any task, then after the second, and so on until
the scenario is through before: every checkpoint is hit, also those that no test names.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

import attrs
import pytest
import trio
from trio.testing import MockClock

from trio_mcp_session import (
    AdmissionPolicy,
    ClientInfo,
    McpError,
    Principal,
    Session,
    SessionConfig,
    SessionError,
    SessionManager,
    TerminationReason,
    open_session_manager,
)
from trio_mcp_session.testing import ConnectionEnded, assert_no_leaks, connect_client, hang

from .machine import Server, config


@attrs.define(eq=False)
class CancelAt(trio.abc.Instrument):
    """Cancels ``scope`` when the tasks of the run have taken ``at`` steps together."""

    at: int
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    steps: int = 0
    counting: bool = False

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.steps += self.counting
        if self.steps == self.at:
            self.scope.cancel()


@attrs.define(eq=False)
class Scenario:
    """A manager with all sorts of sessions, and the scope that is cancelled."""

    instrument: CancelAt
    server: Server = attrs.field(factory=Server)
    config: SessionConfig = attrs.field(factory=partial(config, AdmissionPolicy.EVICT_IDLE))
    manager: SessionManager = attrs.field(init=False)
    seen: list[Session] = attrs.field(factory=list)

    async def cancel_manager(self) -> None:
        self.instrument.counting = True
        with self.instrument.scope:
            await self.manage(self.work)

    async def cancel_user(self) -> None:
        async def work() -> None:
            self.instrument.counting = True
            with self.instrument.scope:
                await self.work()
            self.instrument.counting = False

        await self.manage(work)

    async def manage(self, work: Callable[[], Awaitable[None]]) -> None:
        async with open_session_manager(
            self.server.router(),
            config=self.config,
            hooks=self.server.hooks(),
        ) as self.manager:
            await work()

    async def work(self) -> None:
        manager, ann = self.manager, Principal("ann")
        with manager.subscribe(2) as events:
            async with trio.open_nursery() as nursery:
                for flavour in ("plain", "leave hangs", "veto", "holds and crashes", "enter hangs"):
                    nursery.start_soon(self.open_handle, flavour, ann)
                nursery.start_soon(self.be_a_client)
                nursery.start_soon(self.stay_in_a_block)
                await events.receive()
                await trio.sleep(3)
                self.seen += manager.sessions()
                await manager.drain(grace=1)
                nursery.cancel_scope.cancel()

    async def open_handle(self, flavour: str, principal: Principal) -> None:
        with suppress(SessionError, ValueError):
            session = await self.manager.create_session(
                ClientInfo(client_id=flavour), principal=principal, lifespan=self.server.lifespan
            )
            self.seen.append(session)
            await session.enter_async_context(self.server.context("leave crashes"))
            await session.start(self.be_started)
            session.start_soon(hang)
            await session.wait_terminated()

    async def be_started(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        await trio.lowlevel.checkpoint()
        task_status.started()
        await trio.sleep(1)

    async def be_a_client(self) -> None:

        async def answer(_: object) -> dict[str, str]:
            return {"action": "decline"}

        async with connect_client(self.manager, elicit=answer) as client:
            self.seen.append(client.session)
            with suppress(McpError, ConnectionEnded):
                await client.call_tool("ask", {"key": "a"})
                await client.start_request("tools/call", {"name": "stubborn", "arguments": {}})
                await client.call_tool("work", {"key": "never opened"})

    async def stay_in_a_block(self) -> None:
        with suppress(SessionError):
            async with self.manager.open_session() as session:
                self.seen.append(session)
                await hang()

    def check(self) -> None:
        assert not self.manager._sessions_nursery.child_tasks
        assert_no_leaks(self.manager, live=(), among=self.seen)
        assert not self.manager._event_streams
        statistics = self.manager.statistics()
        assert statistics.bytes_held == 0
        assert statistics.opened == sum(statistics.ended.values())
        assert all(session._finished for session in self.seen)
        assert all(context.entered == context.leaving for context in self.server.contexts)
        assert sorted(self.server.created) == sorted(name for name, _ in self.server.told)


@pytest.mark.parametrize("who", [Scenario.cancel_manager, Scenario.cancel_user])
def test_nothing_is_left_wherever_it_is_cancelled(
    who: Callable[[Scenario], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("CRITICAL", logger="trio_mcp_session")
    at = steps = 1
    while steps >= at:
        instrument = CancelAt(at)
        scenario = Scenario(instrument)
        trio.run(who, scenario, clock=MockClock(autojump_threshold=0), instruments=[instrument])
        scenario.check()
        steps = instrument.steps
        at += 1
    assert at > 60, "the scenario is shorter than it looks"


async def test_sessions_end_at_once_also_where_the_body_does_not(autojump_clock: MockClock) -> None:
    with trio.move_on_after(1):
        async with open_session_manager() as manager:
            session = await manager.create_session()
            with trio.CancelScope(shield=True):
                assert await session.wait_terminated() is TerminationReason.CANCELLED
                assert trio.current_time() == 1
                await trio.sleep(1)
    assert trio.current_time() == 2
    assert_no_leaks(manager, live=())
