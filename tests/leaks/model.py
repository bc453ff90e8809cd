"""What the machine of 2026-07-28 knows of calls, of handlers that wait, and of handles."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import inf
from typing import Any

import attrs

from trio_mcp_session import Principal, SessionKind, TerminationReason as R
from trio_mcp_session.server.client_connection import client_of

from .machine import LIMITS as BASE_LIMITS, Record
from .modern import (
    HURRY,
    QUESTIONS,
    STATE_TIMEOUT,
    TASK_RESULT,
    Asker,
    Call,
    Conversation,
    HttpAsker,
)

LIMITS = attrs.evolve(
    BASE_LIMITS,
    max_sessions_of={SessionKind.HANDLE: 3, SessionKind.PARKED: 3, SessionKind.TASK: 3},
    max_tasks_per_principal=2,
    max_task_result=TASK_RESULT,
    max_stateless_requests=3,
    max_listens=4,
    max_listens_per_principal=2,
)
CLINGS = frozenset({"stubborn", "cling", "clutch"})
"""Tools that take their time to end."""

ASKED, DONE, FAILED, TASK = "asked", "done", "failed", "task"
BAD_PARAMS, INTERNAL = "-32602", "-32603"


@attrs.define(eq=False)
class Room:
    """Where requests run, and where they wait: beside a connection, or all those over HTTP."""

    limit: int
    jobs: dict[str, Job] = attrs.field(factory=dict, init=False)
    """What is there, the oldest first."""

    @property
    def running(self) -> int:
        return min(len(self.jobs), self.limit)

    @property
    def queued(self) -> int:
        return len(self.jobs) - self.running

    @property
    def is_full(self) -> bool:
        return len(self.jobs) >= self.limit

    @property
    def takes_another(self) -> bool:
        return len(self.jobs) < self.limit + LIMITS.max_queued

    def runs(self, job: Job) -> bool:
        """Whether it has a place, and does not wait for one."""
        return job in list(self.jobs.values())[: self.limit]


@attrs.define(eq=False)
class ModernRecord(Record):
    """What the machine knows of one session, of whatever kind."""

    asker: Asker | None = None
    """Its client, as one that knows no sessions."""
    room: Room = attrs.field(factory=lambda: Room(LIMITS.max_in_flight))
    owner: ModernRecord | None = None
    """The connection that is its principal: when that ends, it does."""
    chat: Chat | None = None
    """The conversation that its handler is in."""
    line: list[Job] = attrs.field(factory=list)
    """The tasks that use the handle, and those that wait for a turn."""
    fading: dict[str, ModernRecord] = attrs.field(factory=dict)
    """What of its work ends together with another session, which takes its time."""
    excused: set[R] = attrs.field(factory=set)
    """Reasons for which it may end from now on."""

    @property
    def in_flight(self) -> int:
        return super().in_flight + self.room.running

    @property
    def queued(self) -> int:
        return super().queued + self.room.queued

    @property
    def ended(self) -> bool:
        """Whether it has been told to end, in fact."""
        return self.session.termination_reason is not None

    @property
    def turn(self) -> Job | None:
        """The task whose turn it is; None where a task outside of the queue has the handle."""
        names = [job.name for job in self.line]
        return self.line[0] if self.line and self.work == set(names) else None

    @property
    def is_through(self) -> bool:
        """Whether nothing runs of what it had beside itself."""
        connection = self.session._connection
        gates = [] if connection is None else client_of(self.session)._queues()
        return not self.session._borrowers and not any(one._active or one._workers for one in gates)

    def excuses(self, now: float) -> Collection[R]:
        reasons = set(self.excused)
        if self.owner is not None and self.owner.ended:
            assert self.owner.session.termination_reason is not None
            reasons.add(self.owner.session.termination_reason)
        return reasons

    def leave_off(self, name: str, now: float) -> None:
        """Let some work be over, unless it ends together with something else."""
        if name not in self.work or name in self.fading:
            return
        if self.ended:
            self.work.discard(name)
        else:
            self.finish(name, now)
        if not self.work:
            self.excused |= self.draining

    def let_fade(self, name: str, other: ModernRecord) -> None:
        """Let some work end when another session is through."""
        self.fading[name] = other

    def see_what_faded(self, now: float) -> None:
        for name, other in list(self.fading.items()):
            if other.is_through:
                del self.fading[name]
                self.leave_off(name, now)
                self.quiet_since = self.session._last_active


@attrs.define(eq=False)
class Caller:
    """A client that may call."""

    asker: Asker
    room: Room
    principal: Principal | None
    record: ModernRecord | None = None
    """Its connection; None over HTTP."""

    @property
    def is_deaf(self) -> bool:
        """Whether it receives nothing, or not for long."""
        return self.record is not None and (self.record.deaf or self.record.ended)

    @property
    def is_refused(self) -> bool:
        """Whether its requests are refused from now on."""
        return self.record is not None and (bool(self.record.draining) or self.record.ended)

    @property
    def is_http(self) -> bool:
        return isinstance(self.asker, HttpAsker)


@attrs.define(eq=False, repr=False)
class Job:
    """A request in flight."""

    name: str
    tool: str
    caller: Caller
    expected: set[str] = attrs.field(factory=set)
    """What may come of it, as things are."""
    due: bool = False
    """Whether that has to come now."""
    latest: float = inf
    """When it has to have come."""
    chat: Chat | None = None
    """The conversation that it is a part of."""
    box: ModernRecord | None = None
    """The handle that it uses."""
    flavour: str = "plain"
    reads: bool = True
    released: bool = attrs.field(default=False, init=False)
    withdrawn: bool = attrs.field(default=False, init=False)
    call: Call | None = attrs.field(default=None, init=False)

    def __repr__(self) -> str:  # pragma: no cover  # when it fails
        return f"<Job {self.name!r} ({self.tool}): {sorted(self.expected)}>"

    @property
    def how(self) -> Mapping[str, Any]:
        """How its client makes it."""
        return {} if self.reads else {"reads": False}

    @property
    def heard(self) -> Call:
        """What its client receives for it."""
        assert self.call is not None
        return self.call

    def expect(self, *outcomes: str, due: bool = False) -> None:
        self.expected.update(outcomes)
        self.due = due

    def allows(self, outcome: str) -> bool:
        """Return whether this may have come of it."""
        if self.withdrawn or not self.reads:
            return True
        handler = None if self.chat is None else self.chat.record
        if handler is not None and handler.ended:
            return True
        if self.box is not None and self.box.ended and outcome == FAILED:
            return True
        return outcome in self.expected

    def hurry(self, latest: float) -> None:
        self.latest = min(self.latest, latest)


@attrs.define(eq=False)
class Chat(Conversation):
    """A conversation, and what both sides of it should be thinking."""

    name: str = attrs.field(kw_only=True)
    principal: Principal | None = attrs.field(kw_only=True)
    began: float = attrs.field(kw_only=True)
    record: ModernRecord | None = None
    """The session of its handler."""
    box: ModernRecord | None = None
    """The handle that its handler holds."""
    attached: Job | None = None
    """The request that its handler works for again; None while it waits."""
    number: int = 0
    """Which of its tool's questions it is at."""
    missing: frozenset[str] = frozenset()
    round: int = 0
    sealed: list[tuple[float, int]] = attrs.field(factory=list)
    """For each of the states that the client was given: when, and in which round."""
    kept: bool = False
    """Whether the handler has ended without a client."""
    over: bool = False

    @property
    def is_parked(self) -> bool:
        return (
            self.record is not None
            and not self.record.ended
            and self.attached is None
            and not self.over
        )

    @property
    def asks_again(self) -> bool:
        """Whether there is another question behind this one."""
        return self.number + 1 < len(QUESTIONS[self.tool])

    def strikes(self, now: float) -> bool:
        """Whether its handler gives up about now."""
        return self.tool == "hurry" and not self.kept and now >= self.began + HURRY

    def verdict(
        self, caller: Caller, which: int, given: frozenset[str], now: float, *, bad: bool
    ) -> tuple[str, str]:
        """Return what a client receives for a retry, and note what happens.

        Args:
            caller: The client that retries.
            which: Which of the states it brings.
            given: What it answers.
            now: The time.
            bad: Whether its answers are none.
        """
        sealed, number = self.sealed[which]
        if caller.principal != self.principal or now >= sealed + STATE_TIMEOUT:
            return BAD_PARAMS, "nothing"
        assert self.record is not None
        if self.record.ended:
            return FAILED, "nothing"
        if number != self.round:
            return BAD_PARAMS, "nothing"
        if self.kept:
            return (FAILED if self.box is not None else DONE), "delivered"
        news = self.missing & given
        if news and bad:
            return BAD_PARAMS, "nothing"
        if self.missing - given:
            return ASKED, "news" if news else "nothing"
        if caller.room.is_full:
            return INTERNAL, "nothing"
        return (ASKED if self.asks_again else DONE), "goes on"
