"""The inside of a test client: its reader, and the messages that it has received."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

import attrs
import msgspec
import trio

from ..core.construction import NoPublicConstructor
from ..core.errors import McpError
from ..protocol.error_codes import INTERNAL_ERROR, METHOD_NOT_FOUND
from ..protocol.jsonrpc import RequestId, encode_error, encode_notification, encode_result
from ..transports.channel import BatchChannel
from .calls import PendingRequest
from .client_eras import ClientEra
from .connection_errors import ConnectionEnded

if TYPE_CHECKING:
    from ..sessions.session import Session
    from ..transports.memory import MemoryChannel
    from .asgi_connection import HttpConnection

Answerer: TypeAlias = Callable[[dict[str, Any]], Awaitable[Mapping[str, Any] | None]]
"""Answers a question of the server: takes its parameters, returns the result.

`McpError` is sent as the answer up to 2025-11-25, and ends the request of the client in 2026-07-28;
any other error is raised by `connect_client` or `connect_http_client`.
"""

ChannelT = TypeVar("ChannelT", bound=BatchChannel)


@attrs.define(eq=False, repr=False)
class Conversation(Generic[ChannelT], metaclass=NoPublicConstructor):
    """The base class of `Client`: its state and its reader. Private to this package."""

    server_end: ChannelT
    """The server's end of the connection; over HTTP the `HttpConnection`."""

    notifications: list[tuple[str, dict[str, Any]]] = attrs.field(
        factory=list[tuple[str, dict[str, Any]]], init=False
    )
    """Methods and parameters of all notifications so far, progress included."""

    strays: list[dict[str, Any]] = attrs.field(factory=list[dict[str, Any]], init=False)
    """Answers that belong to no open request, for example errors without an id."""

    received: list[bytes] = attrs.field(factory=list[bytes], init=False)
    """All frames so far, as received."""

    initialize_result: dict[str, Any] | None = attrs.field(default=None, init=False)
    """The server's answer to ``initialize``; None in 2026-07-28."""

    discover_result: dict[str, Any] | None = attrs.field(default=None, init=False)
    """The server's answer to ``server/discover`` (2026-07-28)."""

    _find_session: Callable[[], Session | None] = attrs.field(alias="find_session")
    """Returns the server's session with this client."""
    _channel: MemoryChannel | HttpConnection = attrs.field(alias="channel")
    _era: ClientEra = attrs.field(alias="era")
    _answerers: Mapping[str, Answerer] = attrs.field(alias="answerers")
    _nursery: trio.Nursery = attrs.field(init=False)
    _ids: count[int] = attrs.field(factory=lambda: count(1), init=False)
    _pending: dict[RequestId, PendingRequest] = attrs.field(
        factory=dict[RequestId, PendingRequest], init=False
    )
    _questions: dict[RequestId, trio.CancelScope] = attrs.field(
        factory=dict[RequestId, trio.CancelScope], init=False
    )
    _stalled: trio.Event | None = attrs.field(default=None, init=False)
    _body: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)
    _reading: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)
    _news: trio.Event = attrs.field(factory=trio.Event, init=False)
    _over: trio.Event = attrs.field(factory=trio.Event, init=False)
    _crash: Exception | None = attrs.field(default=None, init=False)

    def _run_in(self, nursery: trio.Nursery) -> None:
        """Read and answer in a nursery. Not a checkpoint."""
        self._nursery = nursery
        nursery.start_soon(self._read, name="reader of a test client")

    async def _read(self) -> None:
        try:
            while True:
                while self._stalled is not None:
                    await self._stalled.wait()
                # A cancelled receive loses nothing, so it can be called again.
                with trio.CancelScope() as self._reading:
                    for frame in await self._channel.receive_batch():
                        assert isinstance(frame, bytes)
                        self._take(frame)
        except (trio.EndOfChannel, trio.ClosedResourceError):
            pass
        finally:
            self._end()

    def _take(self, frame: bytes) -> None:
        self.received.append(frame)
        message: Any = msgspec.json.decode(frame)
        for one in message if frame.startswith(b"[") else [message]:
            self._dispatch(one)
        self._tell()

    def _note_initialize(self, result: dict[str, Any]) -> None:
        self.initialize_result = result

    def _note_discover(self, result: dict[str, Any]) -> None:
        self.discover_result = result

    def _dispatch(self, message: dict[str, Any]) -> None:
        match message:
            case {"id": request_id, "method": method, **rest}:
                self._nursery.start_soon(
                    self._answer, request_id, method, rest.get("params", {}), name=method
                )
            case {"method": method, **rest}:
                self._hear(method, rest.get("params", {}))
            case {"id": request_id, **rest} if request_id in self._pending:
                questions = self._era.questions(message)
                if questions is None:
                    self._settle(request_id, message)
                else:
                    pending = self._pending[request_id]
                    self._nursery.start_soon(
                        self._retry, pending, questions, name=f"retry of {pending.method}"
                    )
            case _:
                self.strays.append(message)

    def _hear(self, method: str, params: dict[str, Any]) -> None:
        self.notifications.append((method, params))
        if method == "notifications/progress":
            pending = self._pending.get(params["progressToken"])
            if pending is not None:
                pending.progress.append(params)
        elif method == "notifications/cancelled":
            scope = self._questions.get(params["requestId"])
            if scope is not None:
                scope.cancel(reason="the server cancelled its question")

    async def _answer(self, question_id: RequestId, method: str, params: dict[str, Any]) -> None:
        """Answer a question of the server, in a task of its own."""
        with trio.CancelScope() as self._questions[question_id]:
            try:
                frame = await self._find_answer(question_id, method, params)
            finally:
                del self._questions[question_id]
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError, ConnectionEnded):
                await self._channel.send(frame)

    async def _find_answer(
        self, question_id: RequestId, method: str, params: dict[str, Any]
    ) -> bytes:
        try:
            return encode_result(question_id, await self._answer_of_test(method, params))
        except McpError as error:
            return encode_error(question_id, error.code, error.message, error.data)

    async def _answer_of_test(
        self, method: str, params: dict[str, Any]
    ) -> Mapping[str, Any] | None:
        """Return what the test answers to a question.

        Raises:
            McpError: The test refuses to answer, or failed: then the body of the client ends.
        """
        answerer = self._answerers.get(method)
        if answerer is None:
            raise McpError(METHOD_NOT_FOUND, "Method not found")
        try:
            return await answerer(params)
        except McpError:
            raise
        except Exception as error:  # a failing assertion has to reach the test
            self._fail(error)
            raise McpError(INTERNAL_ERROR, "Internal error") from error

    async def _retry(self, pending: PendingRequest, questions: Mapping[str, Any]) -> None:
        """Answer the questions that came instead of a result, and send the request again."""
        with trio.CancelScope() as scope:  # noqa: ASYNC912  # both ways wait
            pending._answer_in(scope)
            responses: dict[str, Any] = {}
            try:
                for key, question in questions.get("inputRequests", {}).items():
                    responses[key] = await self._answer_of_test(
                        question["method"], question.get("params", {})
                    )
            except McpError as error:
                refusal = {"code": error.code, "message": error.message, "data": error.data}
                self._settle(pending.id, {"error": refusal})
                return
            again = dict(pending._params or {})
            if responses:
                again["inputResponses"] = responses
            if "requestState" in questions:
                again["requestState"] = questions["requestState"]
            del self._pending[pending.id]
            pending._sent_again(next(self._ids))
            self._pending[pending.id] = pending
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self._channel.send(pending._encode(self._era.prepare(again)))

    def _fail(self, error: Exception) -> None:
        """End the body of the client: its block raises this error."""
        self._crash = error
        self._body.cancel(reason="the client failed")

    def _unanswered(self, request_id: RequestId, failure: ConnectionEnded) -> None:
        """Fail a request: its HTTP response ended without the answer."""
        pending = self._pending.pop(request_id, None)
        if pending is not None:
            pending._fail(failure)
            self._tell()

    def _settle(self, request_id: RequestId, answer: dict[str, Any] | None) -> None:
        self._pending.pop(request_id)._settle(answer)
        self._tell()

    def _give_up(self, pending: PendingRequest, reason: str | None) -> None:
        if pending.done:
            return
        self._settle(pending.id, None)
        if pending.method == "initialize":
            return  # The protocol forbids to cancel ``initialize``.
        if pending._is_answering:
            return  # The server has answered; only the retry is missing, and is not sent.
        params = {"requestId": pending.id} | ({} if reason is None else {"reason": reason})
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            # If there is no room for it, the server does not read now.
            self._channel.send_nowait(encode_notification("notifications/cancelled", params))

    def _end(self) -> None:
        self._over.set()
        for request_id in list(self._pending):
            self._settle(request_id, None)
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()
