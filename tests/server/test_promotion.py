"""When the call of a tool becomes a task, when it does not, and what may come in between."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from datetime import datetime
from functools import partial
from math import inf
from typing import Annotated, Any, final

import attrs
import pytest
import trio
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked

from tests.helpers import connect, request
from tests.rounds import ALL, AWAY, SCHEMA, Call, Pipe, Town, Way, accept, town
from tests.tasking import (
    BOTH,
    NEEDED,
    UNKNOWN,
    WITH_TASKS,
    Workshop,
    ask_for,
    client_of,
    created,
    get,
    id_of,
    name_in,
    start,
    status,
    task_sessions,
    text_in,
    the_task,
    update,
)
from trio_mcp_session import (
    AdmissionPolicy,
    CleanupConfig,
    Depends,
    Elicitation,
    InputRequired,
    RequestContext,
    RequestStateKeys,
    Router,
    ServerInfo,
    Session,
    SessionConfig,
    SessionHooks,
    SessionKind,
    SessionLimits,
    SessionVetoed,
    TaskChanged,
    open_session_manager,
)

NO_PLACE = "too many task sessions for this user (limit: 2)"
ASKED = Elicitation("?", SCHEMA, key="name")


# Optional tasks.


@BOTH
@pytest.mark.parametrize("after, first", [(None, 0.5), (0, 0), (3, 3)])
async def test_an_optional_call_becomes_a_task_after_a_while(
    after: float | None, first: float, way: str, autojump_clock: MockClock
) -> None:
    router = Router("test")

    @router.tool(task="optional", promote_after=after)
    async def work(seconds: float) -> str:
        await trio.sleep(seconds)
        return "done"

    async with town(router) as here:
        client = await client_of(here, way)
        if first:
            quick = await client.call("work", {"seconds": first - 0.01})
            await trio.sleep(first)
            assert quick.text == "done"
        call = await client.call("work", {"seconds": first + 1})
        if first:
            await trio.sleep(first - 0.01)
            assert call.answer is None
            assert task_sessions(here) == []
            await trio.sleep(0.02)
        assert created(call)["status"] == "working"
        assert await status(client, id_of(call)) == "working"
        await trio.sleep(1)
        assert text_in(await get(client, id_of(call))) == "done"


@BOTH
async def test_a_call_is_a_task_only_if_its_function_says_so(
    way: str, autojump_clock: MockClock
) -> None:
    router = Router("test")

    @router.tool(task="optional", promote_after=inf)
    async def work(ctx: RequestContext, *, promote: bool) -> str:
        await trio.sleep(1_000)
        assert ctx.task is None
        if promote:
            assert await ctx.become_task()
            assert ctx.task is not None
        await trio.sleep(1)
        return "done"

    async with town(router) as here:
        client = await client_of(here, way)
        calls = [await client.call("work", {"promote": one}) for one in (True, False)]
        await trio.sleep(1_000.5)
        task_id = id_of(calls[0])
        assert calls[1].answer is None
        await trio.sleep(1)
        assert calls[1].text == text_in(await get(client, task_id)) == "done"


@BOTH
async def test_the_time_begins_anew_when_a_question_is_answered(
    way: str, autojump_clock: MockClock
) -> None:
    router = Router("test")

    @router.tool(task="optional")
    async def work(ctx: RequestContext) -> str:
        await trio.sleep(0.3)
        one = await ctx.elicit("?", SCHEMA, key="name")
        await trio.sleep(0.4)
        other = await ctx.elicit("?", SCHEMA, key="name")
        await trio.sleep(0.6)
        return f"{name_in(one)} {name_in(other)}"

    async with town(router) as here:
        client = await client_of(here, way)
        first = await client.call("work")
        await trio.sleep(100)
        second = await client.retry(first, {"name": accept(name="a")})
        await trio.sleep(100)
        third = await client.retry(second, {"name": accept(name="b")})
        await trio.sleep(0.49)
        assert third.answer is None
        await trio.sleep(0.02)
        assert here.parked == []
        assert created(third).keys().isdisjoint({"requestState", "inputRequests"})
        task_id = id_of(third)
        await trio.sleep(0.1)
        assert text_in(await get(client, task_id)) == "a b"
        # What was carried before is of no use any longer.
        again = await client.retry(second, {"name": accept(name="c")})
        assert "no longer waits" in again.complaint


@BOTH
async def test_a_call_that_waits_for_an_answer_does_not_become_a_task(
    way: str, autojump_clock: MockClock
) -> None:
    router = Router("test")

    @router.tool(task="optional")
    async def work(ctx: RequestContext) -> str:
        return name_in(await ctx.elicit("?", SCHEMA, key="name"))

    async with town(router) as here:
        client = await client_of(here, way)
        call = await client.call("work")
        assert call.keys == {"name"}
        await trio.sleep(10)
        assert task_sessions(here) == []
        assert (await client.retry(call, {"name": accept(name="a")})).text == "a"


@BOTH
async def test_a_call_without_the_extension_waits_for_its_result(
    way: str, autojump_clock: MockClock
) -> None:
    workshop = Workshop()
    async with town(workshop.router) as here:
        client = await here.way(way)  # declares no extension
        call = await client.call("maybe", {"seconds": 10})
        await trio.sleep(10.1)
        assert call.text == "done"
        await client.call("maybe")
        assert task_sessions(here) == []


@BOTH
async def test_each_request_declares_for_itself(way: str, autojump_clock: MockClock) -> None:
    router = Router("test")

    @router.tool(task="optional")
    async def work(ctx: RequestContext) -> str:
        await ctx.elicit("?", SCHEMA, key="name")
        await trio.sleep(5)
        return f"{ctx.task is not None} {await ctx.become_task()}"

    async with town(router) as here:
        client = await here.way(way)
        for before, after in ((WITH_TASKS, ALL), (ALL, WITH_TASKS)):
            first = await client.call("work", capabilities=before)
            second = await client.retry(first, {"name": accept(name="a")}, capabilities=after)
            await trio.sleep(5.1)
            if after is ALL:
                assert second.text == "False False"
            else:
                found = await ask_for(client, id_of(second), capabilities=WITH_TASKS)
                assert found.result["result"]["content"][0]["text"] == "True True"


@BOTH
async def test_the_server_decides_whatever_the_parameters_say(
    way: str, autojump_clock: MockClock
) -> None:
    async with town(Workshop().router) as here:
        client = await client_of(here, way)
        for task in ({"ttl": 1, "pollInterval": 1}, {}, None, 5):
            params = {"name": "greet", "arguments": {"name": "Ada"}, "task": task}
            assert (await client.begin("tools/call", params)).text == "Hello, Ada!"
            params = {"name": "work", "arguments": {}, "task": task}
            assert created(await client.begin("tools/call", params))["ttlMs"] > 1


# Required tasks.


@BOTH
async def test_a_required_call_without_the_extension_is_refused_before_it_runs(
    way: str, autojump_clock: MockClock
) -> None:
    workshop = Workshop()
    async with town(workshop.router) as here:
        client = await here.way(way)
        for arguments in ({}, {"seconds": "not a number"}):
            refused = await client.call("work", arguments)
            assert refused.code == -32021
            assert refused.answer["error"]["data"] == NEEDED
            assert refused.status == (400 if way == "http" else None)
        assert (await client.call("asks_first")).code == -32021
        assert workshop.log == []
        assert not here.parked
        assert not task_sessions(here)
        assert (await client.call("greet", {"name": "Ada"})).text == "Hello, Ada!"


@BOTH
async def test_a_required_call_becomes_a_task_at_once(way: str, autojump_clock: MockClock) -> None:
    workshop = Workshop()
    async with town(workshop.router) as here:
        client = await client_of(here, way)
        now = trio.current_time()
        task_id = await start(client, "work", seconds=0)
        assert trio.current_time() == now
        assert text_in(await get(client, task_id)) == "done"


@BOTH
@pytest.mark.parametrize("tool", ["work", "maybe"])
async def test_bad_arguments_are_answered_at_once(
    tool: str, way: str, autojump_clock: MockClock
) -> None:
    workshop = Workshop()
    async with town(workshop.router) as here:
        client = await client_of(here, way)
        call = await client.call(tool, {"seconds": "soon"})
        assert call.complaint.startswith("Invalid arguments: ")
        assert (await client.call("nothing")).code == -32602
        assert (await client.begin("tools/call", {"name": tool, "arguments": 1})).code == -32602
        assert task_sessions(here) == []
        assert workshop.log == []


@BOTH
async def test_questions_before_a_task_are_answers_to_the_request(
    way: str, autojump_clock: MockClock
) -> None:
    async with town(Workshop().router) as here:
        client = await client_of(here, way)
        first = await client.call("asks_first")
        assert first.keys == {"name"}
        assert "taskId" not in first.result
        parked = here.the_parked
        second = await client.retry(first, {"name": accept(name="Alice")})
        assert created(second).keys().isdisjoint({"requestState", "inputRequests"})
        task_id = id_of(second)
        await wait_all_tasks_blocked()
        assert here.parked == []
        assert parked not in here.manager.list_sessions()
        state = await get(client, task_id)
        # The keys before it became a task are another space.
        assert list(state["inputRequests"]) == ["name"]
        assert state["inputRequests"]["name"]["params"]["message"] == "after"
        await update(client, task_id, {"name": accept(name="Bob")})
        assert text_in(await get(client, task_id)) == "Alice True Bob"


@pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"])
async def test_clients_of_earlier_revisions_wait_for_the_result(
    version: str, autojump_clock: MockClock
) -> None:
    workshop, seen = Workshop(), []

    @workshop.router.tool(task="required", ask_first=True)
    async def asks(ctx: RequestContext) -> str:
        seen.append((await ctx.become_task(), ctx.task))
        return "asked"

    async with town(workshop.router) as here:
        peer = await connect(here.manager)
        # As the client of an experiment of 2025-11-25, and more than that.
        await peer.establish(version, {"tasks": {"requests": {}}, **WITH_TASKS})
        for name in ("work", "maybe"):
            params = {"name": name, "arguments": {"seconds": 100}, "task": {"ttl": 5}}
            await peer.send(request(name, "tools/call", params))
            answer = await peer.receive()
            assert answer["result"]["content"][0]["text"] == "done"
            assert answer["result"].keys() <= {"content", "structuredContent"}
        answer = await peer.ask(1, "tools/call", {"name": "asks"})
        assert answer["result"]["content"][0]["text"] == "asked"
        assert seen == [(False, None)]
        assert task_sessions(here) == []
        await peer.channel.aclose()


# `become_task`.


@BOTH
async def test_become_task_may_be_called_again(way: str, autojump_clock: MockClock) -> None:
    router, found = Router("test"), []

    @router.tool(task="optional")
    async def work(ctx: RequestContext) -> None:
        for _ in range(3):
            with assert_checkpoints():
                found.append(await ctx.become_task())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ctx.elicit, "?", SCHEMA)
            await wait_all_tasks_blocked()
            # Although the client is asked something: it is one already.
            found.append(await ctx.become_task())
            nursery.cancel_scope.cancel()

    async with town(router) as here:
        client = await client_of(here, way)
        task_id = await start(client, "work")
        await wait_all_tasks_blocked()
        assert found == [True] * 4
        assert (await get(client, task_id))["status"] == "completed"
        assert here.manager.statistics().opened == (2 if way == "pipe" else 1)


@BOTH
async def test_become_task_may_be_called_by_several_tasks_at_once(
    way: str, autojump_clock: MockClock
) -> None:
    """One of them opens the session; together they need one place."""
    router, found = Router("test"), []

    @router.tool(task="optional", promote_after=1)
    async def work(ctx: RequestContext) -> None:
        async def become() -> None:
            found.append(await ctx.become_task())

        await trio.sleep(0.5)
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(become)
        await trio.sleep(10)

    # The timer comes when the session is being opened.
    async def slowly(_: Session) -> None:
        await trio.sleep(3)

    limits = SessionLimits(max_sessions_of={SessionKind.TASK: 1}, max_tasks_per_principal=1)
    hooks = SessionHooks(on_session_created=only_tasks(slowly))
    cleanup = CleanupConfig(hook_budget=10)
    async with town(router, limits=limits, hooks=hooks, cleanup=cleanup) as here:
        client = await client_of(here, way, "ann")
        call = await client.call("work")
        await trio.sleep(3.4)
        assert call.answer is None
        await trio.sleep(0.2)
        assert found == [True] * 5
        assert await status(client, id_of(call)) == "working"
        assert here.manager.statistics().refused == {}


@BOTH
async def test_after_a_failed_opening_the_next_one_tries_by_itself(
    way: str, autojump_clock: MockClock
) -> None:
    router, opened = Router("test"), []
    found: list[object] = []

    @router.tool(task="optional", promote_after=inf)
    async def work(ctx: RequestContext) -> None:
        async def become() -> None:
            try:
                found.append(await ctx.become_task())
            except SessionVetoed:
                found.append("vetoed")

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(become)
        await trio.sleep(10)

    async def not_the_first(_: Session) -> None:
        opened.append(1)
        await trio.sleep(1)
        if len(opened) == 1:
            raise ValueError

    hooks = SessionHooks(on_session_created=only_tasks(not_the_first))
    async with town(router, hooks=hooks) as here:
        client = await client_of(here, way)
        call = await client.call("work")
        await trio.sleep(2.5)
        assert sorted(map(str, found)) == ["True", "True", "vetoed"]
        assert id_of(call) == the_task(here).session_id
        assert len(opened) == 2


@BOTH
async def test_become_task_needs_a_tool_with_tasks_and_no_open_question(
    way: str, autojump_clock: MockClock
) -> None:
    router, errors = Router("test"), []

    async def become(ctx: RequestContext) -> None:
        try:
            await ctx.become_task()
        except RuntimeError as error:
            errors.append(str(error))

    @router.tool()
    async def none(ctx: RequestContext) -> None:
        await become(ctx)

    @router.tool(task="optional")
    async def asks(ctx: RequestContext) -> str:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ctx.elicit, "?", SCHEMA)
            await wait_all_tasks_blocked()
            await become(ctx)
        return "asked"

    async with town(router) as here:
        client = await client_of(here, way)
        await client.call("none")
        call = await client.call("asks")
        (key,) = call.keys
        assert (await client.retry(call, {key: accept(name="x")})).text == "asked"
        assert "register the tool with task='optional'" in errors[0]
        assert errors[1] == "a call cannot become a task while the client is asked a question"


async def for_two_seconds(_: Session) -> None:
    await trio.sleep(2)


@BOTH
async def test_become_task_that_is_cancelled_leaves_the_call_as_it_was(
    way: str, autojump_clock: MockClock
) -> None:
    router = Router("test")

    @router.tool(task="optional", promote_after=inf)
    async def work(ctx: RequestContext) -> str:
        with trio.move_on_after(1) as scope:
            await ctx.become_task()
        assert scope.cancelled_caught
        assert ctx.task is None
        return "as it was"

    hooks = SessionHooks(on_session_created=only_tasks(for_two_seconds))
    async with town(router, hooks=hooks) as here:
        client = await client_of(here, way)
        call = await client.call("work")
        await trio.sleep(3)
        assert call.text == "as it was"
        assert task_sessions(here) == []


# What comes while the session of the task is being opened.


def only_tasks(hook: Callable[[Session], Awaitable[None]]) -> Callable[[Session], Awaitable[None]]:
    """A hook for the sessions of tasks only."""

    async def on_session_created(session: Session) -> None:
        if session.kind is SessionKind.TASK:
            await hook(session)

    return on_session_created


@final
@attrs.define(eq=False)
class Door:
    """Lets the session of a task wait until the test opens it."""

    opened: trio.Event = attrs.field(factory=trio.Event)
    waiting: list[Session] = attrs.field(factory=list[Session])

    @property
    def hooks(self) -> SessionHooks:
        return SessionHooks(on_session_created=only_tasks(self.wait))

    async def wait(self, session: Session) -> None:
        self.waiting.append(session)
        await self.opened.wait()


@final
@attrs.define(eq=False)
class Racing:
    """A tool that does something just while the session of its task is being opened."""

    then: str
    door: Door = attrs.field(factory=Door)
    go: trio.Event = attrs.field(factory=trio.Event)
    log: list[Any] = attrs.field(factory=list[Any])
    router: Router = attrs.field(factory=lambda: Router("racing"))

    def __attrs_post_init__(self) -> None:
        self.router.tool(task="optional", promote_after=1)(self.work)

    async def work(self, ctx: RequestContext) -> str:
        try:
            await self.go.wait()
            if self.then == "ends":
                return "ended"
            return name_in(await ctx.elicit("?", SCHEMA, key="name"))
        finally:
            self.log.append(ctx.task)

    @asynccontextmanager
    async def begun(self, way: str, **more: Any) -> AsyncIterator[tuple[Town, Way, Call]]:
        """A call whose task is being opened."""
        cleanup = CleanupConfig(hook_budget=1_000)
        async with town(self.router, hooks=self.door.hooks, cleanup=cleanup, **more) as here:
            client = await client_of(here, way, "ann")
            call = await client.call("work")
            await trio.sleep(1.5)
            assert len(self.door.waiting) == 1
            assert call.answer is None
            yield here, client, call

    async def next(self, event: trio.Event) -> None:
        event.set()
        await wait_all_tasks_blocked()


@BOTH
@pytest.mark.parametrize("order", ["before", "after"])
async def test_a_handler_that_ends_when_its_task_is_being_opened_is_answered(
    order: str, way: str, autojump_clock: MockClock
) -> None:
    racing = Racing("ends")
    async with racing.begun(way) as (here, client, call):
        if order == "before":
            await racing.next(racing.go)
            assert call.text == "ended"
            await racing.next(racing.door.opened)
            assert racing.log == [None]
        else:
            # In the same turn of the event loop: one of both happens, never both.
            racing.door.opened.set()
            await racing.next(racing.go)
            is_task = racing.log != [None]
            said = text_in(await get(client, id_of(call))) if is_task else call.text
            assert said == "ended"
        assert len(task_sessions(here)) == (racing.log != [None])


@BOTH
async def test_a_handler_that_asks_when_its_task_is_being_opened_asks_in_its_answer(
    way: str, autojump_clock: MockClock
) -> None:
    racing = Racing("asks")
    async with racing.begun(way) as (here, client, call):
        await racing.next(racing.go)
        assert call.keys == {"name"}
        await racing.next(racing.door.opened)
        assert task_sessions(here) == []
        again = await client.retry(call, {"name": accept(name="x")})
        assert again.text == "x"
        assert racing.log == [None]


@BOTH
async def test_a_call_that_is_about_to_ask_does_not_become_a_task(
    way: str, autojump_clock: MockClock
) -> None:
    router = Router("test")

    @router.tool(task="optional", promote_after=1)
    async def work(ctx: RequestContext) -> str:
        await trio.sleep(0.9)
        return name_in(await ctx.elicit("?", SCHEMA, key="name"))

    async def slowly(_: Session) -> None:
        await trio.sleep(0.5)

    async with town(router, hooks=SessionHooks(on_session_created=slowly)) as here:
        client = await client_of(here, way)
        call = await client.call("work")
        await trio.sleep(1.2)  # The session for its questions is being opened.
        assert call.answer is None
        assert task_sessions(here) == []
        await trio.sleep(0.5)
        assert (await client.retry(call, {"name": accept(name="x")})).text == "x"


@BOTH
async def test_a_client_that_leaves_when_its_task_is_being_opened_gets_none(
    way: str, autojump_clock: MockClock
) -> None:
    racing = Racing("works")
    async with racing.begun(way) as (here, _, call):
        await call.leave()
        await racing.next(racing.door.opened)
        assert racing.log == [None]
        assert task_sessions(here) == []
        assert call.answer is None


@BOTH
async def test_a_client_that_leaves_in_the_turn_in_which_its_task_begins(
    way: str, autojump_clock: MockClock
) -> None:
    racing = Racing("works")
    async with racing.begun(way) as (here, client, call):
        racing.door.opened.set()
        await call.leave()
        # Either it was answered before, and the client may return, or nothing became a task.
        tasks = [await status(client, one.session_id) for one in task_sessions(here)]
        assert tasks in ([], ["working"])
        assert racing.log == ([] if tasks else [None])


async def test_a_connection_that_ends_when_a_task_is_being_opened_ends_the_call(
    autojump_clock: MockClock,
) -> None:
    racing = Racing("works")
    async with racing.begun("pipe") as (here, client, call):
        assert isinstance(client, Pipe)
        await client.leave()
        await trio.sleep(10)
        assert racing.log == [None]
        await racing.next(racing.door.opened)
        assert task_sessions(here) == []
        assert call.answer is None


@BOTH
@pytest.mark.parametrize("what", ["terminate", "revoke", "drain"])
async def test_a_session_that_ends_while_it_is_being_opened_makes_no_task(
    what: str, way: str, autojump_clock: MockClock
) -> None:
    racing = Racing("ends")
    async with racing.begun(way) as (here, _, call):
        (session,) = racing.door.waiting
        match what:
            case "terminate":
                session.terminate()
            case "revoke":
                assert session.principal is not None
                here.manager.revoke(session.principal)
            case _:
                here.nursery.start_soon(partial(here.manager.drain, grace=5))
                await wait_all_tasks_blocked()
        await racing.next(racing.door.opened)
        await racing.next(racing.go)
        assert racing.log == [None]
        if what == "revoke":
            if way == "http":
                assert call.error == (-32603, "access was revoked")
        else:
            assert call.text == "ended"
        assert task_sessions(here) == []


@BOTH
async def test_the_hook_may_refuse_a_task(way: str, autojump_clock: MockClock) -> None:
    workshop = Workshop()

    async def refuse(_: Session) -> None:
        raise ValueError("no")

    hooks = SessionHooks(on_session_created=only_tasks(refuse))
    async with town(workshop.router, hooks=hooks) as here:
        client = await client_of(here, way)
        call = await client.call("maybe", {"seconds": 10})
        await trio.sleep(10.1)
        assert call.text == "done"
        workshop.log.clear()
        refused = await client.call("work")
        assert refused.complaint == "session refused by the application"
        assert workshop.log == []
        assert here.manager.statistics().refused == {"SessionVetoed": 2}


@BOTH
async def test_a_hook_that_takes_long_takes_nothing_from_the_time_of_the_task(
    way: str, autojump_clock: MockClock
) -> None:
    async def slowly(_: Session) -> None:
        await trio.sleep(4)

    cleanup = CleanupConfig(task_timeout=10, task_retention=5, hook_budget=10)
    hooks = SessionHooks(on_session_created=only_tasks(slowly))
    async with town(Workshop().router, hooks=hooks, cleanup=cleanup) as here:
        client = await client_of(here, way)
        call = await client.call("stubborn", {"seconds": 14.5})
        await trio.sleep(4.1)
        assert created(call)["ttlMs"] == 15_000
        await trio.sleep(14.6)
        assert text_in(await get(client, id_of(call))) == "all the same"


async def test_a_wall_clock_that_fails_leaves_no_session(autojump_clock: MockClock) -> None:
    workshop = Workshop()

    def broken() -> datetime:
        raise OSError("no clock")

    config = SessionConfig(wall_clock=broken, request_state_keys=RequestStateKeys())
    with trio.fail_after(1_000):
        async with open_session_manager(workshop.router, config=config) as manager:
            async with trio.open_nursery() as nursery:
                with manager.subscribe() as events:
                    here = Town(manager, None, nursery, RequestStateKeys(), None, events)  # type: ignore[arg-type]
                    client = await client_of(here, "pipe")
                    # The timer fails, which is logged; the call continues.
                    call = await client.call("maybe", {"seconds": 5})
                    await trio.sleep(5.1)
                    assert call.text == "done"
                    failed = await client.call("work")
                    assert failed.complaint == "The tool 'work' failed with an internal error"
                    assert isinstance(here.crash(), OSError)
                    assert task_sessions(here) == []
                nursery.cancel_scope.cancel()


@BOTH
async def test_a_call_whose_client_cannot_be_given_the_task_is_ended(
    way: str, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Router) -> ServerInfo:
        raise LookupError("no name")

    router = Router("test")
    monkeypatch.setattr(Router, "server_info", property(broken))
    log: list[str] = []

    @router.tool(task="optional")
    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            log.append("ended")

    async with town(router) as here:
        client = await client_of(here, way)
        call = await client.call("work")
        await trio.sleep(1)
        assert call.error == (-32603, "Internal error")
        # Its client does not know the id: the work would be for nothing.
        assert log == ["ended"]
        assert task_sessions(here) == []
        here.look()
        assert {str(error.__cause__) for error in here.errors} == {"no name"}
        here.errors.clear()


# Places.


@BOTH
async def test_a_principal_has_so_many_tasks(way: str, autojump_clock: MockClock) -> None:
    workshop = Workshop()
    limits = SessionLimits(max_tasks_per_principal=2)
    cleanup = CleanupConfig(task_retention=100, cleanup_interval=1)
    async with town(workshop.router, limits=limits, cleanup=cleanup) as here:
        client = await client_of(here, way, "ann")
        other = await client_of(here, way, "bob")
        over = await start(client, "work", seconds=0)
        working = await start(client, "work", seconds=10)
        workshop.log.clear()
        refused = await client.call("work")
        assert refused.complaint == NO_PLACE
        assert workshop.log == []
        optional = await client.call("maybe", {"seconds": 5})
        await trio.sleep(5.1)
        assert optional.text == "done"
        # The places of others are theirs.
        await start(other, "work", seconds=0)
        assert text_in(await get(client, over)) == "done"
        assert await status(client, working) == "working"
        # A place is free when an outcome is kept no longer.
        await trio.sleep(97)
        assert (await ask_for(client, over)).error == UNKNOWN
        await start(client, "work")
        assert (await client.call("work")).complaint == NO_PLACE


@BOTH
async def test_there_are_so_many_tasks_in_all(way: str, autojump_clock: MockClock) -> None:
    limits = SessionLimits(max_sessions_of={SessionKind.TASK: 2})
    async with town(Workshop().router, limits=limits) as here:
        clients = [await client_of(here, way, name) for name in ("ann", "bob", "eve")]
        ids = [await start(client, "work") for client in clients[:2]]
        refused = await clients[2].call("work")
        assert refused.complaint == "too many task sessions (limit: 2)"
        assert [await status(*one) for one in zip(clients, ids, strict=False)] == ["working"] * 2


async def test_a_crowd_without_authentication_makes_room_but_not_of_tasks_that_work(
    autojump_clock: MockClock,
) -> None:
    limits = SessionLimits(max_sessions_of={SessionKind.TASK: 3})
    async with town(Workshop().router, limits=limits) as here:
        crowd, ann = await client_of(here, "http"), await client_of(here, "http", "ann")
        working = [await start(crowd, "work") for _ in range(3)]
        assert (await ann.call("work")).complaint == "too many task sessions (limit: 3)"
        assert (await crowd.call("work")).complaint == "too many task sessions (limit: 3)"
        assert [await status(crowd, one) for one in working] == ["working"] * 3
        # A task that only keeps its outcome does make room, for others.
        await crowd.begin("tasks/cancel", {"taskId": working[0]})
        assert (await crowd.call("work")).complaint == "too many task sessions (limit: 3)"
        await start(ann, "work")
        assert (await ask_for(crowd, working[0])).error == UNKNOWN
        assert [await status(crowd, one) for one in working[1:]] == ["working"] * 2


@BOTH
async def test_a_new_task_may_replace_an_old_one_of_the_same_principal_that_is_over(
    way: str, autojump_clock: MockClock
) -> None:
    limits = SessionLimits(max_tasks_per_principal=2, admission=AdmissionPolicy.REPLACE_OWN)
    async with town(Workshop().router, limits=limits) as here:
        client = await client_of(here, way, "ann")
        over = await start(client, "work", seconds=0)
        working = await start(client, "work")
        newest = await start(client, "work")
        assert (await ask_for(client, over)).error == UNKNOWN
        assert (await client.call("work")).complaint == NO_PLACE
        assert [await status(client, one) for one in (working, newest)] == ["working"] * 2


@BOTH
async def test_a_task_needs_no_place_among_the_requests_in_flight(
    way: str, autojump_clock: MockClock
) -> None:
    limits = SessionLimits(
        max_in_flight=1, max_queued=0, max_stateless_requests=1, max_stateless_queued=0
    )
    async with town(Workshop().router, limits=limits) as here:
        client = await client_of(here, way, "ann")
        ids = [await start(client, "work") for _ in range(5)]
        assert [await status(client, one) for one in ids] == ["working"] * 5
        assert here.manager.statistics().in_flight == 0
        assert (await client.call("greet", {"name": "Ada"})).text == "Hello, Ada!"


@BOTH
async def test_a_retiring_manager_still_lets_calls_become_tasks(
    way: str, autojump_clock: MockClock
) -> None:
    async with town(Workshop().router) as here:
        client = await client_of(here, way, "ann")
        call = await client.call("maybe", {"seconds": 10})
        here.nursery.start_soon(partial(here.manager.retire, 5))
        await trio.sleep(1)
        assert await status(client, id_of(call)) == "working"
        assert await status(client, await start(client, "work")) == "working"


# What is around the function.


@BOTH
async def test_progress_before_a_task_is_its_first_message(
    way: str, autojump_clock: MockClock
) -> None:
    router = Router("test")

    @router.tool(task="optional")
    async def work(ctx: RequestContext, message: str | None, total: float | None) -> None:
        await ctx.progress(1)
        await ctx.progress(2, total, message)
        await trio.sleep(5)

    async with town(router) as here:
        client = await client_of(here, way)
        expected = [("halfway", 4, "halfway"), (None, 4, "2 of 4"), (None, None, "2")]
        for message, total, said in expected:
            call = await client.call("work", {"message": message, "total": total})
            await trio.sleep(1)
            assert created(call)["statusMessage"] == said
            # It was a request then: its client was told.
            assert [one["params"]["progress"] for one in call.notes] == [1, 2]


@asynccontextmanager
async def connection() -> AsyncIterator[list[Any]]:
    """A dependency, which tells the log in it when it is closed."""
    used: list[Any] = []
    yield used
    used[0].append("closed")


@BOTH
async def test_middleware_and_dependencies_are_around_the_whole_task(
    way: str, autojump_clock: MockClock
) -> None:
    router = Router("test")
    log: list[object] = []

    @router.middleware
    async def measured(ctx: RequestContext, call_next: Callable[[], Awaitable[Any]]) -> Any:
        log.append("in")
        began = trio.current_time()
        result = await call_next()
        log.append(("out", trio.current_time() - began, ctx.suspended_for))
        return result

    async def work(ctx: RequestContext, used: Annotated[list[Any], Depends(connection)]) -> str:
        used.append(log)
        log.append("opened")
        await trio.sleep(10)
        await ctx.elicit("?", SCHEMA, key="name")
        await trio.sleep(5)
        return "used"

    router.tool(name="optional", task="optional")(work)
    router.tool(name="required", task="required")(work)
    async with town(router) as here:
        client = await client_of(here, way)
        for name in ("optional", "required"):
            log.clear()
            call = await client.call(name)
            await trio.sleep(1)
            assert log == ["in", "opened"]
            task_id = id_of(call)
            await trio.sleep(29)
            await update(client, task_id, {"name": accept(name="x")})
            await trio.sleep(4)
            assert log == ["in", "opened"]
            await trio.sleep(2)
            assert text_in(await get(client, task_id)) == "used"
            assert log == ["in", "opened", "closed", ("out", 35, 20)]


@BOTH
async def test_a_handler_that_returns_its_questions_is_called_again_within_the_task(
    way: str, autojump_clock: MockClock
) -> None:
    router, log = Router("test"), []

    @router.tool(task="optional")
    async def work(ctx: RequestContext, *, before: bool) -> str | InputRequired:
        log.append((ctx.request_state, ctx.task is not None))
        if not before or ctx.request_state is not None:
            await trio.sleep(2)
        name = ctx.answer_to(ASKED)
        if name is None:
            return InputRequired(ASKED, state={"seen": len(log)})
        return name_in(name)

    async with town(router) as here:
        client = await client_of(here, way)
        # Before it is a task: an answer to the request. Each request is a call of its own.
        call = await client.call("work", {"before": True})
        second = await client.retry(call, {})
        await trio.sleep(1)
        task_id = id_of(second)
        await trio.sleep(2)
        (key,) = (await get(client, task_id))["inputRequests"]
        await update(client, task_id, {key: accept(name="x")})
        await trio.sleep(2)
        assert text_in(await get(client, task_id)) == "x"
        assert log == [(None, False), ({"seen": 1}, False), ({"seen": 2}, True)]


async def test_a_function_in_a_thread_becomes_a_task() -> None:
    router, gate = Router("test"), threading.Event()

    @router.tool(task="optional", promote_after=0)
    def optional() -> str:
        gate.wait(60)
        return "from a thread"

    @router.tool(task="required")
    def required(ctx: RequestContext) -> str:
        gate.wait(60)
        assert trio.from_thread.run_sync(lambda: ctx.task) is not None
        return "from a thread"

    async with town(router, patience=60) as here:
        client = await client_of(here, "pipe")
        calls = [await client.call(name) for name in ("optional", "required")]
        ids = [id_of(call) for call in calls]
        assert [await status(client, one) for one in ids] == ["working"] * 2
        with ExitStack() as stack:
            sessions = [here.manager.get_session(one) for one in ids]
            changes = [stack.enter_context(one.subscribe()) for one in sessions if one is not None]
            gate.set()
            for one in changes:
                assert isinstance(await one.receive(), TaskChanged)
        assert [text_in(await get(client, one)) for one in ids] == ["from a thread"] * 2


@BOTH
async def test_a_call_that_finishes_without_its_client_is_not_a_task(
    way: str, autojump_clock: MockClock
) -> None:
    router, log = Router("test"), []

    @router.tool(task="optional", on_disconnect="finish")
    async def work(ctx: RequestContext) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(3)
            log.append(await ctx.become_task())

    async with town(router) as here:
        client = await client_of(here, way)
        call = await client.call("work")
        if way == "pipe":
            await call.leave()
        else:
            call.scope.cancel()
        await trio.sleep(AWAY + 5)
        assert log in ([False], [True])  # Over HTTP it is noticed late that a client has left.
        assert len(task_sessions(here)) == log.count(True)


@BOTH
async def test_an_answer_may_have_content_of_another_type_than_the_form(
    way: str, autojump_clock: MockClock
) -> None:
    async with town(Workshop().router) as here:
        client = await client_of(here, way)
        task_id = await start(client, "ask", times=1)
        bad = {"name": {"action": "accept", "content": {"name": 5}}}
        await update(client, task_id, bad)
        assert text_in(await get(client, task_id)) == "5"
