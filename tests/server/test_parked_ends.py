"""How a parked handler ends: by itself, by its clock, by others; and what its client hears."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.helpers import at_every_step, cancelled_at_step, leftovers
from tests.rounds import AWAY, DECLINE, SCHEMA, Call, Pipe, Way, accept, town
from trio_mcp_session import (
    AdmissionPolicy,
    CleanupConfig,
    Connected,
    Disconnected,
    Elicitation,
    HandlerCrashed,
    McpError,
    Principal,
    QuestionTimeout,
    RequestContext,
    Router,
    Session,
    SessionHooks,
    SessionKind,
    SessionLimits,
    SessionState,
    SessionVetoed,
    StateChanged,
    TerminationReason,
    ToolError,
)
from trio_mcp_session.server import turns
from trio_mcp_session.sessions.drain import DrainReport

WAYS = ("pipe", "http")
BOTH = pytest.mark.parametrize("way", WAYS)
GONE = "The server no longer waits for this call"
UNUSED = "requestState has been used already"


class Desk:
    """Handlers with something to tidy up."""

    def __init__(self) -> None:
        self.router = Router("desk")
        self.log: list[str] = []
        self.tasks: list[trio.lowlevel.Task] = []
        self.router.tool()(self.ask)
        self.router.tool()(self.ask_for_a_while)
        self.router.tool()(self.tidy)
        self.router.tool()(self.many)

    @asynccontextmanager
    async def resource(self) -> AsyncIterator[None]:
        self.tasks.append(trio.lowlevel.current_task())
        self.log.append("entered")
        try:
            yield
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.1)
            raise
        finally:
            self.log.append("left")

    async def ask(self, ctx: RequestContext, work: float = 0) -> str:
        """Ask twice, and work in between."""
        async with self.resource():
            one = await ctx.elicit("a", SCHEMA, key="a")
            self.log.append("works")
            await trio.sleep(work)
            other = await ctx.elicit("b", SCHEMA, key="b")
            return f"{one.action} {other.action}"

    async def ask_for_a_while(self, ctx: RequestContext, how: str, work: float = 0) -> str:
        """Ask, and come to an end where there is no answer."""
        async with self.resource():
            expected = "no answer to elicitation/create within 10 s"
            with pytest.raises(QuestionTimeout, match=expected):
                await ctx.elicit("a", SCHEMA, key="a", timeout=10)
            await ctx.progress(1)  # Which reaches no client.
            await trio.sleep(work)
            match how:
                case "tool error":
                    raise ToolError("No answer")
                case "error":
                    raise McpError(-5, "no answer", [1])
                case "crash":
                    raise KeyError("secret")
                case _:
                    return "no answer"

    async def tidy(self, ctx: RequestContext, seconds: float) -> None:
        """Take a long time to come to an end."""
        async with self.resource():
            try:
                await ctx.elicit("a", SCHEMA, key="a")
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(seconds)

    async def many(self, ctx: RequestContext, count: int) -> str:
        answers = await ctx.ask_all(*(Elicitation(f"{n}", SCHEMA) for n in range(count)))
        return str(len(answers))

    def nothing_is_left(self) -> None:
        assert self.log.count("left") == self.log.count("entered") == len(self.tasks)
        # A task that has ended is in no nursery.
        assert not any(task in found for task in self.tasks for found in all_nurseries())


def all_nurseries() -> list[frozenset[trio.lowlevel.Task]]:
    root = trio.lowlevel.current_root_task()
    assert root is not None
    found, todo = [], [root]
    while todo:
        for nursery in todo.pop().child_nurseries:
            found.append(frozenset(nursery.child_tasks))
            todo += nursery.child_tasks
    return found


@pytest.fixture
def desk() -> Desk:
    return Desk()


# Without a retry.


@BOTH
async def test_a_parked_handler_ends_idle_without_a_retry(
    way: str, desk: Desk, autojump_clock: MockClock
) -> None:
    cleanup = CleanupConfig(request_state_timeout=100, max_idle_time=5_000, cleanup_interval=2)
    async with town(desk.router, cleanup=cleanup) as here:
        client = await here.way(way, "ann")
        call = await client.call("ask")
        session = here.the_parked
        assert not session.busy
        await trio.sleep(99.9)
        assert desk.log == ["entered"]
        await trio.sleep(2.3)
        desk.nothing_is_left()
        assert session.state is SessionState.TERMINATED
        assert session.termination_reason is TerminationReason.IDLE
        left_behind = {*leftovers(here.manager, session)} - {*leftovers(here.manager)}
        assert left_behind == set()
        assert here.parked == []
        again = await client.retry(call, {"a": DECLINE})
        assert again.complaint.startswith(GONE)


async def test_a_retry_begins_the_time_anew(desk: Desk, autojump_clock: MockClock) -> None:
    async with town(desk.router, cleanup=CleanupConfig(request_state_timeout=100)) as here:
        client = here.http()
        call = await client.call("ask", {"work": 500})
        await trio.sleep(90)
        again = await client.retry(call, {"a": DECLINE})
        await trio.sleep(450)
        assert here.the_parked.busy  # While it works nothing is waited for.
        await trio.sleep(60)
        assert again.keys == {"b"}
        await trio.sleep(80)
        assert (await client.retry(again, {"b": accept()})).text == "decline accept"


async def test_a_lifetime_holds_for_parked_handlers_too(
    desk: Desk, autojump_clock: MockClock
) -> None:
    async with town(desk.router, cleanup=CleanupConfig(max_session_time=50)) as here:
        client = here.http()
        call = await client.call("ask", {"work": 500})
        again = await client.retry(call, {"a": DECLINE})
        session = here.the_parked
        await trio.sleep(60)
        assert session.termination_reason is TerminationReason.LIFETIME
        assert again.error == (-32603, "Session has ended: lifetime")
        desk.nothing_is_left()


# It ends by itself, and no request waits for it.

OUTCOMES: dict[str, Callable[[Call], None]] = {}


def outcome(check: Callable[[Call], None]) -> Callable[[Call], None]:
    OUTCOMES[check.__name__.replace("_", " ")] = check
    return check


@outcome
def result(call: Call) -> None:
    assert call.text == "no answer"


@outcome
def tool_error(call: Call) -> None:
    assert call.complaint == "No answer"


@outcome
def error(call: Call) -> None:
    assert call.error == (-5, "no answer")
    assert call.answer["error"]["data"] == [1]


@outcome
def crash(call: Call) -> None:
    assert call.complaint == "The tool 'ask_for_a_while' failed with an internal error"


@BOTH
@pytest.mark.parametrize("how", list(OUTCOMES))
async def test_what_it_said_is_kept(
    way: str, how: str, desk: Desk, autojump_clock: MockClock
) -> None:
    """It is delivered once, to the first retry, on whatever connection."""
    async with town(desk.router, cleanup=CleanupConfig(request_state_timeout=100)) as here:
        client = await here.way(way, "ann")
        call = await client.call("ask_for_a_while", {"how": how})
        if isinstance(client, Pipe):
            await client.leave()
            client = await here.pipe("ann")
        await trio.sleep(11)
        desk.nothing_is_left()
        session = here.the_parked
        assert not session.busy
        if how == "crash":
            assert isinstance(here.crash(), KeyError)
        assert call.keys == {"a"}
        assert call.notes == []
        again = await client.retry(call, {"a": DECLINE})
        OUTCOMES[how](again)
        assert session.termination_reason is TerminationReason.REQUESTED
        assert (await client.retry(call, {"a": DECLINE})).complaint.startswith(GONE)


async def test_what_it_said_is_delivered_once(desk: Desk, autojump_clock: MockClock) -> None:
    async with town(desk.router) as here:
        client = here.http()
        call = await client.call("ask_for_a_while", {"how": "result"})
        await trio.sleep(11)
        calls: list[Call] = []

        async def come() -> None:
            calls.append(await client.retry(call))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(come)
        assert sorted("isError" in one.result for one in calls) == [False] + [True] * 19


async def test_the_result_of_a_parked_handler_is_dropped_after_the_state_timeout(
    desk: Desk, autojump_clock: MockClock
) -> None:
    cleanup = CleanupConfig(request_state_timeout=100, cleanup_interval=1)
    async with town(desk.router, cleanup=cleanup) as here:
        client = here.http()
        call = await client.call("ask_for_a_while", {"how": "result", "work": 50})
        session = here.the_parked
        await trio.sleep(10 + 50 + 99)
        assert here.parked == [session]
        await trio.sleep(3)
        assert here.parked == []
        assert session.termination_reason is TerminationReason.IDLE
        assert (await client.retry(call)).complaint.startswith(GONE)


async def test_a_parked_handler_reaches_its_request_timeout_between_retries(
    desk: Desk, autojump_clock: MockClock
) -> None:
    async with town(desk.router, cleanup=CleanupConfig(request_timeout=5)) as here:
        client = here.http()
        call = await client.call("ask_for_a_while", {"how": "result", "work": 50})
        await trio.sleep(16)
        desk.nothing_is_left()
        again = await client.retry(call)
        assert again.complaint == "The tool 'ask_for_a_while' took too long, and was cancelled"


async def test_a_retry_while_the_handler_works_waits_for_its_result(
    desk: Desk, autojump_clock: MockClock
) -> None:
    """There are no open questions: the retry gets the result when there is one."""
    async with town(desk.router) as here:
        client = here.http()
        call = await client.call("ask_for_a_while", {"how": "result", "work": 50})
        await trio.sleep(30)
        again = await client.retry(call, {"a": DECLINE})
        assert again.answer is None
        assert (await client.retry(call)).error == (-32602, UNUSED)
        await trio.sleep(31)
        assert again.text == "no answer"


async def test_a_malformed_retry_takes_nothing(desk: Desk, autojump_clock: MockClock) -> None:
    async with town(desk.router) as here:
        client = here.http()
        call = await client.call("ask_for_a_while", {"how": "result"})
        await trio.sleep(11)
        assert (await client.retry(call, [1])).code == -32602
        assert (await client.retry(call)).text == "no answer"


# Of simultaneous retries one wins.


@BOTH
async def test_of_twenty_one_wins(way: str, desk: Desk, autojump_clock: MockClock) -> None:
    async with town(desk.router) as here:
        ways = [await here.way(way, "ann") for _ in range(20)]
        call = await ways[0].call("ask", {"work": 1})
        calls: list[Call] = []

        async def come(one: Way, number: int) -> None:
            answers = {"a": accept(number=number)} if number % 5 else {"a": DECLINE}
            calls.append(await one.retry(call, answers))

        async with trio.open_nursery() as nursery:
            for number, one in enumerate(ways):
                nursery.start_soon(come, one, number)
        lost = [one for one in calls if one.answer is not None]
        (winner,) = [one for one in calls if one.answer is None]
        assert [one.error for one in lost] == [(-32602, UNUSED)] * 19
        await trio.sleep(2)
        assert winner.keys == {"b"}
        # Late ones find that it has been used, too.
        assert (await ways[3].retry(call, {"a": DECLINE})).error == (-32602, UNUSED)
        assert (await ways[4].retry(winner, {"b": DECLINE})).text.endswith("decline")
        assert desk.log.count("works") == 1


# Connections come and go.


async def test_it_outlives_its_connection(desk: Desk, autojump_clock: MockClock) -> None:
    async with town(desk.router) as here:
        first = await here.pipe("ann")
        call = await first.call("ask")
        await first.leave()
        await trio.sleep(AWAY)
        assert first.session.state is SessionState.TERMINATED
        second = await here.pipe("ann")
        call = await second.retry(call, {"a": DECLINE})
        assert call.keys == {"b"}
        await second.leave()
        assert (await here.http("ann").retry(call, {"b": accept()})).text == "decline accept"


async def test_the_end_of_a_connection_without_a_principal_ends_its_parked_handlers(
    desk: Desk, autojump_clock: MockClock
) -> None:
    """No client is left that could retry."""
    async with town(desk.router) as here:
        pipe = await here.pipe()
        call = await pipe.call("ask")
        session = here.the_parked
        assert session.principal is not None
        for other in (await here.pipe(), here.http(), here.http("ann")):
            assert (await other.retry(call, {"a": DECLINE})).code == -32602
        await pipe.leave()
        await trio.sleep(AWAY)
        desk.nothing_is_left()
        assert session.termination_reason is TerminationReason.CLIENT_CLOSED
        assert here.parked == []


async def test_a_parked_handler_without_a_principal_is_resumed_by_any_http_client_with_its_state(
    desk: Desk, autojump_clock: MockClock
) -> None:
    """The state is a secret then: each client that has it may retry."""
    async with town(desk.router) as here:
        call = await here.http().call("ask")
        assert here.the_parked.principal is None
        assert (await here.http("ann").retry(call, {"a": DECLINE})).code == -32602
        assert (await here.http().retry(call, {"a": DECLINE})).keys == {"b"}


async def test_the_connection_of_the_retry_ends(desk: Desk, autojump_clock: MockClock) -> None:
    """It takes the handler along, which works for it; and waits for it."""
    async with town(desk.router) as here:
        first, second = await here.pipe("ann"), await here.pipe("ann")
        call = await first.call("ask", {"work": 50})
        again = await second.retry(call, {"a": DECLINE})
        session = here.the_parked
        second.session.terminate()
        await wait_all_tasks_blocked()
        assert again.error == (-32603, "Session has ended: requested")
        assert second.session in here.manager.sessions()
        assert desk.log == ["entered", "works"]
        await trio.sleep(0.2)
        desk.nothing_is_left()
        assert second.session not in here.manager.sessions()
        assert session.termination_reason is TerminationReason.CANCELLED
        assert first.session.state is SessionState.ACTIVE


async def test_a_crash_of_a_parked_handler_is_reported_to_the_hooks_of_its_parked_session(
    desk: Desk, autojump_clock: MockClock
) -> None:
    """The connection that the handler was called on is over: its hooks have had their say."""
    told: list[tuple[Session, Exception]] = []

    async def on_error(session: Session, error: Exception) -> None:
        told.append((session, error))

    async with town(desk.router, hooks=SessionHooks(on_error=on_error)) as here:
        pipe = await here.pipe("ann")
        await pipe.call("ask_for_a_while", {"how": "crash"})
        await pipe.leave()
        await trio.sleep(20)
        ((session, error),) = told
        assert session is here.the_parked
        assert isinstance(error, HandlerCrashed)
        assert isinstance(here.crash(), KeyError)


@BOTH
async def test_a_crash_while_it_is_waited_for(way: str, autojump_clock: MockClock) -> None:
    router = Router("r")

    @router.tool()
    async def crash(ctx: RequestContext) -> None:
        await ctx.elicit("a", SCHEMA, key="a")
        raise KeyError("secret")

    async with town(router) as here:
        client = await here.way(way)
        again = await client.retry(await client.call("crash"), {"a": DECLINE})
        assert again.complaint == "The tool 'crash' failed with an internal error"
        assert isinstance(here.crash(), KeyError)
        assert here.parked == []


# Others end it.


@BOTH
@pytest.mark.parametrize("attached", [False, True])
async def test_revoke_ends_only_the_parked_handlers_of_the_principal(
    way: str, attached: bool, desk: Desk, autojump_clock: MockClock
) -> None:
    async with town(desk.router) as here:
        ann, bob = await here.way(way, "ann"), await here.way(way, "bob")
        call = again = await ann.call("ask", {"work": 50})
        bobs = await bob.call("ask")
        if attached:
            again = await ann.retry(call, {"a": DECLINE})
        session = next(one for one in here.parked if one.principal == Principal("ann"))
        here.manager.revoke(Principal("ann"))
        await trio.sleep(AWAY)
        assert session.state is SessionState.TERMINATED
        assert session.termination_reason is TerminationReason.REVOKED
        assert desk.log.count("left") == 1
        if attached:
            ended = {"http": "access was revoked", "pipe": "Session has ended: revoked"}
            assert again.error == (-32603, ended[way])
        if way == "http":
            assert (await ann.retry(call, {"a": DECLINE})).complaint.startswith(GONE)
        assert (await bob.retry(bobs, {"a": DECLINE})).keys == {"b"}


@pytest.mark.parametrize("seconds", [5, 500])
async def test_a_drain_ends_waiting_parked_handlers_at_once_and_gives_working_ones_the_grace(
    seconds: float, desk: Desk, autojump_clock: MockClock
) -> None:
    """Those that wait end at its start; those that work have the grace, and ask nothing new."""
    async with town(desk.router) as here:
        client, pipe = here.http("ann"), await here.pipe("ann")
        working = await client.call("ask", {"work": seconds})
        working = await client.retry(working, {"a": DECLINE})
        (attached,) = here.parked
        waiting = await pipe.call("ask")
        kept = await client.call("ask_for_a_while", {"how": "result"})
        await trio.sleep(1)
        unattached = [one for one in here.parked if one is not attached]
        reports: list[DrainReport] = []

        async def drain() -> None:
            reports.append(await here.manager.drain(grace=20))

        here.nursery.start_soon(drain)
        await trio.sleep(0.5)
        assert [one.termination_reason for one in unattached] == [TerminationReason.SHUTDOWN] * 2
        assert desk.log.count("left") == 2
        assert attached.termination_reason is None
        # Nothing of what comes now is served, and nothing of it is claimed.
        for call in (waiting, kept):
            refused = await client.retry(call, {"a": DECLINE})
            assert refused.status == 503
        await trio.sleep(30)
        (report,) = reports
        ended = {*report.completed, *report.cancelled}
        assert {one.session_id for one in (attached, *unattached)} <= ended
        if seconds < 20:
            assert working.complaint == "server is shutting down"
        else:
            assert working.error == (-32603, "server is shutting down")
        assert (attached.session_id in report.completed) is (seconds < 20)
        desk.nothing_is_left()


@pytest.mark.parametrize("attached", [False, True])
async def test_the_drain_of_one_parked_session_ends_its_handler(
    attached: bool, desk: Desk, autojump_clock: MockClock
) -> None:
    async with town(desk.router) as here:
        client = here.http("ann")
        call = await client.call("ask", {"work": 3})
        if attached:
            call = await client.retry(call, {"a": DECLINE})
        report = await here.the_parked.drain(grace=20)
        assert len(report.completed) == 1
        await wait_all_tasks_blocked()
        if attached:
            assert call.complaint == "server is shutting down"
        else:
            assert (await client.retry(call, {"a": DECLINE})).complaint.startswith(GONE)
        desk.nothing_is_left()


@BOTH
@pytest.mark.parametrize("attached", [False, True])
async def test_a_drain_reports_parked_handlers_that_overrun_their_cancellation(
    way: str, attached: bool, desk: Desk, autojump_clock: MockClock
) -> None:
    """They are waited for: their session is there as long as they are."""
    async with town(desk.router) as here:
        client = await here.way(way, "ann")
        call = await client.call("tidy", {"seconds": 90})
        session = here.the_parked
        if attached:
            call = await client.retry(call, {"a": DECLINE})
        before = trio.current_time()
        report = await here.manager.drain(grace=0)
        assert trio.current_time() - before < 60
        assert session.state is SessionState.TERMINATING
        assert report.overran[session.session_id] == ("tools/call",)
        if attached and isinstance(client, Pipe):
            # Its connection waits for it, too: that is where it works now.
            assert report.overran[client.session.session_id] == ("tools/call",)
        assert desk.log == ["entered"]
    assert trio.current_time() - before >= 90
    desk.nothing_is_left()


@BOTH
async def test_a_handler_cannot_wait_for_its_own_end(way: str, autojump_clock: MockClock) -> None:
    router = Router("r")

    @router.tool()
    async def wait(ctx: RequestContext) -> str:
        await ctx.elicit("a", SCHEMA, key="a")
        for session in here.manager.sessions():
            if session.kind is SessionKind.PARKED or session is second:
                with pytest.raises(RuntimeError):
                    await session.wait_terminated()
                with pytest.raises(RuntimeError):
                    await session.drain()
        return "refused"

    async with town(router) as here:
        first, then = await here.way(way, "ann"), await here.way(way, "ann")
        second = then.session if isinstance(then, Pipe) else None
        call = await first.call("wait")
        assert (await then.retry(call, {"a": DECLINE})).text == "refused"


# Limits.


def limits(**given: Any) -> SessionLimits:
    return SessionLimits(**given)


@BOTH
async def test_the_limit_of_parked_handlers(
    way: str, desk: Desk, autojump_clock: MockClock
) -> None:
    """It is their own; no handler has crashed."""
    few = limits(max_sessions_of={SessionKind.PARKED: 2})
    async with town(desk.router, limits=few) as here:
        clients = [await here.way(way, name) for name in ("ann", "bob", "cid")]
        calls = [await one.call("ask") for one in clients]
        assert calls[0].keys == calls[1].keys == {"a"}
        assert calls[2].complaint == "too many parked sessions (limit: 2)"
        here.parked[0].terminate()
        await trio.sleep(AWAY)
        assert (await clients[2].call("ask")).keys == {"a"}
        assert here.manager.statistics().refused == {"SessionLimitReached": 1}


@BOTH
async def test_the_limit_of_a_principal(way: str, desk: Desk, autojump_clock: MockClock) -> None:
    async with town(desk.router, limits=limits(max_sessions_per_principal=2)) as here:
        ann, bob = await here.way(way, "ann"), await here.way(way, "bob")
        for _ in range(2):
            assert (await ann.call("ask")).keys == {"a"}
        refused = await ann.call("ask")
        assert refused.complaint == "too many parked sessions for this user (limit: 2)"
        assert (await bob.call("ask")).keys == {"a"}


async def test_each_connection_without_a_principal_has_its_own_parked_limit(
    desk: Desk, autojump_clock: MockClock
) -> None:
    async with town(desk.router, limits=limits(max_sessions_per_principal=1)) as here:
        for _ in range(2):
            pipe = await here.pipe()
            assert (await pipe.call("ask")).keys == {"a"}
            assert (await pipe.call("ask")).complaint.startswith("too many parked")


@pytest.mark.parametrize("policy", [AdmissionPolicy.EVICT_IDLE, AdmissionPolicy.REPLACE_OWN])
async def test_a_waiting_parked_handler_is_evicted_or_replaced_but_not_a_working_one(
    policy: AdmissionPolicy, desk: Desk, autojump_clock: MockClock
) -> None:
    """One that waits makes room, the longest quiet first; one that works does not."""
    few = limits(max_sessions_of={SessionKind.PARKED: 2}, admission=policy)
    async with town(desk.router, limits=few) as here:
        ann, bob = here.http("ann"), here.http("bob")
        working = await ann.retry(await ann.call("ask", {"work": 50}), {"a": DECLINE})
        (busy,) = here.parked
        waiting = await ann.call("ask")
        victim = next(one for one in here.parked if one is not busy)
        other = await bob.call("ask")
        if policy is AdmissionPolicy.REPLACE_OWN:
            assert other.complaint == "too many parked sessions (limit: 2)"
            own = await ann.call("ask")
            await trio.sleep(1)
            assert own.keys == {"a"}
            assert victim.termination_reason is TerminationReason.REPLACED
        else:
            await trio.sleep(1)
            assert other.keys == {"a"}
            assert victim.termination_reason is TerminationReason.EVICTED
        assert (await ann.retry(waiting, {"a": DECLINE})).complaint.startswith(GONE)
        await trio.sleep(60)
        assert working.keys == {"b"}


async def test_of_many_calls_for_one_parked_place_one_is_parked_and_the_others_refused(
    desk: Desk, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No other call takes the place from one that is about to ask."""
    monkeypatch.setattr(turns, "AT_ONCE", 8)  # They ask at the same time.
    few = limits(max_sessions_of={SessionKind.PARKED: 1}, admission=AdmissionPolicy.EVICT_IDLE)
    async with town(desk.router, limits=few) as here:
        client = here.http("ann")
        calls: list[Call] = []

        async def come() -> None:
            calls.append(await client.call("ask"))

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(come)
        await trio.sleep(10)
        refused = [one.complaint for one in calls if "isError" in one.result]
        assert refused == ["too many parked sessions (limit: 1)"] * 7
        assert len(here.parked) == 1


async def test_a_parked_handler_that_resists_eviction_makes_the_new_call_fail(
    desk: Desk, autojump_clock: MockClock
) -> None:
    few = limits(max_sessions_of={SessionKind.PARKED: 1}, admission=AdmissionPolicy.EVICT_IDLE)
    async with town(desk.router, limits=few) as here:
        client = here.http("ann")
        await client.call("tidy", {"seconds": 60})
        call = await client.call("ask")
        assert call.answer is None
        await trio.sleep(6)
        assert call.complaint == "too many parked sessions (limit: 1)"
        await trio.sleep(60)


@BOTH
async def test_the_limit_of_questions(way: str, desk: Desk, autojump_clock: MockClock) -> None:
    async with town(desk.router, limits=limits(max_questions=3)) as here:
        client = await here.way(way)
        call = await client.call("many", {"count": 3})
        assert len(call.keys) == 3
        refused = await client.call("many", {"count": 4})
        assert refused.complaint == "3 questions to the client are open already"
        again = await client.retry(call, dict.fromkeys(call.keys, DECLINE))
        assert again.text == "3"


async def test_the_limit_of_questions_of_several_tasks(autojump_clock: MockClock) -> None:
    router = Router("r")

    @router.tool()
    async def ask(ctx: RequestContext) -> str:
        failed: list[str] = []

        async def one() -> None:
            try:
                await ctx.elicit("?", SCHEMA)
            except Exception as error:  # that is asserted below
                failed.append(type(error).__name__)

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(one)
        return " ".join(failed)

    async with town(router, limits=limits(max_questions=3)) as here:
        client = here.http()
        call = await client.call("ask")
        assert len(call.keys) == 3
        again = await client.retry(call, dict.fromkeys(call.keys, DECLINE))
        assert again.text == "TooManyQuestions TooManyQuestions"


@BOTH
async def test_no_room_for_a_retry(way: str, desk: Desk, autojump_clock: MockClock) -> None:
    """It is told so, and has claimed nothing."""
    few = limits(max_in_flight=1, max_stateless_requests=1)
    async with town(desk.router, limits=few) as here:
        client = await here.way(way, "ann")
        call = await client.call("ask")
        working = await client.retry(await client.call("ask", {"work": 5}), {"a": DECLINE})
        busy = await client.retry(call, {"a": DECLINE})
        assert busy.error == (-32603, "Server is busy: too many requests are in flight")
        await trio.sleep(6)
        assert working.keys == {"b"}
        assert (await client.retry(call, {"a": DECLINE})).keys == {"b"}


@BOTH
async def test_parked_handlers_take_no_room(
    way: str, desk: Desk, autojump_clock: MockClock
) -> None:
    """Those in the queue come at once, and again when they are back."""
    few = limits(max_in_flight=1, max_stateless_requests=1)
    async with town(desk.router, limits=few) as here:
        client = await here.way(way, "ann")
        calls: list[Call] = []

        async def come() -> None:
            calls.append(await client.call("ask"))

        async with trio.open_nursery() as nursery:
            for _ in range(5):  # All but one find the place taken.
                nursery.start_soon(come)
        assert all(one.keys == {"a"} for one in calls)
        statistics = here.manager.statistics()
        assert statistics.active[SessionKind.PARKED] == 5
        assert statistics.in_flight == 0


# What is reported.


async def test_parked_sessions_appear_in_hooks_events_and_statistics(
    desk: Desk, autojump_clock: MockClock
) -> None:
    log: list[tuple[object, ...]] = []

    async def created(session: Session) -> None:
        log.append(("created", session.kind))

    async def terminated(session: Session, reason: TerminationReason) -> None:
        log.append(("terminated", session.kind, reason))

    async def changed(session: Session, old: SessionState, new: SessionState) -> None:
        log.append((old, new))

    hooks = SessionHooks(
        on_session_created=created, on_session_terminated=terminated, on_state_changed=changed
    )
    initializing, active, idle, terminating, terminated_ = SessionState
    async with town(desk.router, hooks=hooks) as here:
        client = here.http("ann")
        call = await client.call("ask")
        session = here.the_parked
        assert session.principal == Principal("ann")
        assert session.client is not None
        assert session.client.capabilities == client.capabilities
        await trio.sleep(90)
        assert session.state is idle
        call = await client.retry(call, {"a": DECLINE})
        assert session.state is active
        assert (await client.retry(call, {"b": DECLINE})).text
        await trio.sleep(1)
        kind = SessionKind.PARKED
        assert log == [
            ("created", kind),
            (initializing, active),
            (active, idle),
            (idle, active),
            (active, terminating),
            (terminating, terminated_),
            ("terminated", kind, TerminationReason.REQUESTED),
        ]
        here.look()
        assert [type(one) for one in here.told] == [
            Connected,
            *[StateChanged] * 5,
            Disconnected,
        ]
        statistics = here.manager.statistics()
        assert statistics.ended == {TerminationReason.REQUESTED: 1}
        assert statistics.opened == 1


async def test_a_veto_of_a_parked_session_refuses_the_call(
    desk: Desk, autojump_clock: MockClock
) -> None:
    async def created(session: Session) -> None:
        raise ValueError("no")

    async with town(desk.router, hooks=SessionHooks(on_session_created=created)) as here:
        call = await here.http().call("ask")
        assert call.complaint == "session refused by the application"
        assert here.manager.statistics().refused == {SessionVetoed.__name__: 1}
        here.errors.clear()


# Cancelled anywhere.


@BOTH
async def test_the_manager_is_cancelled_at_every_step(way: str, autojump_clock: MockClock) -> None:
    async def attempt(step: int) -> bool:
        desk = Desk()
        through = False
        with trio.CancelScope() as outer, cancelled_at_step(step) as scope:
            async with town(desk.router) as here:
                client = await here.way(way, "ann")
                call = await client.call("ask", {"work": 1})
                await client.call("ask")
                call = await client.retry(call, {"a": DECLINE})
                await trio.sleep(2)
                await client.retry(call, {"b": DECLINE})
                await trio.sleep(1)
                through = True
        assert not outer.cancelled_caught
        desk.nothing_is_left()
        return through and not scope.cancelled_caught

    assert await at_every_step(attempt) > 50


@BOTH
async def test_the_handler_is_cancelled_at_every_step(way: str, autojump_clock: MockClock) -> None:
    """By a scope of its own, in each place where a question waits."""

    async def attempt(step: int) -> bool:
        router = Router("r")
        scopes: list[trio.CancelScope] = []

        @router.tool()
        async def ask(ctx: RequestContext) -> str:
            with cancelled_at_step(step) as scope:
                scopes.append(scope)
                await ctx.elicit("a", SCHEMA, key="a")
            return (await ctx.elicit("b", SCHEMA, key="b")).action

        async with town(router) as here:
            client = await here.way(way)
            call = await client.call("ask")
            while call.result["resultType"] != "complete":
                assert call.keys in ({"a"}, {"b"})
                call = await client.retry(call, dict.fromkeys(call.keys, DECLINE))
            assert call.text == "decline"
        return not scopes[0].cancelled_caught

    assert await at_every_step(attempt) > 5
