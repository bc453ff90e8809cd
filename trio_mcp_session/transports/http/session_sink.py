"""The sink of a POST that gets no answer of its own: a notification or a response."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import attrs

if TYPE_CHECKING:
    from ...server.request_source import RequestSource
    from .session_streams import SessionStreams


@final
@attrs.frozen(eq=False)
class SessionSink:
    """The sink of a session, with the source of one POST: its principal and its headers."""

    _streams: SessionStreams
    source: RequestSource

    @property
    def connected(self) -> bool:
        """See `MessageSink.connected`."""
        return self._streams.connected

    @property
    def reachable(self) -> bool:
        """See `MessageSink.reachable`."""
        return self._streams.reachable

    def send_result(self, frame: bytes) -> None:
        """See `MessageSink.send_result`."""
        self._streams.send_result(frame)

    def send_no_result(self) -> None:
        """See `MessageSink.send_no_result`."""
        self._streams.send_no_result()

    def send_message(self, frame: bytes) -> bool:
        """See `MessageSink.send_message`."""
        return self._streams.send_message(frame)

    async def wait_writable(self) -> None:
        """See `MessageSink.wait_writable`."""
        await self._streams.wait_writable()

    def close_stream(self, retry: float | None) -> bool:
        """See `MessageSink.close_stream`."""
        return self._streams.close_stream(retry)
