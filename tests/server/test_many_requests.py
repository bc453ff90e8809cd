"""The end of very many requests, between which other tasks run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import attrs
import msgspec
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.helpers import OpenOutlet, admit_stateless, modern
from trio_mcp_session import (
    RequestContext,
    Router,
    SessionConfig,
    SessionLimits,
    open_session_manager,
)
from trio_mcp_session.protocol.envelope import read_envelope
from trio_mcp_session.protocol.jsonrpc import Request
from trio_mcp_session.server.mcp_server import server_of
from trio_mcp_session.sessions.endings import BATCH

MANY = 2 * BATCH + 20


@final
@attrs.define(eq=False)
class Outlet(OpenOutlet):
    """Where the answer to one request goes."""

    answers: list[Any] = attrs.field(factory=list)
    then: Callable[[], object] = lambda: None

    def send_result(self, frame: bytes) -> None:
        self.answers.append(msgspec.json.decode(frame))
        self.then()

    def send_no_result(self) -> None:
        self.answers.append(None)

    def send_message(self, frame: bytes) -> bool:
        raise NotImplementedError  # pragma: no cover  # part of the protocol

    async def wait_writable(self) -> None:
        raise NotImplementedError  # pragma: no cover  # part of the protocol


async def test_a_request_that_its_client_cancels_while_others_are_ended_is_not_answered(
    autojump_clock: MockClock,
) -> None:
    router = Router("slow")

    @router.request("wait")
    async def wait(ctx: RequestContext) -> None:
        await trio.sleep_forever()

    limits = SessionLimits(max_stateless_requests=MANY)
    async with open_session_manager(router, config=SessionConfig(limits=limits)) as manager:
        server = server_of(manager)
        outlets = [Outlet() for _ in range(MANY)]
        begun = []
        for number, outlet in enumerate(outlets):
            message = modern(number, "wait")
            request = Request(message["id"], message["method"], message["params"])
            envelope = read_envelope(message["params"])
            begun.append(admit_stateless(manager, request, outlet, envelope))
        await wait_all_tasks_blocked()
        outlets[0].then = lambda: server.cancel(begun[-1])
        await server.end()
        await wait_all_tasks_blocked()
    assert outlets[-1].answers == [None]
    texts = {one.answers[0]["error"]["message"] for one in outlets[:-1]}
    assert len(texts) == 1
    assert {len(one.answers) for one in outlets} == {1}
