"""What a handler sees of its request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from math import inf
from typing import TYPE_CHECKING, Any, Final, Literal, final

import attrs
import trio
from msgspec import UNSET

from ..core.errors import McpError, NoSession
from ..protocol import jsonrpc
from ..protocol.capabilities import require
from ..protocol.error_codes import INTERNAL_ERROR
from ..protocol.logging import SEVERITY, LogLevel

if TYPE_CHECKING:
    from ..core.identity import ClientInfo
    from ..protocol.jsonrpc import Params, RequestId
    from ..sessions.requests import InFlightRequest
    from ..sessions.session import Session

_current: ContextVar[RequestContext] = ContextVar("trio_mcp_session.request")


@attrs.frozen(kw_only=True)
class ElicitResult:
    """What the user answered to `RequestContext.elicit`."""

    action: Literal["accept", "decline", "cancel"]
    """What the user did."""

    content: Mapping[str, Any] | None
    """What the user filled in, when accepted. It has not been checked against the schema."""


@final
class RequestContext:
    """One request, as its handler sees it.

    Valid while the handler runs. What it sends goes on this request's own stream, where the
    transport has one.
    """

    __slots__ = ("_last_progress", "_request")

    def __init__(self, request: InFlightRequest) -> None:
        self._request: Final = request
        self._last_progress: float = -inf

    def __repr__(self) -> str:
        return f"<RequestContext {self._request.method!r}>"

    @property
    def session(self) -> Session:
        """The session that the request belongs to.

        Raises:
            NoSession: It belongs to none (not before revision 2026-07-28).
        """
        session: Session | None = self._request.session
        if session is None:
            raise NoSession("a request of this revision has no session; use a handle instead")
        return session

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
        return self._request.session.client

    @property
    def protocol_version(self) -> str | None:
        """The revision that the client speaks."""
        return self._request.session.protocol_version

    @property
    def progress_token(self) -> RequestId | None:
        """The token under which the client wants to hear of progress, if it does."""
        meta = self._request.params.get("_meta")
        token = meta.get("progressToken") if isinstance(meta, dict) else None
        return token if isinstance(token, (int, str)) and not isinstance(token, bool) else None

    @property
    def time_left(self) -> float:
        """Seconds until the request's own clock strikes (`CleanupConfig.request_timeout`)."""
        scope = self._request.scope
        return inf if scope is None else scope.deadline - trio.current_time()

    @property
    def cancelled(self) -> bool:
        """Whether the client has cancelled the request, or it was answered for another reason."""
        return self._request.answered and self._request.id is not UNSET

    async def progress(
        self, progress: float, total: float | None = None, message: str | None = None
    ) -> None:
        """Tell the client how far the work is (``notifications/progress``).

        A checkpoint; it waits while the client's buffer is full. Nothing is sent if the client
        did not ask for it, if the request has been answered, or if ``progress`` is no more than
        it was: the protocol wants it to increase (all revisions, *Progress*).

        Args:
            progress: How much is done.
            total: How much there is, if known.
            message: What is happening, for people; sent from 2025-03-26 on.
        """
        token = self.progress_token
        if token is None or progress <= self._last_progress:
            await trio.lowlevel.checkpoint()
            return
        self._last_progress = progress
        params: dict[str, Any] = {"progressToken": token, "progress": progress}
        if total is not None:
            params["total"] = total
        revision = self._request.session._revision
        if message is not None and revision is not None and revision.progress_messages:
            params["message"] = message
        await self.notify("notifications/progress", params)

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
        wanted = self._request.session._log_severity
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
        request = self._request
        frame = jsonrpc.encode_notification(method, params)
        await trio.lowlevel.checkpoint()
        while not self.cancelled and not request.session._send_message(request.outlet, frame):
            await request.outlet.wait_writable()

    async def elicit(
        self,
        message: str,
        schema: Mapping[str, Any],
        *,
        timeout: float | None = None,  # noqa: ASYNC109  # the client is told when it strikes
    ) -> ElicitResult:
        """Ask the user to fill in a form (``elicitation/create``, from 2025-06-18 on).

        A checkpoint. The request's own deadline stands still meanwhile. When cancelled, the
        client is told to forget the question. Never ask for secrets in this way.

        Args:
            message: What to tell the user.
            schema: JSON schema of the form: an object of plain values.
            timeout: Seconds; `CleanupConfig.question_timeout` by default.

        Raises:
            CapabilityMissing: The client cannot ask its user. Nothing was sent.
            QuestionTimeout: No answer in time; the client was told to forget the question.
            McpError: The client answered with this error.
            SessionTerminated: The session ended meanwhile.
        """
        answer = await self._ask(
            "elicitation/create", {"message": message, "requestedSchema": schema}, timeout
        )
        match answer:
            case {"action": "accept" | "decline" | "cancel" as action, **rest}:
                content = rest.get("content")
                return ElicitResult(
                    action=action, content=content if isinstance(content, dict) else None
                )
            case _:
                raise McpError(INTERNAL_ERROR, "the client answered with a malformed result")

    async def sample(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        max_tokens: int,
        timeout: float | None = None,  # noqa: ASYNC109  # the client is told when it strikes
        **params: Any,
    ) -> dict[str, Any]:
        """Let the client's model answer (``sampling/createMessage``, 2024-11-05 to 2025-11-25).

        Checkpoint, cancellation and errors are those of `elicit`.

        Args:
            messages: The conversation so far.
            max_tokens: How long the answer may be.
            timeout: Seconds; `CleanupConfig.question_timeout` by default.
            **params: Further parameters of the request, named as the protocol does.

        Returns:
            The result, as sent.
        """
        answer = await self._ask(
            "sampling/createMessage",
            {"messages": messages, "maxTokens": max_tokens, **params},
            timeout,
        )
        return _object(answer)

    async def list_roots(
        self,
        *,
        timeout: float | None = None,  # noqa: ASYNC109  # the client is told when it strikes
    ) -> list[dict[str, Any]]:
        """Ask which folders the client works in (``roots/list``, 2024-11-05 to 2025-11-25).

        Checkpoint, cancellation and errors are those of `elicit`.
        """
        answer = _object(await self._ask("roots/list", None, timeout))
        roots = answer.get("roots")
        if not isinstance(roots, list):
            raise McpError(INTERNAL_ERROR, "the client answered with a malformed result")
        return [_object(root) for root in roots]

    async def _ask(
        self,
        method: str,
        params: Mapping[str, Any] | None,
        timeout: float | None,  # noqa: ASYNC109  # the client is told when it strikes
    ) -> Any:
        request = self._request
        require(request.session.client, method)
        scope = request.scope
        left = inf if scope is None else scope.deadline - trio.current_time()
        if scope is None or left == inf:
            return await request.session._ask(method, params, request.outlet, timeout)
        # The client's time is not the handler's.
        scope.deadline = inf
        try:
            return await request.session._ask(method, params, request.outlet, timeout)
        finally:
            scope.deadline = trio.current_time() + left


def _object(answer: Any) -> dict[str, Any]:
    if not isinstance(answer, dict):
        raise McpError(INTERNAL_ERROR, "the client answered with a malformed result")
    return answer


def current_request() -> RequestContext:
    """Return the context of the request whose handler calls. Not a checkpoint.

    It is set in handlers and in the tasks that they start in nurseries of their own. It is unset
    in everything else that a session runs, `Session.start_soon` included: that may outlive the
    request.

    Raises:
        LookupError: No request's handler calls.
    """
    return _current.get()
