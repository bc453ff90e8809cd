"""Requests of a test client, and their results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

import attrs
import trio

from ..core.construction import NoPublicConstructor
from ..core.errors import McpError
from ..protocol.jsonrpc import RequestId

if TYPE_CHECKING:
    from .client import Client


class ConnectionEnded(Exception):
    """The connection is closed: the request was not answered, and will not be."""


@attrs.frozen(kw_only=True)
class ToolResult:
    """The result of a tool call."""

    content: Sequence[Mapping[str, Any]]
    """The content blocks, as sent."""

    structured: Mapping[str, Any] | None
    """``structuredContent``, if there is any."""

    is_error: bool
    """Whether the tool failed, for the model to see."""

    @property
    def text(self) -> str:
        """The text of all text blocks."""
        return "".join(block["text"] for block in self.content if block["type"] == "text")


@final
@attrs.define(eq=False, repr=False)
class PendingRequest(metaclass=NoPublicConstructor):
    """A request that was sent. `Client.start_request` makes it."""

    id: RequestId
    """Its JSON-RPC id."""

    method: str
    """Its method."""

    progress: list[dict[str, Any]] = attrs.field(factory=list[dict[str, Any]], init=False)
    """The parameters of its progress notifications so far."""

    _client: Client[Any] = attrs.field(alias="client")
    _done: trio.Event = attrs.field(factory=trio.Event, init=False)
    _answer: dict[str, Any] | None = attrs.field(default=None, init=False)

    def __repr__(self) -> str:
        state = "done" if self.done else "waiting"
        return f"<PendingRequest {self.method!r} id={self.id!r}, {state}>"

    @property
    def done(self) -> bool:
        """Whether it has an answer, or will never get one."""
        return self._done.is_set()

    async def wait(self) -> Any:
        """Wait for the answer, and return its result.

        A checkpoint. When cancelled, it stops waiting; the request stays open.

        Raises:
            McpError: The answer is an error.
            ConnectionEnded: The connection was closed before the answer.
        """
        await self._done.wait()
        answer = self._answer
        if answer is None:
            raise ConnectionEnded(f"{self.method} was not answered")
        if "error" in answer:
            error = answer["error"]
            raise McpError(error["code"], error["message"], error.get("data"))
        return answer["result"]

    def cancel(self, reason: str | None = None) -> None:
        """Send ``notifications/cancelled`` for the request. Not a checkpoint.

        Tasks that wait for its result get `ConnectionEnded`.
        """
        self._client._give_up(self, reason)

    def _settle(self, answer: dict[str, Any] | None) -> None:
        self._answer = answer
        self._done.set()
