"""Requests of a test client that wait for their answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, final

import attrs
import trio

from ..core.construction import NoPublicConstructor
from ..core.errors import McpError
from ..protocol.jsonrpc import RequestId, encode_request
from .connection_errors import ConnectionEnded

if TYPE_CHECKING:
    from .client import Client


@final
@attrs.define(eq=False, repr=False)
class PendingRequest(metaclass=NoPublicConstructor):
    """A request that was sent. `Client.start_request` makes it."""

    id: RequestId
    """Its JSON-RPC id. A retry with answers (2026-07-28) has a new one."""

    method: str
    """Its method."""

    progress: list[dict[str, Any]] = attrs.field(factory=list[dict[str, Any]], init=False)
    """The parameters of its progress notifications so far."""

    _client: Client[Any] = attrs.field(alias="client")
    _params: Mapping[str, Any] | None = attrs.field(alias="params")
    _wants_progress: bool = attrs.field(alias="wants_progress")
    _answering: trio.CancelScope | None = attrs.field(default=None, init=False)
    """The scope of the answers to the questions of the server (2026-07-28); None at other times."""
    _done: trio.Event = attrs.field(factory=trio.Event, init=False)
    _answer: dict[str, Any] | None = attrs.field(default=None, init=False)
    _failure: ConnectionEnded | None = attrs.field(default=None, init=False)

    def __repr__(self) -> str:
        state = "done" if self.done else "waiting"
        return f"<PendingRequest {self.method!r} id={self.id!r}, {state}>"

    @property
    def done(self) -> bool:
        """Whether it has an answer, was cancelled, or its connection has ended."""
        return self._done.is_set()

    async def wait(self) -> Any:
        """Wait for the answer, and return its result.

        A checkpoint. When cancelled, it stops waiting; the request stays open.

        Raises:
            McpError: The answer is an error.
            ConnectionEnded: The connection was closed before the answer.
            HttpRefused: The HTTP response does not contain an answer.
        """
        await self._done.wait()
        if self._failure is not None:
            raise self._failure
        answer = self._answer
        if answer is None:
            raise ConnectionEnded(f"{self.method} was not answered")
        if "error" in answer:
            error = answer["error"]
            raise McpError(error["code"], error["message"], error.get("data"))
        return answer["result"]

    def cancel(self, reason: str | None = None) -> None:
        """Cancel the request: tell the server, and forget it. Not a checkpoint.

        Over HTTP, a request of 2026-07-28 is cancelled by closing its response; all others are
        cancelled by ``notifications/cancelled``. Tasks that wait for the result get
        `ConnectionEnded`.
        """
        self._client._give_up(self, reason)

    def _settle(self, answer: dict[str, Any] | None) -> None:
        self._answer = answer
        self._done.set()
        if self._answering is not None:
            self._answering.cancel(reason="the request is over")

    def _fail(self, failure: ConnectionEnded) -> None:
        self._failure = failure
        self._settle(None)

    @property
    def _is_answering(self) -> bool:
        """Whether the server has asked something, and the retry is not sent yet."""
        return self._answering is not None

    def _answer_in(self, scope: trio.CancelScope) -> None:
        """Let ``scope`` end when the request does."""
        self._answering = scope

    def _sent_again(self, request_id: RequestId) -> None:
        """Take the id of a retry."""
        self.id = request_id
        self._answering = None

    def _encode(self, params: Mapping[str, Any] | None) -> bytes:
        """Return the message with these parameters, and the token for progress if it wants one."""
        if self._wants_progress:
            params = dict(params or {})
            params["_meta"] = {**params.get("_meta", {}), "progressToken": self.id}
        return encode_request(self.id, self.method, params)
