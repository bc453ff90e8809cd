"""Clients that start, poll, answer, cancel and follow tasks, of several principals, at any time.

A model says of each task what its clients must be told. After each step every client is told that,
the subscriptions have heard the same, and whatever has ended has left nothing behind.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from math import inf
from typing import Any, TypeVar

import attrs
import pytest
import trio
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from trio.testing import wait_all_tasks_blocked

from tests.leaks.guest import Guest
from tests.rounds import DECLINE, SCHEMA, Call, Pipe, Town, Way, accept, town
from tests.tasking import (
    DONE,
    UNKNOWN,
    acknowledged,
    ask_for,
    cancel,
    client_of,
    created,
    listen,
    states_heard,
    task_sessions,
    update,
)
from trio_mcp_session import (
    CleanupConfig,
    Elicitation,
    McpError,
    Principal,
    RequestContext,
    Router,
    SessionLimits,
    ToolError,
)

T = TypeVar("T")

TIMEOUT, RETENTION, INTERVAL = 40.0, 20.0, 1.0
PLACES = 3
CLOCKS = CleanupConfig(
    task_timeout=TIMEOUT,
    task_retention=RETENTION,
    cleanup_interval=INTERVAL,
    eof_grace=0.25,
    handshake_timeout=inf,
    max_idle_time=inf,
    connection_idle_time=inf,
)
LIMITS = SessionLimits(max_tasks_per_principal=PLACES)
FULL = f"too many task sessions for this user (limit: {PLACES})"
TOO_LONG = "The tool 'work' took too long, and was cancelled"

PICK = st.integers(0, 10_000)
ROUNDS = st.lists(st.sets(st.sampled_from("abc"), min_size=1), max_size=2)
ENDS = st.sampled_from(["result", "tool error", "error"])
HOW = st.sampled_from(["all", "all", "some", "some", "unknown", "malformed", "old"])


def one_of(number: int, among: Sequence[T]) -> T:
    return among[number % len(among)]


@attrs.define(eq=False)
class Job:
    """One task, and what the model knows of it."""

    name: str
    owner: str
    """What may ask for it: a user, ``anyone`` over HTTP, or ``pipe``, without authentication."""
    task_id: str
    rounds: list[set[str]]
    end: str
    stubborn: bool
    """Whether it ignores its cancellation."""
    began: float
    position: int = 0
    """How many of its rounds are answered."""
    given: set[str] = attrs.field(factory=set)
    """What was answered of this round."""
    cancelled: bool = False
    overdue: bool = False
    """Whether its handler was cancelled because its time is over."""
    final: tuple[str, str | None] | None = None
    """Its final status, and what is said there."""
    ended: float = inf
    gone: bool = False

    @property
    def open(self) -> set[str]:
        """The keys of its questions now."""
        if self.final is not None or self.position == len(self.rounds) or self.stopped:
            return set()
        return {f"{key}{self.position}" for key in self.rounds[self.position]} - self.given

    @property
    def stopped(self) -> bool:
        return self.cancelled or self.overdue

    @property
    def status(self) -> str:
        if self.final is not None:
            return self.final[0]
        return "input_required" if self.open else "working"


class Tasks(RuleBasedStateMachine):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self.guest = Guest()
        self.stop, self.closed = trio.Event(), trio.Event()
        self.here: Town
        self.jobs: list[Job] = []
        self.ways: list[tuple[str, Way]] = []
        self.followed: list[tuple[Call, str, list[Job]]] = []
        self.gates: dict[str, trio.Event] = {}
        self.running: set[str] = set()
        self.whys: dict[str, str] = {}
        """What cancelled stubborn tasks first."""
        self.last = 0
        self.guest.run(self._open)

    # The server.

    async def _open(self) -> None:
        opened = trio.Event()
        assert self.guest.nursery is not None
        self.guest.nursery.start_soon(self._keep, opened)
        await opened.wait()

    async def _keep(self, opened: trio.Event) -> None:
        async with town(self._router(), limits=LIMITS, cleanup=CLOCKS) as self.here:
            opened.set()
            await self.stop.wait()
        self.closed.set()

    def _router(self) -> Router:
        router = Router("machine")

        @router.tool(task="required")
        async def work(
            ctx: RequestContext, name: str, rounds: list[list[str]], end: str, *, stubborn: bool
        ) -> str:
            self.running.add(name)
            gate = self.gates[name]
            try:
                for number, keys in enumerate(rounds):
                    await ctx.ask_all(
                        *(Elicitation(key, SCHEMA, key=f"{key}{number}") for key in keys)
                    )
                await gate.wait()
            finally:
                if stubborn:
                    with trio.CancelScope(shield=True):
                        await gate.wait()
                self.running.discard(name)
            if end == "tool error":
                raise ToolError(f"{name} has failed")
            if end == "error":
                raise McpError(-5, f"{name} has failed")
            return name

        return router

    def run(self, async_fn: Callable[..., Awaitable[T]], *args: object) -> T:
        return self.guest.run(async_fn, *args)

    def run_sync(self, sync_fn: Callable[..., object], *args: object) -> None:
        async def call() -> None:
            await trio.lowlevel.checkpoint()
            sync_fn(*args)

        self.run(call)

    @property
    def now(self) -> float:
        return self.guest.clock.current_time()

    def ways_of(self, owner: str) -> list[Way]:
        return [way for name, way in self.ways if name == owner]

    def known(self) -> list[Job]:
        return [job for job in self.jobs if not job.gone]

    def at_work(self) -> list[Job]:
        return [job for job in self.known() if job.final is None]

    # Clients.

    @initialize()
    def begin(self) -> None:
        for owner, kind, user in [
            ("ann", "pipe", "ann"),
            ("ann", "http", "ann"),
            ("bob", "http", "bob"),
            ("anyone", "http", None),
            ("pipe", "pipe", None),
        ]:
            self.ways.append((owner, self.run(client_of, self.here, kind, user)))

    @rule(number=PICK, rounds=ROUNDS, end=ENDS, stubborn=st.booleans())
    def start(self, number: int, rounds: list[set[str]], end: str, *, stubborn: bool) -> None:
        owner, way = one_of(number, self.ways)
        self.last += 1
        name = f"job {self.last}"
        self.gates[name] = trio.Event()
        asked = [sorted(keys) for keys in rounds]
        arguments = {"name": name, "rounds": asked, "end": end, "stubborn": stubborn}
        fetched = [job for job in self.known() if job.owner == owner and self.is_fetched(job)]
        call = self.run(way.call, "work", arguments)
        # A place is taken until its session has ended.
        places = sum(job.owner == owner for job in self.taken())
        if owner != "anyone" and places >= PLACES:
            if not fetched:  # pragma: no branch
                assert call.complaint == FULL
                return
            fetched[0].gone = True  # pragma: no cover  # not in every run
        job = Job(name, owner, created(call)["taskId"], rounds, end, stubborn, self.now)
        self.jobs.append(job)

    def is_fetched(self, job: Job) -> bool:
        """Return whether the final status of a job was sent to its client; only then it may be."""
        session = self.here.manager.get_session(job.task_id)
        fetched = session is not None and session._makes_room
        assert job.final is not None or not fetched
        return fetched

    def taken(self) -> list[Job]:
        return [job for job in self.jobs if not job.gone or job.name in self.running]

    @precondition(lambda self: self.jobs)
    @rule(number=PICK, who=PICK, which=HOW, some=PICK)
    def answer(self, number: int, who: int, which: str, some: int) -> None:
        job = one_of(number, self.jobs)
        owner, way = one_of(who, self.ways)
        if who % 4 and self.ways_of(job.owner):  # Mostly one that may.
            owner, way = job.owner, one_of(who, self.ways_of(job.owner))
        keys = sorted(job.open)
        answers: dict[str, Any] = {}
        match which:
            case "all":
                answers = {key: accept(name=key) for key in keys}
            case "some":
                answers = dict.fromkeys(keys[: 1 + some % 2], DECLINE)
            case "malformed":
                answers = {key: {"action": "perhaps"} for key in keys[-1:]}
                answers |= dict.fromkeys(keys[:-1], DECLINE)
            case "old":
                answers = {f"{key}{number}": DECLINE for key in "abc" for number in range(9)}
                answers = {key: one for key, one in answers.items() if key not in keys}
            case _:
                answers = {"unknown-key": {"ignored": True}}
        call = self.run(update, way, job.task_id, answers)
        if owner != job.owner or job.gone:
            assert call.error == UNKNOWN
        elif which == "malformed" and keys:
            assert call.code == -32602
        else:
            assert acknowledged(call)
            self.was_given(job, answers.keys() & set(keys))

    def was_given(self, job: Job, keys: set[str]) -> None:
        job.given |= keys
        if keys and not job.open:
            job.position += 1
            job.given = set()

    @precondition(lambda self: self.jobs)
    @rule(number=PICK, who=PICK, by_server=st.booleans())
    def cancel(self, number: int, who: int, *, by_server: bool) -> None:
        job = one_of(number, self.jobs)
        owner, way = one_of(who, self.ways)
        if by_server:
            was_at_work = self.here.manager.cancel_task(job.task_id)
            assert was_at_work is (not job.gone and job.final is None)
            self.run(wait_all_tasks_blocked)
            why = "cancelled by the server"
        else:
            call = self.run(cancel, way, job.task_id)
            if owner != job.owner or job.gone:
                assert call.error == UNKNOWN
                return
            assert acknowledged(call)
            why = "cancelled by the client"
        if job.gone or job.final is not None or job.cancelled:
            return
        job.cancelled = True
        if not job.stubborn:
            self.ends(job, ("cancelled", why))
        else:
            self.whys[job.name] = why

    def ends(self, job: Job, final: tuple[str, str | None]) -> None:
        job.final, job.ended = final, self.now

    def at_the_gate(self) -> list[Job]:
        return [
            job
            for job in self.at_work()
            if job.stopped or (job.position == len(job.rounds) and not job.open)
        ]

    @precondition(lambda self: self.at_the_gate())
    @rule(number=PICK)
    def let_go_on(self, number: int) -> None:
        job = one_of(number, self.at_the_gate())
        self.run_sync(self.gates[job.name].set)
        if job.cancelled:
            self.ends(job, ("cancelled", self.whys[job.name]))
        elif job.overdue:
            self.ends(job, ("completed", TOO_LONG))
        elif job.end == "error":
            self.ends(job, ("failed", f"{job.name} has failed"))
        else:
            said = job.name if job.end == "result" else f"{job.name} has failed"
            self.ends(job, ("completed", said))

    def failed(self, job: Job, why: str) -> None:
        """Note that the server has ended it: only subscriptions are notified."""
        if job.final is None:
            self.ends(job, ("failed", why))

    @precondition(lambda self: self.known())
    @rule(number=PICK)
    def terminate(self, number: int) -> None:
        job = one_of(number, self.known())
        self.run_sync(self.here.manager.terminate_session, job.task_id)
        self.failed(job, "the server ended the task: requested")
        job.gone = True

    @rule(user=st.sampled_from(["ann", "bob"]))
    def revoke(self, user: str) -> None:
        self.run_sync(self.here.manager.revoke, Principal(user))
        for job in self.known():
            if job.owner == user:
                self.failed(job, "the server ended the task: revoked")
                job.gone = True
        for call, owner, _ in self.followed:
            if owner == user:
                assert call.result["resultType"] == "complete"
        self.followed = [one for one in self.followed if one[1] != user]
        self.ways = [
            (name, way) for name, way in self.ways if name != user or not isinstance(way, Pipe)
        ]

    @precondition(lambda self: len(self.followed) < 6)
    @rule(number=PICK, count=st.integers(1, 4))
    def follow(self, number: int, count: int) -> None:
        owner, way = one_of(number, self.ways)
        jobs = self.jobs[-count:]
        call = self.run(listen, way, *(job.task_id for job in jobs))
        agreed = [job for job in jobs if job.owner == owner and not job.gone]
        self.followed.append((call, owner, agreed))
        assert [one["taskId"] for one in states_heard(call)] == [one.task_id for one in agreed]

    @precondition(lambda self: self.followed)
    @rule(number=PICK)
    def unfollow(self, number: int) -> None:
        call, _, _ = self.followed.pop(number % len(self.followed))
        if isinstance(call.way, Pipe):
            self.run(call.leave)
        else:
            call.scope.cancel()
            for _ in range(3):
                self.passes(0.5)
        assert call.answer is None

    # Time.

    @rule(seconds=st.sampled_from([0.5, 3, 6, 11, 19, 25]))
    def time_passes(self, seconds: float) -> None:
        self.passes(seconds)

    def passes(self, seconds: float) -> None:
        self.run_sync(self.guest.clock.jump, seconds)
        self.run(wait_all_tasks_blocked)
        there = {session.session_id for session in task_sessions(self.here)}
        for job in self.known():
            if job.final is None and self.now >= job.began + TIMEOUT and not job.overdue:
                job.overdue = True
                if not job.stubborn:
                    self.ends(job, ("completed", TOO_LONG))
            expires = (job.began + TIMEOUT if job.final is None else job.ended) + RETENTION
            live = self.here.manager.get_session(job.task_id) is not None
            # It may be removed late, but never early.
            assert live or self.now >= expires
            assert not live or self.now <= expires + INTERVAL
            if not live:
                self.failed(job, "the task took too long")
                job.gone = True
                # A handler that ignores its cancellation keeps the session, out of reach.
                assert (job.task_id in there) is (job.name in self.running)

    @rule(seconds=st.sampled_from([-100.0, 100.0]))
    def the_wall_clock_is_set(self, seconds: float) -> None:
        """Which changes nothing."""
        self.here.clock.turn(seconds)

    # What holds at any time.

    @invariant()
    def all_are_told_the_same(self) -> None:
        for job in self.jobs[-6:]:
            for owner, way in self.ways:
                self.run(self.check, job, owner, way)

    async def check(self, job: Job, owner: str, way: Way) -> None:
        call = await ask_for(way, job.task_id)
        if owner != job.owner or job.gone:
            assert call.error == UNKNOWN
            return
        state = dict(call.result)
        del state["resultType"], state["_meta"]
        self.agrees(job, state)
        for call, _, followed in self.followed:
            if job in followed:
                told = [one for one in states_heard(call) if one["taskId"] == job.task_id]
                assert told[-1] == state

    def agrees(self, job: Job, state: dict[str, Any]) -> None:
        assert state["status"] == job.status
        assert set(state.get("inputRequests", ())) == job.open
        life = TIMEOUT if job.final is None else job.ended - job.began
        assert abs(state["ttlMs"] - (life + RETENTION) * 1000) <= 1
        match job.final:
            case None:
                assert state.keys().isdisjoint({"result", "error"})
            case ("completed", said):
                assert state["result"]["content"][0]["text"] == said
                assert state["result"].get("isError", False) is (said != job.name)
            case ("failed", said):
                assert state["error"] == {"code": -5, "message": said}
                assert state["statusMessage"] == said
            case other:
                assert state["statusMessage"] == other[1]

    @invariant()
    def a_final_state_was_heard_once(self) -> None:
        for call, _, followed in self.followed:
            states = states_heard(call)
            for job in followed:
                told = [one for one in states if one["taskId"] == job.task_id]
                final = [one for one in told if one["status"] in DONE]
                assert len(final) == (job.final is not None)
                if job.final is not None:
                    assert final[0] == told[-1]
                    assert final[0]["status"] == job.final[0]

    @invariant()
    def the_books_agree(self) -> None:
        live = {job.task_id for job in self.known()}
        assert {one.task_id for one in self.here.manager.list_tasks()} >= live
        assert self.running >= {job.name for job in self.at_work()}
        counted = self.here.manager.statistics().tasks
        assert sum(counted.values()) == len(task_sessions(self.here))
        self.here.check()
        assert self.here.errors == []

    def teardown(self) -> None:
        try:
            for gate in self.gates.values():
                self.run_sync(gate.set)
            self.run_sync(self.stop.set)
            for _ in range(3):
                self.run_sync(self.guest.clock.jump, 5)
            assert self.closed.is_set()
            assert self.running == set()
        finally:
            self.guest.close()


TasksTest = Tasks.TestCase
TasksTest.settings = settings(max_examples=10, stateful_step_count=30)


# What the machine can find it may not find in every run: each of these by itself.


@pytest.fixture
def machine() -> Any:
    machine = Tasks()
    machine.begin()
    try:
        yield machine
    finally:
        machine.teardown()


def look(machine: Tasks) -> None:
    machine.all_are_told_the_same()
    machine.a_final_state_was_heard_once()
    machine.the_books_agree()


OWNERS = pytest.mark.parametrize("number", range(5))
ASKS = [{"a", "b"}, {"c"}]


@OWNERS
@pytest.mark.parametrize("end", ["result", "tool error", "error"])
def test_a_task_that_is_answered_in_parts_comes_to_its_end(
    end: str, number: int, machine: Tasks
) -> None:
    machine.start(number, ASKS, end, stubborn=False)
    machine.follow(number, 1)
    for who in range(5):
        for how in ("unknown", "old", "malformed", "some"):
            machine.answer(0, 4 * who, how, 0)
            look(machine)
    while machine.jobs[0].open:
        machine.answer(0, 1, "all", 0)
        look(machine)
    machine.time_passes(3)
    machine.let_go_on(0)
    look(machine)
    machine.the_wall_clock_is_set(-100)
    look(machine)
    machine.time_passes(19)
    look(machine)
    machine.time_passes(3)
    look(machine)
    assert machine.jobs[0].gone
    machine.follow(number, 1)
    machine.unfollow(0)
    look(machine)


@OWNERS
@pytest.mark.parametrize("stubborn", [True, False])
@pytest.mark.parametrize("by_server", [True, False])
def test_a_task_that_is_cancelled_ends_as_that(
    number: int, machine: Tasks, *, stubborn: bool, by_server: bool
) -> None:
    machine.start(number, ASKS, "result", stubborn=stubborn)
    machine.follow(number, 1)
    for who in [*range(5), number]:
        machine.cancel(0, who, by_server=by_server)
        look(machine)
    if stubborn:
        machine.let_go_on(0)
        look(machine)
    assert machine.jobs[0].status == "cancelled"


@OWNERS
@pytest.mark.parametrize("stubborn", [True, False])
def test_a_task_that_takes_too_long_ends_by_itself(
    number: int, machine: Tasks, *, stubborn: bool
) -> None:
    for _ in range(2):
        machine.start(number, ASKS, "result", stubborn=stubborn)
    machine.follow(number, 2)
    machine.time_passes(25)
    machine.time_passes(19)
    look(machine)
    if stubborn:
        machine.let_go_on(0)
        look(machine)
    for seconds in (11, 11, 25):
        machine.time_passes(seconds)
        look(machine)
    assert all(job.gone for job in machine.jobs)


@OWNERS
def test_a_task_that_is_ended_makes_room_for_another(number: int, machine: Tasks) -> None:
    for _ in range(4):
        machine.start(number, [], "result", stubborn=False)
    machine.follow(number, 4)
    machine.terminate(0)
    look(machine)
    machine.start(number, ASKS, "result", stubborn=False)
    look(machine)
    machine.revoke("ann")
    look(machine)
    machine.revoke("bob")
    look(machine)
    machine.cancel(0, 0, by_server=True)
    machine.answer(0, 4, "all", 0)
    look(machine)
