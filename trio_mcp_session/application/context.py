"""What a handler sees of its request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from math import inf, isfinite
from typing import TYPE_CHECKING, Any, Literal, final

import trio
from msgspec import UNSET

from ..core.errors import NoSession
from ..protocol import jsonrpc
from ..protocol.jsonrpc import is_object
from ..protocol.logging import SEVERITY, LogLevel
from ..sessions.era_notices import session_missed
from .asking import Asking
from .handles import HandleMethods

if TYPE_CHECKING:
    from ..core.identity import ClientInfo, Principal
    from ..protocol.jsonrpc import Params, RequestId
    from ..sessions.broadcast import BroadcastReport
    from ..sessions.requests import InFlightRequest
    from ..sessions.session import Session

_current: ContextVar[RequestContext] = ContextVar("trio_mcp_session.request")


@final
class RequestContext(Asking, HandleMethods):
    """One request, as its handler sees it.

    Valid while the handler runs. What it sends goes on this request's own stream, where the
    transport has one.
    """

    __slots__ = ("_last_progress",)

    def __init__(self, request: InFlightRequest) -> None:
        super().__init__(request)
        self._last_progress: float = -inf

    def __repr__(self) -> str:
        return f"<RequestContext {self._request.method!r}>"

    @property
    def session(self) -> Session:
        """The session that the request belongs to.

        Raises:
            NoSession: It belongs to none (not before revision 2026-07-28). The first time, that is
                told in the log too: a server that needs sessions can decline such clients
                (``Router(eras="legacy")``).
        """
        session = self._request.session
        if session is None:
            session_missed(self._request)
            raise NoSession("a request of this revision has no session; use a handle instead")
        return session

    @property
    def principal(self) -> Principal | None:
        """On whose behalf the request is made; None where that is nobody in particular.

        Where nobody was authenticated, a connection, or a session that a client opened over HTTP,
        stands for itself: it has a principal of its own, and what is held under it ends with it.
        Requests of 2026-07-28 over HTTP have no principal then.
        """
        return self._request.principal

    @property
    def method(self) -> str:
        """The request's method."""
        return self._request.method

    @property
    def params(self) -> Params:
        """The request's parameters, as sent; ``{}`` if there were none."""
        return self._request.params

    @property
    def request_id(self) -> RequestId | None:
        """The request's JSON-RPC id; None in the handler of a notification."""
        return None if self._request.id is UNSET else self._request.id

    @property
    def client(self) -> ClientInfo | None:
        """What the client said of itself."""
        return self._request.client

    @property
    def protocol_version(self) -> str | None:
        """The revision that the client speaks."""
        revision = self._request.revision
        return None if revision is None else revision.version

    @property
    def progress_token(self) -> RequestId | None:
        """The token under which the client wants to hear of progress, if it does."""
        meta = self._request.params.get("_meta")
        token = meta.get("progressToken") if is_object(meta) else None
        return token if isinstance(token, (int, str)) and not isinstance(token, bool) else None

    @property
    def time_left(self) -> float:
        """Seconds until the request's own clock strikes (`CleanupConfig.request_timeout`).

        It stands still while the client is asked something.
        """
        return self._request.questions.time_left

    @property
    def answered(self) -> bool:
        """Whether the request has its answer, or gets none because its client cancelled it."""
        return self._request.has_answer

    async def progress(
        self, progress: float, total: float | None = None, message: str | None = None
    ) -> None:
        """Tell the client how far the work is (``notifications/progress``).

        A checkpoint; it waits while the client's buffer is full. Nothing is sent if the client
        did not ask for it, if the request has been answered, or if ``progress`` is no more than
        it was, or no finite number: the protocol wants it to increase (all revisions,
        *Progress*). Of calls at the same time, the one that is farthest is sure to be sent.

        Args:
            progress: How much is done.
            total: How much there is, if known.
            message: What is happening, for people; sent from 2025-03-26 on.
        """
        token = self.progress_token
        if token is None or not self._last_progress < progress < inf:
            await trio.lowlevel.checkpoint()
            return
        self._last_progress = progress
        params: dict[str, Any] = {"progressToken": token, "progress": progress}
        if total is not None and isfinite(total):
            params["total"] = total
        revision = self._request.revision
        if message is not None and revision is not None and revision.progress_messages:
            params["message"] = message
        # Somebody else may be farther when this one's turn comes to be sent.
        await self._send(
            jsonrpc.encode_notification("notifications/progress", params),
            lambda: self._last_progress == progress,
        )

    async def log(self, level: LogLevel, data: Any, logger: str | None = None) -> None:
        """Send the client a log message (``notifications/message``).

        A checkpoint; it waits while the client's buffer is full. Nothing is sent below the level
        that the client set, or if it set none. Keep secrets and personal data out of it.

        Args:
            level: One of the eight levels of RFC 5424.
            data: Anything that encodes to JSON.
            logger: Name of the part of the server that speaks.

        Raises:
            ValueError: There is no such level.
        """
        if level not in SEVERITY:
            raise ValueError(f"level must be one of {', '.join(SEVERITY)}, not {level!r}")
        wanted = self._request.log_severity
        if wanted is None or SEVERITY[level] < wanted:
            await trio.lowlevel.checkpoint()
            return
        params = {"level": level, "data": data}
        if logger is not None:
            params["logger"] = logger
        await self.notify("notifications/message", params)

    async def notify(self, method: str, params: Mapping[str, Any] | None = None) -> None:
        """Send a notification that belongs to this request.

        A checkpoint; it waits while the client's buffer is full. Nothing is sent after the
        request has been answered.
        """
        await self._send(jsonrpc.encode_notification(method, params), lambda: True)

    def notify_list_changed(
        self, what: Literal["tools", "prompts", "resources"]
    ) -> BroadcastReport:
        """Tell all clients that a list has changed: see `SessionManager.notify_list_changed`."""
        return self._request.owner._manager.notify_list_changed(what)

    def notify_resource_updated(self, uri: str) -> BroadcastReport:
        """Tell whoever subscribed: see `SessionManager.notify_resource_updated`."""
        return self._request.owner._manager.notify_resource_updated(uri)

    def close_stream(self, *, retry: float | None = None) -> bool:
        """Let the client go, and come back for the answer (2025-11-25, *Streamable HTTP*).

        Not a checkpoint. What is sent for this request meanwhile is kept for it. Use it where an
        answer takes longer than connections should stay open.

        Args:
            retry: Seconds after which the client should come back; by default what the transport
                told it already.

        Returns:
            Whether it was let go. False where the transport is no HTTP, the client's revision has
            no such thing, nothing would be kept for it, or the request has been answered.

        Raises:
            ValueError: ``retry`` is negative, or no finite number.
        """
        if retry is not None and not 0 <= retry < inf:
            raise ValueError(f"retry must be 0 or more seconds, and finite, not {retry!r}")
        return self._is_open() and self._request.outlet.close_stream(retry)

    async def _send(self, frame: bytes, is_wanted: Callable[[], bool]) -> None:
        """Send a message as soon as there is room, unless nobody wants it any more."""
        request = self._request
        on_behalf_of = request.params
        await trio.lowlevel.checkpoint()
        # By then the handler may work for another request, which did not ask for this message.
        while self._is_open() and request.params is on_behalf_of and is_wanted():
            if request.owner._send_message(request.outlet, frame) is not False:
                return  # Sent, or lost with its transport, which was reported.
            await request.outlet.wait_writable()

    def _is_open(self) -> bool:
        """Return whether messages may still be sent for this request."""
        return not self._request.handler_has_ended and not self._request.has_answer


def current_request() -> RequestContext:
    """Return the context of the request whose handler calls. Not a checkpoint.

    It is set in handlers and in the tasks that they start in nurseries of their own. It is unset
    in everything else that a session runs, `Session.start_soon` included: that may outlive the
    request.

    Raises:
        LookupError: No request's handler calls.
    """
    return _current.get()
