"""One request and its response, as an application sees them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from math import inf
from typing import Final, final

import attrs
import trio

from ..asgi import ClientDisconnected, Message
from .parser import Request, RequestParser
from .request_refused import RequestRefused, request_timeout
from .response_framing import CONTINUE, Response, plain_answer, start_response
from .service import Service
from .wire import Wire

_UNSTARTED: Final = 0
_HEAD_HELD: Final = 1  # The application has started the response; nothing is written yet.
_ANSWERED: Final = 2
_COMPLETE: Final = 3


@final
@attrs.define(eq=False, repr=False, init=False)
class Exchange:
    """The two ends that an application is given for one request.

    Args:
        service: The limits, and whether the server stops.
        wire: Where the request comes from.
        parser: What takes its body apart.
        request: What is asked for.
    """

    # The defaults are in `__init__`, which is written by hand: see `HeaderFacts`.
    _service: Service
    _wire: Wire
    _parser: RequestParser
    _request: Request
    refused: RequestRefused | None
    """What the server answered in place of the application."""
    _over: bool
    _left: bool
    _phase: int
    _response: Response | None
    _body: bytes
    _body_given: bool
    _body_size: int
    _body_waits: float
    _waiting: bool
    _end: trio.Event | None

    def __init__(
        self, service: Service, wire: Wire, parser: RequestParser, request: Request
    ) -> None:
        self._service = service
        self._wire = wire
        self._parser = parser
        self._request = request
        self.refused = self._response = self._end = None
        self._over = self._left = self._body_given = self._waiting = False
        self._phase = _UNSTARTED
        self._body = b""
        self._body_size = 0
        self._body_waits = 0.0

    @property
    def answered(self) -> bool:
        """Whether something of the response was written."""
        return self._phase >= _ANSWERED

    @property
    def complete(self) -> bool:
        """Whether the whole response was written."""
        return self._phase == _COMPLETE

    @property
    def forsaken(self) -> bool:
        """Whether the client can no longer be answered."""
        return self._over or self._left or self._wire.broken

    @property
    def keeps_alive(self) -> bool:
        """Whether another request may follow."""
        response = self._response
        return self.complete and response is not None and not response.closes

    @property
    def until_close(self) -> bool:
        """Whether nothing but the end of the connection tells where the response ends."""
        return self._response is not None and self._response.until_close

    def finish(self) -> None:
        """Note that the application has returned: tasks that still wait here are woken."""
        self._over = True
        if self._waiting:
            self._wake()

    def refuse(self, refusal: RequestRefused) -> None:
        """Answer in place of the application; if it has begun to, the connection is cut."""
        self._over = True
        if self.answered:
            self._wire.cut(reset=True)
            return
        self.refused = refusal
        with_body = self._request.method != "HEAD"
        self._wire.write_last(plain_answer(refusal, with_body=with_body))

    async def receive(self) -> Message:
        """Return what comes from the client: the body, and in the end that it has left."""
        while not (self._over or self._body_given or self._phase == _COMPLETE):
            if self._take_body():
                body, self._body = self._body, b""
                self._body_given = self._parser.body_complete
                return {"type": "http.request", "body": body, "more_body": not self._body_given}
            if not self._over:
                await self._wait(self._wait_for_body)
        while not (self.forsaken or self._phase == _COMPLETE):
            await self._wait(self._watch)
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Take a part of the response; all but the head alone is written when this returns.

        Raises:
            ClientDisconnected: The client has left.
            RuntimeError: It makes no response, or does not belong here.
        """
        wire = self._wire
        if wire.is_eager:
            await wire.take_turns()
        kind = message["type"]
        if kind == "http.response.body" and _HEAD_HELD <= self._phase < _COMPLETE:
            self._check_connected()
            body = message.get("body", b"")
            if type(body) is not bytes:
                body = bytes(memoryview(body))
            more = bool(message.get("more_body"))
            data = self._frame(body, more=more)
            if data:
                await wire.write(data)
            if not more:
                self._phase = _COMPLETE
                if self._waiting:
                    self._wake()
        elif kind == "http.response.start" and self._phase == _UNSTARTED:
            self._check_connected()
            self._response = start_response(message, self._request.method)
            self._phase = _HEAD_HELD
        else:
            raise RuntimeError(f"{kind!r} has no place here in a response")

    def _check_connected(self) -> None:
        if self._over or self._wire.broken:
            raise ClientDisconnected("the client has left")

    def _frame(self, body: bytes, *, more: bool) -> bytes:
        response = self._response
        assert response is not None
        if self._phase == _ANSWERED:
            return response.frame(body, more=more)
        request, parser = self._request, self._parser
        if not parser.body_complete:
            # What came of the request's body makes room for the next request. If there is more to
            # come, the application is not waited for to read it.
            self._take_body()
            self._check_connected()
        keep_alive = request.keep_alive and parser.body_complete and not self._service.stopping
        data = response.begin(body, more=more, version=request.version, keep_alive=keep_alive)
        self._phase = _ANSWERED
        return data

    def _take_body(self) -> bool:
        """Take what there is of the body; returns whether there is something to hand over."""
        parser = self._parser
        if not parser.body_complete:
            try:
                body = parser.take_body()
            except RequestRefused as refusal:
                self.refuse(refusal)
                return False
            self._body_size += len(body)
            self._body = self._body + body if self._body else body
        return bool(self._body) or parser.body_complete

    async def _wait(self, wait: Callable[[], Awaitable[None]]) -> None:
        if self._waiting:
            raise trio.BusyResourceError("another task is receiving already")
        self._waiting = True
        try:
            await wait()
        except trio.ClosedResourceError:
            pass  # Woken, to look at how things are now.
        finally:
            self._waiting = False

    def _wake(self) -> None:
        if self._end is not None:
            self._end.set()
        self._wire.wake()

    async def _wait_for_body(self) -> None:
        limits = self._service.limits
        start = trio.current_time()
        patience = limits.body_timeout + self._body_size / limits.min_body_rate - self._body_waits
        try:
            if self._request.expects_continue and not self.answered:
                self._request.expects_continue = False
                await self._wire.write(CONTINUE)
            data = await self._wire.read(start + min(patience, limits.body_timeout))
            self._parser.receive_data(data)
        except ClientDisconnected:
            self._over = True
        except trio.TooSlowError:
            self.refuse(request_timeout("the body did not come in time"))
        finally:
            self._body_waits += trio.current_time() - start

    async def _watch(self) -> None:
        """Wait until the client has left, or has sent something that may hide that."""
        room = self._service.limits.max_ahead - self._parser.buffered
        if room <= 0:
            if self._end is None:
                self._end = trio.Event()
            await self._end.wait()
            return
        try:
            self._parser.receive_data(await self._wire.read(inf, room))
        except ClientDisconnected:
            # It may have closed only its own side: what is sent may still be read.
            self._left = True
        if self._over:
            # The next request is waited for already, and its beginning was read here.
            self._wire.wake()
