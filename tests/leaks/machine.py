"""What the leak machine serves, and what it knows of each session without asking it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
)
from functools import partial
from math import inf
from typing import Any, Protocol

import attrs
import trio

from trio_mcp_session import (
    AdmissionPolicy,
    CleanupConfig,
    Principal,
    RequestContext,
    Router,
    Session,
    SessionConfig,
    SessionHooks,
    SessionId,
    SessionKind,
    SessionLimits,
    TerminationReason,
)
from trio_mcp_session.server.client_connection import client_of
from trio_mcp_session.testing import (
    Client,
    FaultyChannel,
    FaultyContext,
    crash,
    hang,
    refuse_cancellation,
)

R = TerminationReason

PRINCIPALS = (None, Principal("ann"), Principal("bob"))

FLAVOURS = (
    "plain",
    "enter crashes",
    "enter hangs",
    "leave crashes",
    "leave hangs",
    "leave refuses",
    "background",
    "holds and crashes",
    "veto",
    "created hangs",
    "hooks crash",
    "hooks hang",
)
"""What is special about a session: its client's name says it to the lifespan and the hooks."""

LIMITS = SessionLimits(
    max_sessions=4,
    max_sessions_of={SessionKind.HANDLE: 3},
    max_sessions_per_principal=2,
    max_in_flight=2,
    max_queued=2,
    max_output=64,
)
CLOCKS = CleanupConfig(
    handshake_timeout=10,
    idle_after=3,
    max_idle_time=12,
    connection_handshake_timeout=10,
    connection_idle_time=12,
    max_session_time=40,
    lifetime_notice=5,
    cleanup_interval=1,
    question_timeout=inf,
    send_timeout=3,
    eof_grace=0.25,
    flush_budget=0.5,
    cleanup_budget=2,
    hook_budget=1,
    admission_budget=1.5,
    drain_grace=2,
)
ENDED_WITHIN = 12.0
"""More than all budgets, and all that the flavours take, together."""


def config(policy: AdmissionPolicy) -> SessionConfig:
    return SessionConfig(limits=attrs.evolve(LIMITS, admission=policy), cleanup=CLOCKS)


@attrs.define(eq=False)
class Server:
    """A server whose handlers, lifespans and hooks do what tests tell them."""

    gates: dict[str, trio.Event] = attrs.field(factory=dict)
    """What handlers and tasks wait for, by name."""
    asked: list[Session] = attrs.field(factory=list)
    """All for which the hook was asked."""
    created: list[SessionId] = attrs.field(factory=list)
    told: list[tuple[SessionId, TerminationReason]] = attrs.field(factory=list)
    contexts: list[FaultyContext] = attrs.field(factory=list)
    """Lifespans and held contexts; whatever was entered has to be left."""

    def gate(self, name: str) -> trio.Event:
        return self.gates.setdefault(name, trio.Event())

    def context(self, flavour: str) -> FaultyContext:
        error = ValueError(flavour)
        context = {
            "enter crashes": lambda: FaultyContext(enter=partial(crash, error)),
            "enter hangs": lambda: FaultyContext(enter=hang),
            "leave crashes": lambda: FaultyContext(leave=partial(crash, error)),
            "leave hangs": lambda: FaultyContext(leave=hang),
            "leave refuses": lambda: FaultyContext(leave=partial(refuse_cancellation, 4)),
        }.get(flavour, FaultyContext)()
        self.contexts.append(context)
        return context

    def lifespan(self, session: Session) -> AbstractAsyncContextManager[None]:
        assert session.client is not None
        flavour = session.client.client_id
        if flavour == "background":
            return self._with_background(session)
        if flavour == "holds and crashes":
            return self._holds_and_crashes(session)
        return self.context(flavour)

    @asynccontextmanager
    async def _with_background(self, session: Session) -> AsyncIterator[None]:
        async def background() -> None:
            await self.gate(f"background {session.session_id}").wait()
            raise ValueError("in the background of a lifespan")

        async with trio.open_nursery() as nursery, self.context("leave refuses"):
            nursery.start_soon(background)
            yield
            nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def _holds_and_crashes(self, session: Session) -> AsyncIterator[None]:
        await session.enter_async_context(self.context("plain"))
        session.start_soon(hang)
        if session.client is not None:
            raise ValueError("after a context was entered and a task was started")
        yield  # pragma: no cover  # never gets here, but without it there is no generator

    def hooks(self) -> SessionHooks:
        async def on_created(session: Session) -> None:
            assert session.client is not None
            self.asked.append(session)
            if session.client.client_id == "veto":
                await session.enter_async_context(self.context("plain"))
                raise ValueError("veto")
            if session.client.client_id == "created hangs":
                await hang()
            self.created.append(session.session_id)

        async def on_terminated(session: Session, reason: TerminationReason) -> None:
            # A session whose creation was refused by this hook is none for it.
            self.told.append((session.session_id, reason))
            await on_anything(session)

        async def on_anything(session: Session, *_: object) -> None:
            flavour = "" if session.client is None else session.client.client_id
            if flavour == "hooks crash":
                raise ValueError("hook")
            if flavour == "hooks hang":
                await hang()

        return SessionHooks(
            on_session_created=on_created,
            on_session_terminated=on_terminated,
            on_state_changed=on_anything,
            on_error=on_anything,
        )

    def new_router(self) -> Router:
        return Router("leaks", lifespan=self.lifespan)

    def router(self) -> Router:
        router = self.new_router()

        @router.tool()
        async def work(ctx: RequestContext, key: str) -> str:
            await self.gate(key).wait()
            return key

        @router.tool()
        async def stubborn(ctx: RequestContext, key: str = "") -> str:
            try:
                await hang()
            finally:
                await refuse_cancellation(0.5)  # noqa: ASYNC102  # what it is about

        @router.tool()
        async def fail(ctx: RequestContext) -> str:
            raise ValueError("handler")

        @router.tool()
        async def ask(ctx: RequestContext, key: str) -> str:
            return (await ctx.elicit("?", {"key": key})).action

        @router.tool()
        async def talk(ctx: RequestContext, key: str) -> str:
            async def chat() -> None:
                while True:
                    await ctx.notify("notifications/message", {"level": "info", "data": key})
                    await trio.sleep(1)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(chat)
                await self.gate(key).wait()
                nursery.cancel_scope.cancel()
            return key

        @router.tool()
        async def poll(ctx: RequestContext, key: str) -> str:
            ctx.close_stream(retry=1)
            await self.gate(key).wait()
            return key

        @router.tool()
        async def end(ctx: RequestContext) -> str:
            ctx.session.terminate()
            return "my last words"

        return router


class Pending(Protocol):
    """A request in flight, as its client sees it."""

    @property
    def id(self) -> Any: ...

    def cancel(self) -> None: ...


class Speaker(Protocol):
    """A session's client, by whatever transport."""

    async def start_request(
        self, method: str, params: Mapping[str, Any] | None = None
    ) -> Pending: ...


@attrs.define(eq=False)
class Record:
    """What the machine knows of one session."""

    session: Session
    opened: float
    quiet_since: float
    client: Speaker | None = None
    established: bool = False
    """Its clock is the idle clock, and no longer the handshake's."""
    work: set[str] = attrs.field(factory=set)
    """Names of what keeps it busy: requests, tasks, leases."""
    requests: dict[str, Pending] = attrs.field(factory=dict)
    """Those of them that are requests, oldest first."""
    leases: dict[str, AbstractContextManager[None]] = attrs.field(factory=dict)
    background: trio.Event | None = None
    """Lets a task of its lifespan crash."""
    draining: frozenset[TerminationReason] = frozenset()
    """It ends for one of these as soon as it is not busy."""
    deaf: bool = False
    """Its client does not read, or is gone: nothing can be asked over it."""
    may_end: dict[TerminationReason, float] = attrs.field(factory=dict)
    """When it ends for which reason, as far as rules have caused it."""
    cause: TerminationReason | None = None
    """The reason for which it has to have ended."""
    noted: float | None = None
    """When the machine saw that it had ended."""
    max_idle: float = CLOCKS.max_idle_time
    max_age: float = CLOCKS.max_session_time

    @property
    def live(self) -> bool:
        return self.noted is None

    @property
    def connection(self) -> Client[FaultyChannel]:
        """Its client, where that has a connection of its own."""
        assert isinstance(self.client, Client)
        return self.client

    @property
    def opening(self) -> bool:
        """Whether its ``initialize`` is not answered yet: a request like others."""
        has_client = self.session._connection is not None
        return has_client and client_of(self.session).pending is not None

    def due(self) -> dict[TerminationReason, float]:
        """When it will end for which reason, as things are."""
        due = {R.LIFETIME: self.opened + self.max_age, **self.may_end}
        if not self.established and self.client is not None:
            due[R.HANDSHAKE_TIMEOUT] = self.opened + CLOCKS.handshake_timeout
        elif not self.work:
            due[R.IDLE] = self.quiet_since + self.max_idle
        return due

    @property
    def in_flight(self) -> int:
        """How many requests run."""
        return min(len(self.requests), LIMITS.max_in_flight)

    @property
    def queued(self) -> int:
        """How many requests wait for one of those."""
        return len(self.requests) - min(len(self.requests), LIMITS.max_in_flight)

    def excuses(self, now: float) -> Collection[TerminationReason]:
        """For which reasons it may have ended by now, though it need not."""
        return ()

    def begin(self, name: str, now: float) -> None:
        self.work.add(name)
        self.quiet_since = now

    def finish(self, name: str, now: float) -> None:
        self.work.discard(name)
        self.requests.pop(name, None)
        self.quiet_since = now
        if R.TRANSPORT_FAILED in self.draining:
            self.may_end[R.TRANSPORT_FAILED] = now  # The answer reaches no client.
        if self.draining and not self.work and not self.opening:
            self.ends_at(now, *self.draining)

    def ends_at(self, now: float, *reasons: TerminationReason) -> None:
        if len(reasons) == 1:
            self.cause = self.cause or reasons[0]
        else:
            self.may_end |= dict.fromkeys(reasons, now)

    def drains(self, now: float, grace: float, *reasons: TerminationReason) -> None:
        """It takes no requests from now on, and ends when its work is done."""
        self.draining = self.draining or frozenset(reasons)
        self.may_end |= dict.fromkeys(reasons, now + grace)
        if not self.work and not self.opening:
            self.ends_at(now, *self.draining)

    def could_make_room(
        self,
        kind: SessionKind,
        principal: Principal | None,
        policy: AdmissionPolicy,
        *,
        own_limit: bool,
    ) -> bool:
        """Return whether it may be the victim of a new session."""
        # Of one address all the time, or of none: no address holds more than the others.
        unmoved = policy in (AdmissionPolicy.REJECT, AdmissionPolicy.FAIR)
        if unmoved or self.session.kind is not kind:
            return False
        if self.work or self.session._is_opening():
            return False
        if policy is AdmissionPolicy.EVICT_IDLE and not own_limit:
            return True
        return principal is not None and self.session.principal == principal
