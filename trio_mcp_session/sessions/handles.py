"""State handles: sessions that the application opens, and reaches by their ids.

A handle is a session of kind *handle* whose lifespan is what the opener of its `HandleKind` made.
Its clocks, limits, hooks, events and end are those of sessions; here is what there is besides:
looking it up for whoever asks, and working with what it holds.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, final

import attrs
import trio

from ..core.construction import NoPublicConstructor
from ..core.errors import NoPrincipal, SessionTerminated, ShuttingDown, UnknownHandle
from ..core.ids import SessionId, SessionKind
from ..core.reasons import TerminationReason
from ..core.state import SessionState
from .cleanup import cleanup_session
from .interrupts import ProtectedAsyncBlock, UserContext

if TYPE_CHECKING:
    from ..core.identity import Principal
    from .application import Lifespan
    from .handle_kinds import HandleKind
    from .manager import SessionManager
    from .session import Session

T = TypeVar("T")
_NOTHING: Any = object()


@final
@attrs.define(eq=False, repr=False)
class Handle(Generic[T], metaclass=NoPublicConstructor):
    """One state handle: a session, and what it stands for."""

    session: Session
    """The session that owns it."""

    kind: HandleKind[T]
    """What it was opened as."""

    _value: T = attrs.field(default=_NOTHING, init=False)
    _turns: trio.Lock | None = attrs.field(default=None, init=False)

    def __repr__(self) -> str:
        return f"<Handle of {self.kind!r} in {self.session!r}>"

    @property
    def handle_id(self) -> SessionId:
        """Its id, as clients pass it. Treat it as a secret where there is no authentication."""
        return self.session.session_id

    @property
    def _is_open(self) -> bool:
        """Whether there is a `value`."""
        return self._value is not _NOTHING

    @property
    def value(self) -> T:
        """What the opener opened.

        Nothing keeps it open here: whoever works with it does so within
        `RequestContext.use_handle`.

        Raises:
            LookupError: It is not open yet, or not any more.
        """
        if not self._is_open:
            raise LookupError("the handle is not open")
        return self._value

    async def _take_turn(self) -> None:
        """Wait until nobody else uses it, where only one at a time may. A checkpoint."""
        if self.kind.concurrent:
            await trio.lowlevel.checkpoint()
            return
        if self._turns is None:
            self._turns = trio.Lock()
        if self._turns.statistics().owner is trio.lowlevel.current_task():
            raise RuntimeError("this task uses the handle already, and would wait for itself")
        await self._turns.acquire()

    def _end_turn(self) -> None:
        if self._turns is not None:
            self._turns.release()


async def open_handle(
    manager: SessionManager,
    principal: Principal | None,
    kind: HandleKind[T],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> Handle[T]:
    """Open a handle; see `RequestContext.open_handle`."""
    try:
        session = await manager._open(
            principal=principal,
            lifespan=_lifespan_of(kind, args, kwargs),
            clocks=kind._clocks_beside(manager.config.cleanup),
            handle_kind=kind,
        )
    except SessionTerminated as error:
        if error.reason is TerminationReason.SHUTDOWN:
            raise ShuttingDown from error
        raise
    return cast("Handle[T]", session.handle)


def _lifespan_of(kind: HandleKind[T], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Lifespan:
    def lifespan(session: Session) -> AbstractAsyncContextManager[None]:
        handle = session.handle
        assert handle is not None
        return _Opened(handle, kind.opener(*args, **kwargs))

    return lifespan


@final
class _Opened(AbstractAsyncContextManager[None]):
    """What the opener opened, as the lifespan of the handle's session.

    A class: every handle would have the frame of a generator.
    """

    __slots__ = ("_context", "_handle")

    def __init__(self, handle: Handle[T], context: AbstractAsyncContextManager[T]) -> None:
        self._handle = handle
        self._context = UserContext(context)

    async def __aenter__(self) -> None:
        self._handle._value = await self._context.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        # A request must not get hold of it while it is being closed.
        self._handle._value = _NOTHING
        return await self._context.__aexit__(kind, error, traceback)  # noqa: ASYNC102  # handed on


def find_handle(
    manager: SessionManager, principal: Principal | None, kind: HandleKind[T], handle_id: str
) -> Handle[T] | None:
    """Look a handle up; None where there is no such handle *for this principal*.

    Not a checkpoint. The owner is compared in the same step, and nobody is somebody: what was
    opened without a principal is found without one only.
    """
    session = manager._store.get(handle_id, SessionKind.HANDLE)
    if session is None or session.principal != principal:
        return None
    return _handle_in(session, kind)


def _handle_in(session: Session, kind: HandleKind[T]) -> Handle[T] | None:
    """Return the handle that a session is, if it is of this kind, and open."""
    handle = session.handle
    is_open = session.state in (SessionState.ACTIVE, SessionState.IDLE)
    return handle if handle is not None and handle.kind is kind and is_open else None


def get_handle(
    manager: SessionManager, principal: Principal | None, kind: HandleKind[T], handle_id: str
) -> Handle[T]:
    """Look a handle up; see `RequestContext.get_handle`."""
    handle = find_handle(manager, principal, kind, handle_id)
    if handle is None:
        raise UnknownHandle(handle_id)
    return handle


def use_handle(
    manager: SessionManager, principal: Principal | None, kind: HandleKind[T], handle_id: str
) -> AbstractAsyncContextManager[T]:
    """Work with what a handle stands for; see `RequestContext.use_handle`."""
    return ProtectedAsyncBlock(_use_handle(manager, principal, kind, handle_id))


@asynccontextmanager
async def _use_handle(
    manager: SessionManager, principal: Principal | None, kind: HandleKind[T], handle_id: str
) -> AsyncIterator[T]:
    await trio.lowlevel.checkpoint_if_cancelled()
    handle = get_handle(manager, principal, kind, handle_id)
    with handle.session._visit() as visit:
        await handle._take_turn()
        try:
            if handle.session.termination_reason is not None:
                raise UnknownHandle(handle_id)  # It was told to end when the turn came.
            yield handle.value
        finally:
            handle._end_turn()
    if visit.cancelled_caught:
        # Only the end of the session cancels that scope.
        raise UnknownHandle(handle_id)


def list_handles(
    manager: SessionManager, principal: Principal | None, kind: HandleKind[T]
) -> list[Handle[T]]:
    """Return a principal's handles, the oldest first; see `RequestContext.list_handles`."""
    if principal is None:
        raise NoPrincipal
    found = (_handle_in(session, kind) for session in manager._store.of_principal(principal))
    return [handle for handle in found if handle is not None]


async def close_handle(
    manager: SessionManager, principal: Principal | None, kind: HandleKind[T], handle_id: str
) -> bool:
    """Close a handle; see `RequestContext.close_handle`."""
    await trio.lowlevel.checkpoint_if_cancelled()
    handle = find_handle(manager, principal, kind, handle_id)
    if handle is None:
        await trio.lowlevel.checkpoint()
        return False
    await cleanup_session(handle.session)
    return True
