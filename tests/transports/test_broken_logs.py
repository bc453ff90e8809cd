"""A log that fails, as some handlers do on a full disk, ends neither a server nor a clock."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial
from typing import NoReturn

import pytest
import trio
from trio.testing import MockClock

from tests.helpers import initialize, request, serving
from tests.transports.http.live import live
from tests.transports.http.site import site
from trio_mcp_session import Router, SessionLimits, open_session_manager, serve_tcp
from trio_mcp_session.protocol.jsonrpc import encode_json
from trio_mcp_session.transports.asgi import Receive, Scope, Send
from trio_mcp_session.transports.http.ticker import Ticker


class BrokenHandler(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> NoReturn:
        self.texts.append(record.getMessage())
        raise OSError(28, "No space left on device")


@pytest.fixture
def log() -> Iterator[BrokenHandler]:
    logger, handler = logging.getLogger("trio_mcp_session"), BrokenHandler()
    logger.addHandler(handler)
    try:
        yield handler
    finally:
        logger.removeHandler(handler)


async def test_a_refused_request_is_answered(log: BrokenHandler, autojump_clock: MockClock) -> None:
    async with site() as place:
        refused = await place.client(headers={"host": "evil.example"}).request(json=initialize())
        assert refused.status == 403
    assert len(log.texts) == 1


async def test_a_server_over_tcp_continues(log: BrokenHandler) -> None:
    async with serving(Router("r"), limits=SessionLimits(max_sessions=1)) as manager:
        async with trio.open_nursery() as nursery:
            (listener,) = await nursery.start(partial(serve_tcp, manager, 0))
            port = listener.socket.getsockname()[1]
            async with await trio.open_tcp_stream("127.0.0.1", port) as first:
                await first.send_all(encode_json(initialize(1)) + b"\n")
                assert b'"result"' in await first.receive_some()
                async with await trio.open_tcp_stream("127.0.0.1", port) as second:
                    await second.send_all(encode_json(initialize(1)) + b"\n")
                    assert b'"error"' in await second.receive_some()
                    assert await second.receive_some() == b""
                await first.send_all(encode_json(request(2, "ping")) + b"\n")
                assert b'"result"' in await first.receive_some()
            nursery.cancel_scope.cancel()
    assert [text.split(":")[0][:10] for text in log.texts] == ["no session"]


async def test_the_own_http_server_continues(log: BrokenHandler) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
        if scope["type"] == "lifespan" or scope["path"] == "/bug":
            raise ValueError("bug")

    async with live(app=app) as it:
        for path in ("/bug", "/silent"):
            async with await it.connect() as wire:
                assert (await wire.request("GET", path=path)).status == 500
        async with await it.connect() as wire:
            await wire.send(b"nonsense\r\n\r\n")
            assert (await wire.answer()).status == 400
    assert len(log.texts) == 4


async def test_a_ticker_continues(log: BrokenHandler, autojump_clock: MockClock) -> None:
    class Member:
        def __init__(self, *, fails: bool) -> None:
            self.fails = fails
            self.ticks = 0

        def tick(self, now: float) -> None:
            self.ticks += 1
            if self.fails:
                raise ValueError("bug")

    async with open_session_manager() as manager:
        ticker = Ticker(manager, 10)
        bad, good = Member(fails=True), Member(fails=False)
        ticker.add(bad)
        ticker.add(good)
        await trio.sleep(3.5)
        ticker.discard(good)
    assert (bad.ticks, good.ticks, len(log.texts)) == (1, 3, 1)
