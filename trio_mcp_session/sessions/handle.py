"""A handle: a session together with the value that its lifespan opened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar, final

import attrs
import trio

from ..core.construction import NoPublicConstructor

if TYPE_CHECKING:
    from ..core.handle_kind import HandleKind
    from ..core.ids import SessionId
    from .session import Session

T = TypeVar("T")
NOTHING: Any = object()
"""Placeholder for the value of a handle that is not open."""


@final
@attrs.define(eq=False, repr=False)
class Handle(Generic[T], metaclass=NoPublicConstructor):
    """One state handle: a session, and the value that it owns."""

    session: Session
    """The session that owns it."""

    kind: HandleKind[T]
    """The kind of handle that was opened."""

    _value: T = attrs.field(default=NOTHING, init=False)
    _turns: trio.Lock | None = attrs.field(default=None, init=False)

    def __repr__(self) -> str:
        return f"<Handle of {self.kind!r} in {self.session!r}>"

    @property
    def handle_id(self) -> SessionId:
        """Its id, as clients pass it. Treat it as a secret where there is no authentication."""
        return self.session.session_id

    @property
    def _is_open(self) -> bool:
        """Whether the handle has a `value` now."""
        return self._value is not NOTHING

    @property
    def value(self) -> T:
        """The value that the opener opened.

        Reading it does not keep the handle open: use the value within `RequestContext.use_handle`.

        Raises:
            LookupError: The handle is not open yet, or is closed.
        """
        if not self._is_open:
            raise LookupError("the handle is not open")
        return self._value

    async def _take_turn(self) -> None:
        """Wait until no other task uses the handle, if the kind is exclusive. A checkpoint."""
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
