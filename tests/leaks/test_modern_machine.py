"""The leak proof of 2026-07-28: handlers that wait, handles and subscriptions, with a model.

Their clients are on pipes, where they may have a session besides, and come over HTTP, as a user
or without one. They retry, or never, or twice, with old states and with those of another
client; they disconnect, listen, and use handles while those end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import inf
from typing import Any, cast

import attrs
import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from trio_mcp_session import (
    AdmissionPolicy,
    McpError,
    Principal,
    Session,
    SessionConfig,
    SessionKind,
    SessionLimitReached,
    TerminationReason as R,
)
from trio_mcp_session.server.mcp_server import server_of
from trio_mcp_session.testing import Client, assert_no_leaks
from trio_mcp_session.testing.leaks import handler_of
from trio_mcp_session.transports.http.endpoint import Endpoint
from trio_mcp_session.transports.http.http_app import http_app
from trio_mcp_session.transports.http.http_options import HttpOptions, SlowReader
from trio_mcp_session.transports.http.http_request import HttpRequest

from .exchange import Exchange, authenticate
from .machine import CLOCKS, ENDED_WITHIN, PRINCIPALS, Record, Server
from .model import (
    ASKED,
    BAD_PARAMS,
    CLINGS,
    DONE,
    FAILED,
    INTERNAL,
    LIMITS,
    Caller,
    Chat,
    Job,
    ModernRecord,
    Room,
)
from .modern import (
    ANSWERS,
    HOPELESS,
    IDLE_HANDLE,
    MODERN_CLOCKS,
    OLD_HANDLE,
    QUESTIONS,
    STATE_TIMEOUT,
    TASK_RETENTION,
    TASK_TIMEOUT,
    Call,
    HttpAsker,
    ModernServer,
    PipeAsker,
    virtual_wall_clock,
    watchers,
)
from .test_machine import (
    CONDITIONS,
    ENDINGS,
    PICK,
    Attempt,
    Condition,
    LeakMachine,
    can_call,
    is_connected,
    is_live,
)

PLACE_WITHIN = CLOCKS.admission_budget + 1
"""Seconds after which a session that waits for a place has one, or has been refused."""
NAMES = (*["plain"] * 9, "veto", "created hangs", "hooks crash", "hooks hang")
"""The name of clients whose handlers ask: it marks the sessions of these handlers."""
BAD_BOXES = ("enter crashes", "enter hangs")
BOXES = (*["plain"] * 6, "leave crashes", "leave hangs", "leave refuses", *BAD_BOXES)
TOOLS = ("inquire", "quiz", "quiz", "quiz", "hurry", "cling", "borrow", "borrow")
PULSE = 1
"""How late a clock of a response may expire."""
CHANGES = ("tools", "resources", "a resource")
OF_HANDLERS = (SessionKind.PARKED, SessionKind.TASK)
"""The kinds of sessions that own a handler."""


@attrs.define(eq=False)
class ModernAttempt(Attempt):
    """A client that needs a place for a handler that asks, or for a handle."""

    job: Job = attrs.field(kw_only=True)


@attrs.define(eq=False)
class Listening:
    """A subscription."""

    caller: Caller
    call: Call
    reads: bool
    may_end: bool = False
    """Whether anything was done that ends it."""


def record_of(record: Record | None) -> ModernRecord:
    assert isinstance(record, ModernRecord)
    return record


class ModernLeakMachine(LeakMachine):
    exchanges_outlive_sessions = True
    # What has nothing to do with it would leave it no room.
    shake_hands = hold_context = leave_contexts = subscribe = touch = None  # type: ignore[assignment]
    open_handle = cancel_opener = start_task = lease = end_lease = None  # type: ignore[assignment]
    call_at_once = cancel_call = None  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.chats: list[Chat] = []
        self.listens: list[Listening] = []
        self.abandoned: set[Record | None] = set()
        self.http: list[Caller] = []
        self.crowd: list[Record] = []
        """The sessions that make room for a new session whose client has fewer."""
        self.http_room = Room(LIMITS.max_stateless_requests)

    def new_server(self) -> Server:
        return ModernServer()

    def new_config(self) -> SessionConfig:
        return SessionConfig(
            limits=attrs.evolve(LIMITS, admission=self.policy),
            cleanup=MODERN_CLOCKS,
            wall_clock=virtual_wall_clock,
        )

    @initialize(
        policy=st.sampled_from(AdmissionPolicy),
        ending=st.sampled_from(["leave", "cancel", "raise"]),
        slow_reader=st.sampled_from(SlowReader),
    )
    def begin(
        self,
        policy: AdmissionPolicy,
        ending: str,
        slow_reader: SlowReader = SlowReader.BLOCK,
    ) -> None:
        # The model knows one line for all of HTTP: parties that take turns have tests of their own.
        self.one_party = pytest.MonkeyPatch()
        self.one_party.setattr(HttpRequest, "party", "all")
        super().begin(policy, ending)
        self.options = HttpOptions(keep_alive=6, slow_reader=slow_reader)
        app = http_app(self.manager, authenticate=authenticate, options=self.options)
        self.app = cast("Endpoint", app)
        for principal in PRINCIPALS:
            user = None if principal is None else principal.subject
            asker = HttpAsker(app, self.spawn, user)
            self.http.append(Caller(asker, self.http_room, principal))

    # Clients that connect.

    def callers(self) -> list[Caller]:
        return [*self.http, *(self.caller_of(record) for record in self.live(is_connected))]

    def caller_of(self, record: Record) -> Caller:
        known = record_of(record)
        if known.asker is None:
            known.asker = PipeAsker(known.connection)
        return Caller(known.asker, known.room, known.session._default_principal, known)

    def anybody(self, number: int, *principals: Principal | None) -> Caller:
        """Pick a caller; one of these principals, where there is one."""
        theirs = [one for one in self.callers() if one.principal in principals]
        there = theirs or self.callers()
        return there[number % len(there)]

    def rooms(self) -> Iterator[Room]:
        yield self.http_room
        for record in self.records.values():
            yield record_of(record).room

    def jobs(self, where: Callable[[Job], bool] = lambda _: True) -> list[Job]:
        return [job for room in self.rooms() for job in room.jobs.values() if where(job)]

    def boxes(self) -> list[ModernRecord]:
        """Return the handles that clients know of."""
        return [
            record_of(record)
            for record in self.records.values()
            if record.session.kind is SessionKind.HANDLE and not record.session._is_opening()
        ]

    # The model.

    def new_record(self, session: Session) -> Record:
        record = ModernRecord(session, session._opened_at, session._last_active)
        for other in map(record_of, self.records.values()):
            has_client = isinstance(other.client, Client) and other.session.principal is None
            if has_client and other.session._default_principal == session.principal:
                record.owner = other
        flavour = "" if session.client is None else session.client.client_id
        if session.kind in OF_HANDLERS:
            if flavour == "veto":
                record.cause = R.REQUESTED
            elif flavour == "created hangs":
                record.may_end[R.REQUESTED] = record.opened + CLOCKS.hook_budget
        if session.kind is SessionKind.PARKED:
            record.max_idle = STATE_TIMEOUT
        elif session.kind is SessionKind.TASK:
            record.max_idle, record.max_age = inf, TASK_TIMEOUT + TASK_RETENTION
        elif session.kind is SessionKind.HANDLE:
            record.max_idle, record.max_age = IDLE_HANDLE, OLD_HANDLE
        return record

    def look(self) -> None:
        for session in self.server.asked:
            # It may be out of the table already, and not over all the same.
            if session.kind in OF_HANDLERS and session.session_id not in self.records:
                self.records[session.session_id] = self.adopt(session)
        for session in self.manager.sessions():
            if session.session_id not in self.records:
                self.records[session.session_id] = self.adopt(session)
        self.follow_ends()
        for job in self.jobs():
            if job.call is not None and job.call.over:
                self.finish(job)
        self.follow_others()
        super().look()
        for job in self.jobs():
            assert not job.due, f"{job} is not over"
            assert self.now <= job.latest, f"{job} is not over at {self.now}"

    def follow_ends(self) -> None:
        """Note connections that no longer receive messages, and sessions that end."""
        for record in map(record_of, self.records.values()):
            if (record.ended or record.deaf) and record not in self.abandoned:
                self.abandoned.add(record)
                self.abandon(record)

    def abandon(self, record: ModernRecord) -> None:
        """Let what a session had end with it, perhaps not at once."""
        if record.room.jobs:
            # If it drains, it ends with the last of these, and no client is notified.
            record.excused |= record.draining
        for job in list(record.room.jobs.values()):
            del record.room.jobs[job.name]
            self.give_up(job, record)
        for job in record.line:
            job.hurry(self.now + 2)
        chat = record.chat
        if chat is not None and not chat.over:
            if chat.attached is not None:
                chat.attached.hurry(self.now + 4)
            if chat.box is not None:
                chat.box.let_fade(chat.name, record)

    def give_up(self, job: Job, record: ModernRecord) -> None:
        """Ignore a job from now on: its connection is gone."""
        if job.box is not None:
            job.box.line.remove(job)
            job.box.let_fade(job.name, record)
        chat = job.chat
        if chat is not None:
            if chat.box is not None:  # pragma: no cover  # in some examples only
                chat.box.let_fade(chat.name, record)
            if chat.attached is job:
                held = record_of(chat.record)
                held.let_fade("handler", record)
                held.excused.add(R.CANCELLED)
        self.undo_opening(job)

    def undo_opening(self, job: Job) -> None:
        """Note that a session that is being opened is no longer wanted."""
        for attempt in self.attempts_of(job):
            for record in map(record_of, self.live()):
                same = record.session.principal == attempt.principal
                used = record.chat is not None or bool(record.work)
                if same and record.session.kind is attempt.kind and not used:
                    record.excused.add(R.CANCELLED)

    def newcomer_comes(self, attempt: Attempt, async_fn: Callable[..., Any]) -> None:
        # All clients over HTTP have one address. If those without authentication hold more than the
        # newcomer would, one of theirs makes room.
        there = self.live(lambda one: one.session.kind is attempt.kind)
        mine = [one for one in there if one.session.principal == attempt.principal]
        crowd = [one for one in there if one.session.principal is None]
        others_wait = any(other.result is None for other in self.attempts)
        is_known = attempt.principal is not None and attempt.kind in OF_HANDLERS
        is_less = others_wait or self.things_change or len(crowd) > len(mine) + 1
        self.crowd = crowd if is_known and is_less else []
        super().newcomer_comes(attempt, async_fn)

    def could_make_room(self, record: Record, attempt: Attempt, own_limit: bool) -> bool:
        if self.policy is not AdmissionPolicy.FAIR:
            return super().could_make_room(record, attempt, own_limit)
        is_idle = not record.work and not record.session._is_opening()
        return record in self.crowd and is_idle and not own_limit

    def attempts_of(self, job: Job) -> Iterator[ModernAttempt]:
        for attempt in self.attempts:
            if isinstance(attempt, ModernAttempt) and attempt.job is job and not attempt.result:
                yield attempt

    def follow_others(self) -> None:
        """See what has changed together with something else, or by itself."""
        for chat in self.chats:
            lost = chat.box is not None and chat.box.ended
            if chat.is_parked and not chat.kept and (lost or chat.strikes(self.now)):
                chat.kept = True
                record_of(chat.record).quiet_since = self.now
        for record in map(record_of, self.live()):
            record.see_what_faded(self.now)
            if record.owner is not None and record.owner.session._finished:
                assert record.ended, f"{record.session} outlives its owner"
        for attempt in self.attempts:
            connection = attempt.job.caller.record if isinstance(attempt, ModernAttempt) else None
            if connection in self.abandoned and record_of(connection).is_through:
                attempt.result = attempt.result or TimeoutError()
        self.listens = [one for one in self.listens if not self.has_ended(one)]

    def has_ended(self, one: Listening) -> bool:
        record = one.caller.record
        if record is not None and (record.ended or record.draining):
            return True
        if not one.call.over:
            return False
        ends_slow = self.options.slow_reader is SlowReader.END_STREAM
        assert one.may_end or not one.reads or (one.caller.is_http and ends_slow), one
        return True

    # What comes of requests.

    def finish(self, job: Job) -> None:
        """Take what came of a request."""
        outcome = job.heard.outcome
        assert job.allows(outcome), (job, outcome, job.heard.answer)
        del job.caller.room.jobs[job.name]
        if job.caller.record is not None:
            job.caller.record.leave_off(job.name, self.now)
        if job.withdrawn:
            self.undo_opening(job)
        for attempt in self.attempts_of(job):
            refused = outcome == FAILED and "(limit: " in job.heard.text
            attempt.result = SessionLimitReached(attempt.kind, 0) if refused else McpError(0, "")
        if job.box is not None:
            job.box.line.remove(job)
            job.box.leave_off(job.name, self.now)
        if job.chat is not None:
            self.hear(job.chat, job, outcome)

    def hear(self, chat: Chat, job: Job, outcome: str) -> None:
        """Take what a handler answered, or what it asked."""
        was_attached, chat.attached = chat.attached is job, None
        if outcome == ASKED:
            if was_attached:
                chat.number += 1
            else:
                self.link(chat)
            record = record_of(chat.record)
            chat.missing = QUESTIONS[chat.tool][chat.number]
            self.take_state(chat, job.heard)
            record.leave_off("handler", self.now)
            record.quiet_since = self.now
            return
        chat.over = True
        if was_attached:
            record = record_of(chat.record)
            assert record.ended, "its handler has gone"
            record.leave_off("handler", self.now)
            record.excused.add(R.CANCELLED if job.withdrawn else R.REQUESTED)
        if chat.box is not None:
            chat.box.leave_off(chat.name, self.now)

    def link(self, chat: Chat) -> None:
        """Find the session of the handler that asks."""
        for record in map(record_of, self.records.values()):
            handler = handler_of(record.session)
            if handler is not None and handler.request.params["arguments"] == chat.arguments:
                chat.record, record.chat = record, chat

    def take_state(self, chat: Chat, call: Call) -> None:
        assert chat.hear(call) == ASKED
        assert chat.open == chat.missing
        chat.sealed.append((self.now, chat.round))

    # Invariants.

    def check_work(self, record: Record) -> None:
        if record_of(record).fading:
            assert record.session._busy <= len(record.work)
        elif not record.deaf:
            super().check_work(record)

    @invariant()
    def the_books_of_no_sessions_agree(self) -> None:
        stateless, room = server_of(self.manager).stateless, self.http_room
        assert stateless._busy == len(room.jobs), room.jobs
        assert stateless.running == room.running
        assert len(server_of(self.manager).subscriptions) == len(self.listens)
        running = [exchange for exchange in self.exchanges if exchange.running]
        assert len(self.app.ticker) <= len(running)
        assert len(self.app.stateless_ticker) <= len(running)
        assert watchers(self.manager) <= len(running)
        for one in running:
            late = one.is_stream and self.now - one.blocked_since > CLOCKS.send_timeout + PULSE
            assert not late, (one, "stands still")

    @property
    def exchanges(self) -> list[Exchange]:
        askers = [cast("HttpAsker", caller.asker) for caller in self.http]
        return [exchange for asker in askers for exchange in asker.exchanges]

    async def _assert_no_leaks(self) -> None:
        live = [record.session for record in self.live()]
        known = {record.session for record in self.records.values()} | {*self.server.asked}
        assert_no_leaks(self.manager, live=live, among=known)

    # Calling.

    @rule(principal=st.sampled_from(PRINCIPALS), flavour=st.sampled_from(["plain", "", ""]))
    def arrive(self, principal: Principal | None, flavour: str) -> None:
        """Connect, with or without a handshake."""
        if flavour:
            super().arrive(principal, flavour)
        else:
            self.connect(principal)

    def connect(self, principal: Principal | None) -> None:
        super().connect(principal)  # No rule here.

    @rule(seconds=st.sampled_from([1, 1, 1, 2, 4, 13]))
    def time_passes(self, seconds: int) -> None:
        super().time_passes(seconds)

    def send(self, job: Job, arguments: Mapping[str, Any], **more: Any) -> None:
        """Make a request that is taken, or that is refused because there is no room."""
        caller = job.caller
        if caller.is_refused or not caller.room.takes_another:
            assert self.hear_at_once(caller, job.tool, arguments, **more).outcome == INTERNAL
            return
        self.enter(job)
        self.step(self.make(job, arguments, **more))

    def enter(self, job: Job) -> None:
        job.caller.room.jobs[job.name] = job
        if job.caller.record is not None:
            job.caller.record.begin(job.name, self.now)

    def make(self, job: Job, arguments: Mapping[str, Any], **more: Any) -> Callable[..., Any]:
        async def make_it(*_: object) -> None:
            asker = job.caller.asker
            asker.name = job.flavour
            params = {"name": job.tool, "arguments": arguments, **more}
            job.call = await asker.send("tools/call", params, **job.how)

        return make_it

    def hear_at_once(
        self, caller: Caller, tool: str, arguments: Mapping[str, Any], **more: Any
    ) -> Call:
        """Make a request that is answered at once, and counts for nothing."""
        job = Job(self.new_name(), tool, caller)
        if caller.record is not None and not caller.is_refused:
            caller.record.quiet_since = self.now
        self.step(self.make(job, arguments, **more))
        assert job.heard.over
        return job.heard

    @rule(number=PICK, tool=st.sampled_from(["work", "stubborn", "talk"]), reads=st.booleans())
    def call_modern(self, number: int, tool: str, *, reads: bool) -> None:
        caller = self.anybody(number)
        if tool == "talk" and not caller.is_http:
            tool = "work"
        name = self.new_name()
        self.send(Job(name, tool, caller, reads=reads or tool != "talk"), {"key": name})

    @precondition(lambda self: bool(self.jobs(self.can_go)))
    @rule(number=PICK)
    def let_go(self, number: int) -> None:
        """Resume a handler that waits for the test."""
        there = self.jobs(self.can_go)
        job = there[number % len(there)]
        job.released = True
        if job.chat is None:
            job.expect(DONE, due=True)
        else:
            # In a drain no client could retry with the answer.
            job.expect(FAILED if record_of(job.chat.record).draining else ASKED, due=True)
        self.step(self.server.gate(job.name if job.chat is None else job.chat.name).set)

    def can_go(self, job: Job) -> bool:
        if job.withdrawn or not job.reads or not job.caller.room.runs(job):
            return False
        if job.tool in ("use", "clutch"):
            box = job.box
            return box is not None and box.turn is job and not box.ended
        if job.tool == "quiz":
            chat = job.chat
            return chat is not None and chat.attached is job and not record_of(chat.record).ended
        return job.tool in ("work", "talk")

    @precondition(lambda self: bool(self.jobs(self.can_withdraw)))
    @rule(number=PICK)
    def withdraw(self, number: int) -> None:
        there = self.jobs(self.can_withdraw)
        job = there[number % len(there)]
        job.withdrawn = True
        job.hurry(self.now + 1)  # Over HTTP it is not looked at once whether the client is there.
        self.step(job.heard.withdraw)

    def can_withdraw(self, job: Job) -> bool:
        return not job.withdrawn and job.tool not in CLINGS and job.flavour != "created hangs"

    # Asking.

    @rule(
        number=PICK,
        tool=st.sampled_from(TOOLS),
        flavour=st.sampled_from(NAMES),
    )
    def ask(self, number: int, tool: str, flavour: str) -> None:
        caller = self.anybody(number)
        name, box = self.new_name(), None
        arguments = {"key": name}
        if tool == "borrow":
            free = [one for one in self.boxes() if self.may_use(caller, one) and not one.work]
            if not free:
                return
            box = free[number % len(free)]
            arguments["box"] = box.session.session_id
        if caller.is_refused or caller.room.is_full:
            return
        chat = Chat(tool, arguments, name=name, principal=caller.principal, began=self.now, box=box)
        if box is not None:
            box.begin(name, self.now)
        self.chats.append(chat)
        job = Job(name, tool, caller, {ASKED, FAILED}, chat=chat, flavour=flavour)
        job.hurry(self.now + PLACE_WITHIN)
        if flavour == "created hangs":
            job.expect(INTERNAL)
            job.hurry(self.now + PLACE_WITHIN + CLOCKS.hook_budget)
        self.come_for_a_place(SessionKind.PARKED, job, arguments)

    def come_for_a_place(self, kind: SessionKind, job: Job, arguments: Mapping[str, Any]) -> None:
        self.enter(job)
        attempt = ModernAttempt(kind, job.caller.principal, job=job)
        self.newcomer_comes(attempt, self.make(job, arguments))

    @rule(
        number=PICK,
        who=PICK,
        tool=st.sampled_from(TOOLS),
        own=st.sampled_from([True, True, False]),
        state=st.sampled_from(["latest", "latest", "latest", "old", "forged", "another call's"]),
        answers=st.sampled_from(["all", "all", "some", "none", "bad"]),
    )
    def come_back(
        self, number: int, who: int, tool: str, *, own: bool, state: str, answers: str
    ) -> None:
        if not any(chat.is_parked for chat in self.chats):
            self.ask(number=who, tool=tool, flavour="plain")
        there = [chat for chat in self.chats if chat.sealed]
        if not there:  # pragma: no cover  # in some examples only
            return  # There is no client to ask.
        # Conversations that continue are more interesting than those that are over.
        there.sort(key=lambda chat: not chat.is_parked)
        chat = there[number % len(there)]
        caller = self.anybody(who, chat.principal) if own else self.anybody(who)
        which = 0 if state == "old" else -1
        given = sorted(chat.missing)[: {"some": 1, "none": 0}.get(answers, 2)]
        responses = {key: HOPELESS if answers == "bad" else ANSWERS[key] for key in given}
        text, arguments = chat.states[which], dict(chat.arguments)
        if state == "forged":
            text = text[:-2] + ("A" if text[-2] != "A" else "B") + text[-1]
        elif state == "another call's":
            arguments["key"] += " "
        heard, effect = chat.verdict(
            caller, which, frozenset(given), self.now, bad=answers == "bad"
        )
        if state in ("forged", "another call's"):
            heard, effect = BAD_PARAMS, "nothing"
        # A retry that cannot resume its handler is answered at once, also where the room is full.
        if caller.is_refused:
            heard, effect = INTERNAL, "nothing"
        more = {"requestState": text, "inputResponses": {**responses, "nonsense": []}}
        if effect == "goes on":
            self.go_on(chat, caller, more)
            return
        if effect == "delivered":
            chat.over = True
            record_of(chat.record).cause = R.REQUESTED
        elif effect == "news":
            chat.missing -= set(given)
            chat.round += 1
            record_of(chat.record).quiet_since = self.now
        call = self.hear_at_once(caller, chat.tool, arguments, **more)
        assert call.outcome == heard, (call.answer, heard, effect)
        if heard == ASKED:
            self.take_state(chat, call)

    def go_on(self, chat: Chat, caller: Caller, more: Mapping[str, Any]) -> None:
        """Let a handler work for a client that has retried."""
        job = Job(self.new_name(), chat.tool, caller, chat=chat)
        if not chat.asks_again:
            job.expect(DONE, due=True)
        chat.attached, chat.missing = job, frozenset()
        chat.round += 1
        record_of(chat.record).begin("handler", self.now)
        self.send(job, chat.arguments, **more)

    @precondition(lambda self: bool(self.racers()))
    @rule(number=PICK, times=st.integers(2, 4))
    def race(self, number: int, times: int) -> None:
        """Retry several times in one moment: one of the retries resumes the handler."""
        there = self.racers()
        chat, callers = there[number % len(there)]
        jobs = [
            Job(self.new_name(), chat.tool, callers[one % len(callers)]) for one in range(times)
        ]
        responses = {key: ANSWERS[key] for key in chat.missing}
        more = {"requestState": chat.states[-1], "inputResponses": responses}

        async def run() -> None:
            for job in jobs:
                await self.make(job, chat.arguments, **more)()

        chat.over = True
        record_of(chat.record).cause = R.REQUESTED
        for caller in callers:
            if caller.record is not None:  # pragma: no cover  # in some examples only
                caller.record.quiet_since = self.now
        if chat.box is not None:  # pragma: no cover  # in some examples only
            chat.box.finish(chat.name, self.now)
        self.step(run)
        outcomes = [job.heard.outcome for job in jobs]
        assert outcomes.count(DONE) == 1, outcomes
        assert set(outcomes) <= {DONE, BAD_PARAMS, FAILED}, outcomes

    def racers(self) -> list[tuple[Chat, list[Caller]]]:
        """Return the conversations that may end now, and the callers that may end them."""
        found = []
        for chat in self.chats:
            if chat.is_parked and chat.sealed and not chat.kept and not chat.asks_again:
                callers = [
                    one
                    for one in self.callers()
                    if one.principal == chat.principal
                    and not one.is_refused
                    and not one.room.is_full
                ]
                if callers and self.now < chat.sealed[-1][0] + STATE_TIMEOUT:
                    found.append((chat, callers))
        return found

    # Handles.

    def may_use(self, caller: Caller, box: ModernRecord) -> bool:
        return not box.ended and caller.principal == box.session.principal

    @rule(number=PICK, flavour=st.sampled_from(BOXES))
    def open_box(self, number: int, flavour: str) -> None:
        caller = self.anybody(number)
        if caller.is_refused or caller.room.is_full:
            return
        job = Job(self.new_name(), "open", caller, {DONE, FAILED})
        job.hurry(self.now + PLACE_WITHIN)
        if flavour in BAD_BOXES:
            job.expected = {INTERNAL, FAILED}
        if flavour == "enter hangs":
            job.latest = inf
        self.come_for_a_place(SessionKind.HANDLE, job, {"flavour": flavour})

    @rule(
        number=PICK,
        who=PICK,
        own=st.sampled_from([True, True, False]),
        tool=st.sampled_from(["use", "use", "clutch", "close"]),
    )
    def use_box(self, number: int, who: int, *, own: bool, tool: str) -> None:
        if not any(not box.ended for box in self.boxes()):
            self.open_box(number=who, flavour="plain")
        if not self.boxes():  # pragma: no cover  # in some examples only
            return  # There is no client to open one.
        box, caller = self.box_and_caller(number, who, own=own)
        if caller.is_refused or caller.room.is_full:
            return
        job = Job(self.new_name(), tool, caller)
        if not self.may_use(caller, box):
            job.expect(DONE if tool == "close" else FAILED, due=True)
        elif tool == "close":
            box.cause = R.REQUESTED
            job.expect(DONE)
            job.hurry(self.now + ENDED_WITHIN)
        else:
            job.box = box
            box.line.append(job)
            box.begin(job.name, self.now)
        arguments = {"box": box.session.session_id, "key": job.name}
        if tool == "close":
            del arguments["key"]
        self.send(job, arguments)

    def box_and_caller(self, number: int, who: int, *, own: bool) -> tuple[ModernRecord, Caller]:
        there = self.boxes()
        there.sort(key=lambda box: box.ended)
        box = there[number % len(there)]
        return box, self.anybody(who, box.session.principal) if own else self.anybody(who)

    # Subscriptions.

    @rule(number=PICK, what=st.sampled_from(["begin", "begin", "begin deaf", "end", *CHANGES]))
    def subscriptions(self, number: int, what: str) -> None:
        if what in CHANGES:
            self.notify(what)
        elif what != "end":
            self.listen(number, reads=what == "begin")
        elif self.listening():
            there = self.listening()
            one = there[number % len(there)]
            one.may_end = True
            self.step(one.call.withdraw)

    def listening(self) -> list[Listening]:
        return [one for one in self.listens if not one.caller.is_deaf]

    def listen(self, number: int, *, reads: bool) -> None:
        caller = self.anybody(number)
        how: dict[str, Any] = {} if reads or not caller.is_http else {"reads": False}
        calls: list[Call] = []

        async def listen_to_it() -> None:
            calls.append(await caller.asker.listen(**how))

        mine = [one for one in self.listens if one.caller.principal == caller.principal]
        full = len(self.listens) >= LIMITS.max_listens or (
            caller.principal is not None and len(mine) >= LIMITS.max_listens_per_principal
        )
        if caller.record is not None and not caller.is_refused:
            caller.record.quiet_since = self.now
        self.step(listen_to_it)
        if caller.is_refused or full:
            assert how or calls[0].outcome == INTERNAL
        else:
            self.listens.append(Listening(caller, calls[0], reads=not how))

    def notify(self, what: Any) -> None:
        for record in self.live(lambda record: isinstance(record.client, Client)):
            if record.connection.closed:
                record_of(record).excused.add(R.TRANSPORT_FAILED)
        if what == "a resource":
            self.step(self.manager.notify_resource_updated, "file:///a")
        else:
            self.step(self.manager.notify_list_changed, what)

    # Ending.

    def revoke(self, record: Record) -> None:
        principal = record.session.principal
        theirs = [job for job in self.http_room.jobs.values() if job.caller.principal == principal]
        if theirs:  # pragma: no cover  # in some examples only
            return  # `tests/server/test_revoke.py` is about requests that it cuts off.
        self.listens = [one for one in self.listens if one.caller.principal != principal]
        super().revoke(record)

    def drop(self, record: Record) -> None:
        # What is answered meanwhile reaches no client, also the end of a subscription.
        record_of(record).excused.add(R.TRANSPORT_FAILED)
        if any(one.caller.record is record for one in self.listens):
            record.drains(self.now, CLOCKS.eof_grace, R.CLIENT_CLOSED, R.TRANSPORT_FAILED)
        super().drop(record)

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            self.one_party.undo()

    def check_the_end(self) -> None:
        super().check_the_end()
        assert not len(server_of(self.manager).subscriptions)
        running = [one for one in self.exchanges if one.running]
        for one in running:
            assert not one.reads, one  # What no client reads is left to the server by now.
            self.guest.run(self._let_leave, one)
        assert not any(one.running for one in running)
        assert not len(self.app.ticker)
        assert not len(self.app.stateless_ticker)
        assert isinstance(self.server, ModernServer)
        assert not self.server.held

    async def _let_leave(self, exchange: Exchange) -> None:
        exchange.leave()


TestModernLeakMachine = ModernLeakMachine.TestCase
TestModernLeakMachine.settings = settings(max_examples=60, stateful_step_count=50)


def begun(**how: Any) -> ModernLeakMachine:
    machine = ModernLeakMachine()
    machine.begin(**{"policy": AdmissionPolicy.REJECT, "ending": "leave", **how})
    return machine


def check(machine: ModernLeakMachine) -> None:
    machine.books_agree()
    machine.nothing_is_left()
    machine.the_books_of_no_sessions_agree()


ANN = PRINCIPALS[1]
HTTP_ANN, PIPE = 1, 3
"""The caller that a rule picks by these numbers, where there is one connection."""


def number_of(machine: ModernLeakMachine, record: Record, condition: Condition) -> int:
    """By which number the rule about ends picks a session."""
    return machine.live(condition).index(record)


@pytest.mark.parametrize("principal", [None, ANN])
@pytest.mark.parametrize("how", ENDINGS)
@pytest.mark.parametrize("what", ["waits", "works", "is used", "is lent", "connection"])
def test_each_way_to_end_parked_handlers_and_handles_leaves_nothing(
    what: str, how: str, principal: Principal | None
) -> None:
    machine = begun(policy=AdmissionPolicy.EVICT_IDLE)
    try:
        machine.arrive(principal=principal, flavour="plain")
        machine.subscriptions(number=PIPE, what="begin")
        if what in ("waits", "works", "connection"):
            machine.ask(number=PIPE, tool="quiz", flavour="plain")
        if what in ("works", "connection"):
            machine.come_back(
                number=0, who=PIPE, tool="quiz", own=True, state="latest", answers="all"
            )
        if what != "works":
            machine.open_box(number=PIPE, flavour="plain")
        if what == "is lent":
            machine.ask(number=PIPE, tool="borrow", flavour="plain")
        if what == "is used":
            for tool in ("clutch", "use"):
                machine.use_box(number=0, who=PIPE, own=True, tool=tool)
        check(machine)
        kind = {
            "waits": SessionKind.PARKED,
            "works": SessionKind.PARKED,
            "connection": SessionKind.CONNECTION,
        }.get(what, SessionKind.HANDLE)
        condition = CONDITIONS.get(how, is_live)
        for record in machine.live(condition):
            if record.session.kind is kind:
                machine.end(number=number_of(machine, record, condition), how=how)
        check(machine)
        machine.time_passes(seconds=1)
        check(machine)
        machine.come_back(
            number=0, who=HTTP_ANN, tool="inquire", own=True, state="latest", answers="all"
        )
        check(machine)
        machine.time_passes(seconds=13)
        check(machine)
    finally:
        machine.teardown()


@pytest.mark.parametrize("state", ["latest", "old", "forged", "another call's"])
@pytest.mark.parametrize("answers", ["all", "some", "none", "bad"])
@pytest.mark.parametrize("tool", ["inquire", "quiz", "hurry", "cling", "borrow"])
def test_each_kind_of_retry_leaves_nothing(tool: str, answers: str, state: str) -> None:
    machine = begun()
    try:
        machine.arrive(principal=ANN, flavour="")
        machine.open_box(number=HTTP_ANN, flavour="plain")
        machine.ask(number=HTTP_ANN, tool=tool, flavour="plain")
        for who, seconds in ((0, 0), (PIPE, 1), (HTTP_ANN, 0), (PIPE, 4), (PIPE, 4), (PIPE, 0)):
            machine.time_passes(seconds=seconds)
            machine.come_back(
                number=0, who=who, tool=tool, own=bool(who), state=state, answers=answers
            )
            check(machine)
            if machine.jobs(machine.can_go):
                machine.let_go(number=0)
                check(machine)
        machine.come_back(number=0, who=0, tool=tool, own=True, state="latest", answers="all")
        check(machine)
    finally:
        machine.teardown()


@pytest.mark.parametrize("flavour", sorted(set(NAMES)))
@pytest.mark.parametrize("how", ["pipe", "http"])
def test_each_handler_with_something_special(how: str, flavour: str) -> None:
    machine = begun(policy=AdmissionPolicy.REPLACE_OWN)
    try:
        machine.arrive(principal=ANN, flavour="")
        who = PIPE if how == "pipe" else HTTP_ANN
        for tool in ("quiz", "inquire", "cling", "quiz", "quiz"):
            machine.ask(number=who, tool=tool, flavour=flavour)
            check(machine)
            machine.time_passes(seconds=1)
            check(machine)
        machine.race(number=0, times=3) if machine.racers() else None
        machine.come_back(number=0, who=who, tool="quiz", own=True, state="latest", answers="all")
        for _ in range(3):
            machine.time_passes(seconds=1)
            check(machine)
        for _ in machine.jobs(machine.can_withdraw):
            machine.withdraw(number=0)
            check(machine)
        machine.time_passes(seconds=13)
        check(machine)
    finally:
        machine.teardown()


@pytest.mark.parametrize("flavour", sorted(set(BOXES)))
@pytest.mark.parametrize("how", ["pipe", "http"])
def test_each_flavour_of_handle_leaves_nothing(how: str, flavour: str) -> None:
    machine = begun(policy=AdmissionPolicy.REPLACE_OWN)
    try:
        machine.arrive(principal=ANN, flavour="")
        who = PIPE if how == "pipe" else HTTP_ANN
        machine.open_box(number=who, flavour=flavour)
        for tool in ("use", "clutch"):
            machine.use_box(number=0, who=who, own=True, tool=tool)
            machine.use_box(number=0, who=0, own=False, tool=tool)
            check(machine)
        machine.use_box(number=0, who=0, own=False, tool="close")
        while machine.jobs(machine.can_go):
            machine.let_go(number=0)
            check(machine)
        for _ in range(3):
            machine.open_box(number=who, flavour=flavour)
            check(machine)
            machine.time_passes(seconds=1)
            check(machine)
        machine.use_box(number=0, who=HTTP_ANN, own=True, tool="close")
        for _ in machine.jobs(machine.can_withdraw):
            machine.withdraw(number=0)
        machine.time_passes(seconds=13)
        check(machine)
    finally:
        machine.teardown()


@pytest.mark.parametrize("slow_reader", SlowReader)
@pytest.mark.parametrize("ending", ["leave", "cancel", "raise"])
def test_subscriptions_leave_nothing_when_they_end(ending: str, slow_reader: SlowReader) -> None:
    machine = begun(ending=ending, slow_reader=slow_reader)
    try:
        for principal in (ANN, None):
            machine.arrive(principal=principal, flavour="plain")
        for number in (0, HTTP_ANN, PIPE, 0, 0):
            machine.subscriptions(number=number, what="begin")
            check(machine)
        for what in CHANGES:
            machine.subscriptions(number=0, what=what)
            check(machine)
        machine.subscriptions(number=2, what="end")
        machine.subscriptions(number=0, what="end")
        machine.subscriptions(number=0, what="begin deaf")
        for what in (*CHANGES, "begin"):
            machine.subscriptions(number=4, what=what)
            machine.time_passes(seconds=2)
            check(machine)
        machine.end(number=0, how="revoke")
        machine.subscriptions(number=0, what="begin")
        for _ in range(8):
            machine.subscriptions(number=0, what="end")
        machine.arrive(principal=None, flavour="plain")
        for record in machine.live(can_call):
            machine.call(number=0, tool="work", times=1)
            machine.end(number=0, how="drop")
            machine.subscriptions(number=0, what="tools")
            check(machine)
            assert not record.live
    finally:
        machine.teardown()


@pytest.mark.parametrize("how", ["drop", "break_transport", "stop_reading", "end_of_stream"])
def test_a_connection_ends_while_its_handler_is_let_in(how: str) -> None:
    machine = begun()
    try:
        machine.arrive(principal=ANN, flavour="")
        machine.ask(number=PIPE, tool="quiz", flavour="created hangs")
        machine.open_box(number=PIPE, flavour="enter hangs")
        check(machine)
        machine.end(number=0, how=how)
        for _ in range(4):
            check(machine)
            machine.time_passes(seconds=2)
        check(machine)
    finally:
        machine.teardown()


def test_no_race_starts_for_a_request_that_is_too_late() -> None:
    machine = begun()
    try:
        machine.ask(number=HTTP_ANN, tool="inquire", flavour="plain")
        assert machine.racers()
        for _ in range(3):
            machine.call_modern(number=0, tool="work", reads=True)
        assert not machine.racers()
        machine.time_passes(seconds=8)
        check(machine)
        machine.come_back(number=0, who=0, tool="quiz", own=True, state="latest", answers="all")
        machine.come_back(
            number=0, who=HTTP_ANN, tool="quiz", own=True, state="latest", answers="all"
        )
        check(machine)
    finally:
        machine.teardown()


def test_calls_wait_for_each_other() -> None:
    machine = begun()
    try:
        machine.arrive(principal=ANN, flavour="plain")
        for number in (0, PIPE):
            for tool in ("talk", "stubborn", "work", "work", "work", "work"):
                machine.call_modern(number=number, tool=tool, reads=True)
                machine.ask(number=number, tool="inquire", flavour="plain")
                machine.open_box(number=number, flavour="plain")
                machine.use_box(number=0, who=number, own=False, tool="use")
                check(machine)
            machine.call(number=0, tool="work", times=3)
        machine.come_back(number=0, who=0, tool="quiz", own=False, state="latest", answers="all")
        for _ in range(3):
            machine.let_go(number=0)
            machine.withdraw(number=0)
            check(machine)
        machine.call_modern(number=0, tool="talk", reads=False)
        machine.time_passes(seconds=5)
        check(machine)
        machine.end(number=0, how="drain_session")
        machine.call_modern(number=PIPE, tool="work", reads=True)
        machine.subscriptions(number=PIPE, what="begin")
        machine.ask(number=PIPE, tool="inquire", flavour="plain")
        machine.open_box(number=PIPE, flavour="plain")
        check(machine)
        machine.time_passes(seconds=2)
        check(machine)
    finally:
        machine.teardown()
