"""`Ending`: tells a handler that its end comes, and why, before it is cancelled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, TypeAlias, final

import trio

from ..core.reasons import EndingReason

if TYPE_CHECKING:
    from .request import InFlightRequest

OnDisconnect: TypeAlias = Literal["finish", "adopt", "cancel"]
"""What becomes of a tool when its client goes; see `Router.tool`."""

ON_DISCONNECT: Final = (None, "finish", "adopt", "cancel")

_ROUNDING: Final = 1e-3
"""Seconds by which a moment may be missed: times are sums of floats."""


@final
class Ending:
    """Whether the end of a handler comes, as a `trio.Event` that only the library sets.

    It is set when the client has left or cancelled the request, when a drain begins, when the
    session begins to end, and `CleanupConfig.ending_notice` before the handler's time is over
    (`RequestContext.time_left`). A handler that it is set for may still be cancelled at any moment.
    """

    __slots__ = ("_event", "_request")

    def __init__(self, request: InFlightRequest) -> None:
        self._request = request
        self._event: trio.Event | None = None

    def __repr__(self) -> str:
        reason = self.reason
        return f"<Ending: {'not set' if reason is None else reason.value}>"

    def is_set(self) -> bool:
        """Return whether the end comes. Not a checkpoint."""
        return self.reason is not None

    @property
    def reason(self) -> EndingReason | None:
        """Why the end comes; None if it is not set."""
        request = self._request
        if request.ending_reason is not None:
            return request.ending_reason
        if (request.detached or request.owner).termination_reason is not None:
            return EndingReason.SESSION_ENDS
        if request.drains:
            return EndingReason.DRAIN
        return EndingReason.DEADLINE if self._until_notice() <= _ROUNDING else None

    async def wait(self) -> EndingReason:
        """Wait until it is set, and return why. A checkpoint.

        When cancelled, it stops waiting, and changes nothing.
        """
        await trio.lowlevel.checkpoint()
        while (reason := self.reason) is None:
            if self._event is None:
                self._event = trio.Event()
            with trio.move_on_after(self._until_notice()):
                await self._event.wait()
        return reason

    def _until_notice(self) -> float:
        notice = self._request.owner.manager.config.cleanup.ending_notice
        return self._request.time_left - notice

    def _wake(self) -> None:
        event, self._event = self._event, None
        if event is not None:
            event.set()
