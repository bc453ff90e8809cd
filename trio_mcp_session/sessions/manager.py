"""The manager: the nursery that all sessions live in, and the way to each of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, Final, final

import attrs
import trio

from ..core.config import CleanupConfig
from ..core.errors import (
    SessionRejected,
    ShuttingDown,
)
from ..core.identity import ClientInfo, Principal, Transport
from ..core.ids import SessionKind, new_session_id
from ..core.reasons import TerminationReason
from ..core.state import LIVE_STATES
from . import drain
from .admission import Reservation
from .attached import cancelled_with
from .failures import is_cancellation
from .handles import Handle
from .interrupts import ProtectedAsyncBlock, raise_with
from .life import live
from .session import Session
from .telling import Telling

if TYPE_CHECKING:
    from .application import Lifespan
    from .handle_kinds import HandleKind
    from .outlet import SessionOutlet

APPLICATION: Final = Transport("application")
"""The transport of a session that the application opened itself."""


@final
@attrs.define(eq=False, repr=False)
class SessionManager(Telling):
    """Owns sessions: opens them, finds them, watches their clocks, ends them.

    Made by `open_session_manager`. Managers share nothing: any number of them may be open.
    """

    def __repr__(self) -> str:
        return f"<SessionManager: {len(self._store)} sessions>"

    # Opening.

    async def create_session(
        self,
        client: ClientInfo | None = None,
        *,
        kind: SessionKind = SessionKind.HANDLE,
        transport: Transport = APPLICATION,
        principal: Principal | None = None,
        lifespan: Lifespan | None = None,
        clocks: CleanupConfig | None = None,
    ) -> Session:
        """Open a session that no connection carries; it lives until something ends it.

        A checkpoint. When cancelled, the opening is undone, clean-up included, before the call
        raises.

        Args:
            client: What is known of the client that it is for.
            kind: How it will be reached.
            transport: By what its client is connected, for people to read.
            principal: On whose behalf it is opened.
            lifespan: The ``async with`` that it lives in; entered before this returns.
            clocks: Clocks of its own; the manager's by default.

        Raises:
            SessionLimitReached: A limit was reached, and the admission policy made no room.
            ShuttingDown: The manager retires, drains or is closed.
            SessionVetoed: An ``on_session_created`` hook refused it.
            SessionTerminated: It ended while it was being opened.
            Exception: What the lifespan raised.
        """
        return await self._open(
            client,
            kind=kind,
            transport=transport,
            principal=principal,
            lifespan=lifespan,
            clocks=clocks,
        )

    async def _open(
        self,
        client: ClientInfo | None = None,
        *,
        kind: SessionKind = SessionKind.HANDLE,
        transport: Transport = APPLICATION,
        principal: Principal | None,
        lifespan: Lifespan | None,
        clocks: CleanupConfig | None,
        handle_kind: HandleKind[Any] | None = None,
    ) -> Session:
        """Open a session as `create_session` says, or as a handle."""
        await trio.lowlevel.checkpoint_if_cancelled()
        with self._reserve(kind, principal, handle_kind) as reservation:
            await reservation.wait(self.config.cleanup.admission_budget)
            session = self._admit(
                client or ClientInfo(),
                kind,
                transport,
                principal,
                lifespan,
                clocks,
                None,
                handle_kind,
            )
        session._settled = trio.Event()
        try:
            await session._settled.wait()
        except BaseException as error:  # noqa: BLE001  # or an interrupt; raised again below
            session.terminate(TerminationReason.CANCELLED)
            raise_with(error, await session._wait_over())
        session._settled = None
        if session._over:
            self._raise_why(session)
        return session

    def open_session(
        self,
        client: ClientInfo | None = None,
        *,
        kind: SessionKind = SessionKind.HANDLE,
        transport: Transport = APPLICATION,
        principal: Principal | None = None,
        lifespan: Lifespan | None = None,
        clocks: CleanupConfig | None = None,
    ) -> AbstractAsyncContextManager[Session]:
        """Open a session for the length of an ``async with`` block.

        The session has a task of its own all the same, and may end in any order with others; the
        blocks of one task nest, as all that Trio cancels does. Where that is in the way, use
        `create_session`. Entering and leaving are checkpoints; leaving waits until nothing of the
        session is left, also when cancelled or interrupted. The body does not count as work of the
        session.

        Args and errors as for `create_session`; besides:

        Raises:
            SessionTerminated: The session ended first. The body was cancelled then.
        """
        opening = partial(
            self.create_session,
            client,
            kind=kind,
            transport=transport,
            principal=principal,
            lifespan=lifespan,
            clocks=clocks,
        )
        return ProtectedAsyncBlock(_while_open(opening))

    async def accept(
        self,
        outlet: SessionOutlet,
        *,
        transport: Transport,
        principal: Principal | None = None,
        kind: SessionKind = SessionKind.CONNECTION,
        handshake_timeout: float = inf,
    ) -> Session:
        """Open a session for a client that a transport has, and that will send ``initialize``.

        For transports. The session is *initializing* when this returns; its handshake clock runs,
        and `receive` takes what the client says. A checkpoint only where somebody has to make
        room first; when cancelled, nothing was opened.

        Args:
            outlet: The way to the client, outside of its requests too.
            transport: By what it is connected.
            principal: On whose behalf it speaks.
            kind: How its session is reached.
            handshake_timeout: Seconds for the handshake of a connection, where
                `CleanupConfig.connection_handshake_timeout` leaves that to the transport; off by
                default. Sessions of other kinds have `CleanupConfig.handshake_timeout`.

        Raises:
            SessionLimitReached: A limit was reached, and the admission policy made no room.
            ShuttingDown: The manager retires, drains or is closed.
            ValueError: ``handshake_timeout`` is not positive.
        """
        application = self._served()
        clocks = (
            self._connection_clocks(handshake_timeout) if kind is SessionKind.CONNECTION else None
        )
        with self._reserve(kind, principal) as reservation:
            await reservation.wait(self.config.cleanup.admission_budget)
            return self._admit(
                None, kind, transport, principal, application.lifespan, clocks, outlet
            )

    @contextmanager
    def _reserve(
        self,
        kind: SessionKind,
        principal: Principal | None,
        handle_kind: HandleKind[Any] | None = None,
    ) -> Iterator[Reservation]:
        try:
            self._check_admitting(kind)
            with self._admission.reserve(kind, principal, handle_kind) as reservation:
                yield reservation
        except SessionRejected as error:
            self._counters.refused[type(error).__name__] += 1
            raise
        finally:
            self._check_unused()

    def _check_admitting(self, kind: SessionKind) -> None:
        """Raise `ShuttingDown` where no session of this kind is admitted any more."""
        # A parked handler continues a request that has begun.
        if self._draining or (self._retiring and kind is not SessionKind.PARKED):
            raise ShuttingDown

    def _admit(
        self,
        client: ClientInfo | None,
        kind: SessionKind,
        transport: Transport,
        principal: Principal | None,
        lifespan: Lifespan | None,
        clocks: CleanupConfig | None,
        outlet: SessionOutlet | None,
        handle_kind: HandleKind[Any] | None = None,
    ) -> Session:
        """Make a session and start its task. Its place has been reserved."""
        self._check_admitting(kind)  # That may have changed while the newcomer waited.
        session: Session = Session._create(
            new_session_id(handle_kind.prefix if handle_kind is not None else ""),
            kind,
            transport,
            principal,
            client,
            manager=self,
            clocks=clocks or self.config.cleanup,
            lifespan=lifespan,
            outlet=outlet,
            hooks=self._hooks,
            may_open=outlet is None,
        )
        if handle_kind is not None:
            session._handle = Handle._create(session, handle_kind)
        self._store._add(session)
        self._store._watcher.watch(session)
        self._counters.opened += 1
        # In the manager's context variables: the opener's may be a request's.
        self._context.run(self._start, session)
        return session

    def _start(self, session: Session) -> None:
        self._house.start_soon(live, session, name=f"session {session.session_id[:6]}…")

    def _raise_why(self, session: Session) -> None:
        """Raise what kept a session from opening, not what failed while it was undone."""
        match session._errors[0] if session._errors else None:
            case None:
                raise session._terminated()
            case error:
                raise error

    # Ending.

    def terminate_session(
        self, session_id: str, reason: TerminationReason = TerminationReason.REQUESTED
    ) -> bool:
        """Let a session end; tell whether there was a live one of that id. Not a checkpoint."""
        session = self._store.get(session_id)
        if session is None:
            return False
        session.terminate(reason)
        return True

    def revoke(self, principal: Principal) -> int:
        """End all that goes on on behalf of a principal. Not a checkpoint.

        Sessions, handles and handlers that wait for their client end with the reason *revoked*,
        also those that are being opened. Newcomers that wait for a place get `AccessRevoked`.
        Requests of 2026-07-28 that belong to no session are cancelled, and answered with an
        error that says so, queued ones too; subscriptions get their result. What the principal
        begins after that is served: refuse it where clients are authenticated.

        Args:
            principal: Whose access ends.

        Returns:
            How many sessions were told to end, of all kinds. Those that end already, newcomers,
            requests without a session and subscriptions are not counted.
        """
        held = [s for s in self._store.of_principal(principal) if s.state in LIVE_STATES]
        for session in held:
            session.terminate(TerminationReason.REVOKED)
        self._admission.revoke(principal)
        self._stateless.revoke(principal)
        self._listens.revoke(principal)
        return len(held)

    @property
    def ready(self) -> bool:
        """Whether new sessions are admitted: False from `retire` or `drain` on."""
        return not (self._retiring or self._draining)

    async def retire(self, grace: float | None = None) -> None:
        """Admit nothing new, and let what exists go on for a while. `drain` comes after it.

        From now on `ready` is False, and new sessions, handles and subscriptions are refused with
        `ShuttingDown`. What exists goes on and is served: requests of sessions, requests of
        2026-07-28 over HTTP, uses of handles, answers to questions, and retries of clients. This
        cannot be undone.

        A checkpoint: it waits until no session, no subscription and no such request is left, or
        until the time is over. When cancelled, it stops waiting, and the manager stays retired.
        It may be called again, which waits again.

        Args:
            grace: Seconds; `CleanupConfig.retire_grace` by default. `math.inf`: until nothing is
                left.

        Raises:
            RuntimeError: One of the sessions, or a request beside them, runs the calling task.
        """
        self._check_not_inside()
        self._retiring = True
        with trio.move_on_after(self.config.cleanup.retire_grace if grace is None else grace):
            await self._wait_unused()

    async def _wait_unused(self) -> None:
        await trio.lowlevel.checkpoint()
        while not self._is_unused():
            if self._unused is None:
                self._unused = trio.Event()
            await self._unused.wait()

    def _check_not_inside(self) -> None:
        for session in self._store:
            session._check_not_inside()
        self._stateless.check_not_inside()

    async def drain(self, *, grace: float | None = None) -> drain.DrainReport:
        """Admit no sessions any more, let work finish, then end all sessions.

        It cannot be taken back. New requests of the sessions are refused at once, sessions
        without work and subscriptions end at once; running requests, work tasks and leases have
        until the grace is over, and service tasks until these are done. A checkpoint. When
        cancelled, it stops waiting; nothing is admitted all the same.

        Args:
            grace: Seconds; `CleanupConfig.drain_grace` by default.

        Returns:
            What became of each session. It comes within the grace and the budgets of the
            clean-up, even where user code refuses to end.

        Raises:
            RuntimeError: One of the sessions, or a request beside them, runs the calling task.
        """
        self._check_not_inside()
        sessions = list(self._store)
        self._draining = True
        self._begin_shutdown()
        clocks = self.config.cleanup
        grace = self._shutdown.grace(
            clocks.drain_grace if grace is None else grace, clocks.flush_budget
        )
        # At once, and all of them: a cancellation may come before the drain itself begins.
        drain.refuse_requests(sessions, TerminationReason.SHUTDOWN)
        await self._listens.end()
        report = await drain.drain(sessions, grace, clocks, beside=self._stateless)
        self._drained.set()
        return report

    async def wait_drained(self) -> None:
        """Wait until `drain` has ended, or the manager's block is left.

        Servers stop then: all that had to be said on their connections has been. A checkpoint.
        When cancelled, it stops waiting, and changes nothing.
        """
        await self._drained.wait()

    # For its sessions.

    def _forget(self, session: Session) -> None:
        """Take a session out of the table: the one place where that happens."""
        self._store._remove(session)
        self._counters.count_end(session._reason_to_end(), session.age)
        self._admission.make_free(session)
        self._check_unused()


@asynccontextmanager
async def _while_open(opening: Callable[[], Awaitable[Session]]) -> AsyncIterator[Session]:
    """Have a session for the length of a block; see `SessionManager.open_session`."""
    session = await opening()
    with trio.CancelScope() as body, cancelled_with(session, body):
        try:
            yield session
        except BaseException as error:  # noqa: BLE001  # raised again below
            cancelled = is_cancellation(error)
            session.terminate(
                TerminationReason.CANCELLED if cancelled else TerminationReason.REQUESTED
            )
            raise_with(error, await session._wait_over())
        else:
            session.terminate()
            interrupts = await session._wait_over()
            if interrupts:
                raise interrupts[0]
    if body.cancelled_caught:
        raise session._terminated()
