"""Sinks: the interface by which the server sends messages, implemented by transports.

A transport hands the frames of its client to `receive`, each with a sink. Answers are sent to that
sink. A connection has one sink for all frames; Streamable HTTP has one for each request.
"""

from __future__ import annotations

from typing import Protocol


class MessageSink(Protocol):
    """Sends messages to a client, on a connection or on one request's own stream.

    Results and other messages have methods of their own because they must not share a write: some
    clients drop progress that arrives in the same read as its result.

    A sink may also have an attribute ``source``, a `RequestSource`: the principal, headers and ASGI
    scope of the request that it was made for. Handlers get them as `RequestContext.principal`,
    `RequestContext.headers` and `RequestContext.asgi_scope`.

    The methods are called in the event loop's thread. Except for `wait_writable` they must not
    wait, and are not checkpoints. Errors that they raise are reported as `SendFailed`.
    """

    @property
    def connected(self) -> bool:
        """Whether a connection to the client is open now."""
        ...

    @property
    def reachable(self) -> bool:
        """Whether a message sent now can reach the client, now or after it reconnects."""
        ...

    def send_result(self, frame: bytes) -> None:
        """Send the answer to a request: one encoded message. Never drop it. Not a checkpoint."""
        ...

    def send_no_result(self) -> None:
        """Called when a request that its client cancelled gets no answer. Not a checkpoint."""
        ...

    def send_message(self, frame: bytes) -> bool:
        """Send a notification or a request, if there is room. Not a checkpoint.

        Returns:
            Whether it was taken. If not, either there is no room yet, or the client is not
            `reachable`: the caller asks that before it waits for room.
        """
        ...

    async def wait_writable(self) -> None:
        """Wait until there is room for a message. A checkpoint."""
        ...

    def close_stream(self, retry: float | None) -> bool:
        """Close the client's stream; the client reconnects for the rest. Not a checkpoint.

        Args:
            retry: Seconds after which it should reconnect; None for the value that it got before.

        Returns:
            Whether that is possible: it needs a stream, and storage for the messages that it
            misses.
        """
        ...


class SessionSink(MessageSink, Protocol):
    """Sends messages outside of requests: on a connection, or on the stream of GET."""

    async def finish(self) -> None:
        """Wait until all messages are written. Called after the last one. A checkpoint.

        When cancelled, messages that are not written yet are dropped.
        """
        ...
