"""Where messages for a client go, whatever carries them."""

from __future__ import annotations

from typing import Protocol


class Outlet(Protocol):
    """One way to a client: a connection's, or one request's own stream.

    Results and other messages are told apart because they must not share a write: clients drop
    progress that arrives in one piece with the result that it belongs to.
    """

    @property
    def connected(self) -> bool:
        """Whether somebody reads now."""
        ...

    @property
    def reachable(self) -> bool:
        """Whether what is sent now can reach the client at all, now or when it comes back."""
        ...

    def send_result(self, frame: bytes) -> None:
        """Take the answer to a request. Never waits and never drops. Not a checkpoint."""
        ...

    def send_no_result(self) -> None:
        """Learn that the client cancelled the request: it gets no answer. Not a checkpoint."""
        ...

    def send_message(self, frame: bytes) -> bool:
        """Take a notification or a request, or tell that there is no room. Not a checkpoint."""
        ...

    async def wait_writable(self) -> None:
        """Wait until there is room for a message. A checkpoint."""
        ...

    def close_stream(self, retry: float | None) -> bool:
        """Let the client go and come back for the rest. Not a checkpoint.

        Args:
            retry: Seconds after which it should come back; None for what it was told before.

        Returns:
            Whether it can. There has to be a stream, and what it misses has to be kept.
        """
        ...


class SessionOutlet(Outlet, Protocol):
    """The way to a session's client outside of its requests: a connection, or the stream of GET."""

    async def finish(self) -> None:
        """Let all be written that was taken: nothing more will come. A checkpoint.

        When cancelled, what is not written by then is given up.
        """
        ...
