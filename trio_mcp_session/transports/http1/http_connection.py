"""One client: its requests one after the other, and its end."""

from __future__ import annotations

import logging
from contextlib import suppress
from http import HTTPStatus
from math import inf
from typing import Any, Final, cast, final

import attrs
import trio

from ...sessions.error_log import write_log
from ...sessions.interrupts import run_user_code
from ..asgi import BODY_AT_HAND, ClientDisconnected, Scope
from .exchange import Exchange
from .parser import Request, RequestParser
from .request_refused import RequestRefused, request_timeout
from .response_framing import plain_answer
from .service import Service
from .wire import Wire

_logger: Final = logging.getLogger("trio_mcp_session.http")

_FAILED: Final = HTTPStatus.INTERNAL_SERVER_ERROR


@final
@attrs.define(eq=False, repr=False)
class Connection:
    """Serves one client until either has had enough.

    Args:
        service: What it belongs to.
        wire: Its socket; it belongs to the connection.
        scope: What the scopes of all of its requests have in common.
    """

    _service: Service = attrs.field(alias="service")
    _wire: Wire = attrs.field(alias="wire")
    _scope: dict[str, Any] = attrs.field(alias="scope")
    _parser: RequestParser = attrs.field(init=False)
    _head_deadline: float | None = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        limits = self._service.limits
        self._parser = RequestParser(limits)
        # The first request is waited for as if its first byte had come.
        self._head_deadline = trio.current_time() + limits.header_timeout

    async def run(self) -> None:
        """Serve requests until the connection is to end, and end it."""
        try:
            try:
                answered = await self._serve()
            except RequestRefused as refusal:
                self._service.report(refusal, self._scope["client"])
                self._wire.write_last(plain_answer(refusal))
                answered = True
            if answered and not self._wire.broken:
                await self._part()
        finally:
            self._wire.close()
            self._service.discard(self._wire)

    async def _serve(self) -> bool:
        """Serve requests; returns whether the last thing that happened was an answer."""
        while not self._service.stopping:
            request = self._parser.next_request()
            if request is None:
                if not await self._wait_for_request():
                    return False
                continue
            self._head_deadline = None
            exchange = Exchange(self._service, self._wire, self._parser, request)
            await self._run_application(exchange, request)
            if not exchange.keeps_alive:
                break
        return True

    async def _wait_for_request(self) -> bool:
        """Take more of what may become a request; returns whether one may still come."""
        limits = self._service.limits
        begun = bool(self._parser.buffered)
        now = trio.current_time()
        if begun and self._head_deadline is None:
            self._head_deadline = now + limits.header_timeout
        deadline = self._head_deadline
        if deadline is None:
            deadline = now + limits.keep_alive_timeout
        try:
            self._parser.receive_data(await self._wire.read(deadline))
        except ClientDisconnected:
            return False
        except trio.TooSlowError:
            if begun:
                raise request_timeout("the head did not come in time") from None
            return False
        except trio.ClosedResourceError:
            # Either that is why, or another task has read something.
            return not self._service.stopping
        return True

    async def _run_application(self, exchange: Exchange, request: Request) -> None:
        target = request.target
        scope: Scope = {
            **self._scope,
            "http_version": request.version,
            "method": request.method,
            "path": target.path,
            "raw_path": target.raw_path,
            "query_string": target.query,
            "headers": request.headers,
            "state": self._service.state.copy(),
            "extensions": {BODY_AT_HAND: {}} if self._parser.body_at_hand else {},
        }
        failure: Exception | None = None
        try:
            await run_user_code(self._service.application, scope, exchange.receive, exchange.send)
        except BaseExceptionGroup as group:
            failure, rest = group.split(Exception)
            if rest is not None:
                _log_failure(request, failure)
                raise rest from None
        except Exception as error:  # noqa: BLE001
            failure = error
        finally:
            forsaken = exchange.forsaken
            exchange.finish()
        if failure is not None:
            _log_failure(request, failure)
        if exchange.refused is not None:
            where = f"{request.method} {target.path}"
            self._service.report(exchange.refused, self._scope["client"], request=where)
            return
        if exchange.complete:
            return
        if not forsaken:
            if failure is None:
                _log_error("No complete response to %s %a", request)
            if not exchange.answered:
                exchange.refuse(RequestRefused(_FAILED, _FAILED.phrase))
                return
        self._wire.cut(reset=exchange.until_close)

    async def _part(self) -> None:
        """End the connection so that the last answer reaches the client.

        A system that gets data for a closed socket tells the client so at once, and the client
        forgets what it has not read yet. So what may still come is read, for a moment.
        """
        wire, parser = self._wire, self._parser
        wire.end()
        if parser.buffered or not parser.body_complete or wire.has_unread():
            patience = self._service.limits.linger_timeout
            with suppress(ClientDisconnected), trio.move_on_after(patience):
                while True:  # noqa: ASYNC913  # each pass reads
                    with suppress(trio.ClosedResourceError):
                        await wire.read(inf)


def _log_failure(request: Request, failure: Exception | None) -> None:
    """Log why an application failed, unless it is only that the client has left."""
    if isinstance(failure, ExceptionGroup):
        failure = cast("ExceptionGroup[Exception]", failure).split(ClientDisconnected)[1]
    if failure is not None and not isinstance(failure, ClientDisconnected):
        _log_error("The application failed on %s %a", request, failure)


def _log_error(text: str, request: Request, failure: Exception | None = None) -> None:
    where = (request.method, request.target.path)
    write_log(logging.ERROR, text, *where, error=failure, log=_logger)
