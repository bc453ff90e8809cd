"""State handles: opening them, finding them for a principal, using and closing them.

A handle is a session of kind *handle*; its lifespan is made by the opener of its `HandleKind`. It
has the clocks, limits, hooks, events and order of ending of every session.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, cast, final

import trio

from ..core.errors import NoPrincipal, SessionTerminated, ShuttingDown, UnknownHandle
from ..core.ids import SessionKind
from ..core.lifecycle_states import SessionState
from ..core.reasons import TerminationReason
from ..sessions.cleanup import cleanup_session
from ..sessions.handle import NOTHING, Handle
from ..sessions.interrupts import ProtectedAsyncBlock, UserContext

if TYPE_CHECKING:
    from ..core.handle_kind import HandleKind
    from ..core.identity import Principal
    from ..sessions.manager import SessionManager
    from ..sessions.session import Lifespan, Session

T = TypeVar("T")


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
    """The lifespan of a handle's session: enters what the opener returns.

    A class, since a generator would cost a frame for each handle.
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
        # While it is being closed, requests must not find it.
        self._handle._value = NOTHING
        return await self._context.__aexit__(kind, error, traceback)  # noqa: ASYNC102  # handed on


def find_handle(
    manager: SessionManager, principal: Principal | None, kind: HandleKind[T], handle_id: str
) -> Handle[T] | None:
    """Return an open handle, perhaps one that ends after the uses that have begun.

    Not a checkpoint. The owner is compared in the same step: a handle that was opened without a
    principal is found only without one.

    Returns:
        None if the id names no handle of this principal.
    """
    session = manager._store.get(handle_id, SessionKind.HANDLE)
    if session is None or session.principal != principal:
        return None
    return _handle_in(session, kind)


def _handle_in(session: Session, kind: HandleKind[T]) -> Handle[T] | None:
    """Return the handle of a session if it is of this kind, and open."""
    handle = session.handle
    is_open = session.state in (SessionState.ACTIVE, SessionState.IDLE)
    return handle if handle is not None and handle.kind is kind and is_open else None


def _why_not(
    manager: SessionManager, principal: Principal | None, kind: HandleKind[T], handle_id: str
) -> UnknownHandle:
    """Return the error for a handle that cannot be used. Only its owner is told why it ended."""
    session = manager._store.ending(handle_id, SessionKind.HANDLE)
    if session is None:
        reason = manager._ended_handles.reason_of(handle_id, kind, principal)
        return UnknownHandle(handle_id, reason)
    if session.principal != principal or session._handle_kind is not kind:
        return UnknownHandle(handle_id)
    return UnknownHandle(handle_id, session._reason_to_end())


def get_handle(
    manager: SessionManager, principal: Principal | None, kind: HandleKind[T], handle_id: str
) -> Handle[T]:
    """Look a handle up; see `RequestContext.get_handle`."""
    handle = find_handle(manager, principal, kind, handle_id)
    if handle is None:
        raise _why_not(manager, principal, kind, handle_id)
    if handle.session._ends_after_work:
        raise UnknownHandle(handle_id, handle.session._reason_to_end())
    return handle


def use_handle(
    manager: SessionManager, principal: Principal | None, kind: HandleKind[T], handle_id: str
) -> AbstractAsyncContextManager[T]:
    """Use the value of a handle; see `RequestContext.use_handle`."""
    return ProtectedAsyncBlock(_use_handle(manager, principal, kind, handle_id))


@asynccontextmanager
async def _use_handle(
    manager: SessionManager, principal: Principal | None, kind: HandleKind[T], handle_id: str
) -> AsyncIterator[T]:
    await trio.lowlevel.checkpoint_if_cancelled()
    handle = get_handle(manager, principal, kind, handle_id)
    with handle.session._borrow() as borrowing:
        await handle._take_turn()
        try:
            session = handle.session
            if session._reason is not None or session._ends_after_work:
                # It has begun to end before the turn came.
                raise UnknownHandle(handle_id, session._reason_to_end())
            yield handle.value
        finally:
            handle._end_turn()
    if borrowing.cancelled_caught:
        # Only the end of the session cancels that scope.
        raise UnknownHandle(handle_id, handle.session._reason_to_end())


def list_handles(
    manager: SessionManager, principal: Principal | None, kind: HandleKind[T]
) -> list[Handle[T]]:
    """Return a principal's handles, the oldest first; see `RequestContext.list_handles`."""
    if principal is None:
        raise NoPrincipal
    found = (_handle_in(session, kind) for session in manager._store.of_principal(principal))
    return [one for one in found if one is not None and not one.session._ends_after_work]


async def close_handle(
    manager: SessionManager,
    principal: Principal | None,
    kind: HandleKind[T],
    handle_id: str,
    *,
    after_work: bool = False,
) -> bool:
    """Close a handle; see `RequestContext.close_handle`."""
    await trio.lowlevel.checkpoint_if_cancelled()
    handle = find_handle(manager, principal, kind, handle_id)
    if handle is None:
        await trio.lowlevel.checkpoint()
        return False
    if after_work:
        handle.session.terminate(after_work=True)
        await trio.lowlevel.checkpoint()
    else:
        await cleanup_session(handle.session)
    return True
