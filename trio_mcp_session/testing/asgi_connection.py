"""The connection of a test client over HTTP: messages become HTTP requests to an application."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, final

import attrs
import msgspec
import trio

from ..core.lifecycle_states import LIVE_STATES
from ..protocol.envelope import PROTOCOL_VERSION, is_modern
from ..protocol.framing import Frame
from ..protocol.header_agreement import NAME_IF_SENT, NAME_OF, PARAM_PREFIX, value_at
from ..protocol.jsonrpc import RequestId, is_object
from ..transports.asgi import ASGIApplication
from ..transports.channel import BatchChannel
from .asgi_request import HOST, AsgiRequest
from .connection_errors import HttpRefused
from .event_parser import EventParser

if TYPE_CHECKING:
    from ..sessions.session import Session

_EVENTS: Final = "text/event-stream"
_JSON: Final = "application/json"
_REFUSED: Final = 400
"""The first status of a refusal."""
_PLAIN: Final = re.compile(r"(?! )[\x20-\x7e]*(?<! )")
"""A header value that is sent as it is."""


@attrs.frozen(kw_only=True)
class HttpResponse:
    """The head of an HTTP response."""

    verb: str
    """The HTTP method of the request: ``POST``, ``GET`` or ``DELETE``."""

    status: int
    """The status."""

    headers: Mapping[str, str]
    """The headers, with names in lower case."""


@final
@attrs.define(eq=False, repr=False)
class HttpConnection(BatchChannel):
    """The HTTP requests and responses of a client of `connect_http_client`.

    Each message that the client sends is the body of a POST, and each message in a response is one
    that it receives. It is `Client.server_end` of such a client.
    """

    headers: dict[str, str]
    """Headers of each request from now on, such as ``Authorization``; a test may change them."""

    responses: list[HttpResponse] = attrs.field(factory=list[HttpResponse], init=False)
    """The heads of all responses that have ended."""

    session_id: str | None = attrs.field(default=None, init=False)
    """The value of ``Mcp-Session-Id``; None as long as the server opened no session."""

    _app: ASGIApplication = attrs.field(alias="app")
    _path: str = attrs.field(alias="path")
    _capacity: int = attrs.field(alias="capacity")
    _sessions: Callable[[], list[Session]] = attrs.field(alias="sessions")
    """Returns the sessions of the server over HTTP."""
    _parameters: Callable[[str, dict[str, Any]], Mapping[str, tuple[str, ...]]] = attrs.field(
        alias="parameters"
    )
    """Returns the arguments of a tool that headers repeat."""
    _get_nursery: Callable[[], trio.Nursery] = attrs.field(init=False)
    _unanswered: Callable[[RequestId, HttpRefused], None] = attrs.field(init=False)
    _crashed: Callable[[Exception], None] = attrs.field(init=False)
    _version: str | None = attrs.field(default=None, init=False)
    _frames: list[Frame] = attrs.field(factory=list[Frame], init=False)
    _open: dict[AsgiRequest, None] = attrs.field(factory=dict[AsgiRequest, None], init=False)
    _modern: dict[RequestId, AsgiRequest] = attrs.field(
        factory=dict[RequestId, AsgiRequest], init=False
    )
    """The stateless requests that are open: closing their response cancels them."""
    _closed: bool = attrs.field(default=False, init=False)
    _ended: bool = attrs.field(default=False, init=False)
    _changed: trio.Event = attrs.field(factory=trio.Event, init=False)

    def __repr__(self) -> str:
        return f"<HttpConnection: {len(self._open)} requests open>"

    def serve(
        self,
        nursery: Callable[[], trio.Nursery],
        *,
        unanswered: Callable[[RequestId, HttpRefused], None],
        crashed: Callable[[Exception], None],
    ) -> None:
        """Set what the requests need of the client. Not a checkpoint.

        Args:
            nursery: Returns the nursery that they run in.
            unanswered: Called when a response does not contain the answer to its request.
            crashed: Called when the application raises.
        """
        self._get_nursery = nursery
        self._unanswered = unanswered
        self._crashed = crashed

    @property
    def session(self) -> Session | None:
        """The server's session; None if the server opened none, or it has ended."""
        return next((one for one in self._sessions() if one.session_id == self.session_id), None)

    # Sending.

    async def send_batch(self, frames: Sequence[bytes]) -> None:
        """Send messages; return when the server has read or accepted each of them.

        Raises:
            HttpRefused: A message that is not a request was refused.
        """
        await trio.lowlevel.checkpoint()
        for frame in frames:
            if self._closed or self._ended:
                raise trio.ClosedResourceError("this connection was closed")
            if not self._leave_modern(frame):
                refused = await self._get_nursery().start(self._post, frame)
                if refused is not None:
                    raise refused

    def send_nowait(self, frame: bytes) -> bool:
        """Send a message without waiting until it is accepted."""
        if self._closed or self._ended:
            raise trio.ClosedResourceError("this connection was closed")
        if not self._leave_modern(frame):
            self._get_nursery().start_soon(self._post, frame)
        return True

    @property
    def needs_flush(self) -> bool:
        """See `BatchChannel.needs_flush`: messages are never taken in part."""
        return False

    def _leave_modern(self, frame: bytes) -> bool:
        """Close the response of the stateless request that a message cancels, if it is open.

        Returns:
            Whether the message did this: then it is not sent.
        """
        match _decode(frame):
            case {"method": "notifications/cancelled", "params": {"requestId": request_id}}:
                request = self._modern.get(request_id)
                if request is not None:
                    self._leave(request)
                    return True
            case _:
                pass
        return False

    async def _post(
        self,
        frame: bytes,
        *,
        task_status: trio.TaskStatus[HttpRefused | None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Send one message, and receive what comes in the response.

        ``started()`` is called when a request was read, and when any other message was accepted or
        refused: with the refusal.
        """
        message = _decode(frame)
        is_request = is_object(message) and "method" in message and "id" in message
        answer = _Answer(message if is_request else None)
        request = self._request("POST", self._headers_of(message), frame, answer)
        if is_request and is_modern(message.get("params", {})):
            self._modern[message["id"]] = request
        try:
            async with trio.open_nursery() as nursery:
                if is_request:
                    nursery.start_soon(_report_read, request, task_status)
                await self._run(request)
                await self._accept(request, answer)
            refused = await self._resume(request, answer)
        finally:
            if is_request:
                self._modern.pop(message["id"], None)
        if refused is not None and is_request:
            self._unanswered(message["id"], refused)
        if not is_request:
            task_status.started(refused)

    async def _accept(self, request: AsgiRequest, answer: _Answer) -> None:
        """Take a response that is not a stream, when it is complete."""
        if answer.parser is not None or not answer.body:
            return
        answer.note(answer.body)
        if answer.method == "initialize" and answer.answered:
            self.session_id = request.response_headers.get("mcp-session-id")
            self._version = _decode(answer.body).get("result", {}).get("protocolVersion")
        # Any other body of a refusal is its reason, which `HttpRefused` has.
        if answer.answered or request.status < _REFUSED:
            await self._deliver(request, answer.body)

    async def _resume(self, request: AsgiRequest, answer: _Answer) -> HttpRefused | None:
        """Fetch the rest of a stream that the server has closed before its end.

        Returns:
            Why the server refused: the message was not accepted, or the answer will not come. None
            if it did not refuse.
        """
        while answer.is_missing and not request.left and answer.last_event_id is not None:
            headers = {**self._headers_of(None), "Last-Event-ID": answer.last_event_id}
            await trio.sleep(answer.retry)
            if self._closed:
                return None
            answer.parser = None
            request = self._request("GET", headers, b"", answer)
            await self._run(request)
        if request.left or answer.answered:
            return None
        if not answer.is_missing and request.status < _REFUSED:
            return None
        what = answer.method or "the message"
        return HttpRefused(what, request.status, request.response_headers, answer.body.decode())

    def _request(
        self, verb: str, headers: Mapping[str, str], body: bytes, answer: _Answer
    ) -> AsgiRequest:
        async def take(request: AsgiRequest, piece: bytes) -> None:
            if not request.response_headers.get("content-type", "").startswith(_EVENTS):
                answer.body += piece
                return
            if answer.parser is None:
                answer.parser = EventParser()
            for data in answer.parser.feed(piece):
                answer.note(data)
                await self._deliver(request, data)

        return AsgiRequest(verb, self._path, headers, body, take)

    async def _run(self, request: AsgiRequest) -> None:
        self._open[request] = None
        try:
            await request.run(self._app)
        except Exception as error:  # noqa: BLE001  # it has to reach the test
            self._crashed(error)
        finally:
            del self._open[request]
            self.responses.append(
                HttpResponse(
                    verb=request.verb, status=request.status, headers=request.response_headers
                )
            )
            self._tell()

    def _headers_of(self, message: Any) -> dict[str, str]:
        """Return the headers of a request with this message; None if its body is empty."""
        headers = {"Host": HOST, "Accept": f"{_JSON}, {_EVENTS}", "Content-Type": _JSON}
        params: Any = message.get("params", {}) if is_object(message) else {}
        if is_modern(params):
            headers |= self._modern_headers(message["method"], params)
        else:
            if self.session_id is not None:
                headers["Mcp-Session-Id"] = self.session_id
            if self._version is not None:
                headers["MCP-Protocol-Version"] = self._version
        return {**headers, **self.headers}

    def _modern_headers(self, method: str, params: dict[str, Any]) -> dict[str, str]:
        """Return the headers that repeat parts of a stateless request."""
        headers = {"MCP-Protocol-Version": str(params["_meta"][PROTOCOL_VERSION])}
        headers["Mcp-Method"] = method
        name = params.get(NAME_OF.get(method) or NAME_IF_SENT.get(method, ""))
        if isinstance(name, str):
            headers["Mcp-Name"] = _header_value(name)
        for parameter, place in self._parameters(method, params).items():
            value = value_at(params.get("arguments", {}), place)
            if value is not None:
                text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
                headers[f"{PARAM_PREFIX}{parameter}"] = _header_value(text)
        return headers

    # Receiving.

    async def receive_batch(self) -> list[Frame]:
        """See `BatchChannel.receive_batch`."""
        await trio.lowlevel.checkpoint()
        while True:  # noqa: ASYNC913  # began with a checkpoint
            if self._closed:
                raise trio.ClosedResourceError("this connection was closed")
            if self._frames:
                batch, self._frames = self._frames, []
                self._tell()
                return batch
            if self._ended and not self._open:
                raise trio.EndOfChannel
            await self._changed.wait()

    async def _deliver(self, request: AsgiRequest, frame: bytes) -> None:
        """Hand a message to the client; wait while it does not read."""
        while len(self._frames) >= self._capacity and not request.left:
            await self._changed.wait()
        if not request.left:
            self._frames.append(frame)
            self._tell()

    async def open_stream(self) -> None:
        """Open the stream for messages that belong to no request (GET), if the server has one.

        A checkpoint; it returns when the response has begun.
        """
        if self.session_id is not None:
            await self._get_nursery().start(self._get)

    async def _get(self, *, task_status: trio.TaskStatus[None]) -> None:  # noqa: ASYNC128  # `_report_started` calls it
        request = self._request("GET", self._headers_of(None), b"", _Answer(None))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_report_started, request, task_status)
            await self._run(request)
        session = self.session
        if session is None or session.state not in LIVE_STATES:
            self._ended = True
            self._tell()

    # Leaving.

    async def send_eof(self) -> None:
        """Raise: HTTP has no end of the stream.

        Raises:
            RuntimeError: Always.
        """
        raise RuntimeError("a client over HTTP cannot close one direction: use drop()")

    def close(self) -> None:
        """Close all responses. Not a checkpoint."""
        self._closed = True
        for request in list(self._open):
            self._leave(request)
        self._frames.clear()
        self._tell()

    async def aclose(self) -> None:
        """Close all responses. A checkpoint."""
        self.close()
        await trio.lowlevel.checkpoint()

    async def delete(self) -> None:
        """End the session (DELETE), if there is one. A checkpoint."""
        await trio.lowlevel.checkpoint()
        if self.session_id is not None:
            await self._run(self._request("DELETE", self._headers_of(None), b"", _Answer(None)))

    async def wait_idle(self) -> None:
        """Wait until the server has ended all requests. A checkpoint."""
        await trio.lowlevel.checkpoint()
        while self._open:
            await self._changed.wait()

    def _leave(self, request: AsgiRequest) -> None:
        request.leave()
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


@final
class _Answer:
    """What was received in answer to one message.

    Args:
        message: The request; None for a message that is not one.
    """

    def __init__(self, message: dict[str, Any] | None) -> None:
        self._message: Final = message
        self.method: Final[str | None] = None if message is None else message["method"]
        self.answered = False
        """Whether the response to the request has come."""
        self.body = b""
        """The body so far, if it is not a stream."""
        self.parser: EventParser | None = None
        """Reads the stream, if it is one."""

    @property
    def is_missing(self) -> bool:
        """Whether the request has no answer yet."""
        return self._message is not None and not self.answered

    @property
    def last_event_id(self) -> str | None:
        """The id of the last event; None if the stream cannot be resumed."""
        return None if self.parser is None else self.parser.last_event_id

    @property
    def retry(self) -> float:
        """Seconds after which to resume the stream."""
        return 0.0 if self.parser is None else self.parser.retry

    def note(self, frame: bytes) -> None:
        """Set `answered` if a message is the answer to the request."""
        if self._message is None:
            return
        message = _decode(frame)
        if is_object(message) and "method" not in message:
            self.answered = self.answered or message.get("id") == self._message["id"]


async def _report_read(request: AsgiRequest, task_status: trio.TaskStatus[None]) -> None:
    await request.read.wait()
    task_status.started()


async def _report_started(request: AsgiRequest, task_status: trio.TaskStatus[None]) -> None:
    await request.started.wait()
    task_status.started()


def _decode(frame: bytes) -> Any:
    """Decode a message; None if it is not JSON."""
    try:
        return msgspec.json.decode(frame)
    except msgspec.DecodeError:
        return None


def _header_value(text: str) -> str:
    """Return a text as the value of a header: as it is, or in Base64 with the markers."""
    if _PLAIN.fullmatch(text) and not text.startswith("=?base64?"):
        return text
    return f"=?base64?{base64.b64encode(text.encode()).decode()}?="
