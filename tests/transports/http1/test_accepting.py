"""Clients are accepted while there is room."""

from __future__ import annotations

import errno
import logging
import os
import socket
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_mcp_session.transports.asgi import Receive, Scope, Send
from trio_mcp_session.transports.http1 import accepting
from trio_mcp_session.transports.http1.limits import HttpServerLimits
from trio_mcp_session.transports.http1.listeners import bound_address

from .pieces import GET
from .serving import Client, echo, pass_time, respond, serving


async def test_more_clients_than_there_is_room_for_wait() -> None:
    async with serving(echo, limits=HttpServerLimits(max_connections=2)) as server:
        clients = [await server.connect() for _ in range(5)]
        for client in clients:
            await client.send(GET + b"\r\n")
        for _ in range(4):
            assert server.count == min(2, len(clients))
            assert (await clients[0].answer()).status == 200
            assert all(client.seen() == b"" for client in clients[2:])
            await clients.pop(0).leave()
        await wait_all_tasks_blocked()
        assert server.count == 1
        assert (await clients[0].answer()).status == 200


async def test_several_listeners_share_the_room() -> None:
    async with serving(echo, limits=HttpServerLimits(max_connections=1)) as server:
        async with trio.open_nursery() as nursery:
            (other,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(
                accepting.accept_clients, other, bound_address(other), server.service, nursery
            )
            first, second = await server.connect(), await server.connect()
            third = Client(await trio.open_tcp_stream(*other.socket.getsockname()))
            users = [first, second, third]

            async def use(client: Client) -> None:
                assert (await client.answer()).status == 200
                assert server.count == 1
                await client.stream.aclose()

            for client in users:
                await client.send(GET + b"\r\n")
            assert server.count == 1
            async with trio.open_nursery() as all_users:
                for client in users:
                    all_users.start_soon(use, client)
            nursery.cancel_scope.cancel()
        other.socket.close()


async def test_a_client_that_waits_for_room_is_let_go_when_the_server_is_cancelled() -> None:
    async with serving(echo, limits=HttpServerLimits(max_connections=1)) as server:
        await server.connect()
        waiting = await server.connect()
        server.nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await server.connect_closed(waiting)


async def test_a_machine_that_is_exhausted_is_given_time(
    monkeypatch: pytest.MonkeyPatch, mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    failing = 0
    accept = trio.SocketListener.accept

    async def exhausted(self: trio.SocketListener) -> trio.SocketStream:
        nonlocal failing
        await trio.lowlevel.wait_readable(self.socket)
        if failing:
            failing -= 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return await accept(self)

    monkeypatch.setattr(trio.SocketListener, "accept", exhausted)
    async with serving(echo) as server:
        for _ in range(2):
            failing = 2
            client = await server.connect()
            await pass_time(mock_clock, 0.1)
            assert server.count == 0
            await pass_time(mock_clock, 0.1)
            assert server.count == 1
            await client.leave()
    # Once for each time, and not ten times a second.
    assert [(record.levelno, record.name) for record in caplog.records] == [
        (logging.WARNING, "trio_mcp_session.http")
    ] * 2


async def test_an_unknown_error_of_accept_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(self: trio.SocketListener) -> trio.SocketStream:
        await trio.lowlevel.checkpoint()
        raise OSError(errno.EINVAL, "broken")

    monkeypatch.setattr(trio.SocketListener, "accept", broken)
    with pytest.RaisesGroup(pytest.RaisesExc(OSError, match="broken"), flatten_subgroups=True):
        async with serving(echo) as server:
            await server.ended.wait()


async def test_a_client_that_has_left_before_it_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def gone(self: socket.socket) -> Any:
        raise OSError(errno.ENOTCONN, "gone")

    async with serving(echo) as server:
        with monkeypatch.context() as patch:
            patch.setattr(socket.socket, "getpeername", gone, raising=False)
            client = await server.connect()
            assert await client.rest() == b""
            assert server.count == 0
        assert (await (await server.connect()).ask(GET + b"\r\n")).status == 200


@pytest.mark.parametrize("timeout, milliseconds", [(2.5, 2500), (0.0001, 1), (1e9, 0)])
async def test_the_system_looks_after_silent_clients(timeout: float, milliseconds: int) -> None:
    async with serving(echo, limits=HttpServerLimits(write_timeout=timeout), tcp=True) as server:
        await server.connect()
        (wire,) = server.service._wires
        ours = wire._socket
        assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # pragma: no branch
            assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == milliseconds


async def test_a_system_without_these_socket_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "TCP_KEEPIDLE", raising=False)
    monkeypatch.setattr(socket, "TCP_KEEPINTVL", 9999, raising=False)
    async with serving(echo, tcp=True) as server:
        assert (await (await server.connect()).ask(GET + b"\r\n")).status == 200


async def test_each_connection_has_a_task_with_a_name() -> None:
    names: list[str] = []

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        names.append(trio.lowlevel.current_task().name)
        await respond(send)

    async with serving(handler) as server:
        await (await server.connect()).ask(GET + b"\r\n")
    assert names == ["HTTP connection"]
