"""What an application of the official SDK sends its client through, in both eras.

Their handlers have two channels: one of the request, and one of the connection. Both end here, in
the request and in the session of this library.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import TYPE_CHECKING, Any, Final, final

import attrs
import trio

from ..application.context import running_request
from ..core.errors import NoChannel, SessionTerminated
from ..core.log_level import SEVERITY
from ..protocol.methods import MAY_ASK
from ..protocol.subscription_messages import CHANGES
from ..server.client_connection import client_of

if TYPE_CHECKING:
    from ..application.context import RequestContext
    from ..protocol.jsonrpc import RequestId
    from ..server.request import InFlightRequest
    from ..sessions.session import Session
    from .sdk_errors import Errors
    from .sdk_names import Sdk

LOG: Final = "notifications/message"


def _timeout(opts: Any) -> float | None:
    """Return the seconds that their handler wants to wait; None for the default."""
    found: float | None = None if opts is None else opts.get("timeout")
    return found


@final
@attrs.define(eq=False, repr=False)
class RequestChannel:
    """The channel of one request: their ``DispatchContext``."""

    context: RequestContext
    """The request, as handlers of this library see it."""
    message_metadata: Any
    """What their transports say of an HTTP request; None for other transports."""
    _sdk: Sdk
    _errors: Errors
    _cancelled: Any = attrs.field(default=None, init=False)

    def __repr__(self) -> str:
        return f"<RequestChannel of {self.request!r}>"

    @property
    def request(self) -> InFlightRequest:
        """The request."""
        return self.context._request

    @property
    def transport(self) -> Any:
        """Their description of the transport, for this request."""
        headers = self.context.headers
        return self._sdk.transport(
            kind="stdio" if self.context.asgi_scope is None else "streamable-http",
            can_send_request=self.can_send_request,
            headers=headers or None,
        )

    @property
    def request_id(self) -> RequestId | None:
        """The id of the request; None for a notification."""
        return self.context.request_id

    @property
    def can_send_request(self) -> bool:
        """Whether the client can be asked something now."""
        request = self.request
        if request.handler_has_ended or (request.session is None and not request.is_modern):
            return False
        return request.method in MAY_ASK if request.is_modern else not request.has_answer

    @property
    def cancel_requested(self) -> Any:
        """Their event: set when the handler was cancelled."""
        if self._cancelled is None:
            self._cancelled = self._sdk.event()
        return self._cancelled

    def handler_was_cancelled(self) -> None:
        """Set the event, if the handler has asked for it. Not a checkpoint."""
        if self._cancelled is not None:
            self._cancelled.set()

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: Any = None
    ) -> Any:
        """Ask the client, in both eras. A checkpoint.

        Raises:
            Exception: Their ``NoBackChannelError`` if the client cannot be asked now, else their
                ``MCPError``.
        """
        request = self.request
        revision = request.revision
        if revision is not None and not revision.elicitation_ids and params is not None:
            params = {name: one for name, one in params.items() if name != "elicitationId"}
        asking = request.ask(method, params, timeout=_timeout(opts))
        return await asked(asking, method, self._errors, modern=request.is_modern)

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: Any = None) -> None:
        """Send a notification of this request, if it may still have some. A checkpoint."""
        del opts
        if method == LOG and not wants_log(self.request.session, params):
            await trio.lowlevel.checkpoint()
            return
        await self.context.notify(method, params)

    async def progress(
        self, progress: float, total: float | None = None, message: str | None = None
    ) -> None:
        """Report progress, if the client wants to know. A checkpoint."""
        await self.context.progress(progress, total, message)


@final
@attrs.define(eq=False, repr=False)
class SessionChannel:
    """The channel of a connection up to 2025-11-25: their ``Outbound``, for one session."""

    _session: Session
    _errors: Errors

    def __repr__(self) -> str:
        return f"<SessionChannel of {self._session!r}>"

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: Any = None
    ) -> Any:
        """Ask the client. A checkpoint.

        A question of a handler goes out on the stream of its request: the client reads that one.
        """
        context = running_request()
        timeout = _timeout(opts)
        if context is not None and context._request.session is self._session and context._is_open():
            asking = context._request.ask(method, params, timeout=timeout)
        else:
            asking = self._session.ask(method, params, timeout=timeout)
        return await asked(asking, method, self._errors, modern=False)

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: Any = None) -> None:
        """Send a notification outside of requests, if the client can be reached. A checkpoint."""
        del opts
        if method == LOG and not wants_log(self._session, params):
            await trio.lowlevel.checkpoint()
            return
        try:
            await self._session.notify(method, params)
        except (NoChannel, SessionTerminated):
            return  # Theirs is dropped as well.


@final
@attrs.define(eq=False, repr=False)
class EnvelopeChannel:
    """The channel of a connection of 2026-07-28: it lives as long as its request."""

    _channel: RequestChannel

    def __repr__(self) -> str:
        return f"<EnvelopeChannel of {self._channel.request!r}>"

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: Any = None
    ) -> Any:
        """Ask the client, as a question of the request. A checkpoint."""
        return await self._channel.send_raw_request(method, params, opts)

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: Any = None) -> None:
        """Send a notification on a pipe. A checkpoint.

        Over HTTP nothing carries it, and changes are for subscriptions only.
        """
        if method in CHANGES or self._channel.request.owner.session is None:
            await trio.lowlevel.checkpoint()
            return
        await self._channel.notify(method, params, opts)


async def asked(asking: Awaitable[Any], method: str, errors: Errors, *, modern: bool) -> Any:
    """Wait for the answer of the client; errors are translated. A checkpoint."""
    try:
        return await asking
    except Exception as error:
        raise errors.for_handler(error, method, modern=modern) from error


def wants_log(session: Session | None, params: Mapping[str, Any] | None) -> bool:
    """Return whether the client of a session wants a log message. Not a checkpoint.

    Their servers send all messages to a client that has set no level. From 2026-07-28 on, they
    check the level of the request themselves.
    """
    if session is None:
        return True
    wanted = client_of(session).log_severity
    return wanted is None or SEVERITY.get((params or {}).get("level", ""), wanted) >= wanted
