"""Unix sockets: the owners of their files, and which user a client runs as. On real sockets."""

from __future__ import annotations

import grp
import os
import pwd
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from tests.helpers import initialize, notification, request, serving
from tests.transports.http.live import connect
from trio_mcp_session import (
    Principal,
    RequestContext,
    Router,
    authenticate_unix_peer,
    serve_http,
    serve_tcp,
    serve_unix,
    unix_peer,
)
from trio_mcp_session.transports.asgi import Scope
from trio_mcp_session.transports.http1.listeners import open_listeners
from trio_mcp_session.transports.unix_sockets import (
    UnixSocketAccess,
    listen_unix,
    peer_credentials,
    remove_socket,
)

ME = {"pid": os.getpid(), "uid": os.getuid(), "gid": os.getgid()}
MINE = Principal(str(os.getuid()), "unix")


def router() -> Router:
    found = Router("server")

    @found.request("me")
    async def me(ctx: RequestContext) -> dict[str, Any]:
        assert ctx.principal == MINE == ctx.session.principal
        return dict(ctx.principal.claims)

    return found


@asynccontextmanager
async def in_time() -> AsyncIterator[None]:
    """A guard against hangs: the sockets are real, and so is the time."""
    with trio.fail_after(30):  # noqa: ASYNC100  # what it guards is in the block
        yield


# The file of the socket.


def test_owners_are_found_by_name_and_by_id() -> None:
    user, group = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(os.getgid()).gr_name
    assert UnixSocketAccess().ids() == (-1, -1)
    assert UnixSocketAccess(owner=user, group=group).ids() == (os.getuid(), os.getgid())
    assert UnixSocketAccess(owner=12, group=34).ids() == (12, 34)


@pytest.mark.parametrize("kind", ["user", "group"])
async def test_an_unknown_owner_is_refused_before_there_is_a_socket(
    kind: str, tmp_path: Path
) -> None:
    path = tmp_path / "s"
    name = {"user": "owner", "group": "group"}[kind]
    options: dict[str, Any] = {name: "not-there"}
    message = f"the {name} of the Unix socket must be a known {kind}, not 'not-there'"
    async with in_time(), serving(router()) as manager:
        with pytest.raises(ValueError, match=message):
            await serve_unix(manager, path, **options)
        http: dict[str, Any] = {f"unix_{name}": "not-there"}
        with pytest.raises(ValueError, match=message):
            await serve_http(manager, f"unix:{path}", **http)
    assert not path.exists()


@pytest.mark.parametrize("transport", ["stream", "http"])
async def test_a_unix_socket_is_given_to_its_owner_before_clients_can_connect(
    transport: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s"
    given: list[object] = []

    def chown(target: str, uid: int, gid: int) -> None:
        """In place of the system's: tests do not need the right to give files away."""
        with socket.socket(socket.AF_UNIX) as early:
            given.append((target, uid, gid, early.connect_ex(target) != 0))

    monkeypatch.setattr(os, "chown", chown)
    async with in_time(), serving(router()) as manager, trio.open_nursery() as nursery:
        if transport == "stream":
            serve = partial(serve_unix, manager, path, mode=0o660, owner=12, group=34)
        else:
            serve = partial(serve_http, manager, f"unix:{path}", unix_mode=0o660)
            serve = partial(serve, unix_owner=12, unix_group=34)
        await nursery.start(serve)
        assert given == [(str(path), 12, 34, True)]
        assert path.stat().st_mode & 0o777 == 0o660
        nursery.cancel_scope.cancel()
    assert not path.exists()


@pytest.mark.parametrize("step", ["chown", "chmod"])
async def test_nothing_is_left_of_a_socket_that_cannot_be_set_up(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s"

    def fail(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(PermissionError):
        await listen_unix(str(path), UnixSocketAccess(owner=12))
    assert not path.exists()


async def test_a_path_that_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="too long"):
        await listen_unix(str(tmp_path / ("x" * 200)), UnixSocketAccess())


async def test_the_group_alone_can_be_set(tmp_path: Path) -> None:
    path = tmp_path / "s"
    access = UnixSocketAccess(group=os.getgid())
    async with open_listeners(f"unix:{path}", unix_access=access):
        assert path.stat().st_gid == os.getgid()
    remove_socket(str(path))  # It is gone already.


# The user of the client.


async def test_the_principal_of_a_unix_client_is_its_user(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with in_time(), serving(router()) as manager, trio.open_nursery() as nursery:
        await nursery.start(partial(serve_unix, manager, path, principal_of=unix_peer))
        async with await trio.open_unix_socket(path) as stream:
            messages = (initialize(), notification("notifications/initialized"), request(1, "me"))
            await stream.send_all(b"".join(msgspec.json.encode(one) + b"\n" for one in messages))
            await stream.send_eof()
            received = b"".join([chunk async for chunk in stream])
        assert msgspec.json.decode(received.splitlines()[-1])["result"] == ME
        nursery.cancel_scope.cancel()


async def test_the_principal_of_an_http_client_on_a_unix_socket_is_its_user(
    tmp_path: Path,
) -> None:
    bind = [f"unix:{tmp_path / 's'}", "127.0.0.1:0"]
    async with in_time(), serving(router()) as manager, trio.open_nursery() as nursery:
        serve = partial(serve_http, authenticate=authenticate_unix_peer)
        local, tcp = await nursery.start(serve, manager, bind)
        async with await connect(local) as wire:
            opened = await wire.request("POST", initialize())
            assert opened.status == 200
            named = {"Mcp-Session-Id": opened.headers["mcp-session-id"]}
            await wire.request("POST", notification("notifications/initialized"), named)
            answer = await wire.request("POST", request(1, "me"), named)
            assert answer.json["result"] == ME
        async with await connect(tcp) as wire:
            refused = await wire.request("POST", initialize())
            assert refused.status == 401
            assert "serves clients of its Unix socket only" in refused.json["error"]["message"]
        for session in manager.sessions():
            session.terminate()
        nursery.cancel_scope.cancel()


async def test_a_server_that_does_not_know_the_user_is_not_trusted() -> None:
    scope: Scope = {"type": "http", "client": None}
    with pytest.raises(RuntimeError, match="use the built-in server"):
        await authenticate_unix_peer(scope, {})


async def test_a_principal_of_that_raises_costs_one_connection(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with in_time(), serving(router()) as manager, trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(serve_tcp, manager, 0, principal_of=unix_peer))
        for _ in range(2):
            stream = await trio.testing.open_stream_to_socket_listener(listener)
            async with stream:
                assert await stream.receive_some() == b""
        assert manager.statistics().opened == 0
        nursery.cancel_scope.cancel()
    assert [one.getMessage() for one in caplog.records] == [
        "principal_of raised; the connection is closed"
    ] * 2
    assert "it needs a Unix socket" in caplog.text


def test_credentials_are_known_of_unix_sockets_only(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_INET) as other:
        assert peer_credentials(other) is None
    one, two = socket.socketpair(socket.AF_UNIX)
    with one, two:
        assert peer_credentials(one) == tuple(ME.values())
        monkeypatch.delattr(socket, "SO_PEERCRED")
        assert peer_credentials(one) is None
