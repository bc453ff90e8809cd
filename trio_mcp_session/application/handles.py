"""State handles, as handlers open and use them."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, TypeVar

from ..core.handle_kind import HandleKind
from ..handles import access as handles
from ..sessions.handle import Handle

if TYPE_CHECKING:
    from ..server.request import InFlightRequest

T = TypeVar("T")


class HandleMethods:
    """The part of `RequestContext` that has to do with handles.

    Whose handles they are is said by the request: all look-ups compare its principal.
    """

    __slots__ = ()

    _request: InFlightRequest

    async def open_handle(self, kind: HandleKind[T], /, *args: Any, **kwargs: Any) -> str:
        """Open a handle, and return its id for the client to keep.

        The opener of the kind runs in a session of its own, beside all others: it outlives the
        request. A checkpoint. When cancelled, the opening is undone, clean-up included, before
        the call raises.

        Args:
            kind: What to open.
            *args: Positional arguments of the kind's opener.
            **kwargs: Its keyword arguments.

        Raises:
            SessionLimitReached: A limit was reached, and the admission policy made no room.
            ShuttingDown: The manager retires, drains or is closed.
            AccessRevoked: `SessionManager.revoke` ended what the request's principal had.
            SessionVetoed: An ``on_session_created`` hook refused it.
            SessionTerminated: It ended while it was being opened.
            Exception: What the opener raised.
        """
        request = self._request
        request.check_access()
        manager = request.owner.manager
        handle = await handles.open_handle(manager, request.principal, kind, args, kwargs)
        # Whose task outlives its client's connection must not open anything that does.
        request.owner.end_what_came_late()
        return handle.handle_id

    def use_handle(self, kind: HandleKind[T], handle_id: str, /) -> AbstractAsyncContextManager[T]:
        """Use what a handle stands for, for the length of an ``async with`` block.

        ::

            async with ctx.use_handle(BROWSERS, browser_id) as browser:
                await browser.open(url)

        Uses of one handle take turns, in the order in which they came, unless the kind allows them
        at the same time. The handle is not idle meanwhile, is not evicted, and may finish in a
        drain. Entering is a checkpoint; leaving is none. When cancelled while it waits for its
        turn, it gives its place in line up.

        Args:
            kind: What the handle must be.
            handle_id: The handle, as the client gave it.

        Raises:
            UnknownHandle: There is no such handle, or it is of another kind, expired, or somebody
                else's; or it ended in the middle of the block, which was cancelled then.
            RuntimeError: The same task uses it already, and would wait for itself.
        """
        request = self._request
        return handles.use_handle(request.owner.manager, request.principal, kind, handle_id)

    def get_handle(self, kind: HandleKind[T], handle_id: str, /) -> Handle[T]:
        """Look a handle up, without using it. Not a checkpoint, and no activity of the handle.

        Args:
            kind: What the handle must be.
            handle_id: The handle, as the client gave it.

        Raises:
            UnknownHandle: There is no such handle, or it is of another kind, expired, or somebody
                else's.
        """
        request = self._request
        return handles.get_handle(request.owner.manager, request.principal, kind, handle_id)

    def list_handles(self, kind: HandleKind[T], /) -> list[Handle[T]]:
        """Return the caller's own handles of a kind, the oldest first. Not a checkpoint.

        Raises:
            NoPrincipal: Nobody knows who calls (2026-07-28 over HTTP without authentication).
        """
        request = self._request
        return handles.list_handles(request.owner.manager, request.principal, kind)

    async def close_handle(self, kind: HandleKind[T], handle_id: str, /) -> bool:
        """Close a handle, and wait until nothing of it is left. A checkpoint.

        Those who use it are cancelled, and get `UnknownHandle`. When cancelled, it stops waiting;
        the handle ends all the same.

        Args:
            kind: What the handle must be.
            handle_id: The handle, as the client gave it.

        Returns:
            Whether there was one; not where `use_handle` would raise `UnknownHandle`.

        Raises:
            RuntimeError: The calling task uses it, or belongs to it; nothing was changed.
        """
        request = self._request
        return await handles.close_handle(request.owner.manager, request.principal, kind, handle_id)
