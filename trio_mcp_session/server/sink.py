"""Where messages for a client go: what a transport implements.

A transport hands the frames of its client to `receive`, each with a sink. Answers go to that
sink. A connection has one sink for all; Streamable HTTP has one for each request.
"""

from __future__ import annotations

from typing import Protocol


class MessageSink(Protocol):
    """One way to a client: a connection's, or one request's own stream.

    Results and other messages are told apart because they must not share a write: some clients
    drop progress that arrives in one piece with the result that it belongs to.

    The methods are called in the event loop's thread. Except for `wait_writable` they must not
    wait, and are not checkpoints. What they raise is contained and reported as `SendFailed`.
    """

    @property
    def connected(self) -> bool:
        """Whether a connection to the client is open now."""
        ...

    @property
    def reachable(self) -> bool:
        """Whether what is sent now can reach the client, now or when it connects again."""
        ...

    def send_result(self, frame: bytes) -> None:
        """Take the answer to a request: one encoded message. Never drop it. Not a checkpoint."""
        ...

    def send_no_result(self) -> None:
        """Called where a request gets no answer, as its client cancelled it. Not a checkpoint."""
        ...

    def send_message(self, frame: bytes) -> bool:
        """Take a notification or a request. Not a checkpoint.

        Returns:
            Whether there was room for it; if not, it was not taken.
        """
        ...

    async def wait_writable(self) -> None:
        """Wait until there is room for a message. A checkpoint."""
        ...

    def close_stream(self, retry: float | None) -> bool:
        """Close the client's connection; it comes back for the rest. Not a checkpoint.

        Args:
            retry: Seconds after which it should come back; None for what it was told before.

        Returns:
            Whether that is possible: there has to be a stream, and what it misses has to be kept.
        """
        ...


class SessionSink(MessageSink, Protocol):
    """The way to a client outside of its requests: a connection, or the stream of GET."""

    async def finish(self) -> None:
        """Wait until all that was taken is written: nothing more will come. A checkpoint.

        When cancelled, what is not written by then is given up.
        """
        ...
