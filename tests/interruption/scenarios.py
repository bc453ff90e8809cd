"""Programs to interrupt: small, in virtual time, with everything that a session can own.

Each records what it entered and left, so that `problems` can tell afterwards what was lost. Marks
are made in functions that are protected from interrupts; what they wait in is not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Final, TypeAlias, final

import attrs
import msgspec
import trio
from trio.lowlevel import disable_ki_protection as unprotected, enable_ki_protection as protected

from tests.helpers import initialize, leftovers, modern, notification, request
from trio_mcp_session import (
    CleanupConfig,
    HandleKind,
    MemoryChannel,
    RequestContext,
    Router,
    Session,
    SessionConfig,
    SessionKind,
    SessionManager,
    SessionRejected,
    SessionTerminated,
    connect_memory,
    open_session_manager,
)
from trio_mcp_session.protocol.tasks_extension import TASKS

from .watchdog import unless

CLOCKS: Final = CleanupConfig(
    cleanup_budget=2.0, flush_budget=0.5, hook_budget=1.0, drain_grace=1.0, eof_grace=0.25
)

LONGEST: Final = 20.0
"""Virtual seconds that a scenario may take, with whatever interrupts it: its budgets, and some."""


class BodyError(Exception):
    """What the body of a manager's block raises."""


@unprotected
async def user_code(seconds: float) -> None:
    """Wait, where an interrupt may be raised."""
    await trio.sleep(seconds)


@final
@attrs.define(eq=False)
class Record:
    """What happened in one run."""

    marks: list[tuple[str, str, str]] = attrs.field(factory=list[tuple[str, str, str]])
    """What was entered, was being left, and was left: the step, the owner, the name."""
    body_failed: bool = False
    manager: SessionManager | None = None
    sessions: list[Session] = attrs.field(factory=list[Session])
    channels: list[MemoryChannel] = attrs.field(factory=list[MemoryChannel])
    parked: int = 0
    """Handlers that waited for their clients just before the end."""
    tasks: Counter[str] = attrs.field(factory=Counter[str])
    """Tasks just before the end, by status."""

    def mark(self, step: str, owner: str, name: str) -> None:
        self.marks.append((step, owner, name))

    def context(self, owner: str, name: str) -> AbstractAsyncContextManager[str]:
        """Make a context that records when it is entered and left."""
        return _Context(self, owner, name)

    @protected
    async def work(self, owner: str, name: str, seconds: float = 1e6) -> None:
        """Work, until cancelled or for so long."""
        self.mark("entered", owner, name)
        try:
            await user_code(seconds)
        finally:
            self.mark("left", owner, name)

    @protected
    def fail(self) -> None:
        self.body_failed = True
        raise BodyError

    @protected
    def watch(self, manager: SessionManager) -> None:
        self.manager = manager

    # What was lost.

    def problems(self) -> list[str]:
        """Return what is wrong after the end, a sentence each. Not a checkpoint."""
        found = [*self._not_left(), *self._out_of_order()]
        if self.manager is not None:
            found += leftovers(self.manager, *self.sessions)
            tasks = self.manager._sessions_nursery.child_tasks
            found += [f"task {task.name!r} still runs" for task in tasks]
        open_ones = sum(not is_closed(channel) for channel in self.channels)
        found += unless(not open_ones, f"{open_ones} connections are still open")
        return found

    def _not_left(self) -> Iterator[str]:
        left = {(owner, name) for step, owner, name in self.marks if step == "left"}
        entered = [(owner, name) for step, owner, name in self.marks if step == "entered"]
        return (
            f"{name} of {owner} was never left"
            for owner, name in entered
            if (owner, name) not in left
        )

    def _out_of_order(self) -> Iterator[str]:
        """Contexts are left last one first, each when all that was entered after it is gone."""
        inside: dict[str, list[str]] = {}
        for step, owner, name in self.marks:
            here = inside.setdefault(owner, [])
            if step == "entered":
                here.append(name)
            elif step == "left":
                here.remove(name)
            else:
                later = here[here.index(name) + 1 :]
                yield from (f"{name} of {owner} was left before {one}" for one in later)


@final
@attrs.define(eq=False)
class _Context(AbstractAsyncContextManager[str]):
    record: Record
    owner: str
    name: str

    @protected
    async def __aenter__(self) -> str:
        await user_code(0.01)
        self.record.mark("entered", self.owner, self.name)
        return self.name

    @protected
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.record.mark("leaving", self.owner, self.name)
        try:
            with trio.CancelScope(shield=True):
                await user_code(0.02)  # noqa: ASYNC102  # shielded, and short
        finally:
            self.record.mark("left", self.owner, self.name)


def is_closed(channel: MemoryChannel) -> bool:
    """Return whether the server has closed its end."""
    try:
        channel.send_nowait(b"")
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return True
    return False


def router_for(record: Record) -> Router:
    """A server whose tools work, ask, and use handles."""
    router = Router(
        "scenario",
        "1",
        lifespan=lambda session: record.context(str(session.session_id), "life"),
        server_lifespan=lambda _: record.context("server", "life"),
    )
    boxes = HandleKind("box", lambda name: record.context(name, "box"))

    @router.tool()
    async def work(ctx: RequestContext, name: str, seconds: float = 1e6) -> str:
        await record.work(name, "call", seconds)
        return name

    @router.tool()
    async def ask(ctx: RequestContext, name: str) -> str:
        return (await ctx.elicit(name, {})).action

    @router.tool()
    async def use(ctx: RequestContext, name: str) -> str:
        box = await ctx.open_handle(boxes, name)
        async with ctx.use_handle(boxes, box):
            await record.work(name, "use")
        return name  # pragma: no cover  # it is cancelled

    @router.tool(task="optional", promote_after=0.05)
    async def late(ctx: RequestContext, name: str) -> str:
        await record.work(name, "call")
        return name  # pragma: no cover  # it is cancelled

    @router.tool(task="required")
    async def confirm(ctx: RequestContext, name: str) -> str:
        answer = await ctx.elicit(name, {})
        await record.work(name, "call", 0.01)
        return answer.action

    return router


async def _connect(record: Record, manager: SessionManager, *messages: object) -> MemoryChannel:
    channel = await connect_memory(manager)
    record.channels.append(channel)
    await _send(channel, *messages)
    return channel


async def _send(channel: MemoryChannel, *messages: object) -> None:
    await channel.send_batch([msgspec.json.encode(one) for one in messages])


def _call(request_id: int, tool: str, **arguments: object) -> dict[str, Any]:
    params = {"name": tool, "arguments": arguments}
    return request(request_id, "tools/call", params)


def _modern_call(request_id: int, tool: str, **arguments: object) -> dict[str, Any]:
    return _modern(request_id, "tools/call", {"name": tool, "arguments": arguments})


def _modern(request_id: int, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
    capabilities: dict[str, Any] = {"elicitation": {}, "extensions": {TASKS: {}}}
    return modern(request_id, method, params, capabilities=capabilities)


HELLO: Final[tuple[Mapping[str, Any], ...]] = (
    initialize(),
    notification("notifications/initialized"),
)


async def failing_body(record: Record) -> None:
    """All that a session can own; one session ends before, the others when the body fails."""
    config = SessionConfig(cleanup=CLOCKS)
    async with open_session_manager(router_for(record), config=config) as manager:
        record.watch(manager)
        one = await manager.create_session(lifespan=lambda _: record.context("one", "life"))
        two = await manager.create_session(lifespan=lambda _: record.context("two", "life"))
        record.sessions += [one, two]
        for session, owner in ((one, "one"), (two, "two")):
            await session.enter_async_context(record.context(owner, "A"))
            await session.enter_async_context(record.context(owner, "B"))
            session.start_soon(record.work, owner, "task")
            session.start_soon(_grow, record, session, owner)
        await _connect(record, manager, *HELLO, _call(1, "work", name="legacy"))
        await _connect(
            record,
            manager,
            _modern_call(1, "work", name="modern"),
            _modern_call(2, "ask", name="asked"),
            _modern_call(3, "use", name="box"),
        )
        await trio.sleep(0.1)
        record.parked = len(manager.sessions(lambda one: one.kind is SessionKind.PARKED))
        one.terminate()
        await one.wait_terminated()
        record.fail()


@protected
async def _grow(record: Record, session: Session, owner: str) -> None:
    """Let a session hold something from one of its own tasks."""
    await session.enter_async_context(record.context(owner, "late"))
    await record.work(owner, "grown")


async def normal_leave(record: Record) -> None:
    """Work that is done within the grace of the drain, and work that is not."""
    config = SessionConfig(cleanup=CLOCKS)
    async with open_session_manager(router_for(record), config=config) as manager:
        record.watch(manager)
        async with manager.open_session(
            lifespan=lambda _: record.context("block", "life")
        ) as session:
            record.sessions.append(session)
            await session.enter_async_context(record.context("block", "A"))
        stubborn = await manager.create_session(lifespan=lambda _: record.context("s", "life"))
        record.sessions.append(stubborn)
        stubborn.start_soon(record.work, "s", "task")
        await _connect(
            record,
            manager,
            *HELLO,
            _call(1, "work", name="short", seconds=0.2),
            _call(2, "work", name="long"),
        )
        await trio.sleep(0.1)


async def tasks(record: Record) -> None:
    """Calls that become tasks, before and after; one is answered, and two are cancelled."""
    config = SessionConfig(cleanup=CLOCKS)
    async with open_session_manager(router_for(record), config=config) as manager:
        record.watch(manager)
        names = ("answered", "cancelled", "asks")
        calls = [_modern_call(number, "confirm", name=name) for number, name in enumerate(names)]
        channel = await _connect(record, manager, *calls)
        await trio.sleep(0.01)
        # If an interrupt has ended one, there are fewer.
        ids = [one.task_id for one in manager.list_tasks()]
        answers = {"elicitation-1": {"action": "decline"}}
        about: list[tuple[str, dict[str, Any]]] = [
            ("tools/call", {"name": "late", "arguments": {"name": "late"}}),
            ("tools/call", {"name": "late", "arguments": {"name": "too late"}}),
            ("subscriptions/listen", {"notifications": {"taskIds": ids}}),
            *(("tasks/update", {"taskId": one, "inputResponses": answers}) for one in ids[:1]),
            *(("tasks/cancel", {"taskId": one}) for one in ids[1:2]),
        ]
        await _send(channel, *(_modern(10 + at, *one) for at, one in enumerate(about)))
        await trio.sleep(0.1)
        late = [one.task_id for one in manager.list_tasks() if "late" in one.name]
        for task_id in late[:1]:
            manager.cancel_task(task_id)
        await _send(channel, _modern_call(20, "late", name="never a task"))
        await trio.sleep(0.02)
        record.tasks += Counter(one.status.value for one in manager.list_tasks())


Scenario: TypeAlias = Callable[[Record], Coroutine[Any, Any, None]]

SCENARIOS: Final[Mapping[str, Scenario]] = {
    "failing-body": failing_body,
    "normal-leave": normal_leave,
    "tasks": tasks,
}

EXPECTED_IN_BODY: Final = (BodyError, SessionTerminated, SessionRejected, KeyboardInterrupt)
"""What may come out: the body is told where a session or the manager ends under its feet."""
