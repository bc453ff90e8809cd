"""Where messages for a client go, whatever carries them."""

from __future__ import annotations

from typing import Protocol


class Outlet(Protocol):
    """One way to a client: a connection's, or one request's own stream.

    Results and other messages are told apart because they must not share a write: clients drop
    progress that arrives in one piece with the result that it belongs to.
    """

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

    async def flush(self) -> None:
        """Wait until all that was taken is written. A checkpoint."""
        ...
