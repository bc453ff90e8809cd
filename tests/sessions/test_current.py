"""Whose code runs: set everywhere in a session, unset everywhere else, and nothing leaks in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar

import pytest
import trio
from trio.testing import MockClock, assert_no_checkpoints, wait_all_tasks_blocked

from tests.helpers import connect, serving
from trio_mcp_session import (
    RequestContext,
    Router,
    Session,
    SessionHooks,
    SessionState,
    TerminationReason,
    current_request,
    current_session,
)

leaky: ContextVar[str] = ContextVar("leaky", default="clean")


def requested() -> bool:
    """Return whether the calling task seems to handle a request."""
    try:
        current_request()
    except LookupError:
        return False
    return True


class Places:
    """Where code of a session has run, and what it saw."""

    def __init__(self) -> None:
        self.seen: dict[str, tuple[Session, bool, str]] = {}

    def note(self, place: str) -> None:
        with assert_no_checkpoints():
            self.seen[place] = (current_session(), requested(), leaky.get())

    async def task(self, place: str) -> None:
        self.note(place)

    async def started(self, place: str, *, task_status: trio.TaskStatus[None]) -> None:
        self.note(place)
        task_status.started()

    @asynccontextmanager
    async def context(self, place: str) -> AsyncIterator[None]:
        self.note(f"{place}: entering")
        yield
        self.note(f"{place}: leaving")

    async def on_created(self, session: Session) -> None:
        self.note("on_session_created")

    async def on_changed(self, session: Session, old: SessionState, new: SessionState) -> None:
        self.note(f"on_state_changed: {new.value}")

    async def on_error(self, session: Session, error: Exception) -> None:
        self.note("on_error")

    async def on_terminated(self, session: Session, reason: TerminationReason) -> None:
        self.note("on_session_terminated")

    @property
    def hooks(self) -> SessionHooks:
        return SessionHooks(
            on_session_created=self.on_created,
            on_state_changed=self.on_changed,
            on_error=self.on_error,
            on_session_terminated=self.on_terminated,
        )


async def test_current_session_and_request_raise_outside_of_sessions() -> None:
    with assert_no_checkpoints():
        for current in (current_session, current_request):
            with pytest.raises(LookupError):
                current()


async def test_everywhere_in_a_session(autojump_clock: MockClock) -> None:
    places = Places()

    @asynccontextmanager
    async def lifespan(session: Session) -> AsyncIterator[None]:
        session.start_soon(places.task, "early task")
        async with places.context("lifespan"):
            yield

    router = Router("test", lifespan=lifespan)

    @router.request("use")
    async def use(ctx: RequestContext) -> None:
        leaky.set("of a request")
        places.note("handler")
        ctx.session.start_soon(places.task, "task")
        ctx.session.start_soon(places.task, "service", service=True)
        await ctx.session.start(places.started, "started task")
        await ctx.session.enter_async_context(places.context("held"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(places.task, "task of the handler")
            nursery.start_soon(trio.lowlevel.checkpoint)
        await wait_all_tasks_blocked()

    @router.request("crash")
    async def crash(ctx: RequestContext) -> None:
        leaky.set("of a request")
        raise ValueError

    async with serving(router, hooks=places.hooks) as manager:
        leaky.set("of the opener")
        client = await connect(manager)
        await client.establish()
        await client.ask(1, "use")
        await client.ask(2, "crash")
        await wait_all_tasks_blocked()
        client.session.terminate()
        await client.session.wait_terminated()

    in_requests = {"handler", "task of the handler"}
    assert places.seen == {
        place: (
            client.session,
            place in in_requests,
            "of a request" if place in in_requests else "clean",
        )
        for place in (
            "on_session_created",
            "lifespan: entering",
            "on_state_changed: active",
            "early task",
            "handler",
            "task",
            "service",
            "started task",
            "held: entering",
            "task of the handler",
            "on_error",
            "held: leaving",
            "lifespan: leaving",
            "on_state_changed: terminating",
            "on_state_changed: terminated",
            "on_session_terminated",
        )
    }


async def test_session_opened_by_a_handler_is_not_part_of_its_request() -> None:
    places = Places()
    opened: list[Session] = []
    router = Router("test")

    @router.request("open")
    async def open_one(ctx: RequestContext) -> None:
        leaky.set("of a request")
        session = await ctx.manager.create_session(
            lifespan=lambda session: places.context("lifespan")
        )
        opened.append(session)
        session.start_soon(places.task, "task")
        await session.enter_async_context(places.context("held"))
        await wait_all_tasks_blocked()
        # The handler itself stays where it was.
        assert current_session() is ctx.session
        assert current_request() is ctx

    async with serving(router) as manager:
        client = await connect(manager)
        await client.establish()
        assert "result" in await client.ask(1, "open")
        opened[0].terminate()
        await opened[0].wait_terminated()
    where = (
        "lifespan: entering",
        "task",
        "held: entering",
        "held: leaving",
        "lifespan: leaving",
    )
    assert places.seen == dict.fromkeys(where, (opened[0], False, "clean"))


async def test_the_session_sees_the_context_variables_of_its_lifespan() -> None:
    places = Places()

    @asynccontextmanager
    async def lifespan(session: Session) -> AsyncIterator[None]:
        leaky.set("of the lifespan")
        yield

    async with serving(Router("test")) as manager:
        session = await manager.create_session(lifespan=lifespan)
        session.start_soon(places.task, "task")
        await session.enter_async_context(places.context("held"))
        await wait_all_tasks_blocked()
        assert leaky.get() == "clean"
    assert {variable for _, _, variable in places.seen.values()} == {"of the lifespan"}


async def test_variables_of_one_task_do_not_show_in_the_next() -> None:
    places = Places()

    async def pollute() -> None:
        leaky.set("of a task")

    async with serving(Router("test")) as manager:
        session = await manager.create_session()
        session.start_soon(pollute)
        await wait_all_tasks_blocked()
        session.start_soon(places.task, "task")
        await wait_all_tasks_blocked()
    assert places.seen == {"task": (session, False, "clean")}
