"""`Ending`: announces the end of a handler to it, with the reason, before it is cancelled."""

from __future__ import annotations

from typing import Final, Literal, Protocol, TypeAlias, final

import trio

from ..core.reasons import EndingReason

OnDisconnect: TypeAlias = Literal["finish", "adopt", "cancel"]
"""What happens to a call when its client leaves; see `Router.tool`."""

ON_DISCONNECT: Final = (None, "finish", "adopt", "cancel")

_ROUNDING: Final = 1e-3
"""Seconds by which a moment may be missed: times are sums of floats."""


class Endable(Protocol):
    """What `Ending` needs of a request."""

    ending_reason: EndingReason | None
    """Why the end of its handler was announced; None if it was not."""

    @property
    def owner_ends(self) -> bool:
        """Whether the owner of the handler ends or has ended."""
        ...

    @property
    def drains(self) -> bool:
        """Whether its manager or its session drains."""
        ...

    @property
    def notice_in(self) -> float:
        """Seconds until the notice before its deadline is due."""
        ...


@final
class Ending:
    """The announced end of a handler: like a `trio.Event` that only the library sets.

    It is set when the client has left or cancelled the request, when a drain begins, when the
    session begins to end, and `CleanupConfig.ending_notice` before the handler's time is over
    (`RequestContext.time_left`). A handler that it is set for may still be cancelled at any moment.
    """

    __slots__ = ("_event", "_request")

    def __init__(self, request: Endable) -> None:
        self._request = request
        self._event: trio.Event | None = None

    def __repr__(self) -> str:
        reason = self.reason
        return f"<Ending: {'not set' if reason is None else reason.value}>"

    def is_set(self) -> bool:
        """Return whether the end was announced. Not a checkpoint."""
        return self.reason is not None

    @property
    def reason(self) -> EndingReason | None:
        """Why the end comes; None if it is not set."""
        request = self._request
        if request.ending_reason is not None:
            return request.ending_reason
        if request.owner_ends:
            return EndingReason.SESSION_ENDS
        if request.drains:
            return EndingReason.DRAIN
        return EndingReason.DEADLINE if request.notice_in <= _ROUNDING else None

    async def wait(self) -> EndingReason:
        """Wait until it is set, and return why. A checkpoint.

        When cancelled, it stops waiting, and changes nothing.
        """
        await trio.lowlevel.checkpoint()
        while (reason := self.reason) is None:
            if self._event is None:
                self._event = trio.Event()
            with trio.move_on_after(self._request.notice_in):
                await self._event.wait()
        return reason

    def _wake(self) -> None:
        event, self._event = self._event, None
        if event is not None:
            event.set()
