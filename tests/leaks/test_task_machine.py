"""The leak proof of tasks: calls that become tasks, in any order, with a model beside them.

The model knows the status of each task, and predicts each answer about it and each notification.
Clients poll, answer in part, answer, cancel, listen, and leave, before their call is a task, while
its session is opened, while the handler works or asks, and when only the outcome is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import inf
from typing import Any

import attrs
import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import precondition, rule

from trio_mcp_session import (
    AdmissionPolicy,
    Principal,
    Session,
    SessionKind,
    SessionLimitReached,
    TerminationReason as R,
)
from trio_mcp_session.server.task import task_of

from .machine import CLOCKS, Record
from .model import (
    BAD_PARAMS,
    DONE,
    FAILED,
    INTERNAL,
    TASK,
    Caller,
    Chat,
    Job,
    ModernRecord,
)
from .modern import (
    ANSWERS,
    CLINGING,
    HOPELESS,
    PROMOTED_AFTER,
    QUESTIONS,
    TASK_RETENTION,
    TASK_TIMEOUT,
    Call,
    HttpCall,
    PipeCall,
)
from .test_machine import CONDITIONS, ENDINGS, PICK, is_live
from .test_modern_machine import (
    ANN,
    HTTP_ANN,
    NAMES,
    PIPE,
    PLACE_WITHIN,
    Listening,
    ModernAttempt,
    ModernLeakMachine,
    check,
    number_of,
    record_of,
)

AT_ONCE = ("toil", "toil", "survey", "survey", "sulk", "burst", "protest", "flood")
"""Tools whose calls are tasks at once."""
ENDS_AS = {"protest": "failed", "flood": "failed"}
"""The status of tasks whose handlers end by themselves; *completed*, where there is no entry."""
WORKING, ASKS, COMPLETED, CANCELLED, LOST = (
    "working",
    "input_required",
    "completed",
    "cancelled",
    "failed",
)


@attrs.define(eq=False)
class Toil:
    """A task, and what both sides of it should be thinking."""

    name: str
    tool: str
    principal: Principal | None
    record: ModernRecord
    """Its session."""
    connection: ModernRecord | None
    """The connection that it holds open."""
    began: float
    open: frozenset[str] = frozenset()
    """The questions that are not answered."""
    round: int = 0
    cancelled: bool = False
    ends: tuple[float, str] | None = None
    """When its handler ends that was cancelled, and takes its time; and as what."""
    ended: float = inf
    final: str | None = None

    @property
    def task_id(self) -> str:
        return self.record.session.session_id

    @property
    def status(self) -> str:
        return self.final or (ASKS if self.open else WORKING)

    @property
    def is_over(self) -> bool:
        return self.final is not None

    @property
    def is_there(self) -> bool:
        return not self.record.ended

    @property
    def lasts(self) -> float:
        """How long clients are told that it exists."""
        return (TASK_TIMEOUT if self.final is None else self.ended - self.began) + TASK_RETENTION

    def is_known_to(self, caller: Caller) -> bool:
        return self.is_there and caller.principal == self.principal


@attrs.define(eq=False)
class Watching(Listening):
    """A subscription to tasks."""

    toils: list[Toil] = attrs.field(kw_only=True)
    name: str = attrs.field(kw_only=True)

    @property
    def works(self) -> bool:
        return any(not toil.is_over for toil in self.toils)


@attrs.define(eq=False)
class Promoting(ModernAttempt):
    """A call that is about to become a task by itself."""

    known: set[Session] = attrs.field(kw_only=True)
    """The sessions of tasks that were there before."""


class TaskLeakMachine(ModernLeakMachine):
    # They have a machine of their own.
    open_box = use_box = race = None  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.toils: list[Toil] = []
        self.called: dict[str, Job] = {}
        """The calls that may become tasks, by name."""
        self.promoted: dict[Job, float] = {}
        """When calls become tasks that do so by themselves; those that had their time are gone."""

    # The model.

    def look(self) -> None:
        for session in [*self.manager.sessions(), *self.server.asked]:
            if session.kind is SessionKind.TASK and session.session_id not in self.records:
                self.records[session.session_id] = self.adopt(session)
        self.find_toils()
        self.follow_ends()
        self.follow_time()
        super().look()
        for job in self.jobs(lambda job: job.tool == "maybe" and job.caller.room.runs(job)):
            self.promoted.setdefault(job, self.now + PROMOTED_AFTER)
        self.look_at_listeners()

    def find_toils(self) -> None:
        """Find the calls that have become tasks."""
        for record in map(record_of, self.records.values()):
            task = task_of(record.session)
            known = any(toil.record is record for toil in self.toils)
            if task is None and record.session.kind is SessionKind.TASK:
                # Its call may be over before it is opened.
                record.excused |= {R.REQUESTED, R.CANCELLED}
            if task is None or task._call is None or known:
                continue
            request = task._call.request
            name = str(request.params["arguments"]["key"])
            job = self.called[name]
            connection = job.caller.record
            if connection is not None and connection.session.principal is not None:
                connection = None  # The task may be there for long after it.
            toil = Toil(name, job.tool, record.session.principal, record, connection, task._began)
            if job.tool == "survey":
                toil.open = QUESTIONS["survey"][0]
            self.toils.append(toil)
            record.begin("handler", task._began)
            if toil.connection is not None:
                toil.connection.begin(f"toil {name}", task._began)

    def follow_time(self) -> None:
        for toil in self.toils:
            if toil.is_over:
                continue
            if toil.record.ended:
                self.settle(toil, LOST, self.now)
            elif toil.ends is None and not toil.cancelled:
                late = toil.began + TASK_TIMEOUT
                if self.now >= late and toil.tool == "sulk":
                    toil.ends = late + CLINGING, COMPLETED
                elif self.now >= late:
                    self.settle(toil, COMPLETED, late)
            if toil.ends is not None and self.now >= toil.ends[0] and not toil.is_over:
                self.settle(toil, toil.ends[1], toil.ends[0])

    def settle(self, toil: Toil, status: str, when: float) -> None:
        """Let a task be over, and what is busy with it."""
        toil.final, toil.open, toil.ended = status, frozenset(), when
        if toil.connection is not None:
            toil.connection.leave_off(f"toil {toil.name}", when)
        for one in self.listens:
            if isinstance(one, Watching) and toil in one.toils and not one.works:
                self.release_connection(one, when)
        record = toil.record
        if not record.ended:
            record.max_age = when - record.opened + TASK_RETENTION
        record.leave_off("handler", when)

    def release_connection(self, one: Watching, when: float) -> None:
        if one.caller.record is not None:
            one.caller.record.leave_off(one.name, when)

    def has_ended(self, one: Listening) -> bool:
        record = one.caller.record
        if isinstance(one, Watching) and one.works and record is not None and not record.ended:
            # A client that is gone hears nothing of it: it lasts as long as its connection.
            if not (one.may_end and one.call.over):
                return False
            self.release_connection(one, self.now)
        return super().has_ended(one)

    def hears(self, one: Listening) -> bool:
        return one.reads and not one.caller.is_deaf and not one.call.over

    def look_at_listeners(self) -> None:
        """Each client that listens has heard how its tasks are."""
        for one in self.listens:
            if isinstance(one, Watching) and self.hears(one):
                heard = statuses_in(one.call)
                for toil in one.toils:
                    assert heard.get(toil.task_id) == toil.status, (
                        toil,
                        heard,
                        getattr(getattr(one.call, "exchange", None), "data", None),
                    )

    def finish(self, job: Job) -> None:
        if job.heard.outcome == TASK:
            (toil,) = [one for one in self.toils if one.name == self.key_of(job)]
            assert toil.task_id == job.heard.task_id
        super().finish(job)
        self.promoted.pop(job, None)

    def key_of(self, job: Job) -> str:
        return job.name if job.chat is None else job.chat.name

    def follow_others(self) -> None:
        super().follow_others()
        for attempt in self.attempts:
            if isinstance(attempt, Promoting) and attempt.result is None:
                self.follow_promotion(attempt)

    def follow_promotion(self, attempt: Promoting) -> None:
        """See whether a call got its place: without one, it is answered as any other."""
        sessions = self.sessions_of_tasks() - attempt.known
        if any(not record_of(self.records[one.session_id]).ended for one in sessions):
            return
        if sessions:  # A hook refused it.
            attempt.result = TimeoutError()
        elif not self.manager._admission.reserved:
            attempt.result = SessionLimitReached(attempt.kind, 0)
        if attempt.result is not None:
            attempt.job.expected.discard(TASK)

    def sessions_of_tasks(self) -> set[Session]:
        every = {*self.manager.sessions(), *self.server.asked}
        return {session for session in every if session.kind is SessionKind.TASK}

    # Beginning.

    @rule(number=PICK, tool=st.sampled_from(AT_ONCE), flavour=st.sampled_from(NAMES))
    def begin_task(self, number: int, tool: str, flavour: str) -> None:
        caller = self.anybody(number)
        if caller.is_refused or caller.room.is_full:
            return
        name = self.new_name()
        job = Job(name, tool, caller, {TASK, FAILED}, flavour=flavour)
        job.hurry(self.now + PLACE_WITHIN)
        if flavour == "created hangs":
            job.hurry(self.now + PLACE_WITHIN + CLOCKS.hook_budget)
            job.latest = self.now + PLACE_WITHIN + CLOCKS.hook_budget
        self.called[name] = job
        self.come_for_a_place(SessionKind.TASK, job, {"key": name})

    @rule(number=PICK)
    def prepare(self, number: int) -> None:
        """Call a tool that asks first, and then becomes a task."""
        self.ask(number=number, tool="prepare", flavour="plain")

    def go_on(self, chat: Chat, caller: Caller, more: Mapping[str, Any]) -> None:
        if chat.tool != "prepare":
            super().go_on(chat, caller, more)
            return
        job = Job(self.new_name(), chat.tool, caller, {TASK, FAILED}, chat=chat)
        job.hurry(self.now + PLACE_WITHIN)
        chat.attached, chat.missing = job, frozenset()
        chat.round += 1
        record_of(chat.record).begin("handler", self.now)
        self.called[chat.name] = job
        self.enter(job)
        attempt = ModernAttempt(SessionKind.TASK, caller.principal, job=job)
        self.newcomer_comes(attempt, self.make(job, chat.arguments, **more))

    @rule(number=PICK, flavour=st.sampled_from(NAMES))
    def call_maybe(self, number: int, flavour: str) -> None:
        """Call a tool that becomes a task by itself after a while."""
        caller = self.anybody(number)
        if any(job.tool == "maybe" for job in self.jobs()):
            return  # One at a time, so that the model knows which session makes room for which.
        name = self.new_name()
        job = Job(name, "maybe", caller, flavour=flavour)
        self.called[name] = job
        self.send(job, {"key": name})

    def can_go(self, job: Job) -> bool:
        runs = job.caller.room.runs(job) and job.reads and not job.withdrawn
        return super().can_go(job) or (job.tool == "maybe" and runs)

    def time_passes(self, seconds: int) -> None:
        for _ in range(seconds):
            self.pass_a_second()

    def pass_a_second(self) -> None:
        """Let a second pass, in which a call may become a task."""
        soon = self.now + 1
        there = self.jobs()
        due = [job for job, when in self.promoted.items() if when <= soon and job in there]
        if not due:
            self.step(self.guest.clock.jump, 1)
            return
        (job,) = due
        self.promoted[job] = inf
        job.expect(TASK)
        known = self.sessions_of_tasks()
        attempt = Promoting(SessionKind.TASK, job.caller.principal, job=job, known=known)

        async def jump(_: object) -> None:
            self.guest.clock.jump(1)

        self.things_change = job.withdrawn or any(self.changes_until(soon))
        self.newcomer_comes(attempt, jump)
        self.things_change = False

    def changes_until(self, soon: float) -> Iterator[bool]:
        """Yield whether places become free by then."""
        for record in self.records.values():
            yield (
                not record.session._finished
                if record_of(record).ended
                else (record.deaf or min(record.due().values()) <= soon)
            )
        for toil in self.toils:
            if not toil.is_over:
                yield toil.began + TASK_TIMEOUT <= soon
                yield toil.ends is not None and toil.ends[0] <= soon

    # Asking about tasks.

    def there_are_toils(self) -> bool:
        return bool(self.toils)

    def toil_and_caller(self, number: int, who: int, *, own: bool) -> tuple[Toil, Caller]:
        """Pick a task, the latest first, and a client that asks about it."""
        there = sorted(self.toils, key=lambda toil: (not toil.is_there, toil.is_over))
        toil = there[number % len(there)]
        return toil, self.anybody(who, toil.principal) if own else self.anybody(who)

    def ask_about(self, caller: Caller, what: str, toil: Toil, **more: Any) -> Call:
        """Send a request about a task, which is answered at once."""
        calls: list[Call] = []

        async def send() -> None:
            calls.append(await caller.asker.about_task(what, toil.task_id, **more))

        if caller.record is not None and not caller.is_refused:
            caller.record.quiet_since = self.now
        self.step(send)
        assert calls[0].over
        return calls[0]

    def verdict(self, toil: Toil, caller: Caller) -> str:
        if caller.is_refused:
            return INTERNAL
        return DONE if toil.is_known_to(caller) else BAD_PARAMS

    @precondition(there_are_toils)
    @rule(number=PICK, who=PICK, own=st.sampled_from([True, True, False]))
    def poll(self, number: int, who: int, *, own: bool) -> None:
        toil, caller = self.toil_and_caller(number, who, own=own)
        verdict, status, lasts = self.verdict(toil, caller), toil.status, toil.lasts
        call = self.ask_about(caller, "get", toil)
        assert call.outcome == verdict, (toil, call.answer)
        if verdict == DONE:
            assert call.answer is not None
            result = call.answer["result"]
            assert result["status"] == status, toil
            assert result["ttlMs"] == lasts * 1000
            assert frozenset(result.get("inputRequests", ())) == toil.open
            assert ("result" in result) == (status == COMPLETED)
            assert ("error" in result) == (status == LOST)

    @precondition(there_are_toils)
    @rule(
        number=PICK,
        who=PICK,
        own=st.sampled_from([True, True, False]),
        answers=st.sampled_from(["all", "all", "some", "none", "bad"]),
    )
    def update(self, number: int, who: int, *, own: bool, answers: str) -> None:
        toil, caller = self.toil_and_caller(number, who, own=own)
        verdict = self.verdict(toil, caller)
        given = frozenset(sorted(toil.open)[: {"some": 1, "none": 0}.get(answers, 2)])
        if answers == "bad" and given and verdict == DONE:
            verdict = BAD_PARAMS
        responses = {key: HOPELESS if answers == "bad" else ANSWERS[key] for key in given}
        if verdict == DONE:
            self.take(toil, given)
        more: dict[str, Any] = {"inputResponses": {**responses, "nonsense": []}}
        assert self.ask_about(caller, "update", toil, **more).outcome == verdict, toil

    def take(self, toil: Toil, given: frozenset[str]) -> None:
        """Let a task have answers: its handler continues when it has all."""
        if not given:
            return
        toil.open -= given
        if toil.open:
            return
        toil.round += 1
        if toil.round < len(QUESTIONS["survey"]):
            toil.open = QUESTIONS["survey"][toil.round]
        else:
            self.settle(toil, COMPLETED, self.now)

    @precondition(there_are_toils)
    @rule(
        number=PICK,
        who=PICK,
        own=st.sampled_from([True, True, False]),
        by_server=st.booleans(),
    )
    def cancel(self, number: int, who: int, *, own: bool, by_server: bool) -> None:
        toil, caller = self.toil_and_caller(number, who, own=own)
        works = toil.is_there and not toil.is_over
        verdict = DONE if by_server else self.verdict(toil, caller)
        if verdict == DONE and works and not toil.cancelled:
            toil.cancelled = True
            if toil.tool != "sulk":
                self.settle(toil, CANCELLED, self.now)
            elif toil.ends is None:
                toil.ends = self.now + CLINGING, CANCELLED
        if not by_server:
            assert self.ask_about(caller, "cancel", toil).outcome == verdict, toil
            return
        done: list[bool] = []
        self.step(lambda: done.append(self.manager.cancel_task(toil.task_id)))
        assert done == [works], toil

    @precondition(lambda self: bool(self.releasable()))
    @rule(number=PICK)
    def let_finish(self, number: int) -> None:
        """Let the handler of a task end."""
        there = self.releasable()
        toil = there[number % len(there)]
        self.settle(toil, ENDS_AS.get(toil.tool, COMPLETED), self.now)
        self.step(self.server.gate(toil.name).set)

    def releasable(self) -> list[Toil]:
        return [
            toil
            for toil in self.toils
            if toil.is_there and not toil.is_over and toil.ends is None and toil.tool != "survey"
        ]

    # Listening.

    @rule(number=PICK, reads=st.booleans())
    def watch(self, number: int, *, reads: bool) -> None:
        """Listen to all tasks: those of others are left out."""
        caller = self.anybody(number)
        how: dict[str, Any] = {} if reads or not caller.is_http else {"reads": False}
        toils = [toil for toil in self.toils if toil.is_known_to(caller)]
        wanted = {"taskIds": [toil.task_id for toil in self.toils]}
        calls: list[Call] = []

        async def listen_to_them() -> None:
            calls.append(await caller.asker.listen(wanted, **how))

        mine = [one for one in self.listens if one.caller.principal == caller.principal]
        full = len(self.listens) >= self.limits.max_listens or (
            caller.principal is not None and len(mine) >= self.limits.max_listens_per_principal
        )
        if caller.record is not None and not caller.is_refused:
            caller.record.quiet_since = self.now
        name = f"listen {self.new_name()}"
        one = Watching(caller, None, reads=not how, toils=toils, name=name)  # type: ignore[arg-type]
        refused = caller.is_refused or full
        if not refused and one.works and caller.record is not None:
            caller.record.begin(name, self.now)
        self.step(listen_to_them)
        one.call = calls[0]
        if refused:
            assert how or one.call.outcome == INTERNAL
        else:
            self.listens.append(one)
            self.look_at_listeners()

    def revoke(self, record: Record) -> None:
        for one in self.listens:
            theirs = one.caller.principal == record.session.principal
            if theirs and isinstance(one, Watching):
                self.release_connection(one, self.now)
        super().revoke(record)

    def check_the_end(self) -> None:
        super().check_the_end()
        assert not self.manager.list_tasks()


def statuses_in(call: Call) -> dict[str, str]:
    """Return the last status of each task that a client was told on a subscription."""
    if isinstance(call, HttpCall):
        told = [(one.get("method"), one.get("params")) for one in call.exchange.messages]
    else:
        assert isinstance(call, PipeCall)
        told = list(call.client.notifications)
    return {
        params["taskId"]: params["status"]
        for method, params in told
        if method == "notifications/tasks"
    }


TestTaskLeakMachine = TaskLeakMachine.TestCase
TestTaskLeakMachine.settings = settings(max_examples=40, stateful_step_count=40)


def begun(**how: Any) -> TaskLeakMachine:
    machine = TaskLeakMachine()
    defaults = {"policy": AdmissionPolicy.EVICT_IDLE, "ending": "leave"}
    machine.begin(**{**defaults, **how})
    return machine


STATES = ("before promotion", "while it is opened", "working", "input_required", "at rest")


@pytest.mark.parametrize("principal", [None, ANN])
@pytest.mark.parametrize("how", ENDINGS)
@pytest.mark.parametrize("state", STATES)
def test_each_way_to_end_a_task_or_its_connection_leaves_nothing(
    state: str, how: str, principal: Principal | None
) -> None:
    for kind in (SessionKind.TASK, SessionKind.CONNECTION):
        machine = begun()
        try:
            machine.arrive(principal=principal, flavour="plain")
            if state == "before promotion":
                machine.call_maybe(number=PIPE, flavour="plain")
            elif state == "while it is opened":
                machine.begin_task(number=PIPE, tool="toil", flavour="created hangs")
            else:
                tool = "survey" if state == "input_required" else "toil"
                machine.begin_task(number=PIPE, tool=tool, flavour="plain")
            machine.watch(number=PIPE, reads=True)
            if state == "at rest":
                machine.let_finish(number=0)
            check(machine)
            condition = CONDITIONS.get(how, is_live)
            for record in machine.live(condition):
                if record.session.kind is kind and record in machine.live(condition):
                    machine.end(number=number_of(machine, record, condition), how=how)
            check(machine)
            for _ in range(3):
                machine.time_passes(seconds=1)
                check(machine)
                if machine.toils:
                    machine.poll(number=0, who=PIPE, own=True)
                    machine.poll(number=0, who=HTTP_ANN, own=False)
            machine.time_passes(seconds=13)
            check(machine)
        finally:
            machine.teardown()


@pytest.mark.parametrize("who", [HTTP_ANN, PIPE])
def test_each_step_of_a_task_is_predicted(who: int) -> None:
    machine = begun()
    try:
        machine.arrive(principal=ANN, flavour="plain")
        for tool in ("survey", *AT_ONCE):
            machine.begin_task(number=who, tool=tool, flavour="plain")
            machine.watch(number=who, reads=True)
            machine.poll(number=0, who=who, own=True)
            for answers in ("none", "bad", "some", "all", "all"):
                machine.update(number=0, who=0, own=False, answers=answers)
                machine.update(number=0, who=who, own=True, answers=answers)
                machine.poll(number=0, who=who, own=True)
                check(machine)
            if machine.releasable():
                machine.let_finish(number=0)
            machine.cancel(number=0, who=who, own=True, by_server=False)
            check(machine)
            machine.time_passes(seconds=7)
            check(machine)
            for _ in range(4):
                machine.subscriptions(number=0, what="end")
    finally:
        machine.teardown()


@pytest.mark.parametrize("by_server", [False, True])
@pytest.mark.parametrize("tool", sorted({*AT_ONCE}))
def test_each_task_can_be_cancelled_and_left_alone(tool: str, *, by_server: bool) -> None:
    machine = begun(policy=AdmissionPolicy.REPLACE_OWN)
    try:
        machine.arrive(principal=ANN, flavour="plain")
        for number in (HTTP_ANN, PIPE):
            machine.begin_task(number=number, tool=tool, flavour="plain")
            machine.watch(number=number, reads=True)
        machine.cancel(number=0, who=0, own=False, by_server=False)
        for _ in range(2):
            machine.cancel(number=0, who=PIPE, own=True, by_server=by_server)
            check(machine)
        machine.time_passes(seconds=17)  # The other one takes too long.
        check(machine)
        machine.time_passes(seconds=8)
        check(machine)
        assert not any(toil.is_there for toil in machine.toils)
    finally:
        machine.teardown()


@pytest.mark.parametrize("flavour", sorted(set(NAMES)))
@pytest.mark.parametrize("who", [HTTP_ANN, PIPE])
def test_each_flavour_of_task_leaves_nothing(who: int, flavour: str) -> None:
    machine = begun()
    try:
        machine.arrive(principal=ANN, flavour="plain")
        for tool in ("toil", "sulk", "survey"):
            machine.begin_task(number=who, tool=tool, flavour=flavour)
            machine.call_maybe(number=who, flavour=flavour)
            check(machine)
            for _ in range(3):
                machine.time_passes(seconds=1)
                check(machine)
        machine.prepare(number=who)
        machine.come_back(number=0, who=who, tool="quiz", own=True, state="latest", answers="all")
        check(machine)
        for _ in machine.jobs(machine.can_withdraw):
            machine.withdraw(number=0)
            check(machine)
        machine.time_passes(seconds=13)
        check(machine)
    finally:
        machine.teardown()
