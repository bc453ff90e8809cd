"""A client over a socket that closes one direction, or both, while its call runs."""

from __future__ import annotations

import socket
import sys

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.helpers import initialize, notification, request, result, serving
from trio_mcp_session import CleanupConfig, RequestContext, Router, TerminationReason, serve_stream
from trio_mcp_session.protocol import jsonrpc

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="epoll tells of a hang-up")

LONG = CleanupConfig(eof_grace=1000)


class Served:
    """A client over a Unix socket, with one call that runs."""

    def __init__(self) -> None:
        self.may_finish = trio.Event()
        self.began = trio.Event()
        self.router = Router("r")
        self.router.request("wait")(self.wait)
        one, other = socket.socketpair()
        self.ours = trio.SocketStream(trio.socket.from_stdlib_socket(one))
        self.theirs = trio.SocketStream(trio.socket.from_stdlib_socket(other))
        self.reasons: list[TerminationReason] = []

    async def wait(self, ctx: RequestContext) -> None:
        self.began.set()
        await self.may_finish.wait()

    async def serve(self) -> None:
        async with serving(self.router, cleanup=LONG) as manager:
            self.reasons.append(await serve_stream(manager, self.theirs))

    async def call(self) -> None:
        messages = (
            initialize(0),
            notification("notifications/initialized"),
            request(1, "wait"),
        )
        for message in messages:
            await self.ours.send_all(jsonrpc.encode_json(message) + b"\n")
        await self.began.wait()
        assert b'"id":0' in await self.ours.receive_some()  # Unread data would be a failure.


async def test_a_call_is_answered_after_the_client_has_closed_its_sending_side() -> None:
    served = Served()
    with trio.fail_after(30):
        async with served.ours, trio.open_nursery() as nursery:
            nursery.start_soon(served.serve)
            await served.call()
            await served.ours.send_eof()
            await wait_all_tasks_blocked(0.01)
            served.may_finish.set()
            received = b""
            async for chunk in served.ours:
                received += chunk
    last = jsonrpc.decode(received.splitlines()[-1])
    assert last == jsonrpc.decode(jsonrpc.encode_json(result(1)))
    assert served.reasons == [TerminationReason.CLIENT_CLOSED]


async def test_a_client_that_has_closed_its_socket_is_noticed_at_once() -> None:
    served = Served()
    with trio.fail_after(30):
        async with served.ours, trio.open_nursery() as nursery:
            nursery.start_soon(served.serve)
            await served.call()
            await served.ours.aclose()
    assert served.reasons == [TerminationReason.CLIENT_CLOSED]


async def test_a_client_that_closes_its_socket_after_its_sending_side_is_noticed() -> None:
    served = Served()
    with trio.fail_after(30):
        async with served.ours, trio.open_nursery() as nursery:
            nursery.start_soon(served.serve)
            await served.call()
            await served.ours.send_eof()
            await wait_all_tasks_blocked(0.01)
            assert not served.reasons
            await served.ours.aclose()
    assert served.reasons == [TerminationReason.CLIENT_CLOSED]
