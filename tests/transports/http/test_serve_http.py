"""`serve_http` on real sockets: where it listens, what it serves, and how it ends."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, final

import attrs
import pytest
import trio
from hypercorn.config import Config
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked

from tests.helpers import initialize, notification, request
from tests.transports.http.live import (
    SERVERS,
    Answer,
    Caller,
    Live,
    ServerName,
    Toy,
    Wire,
    call,
    connect,
    guarded,
    live,
    write_request,
)
from trio_mcp_session import (
    BoundAddress,
    HttpOptions,
    HttpServerLimits,
    Router,
    SessionConfig,
    TerminationReason,
    http_app,
    open_session_manager,
    serve_http,
)
from trio_mcp_session.transports.asgi import Receive, Scope, Send

NOBODY = r"refused|No such file|all attempts to connect"

on_both_servers = pytest.mark.parametrize("server", SERVERS)


# Where it listens.


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:  # pragma: no cover  # the machine decides
        return False


@on_both_servers
async def test_serve_http_listens_on_every_given_address(
    server: ServerName, tmp_path: Path
) -> None:
    path = tmp_path / "a socket"
    bind = ["127.0.0.1:0", "127.0.0.1:0", f"unix:{path}"]
    bind += ["[::1]:0"] * has_ipv6()
    async with live(bind, server=server) as it:
        assert len({str(address) for address in it.served.addresses}) == len(bind)
        first, second, local, *others = it.served.addresses
        for address in (first, second):
            assert address == BoundAddress(host="127.0.0.1", port=address.port)
            assert address.url == f"http://127.0.0.1:{address.port}"
        assert local == BoundAddress(unix_path=str(path))
        for address in others:
            assert address.url == f"http://[::1]:{address.port}"
        # Sessions belong to none of them.
        own = await it.open_session()
        for address in it.served.addresses:
            async with await it.connect(address) as wire:
                await Caller(wire, own.session, own.headers).echo(str(address))
    assert not path.exists()
    for address in it.served.addresses:
        with pytest.raises(OSError, match=NOBODY):
            await connect(address)


@on_both_servers
async def test_one_name_of_several_addresses(server: ServerName) -> None:
    async with live("localhost:0", server=server) as it:
        assert {address.host for address in it.served.addresses} <= {"127.0.0.1", "::1"}
        await (await it.open_session()).echo("hello")


@on_both_servers
async def test_an_address_in_use_raises_and_frees_the_others(
    server: ServerName, tmp_path: Path
) -> None:
    async with live() as it, trio.open_nursery() as nursery:
        start = partial(nursery.start, partial(serve_http, server=server), it.manager)
        free = tmp_path / "socket"
        with pytest.raises(OSError, match="in use"):
            await start([f"unix:{free}", str(it.address)])
        with pytest.raises(FileNotFoundError):
            await start([f"unix:{free}", f"unix:{tmp_path}/missing/socket"])
        # What could be listened on is free again.
        assert not free.exists()


# One port for several processes.

NODE = SessionConfig(node="n1")


@on_both_servers
async def test_several_servers_share_a_port(server: ServerName) -> None:
    serve = partial(serve_http, reuse_port=True, server=server)
    async with (
        open_session_manager(Router("toy"), config=NODE) as manager,
        trio.open_nursery() as nursery,
    ):
        (address,) = await nursery.start(serve, manager, "127.0.0.1:0")
        assert await nursery.start(serve, manager, str(address)) == (address,)
        async with await connect(address) as wire:
            assert (await wire.request("POST", initialize())).status == 200
        with pytest.raises(OSError, match="in use"):
            await serve_http(manager, str(address))
        await manager.drain()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"eras": "both"},
        {"eras": "legacy", "options": HttpOptions()},
        {"app": True},
    ],
)
async def test_a_port_is_not_shared_by_servers_with_sessions_and_without_a_label(
    settings: dict[str, Any], autojump_clock: MockClock
) -> None:
    async with open_session_manager(Router("toy")) as manager:
        if "app" in settings:
            settings = {"app": http_app(manager)}
        with pytest.raises(ValueError, match="with reuse_port any process gets any request"):
            await serve_http(manager, "127.0.0.1:0", reuse_port=True, **settings)


@pytest.mark.parametrize("settings", [{"eras": "modern"}, {"options": HttpOptions(stateless=True)}])
async def test_a_port_is_shared_by_servers_without_sessions(settings: dict[str, Any]) -> None:
    serve = partial(serve_http, reuse_port=True, **settings)
    async with (
        open_session_manager(Router("toy")) as manager,
        trio.open_nursery() as nursery,
    ):
        (address,) = await nursery.start(serve, manager, "127.0.0.1:0")
        await nursery.start(serve, manager, str(address))
        await manager.drain()


@final
class Resolver(trio.abc.HostnameResolver):
    """Knows two addresses of one name, and one of them is in use."""

    def __init__(self, *ports: int) -> None:
        self.ports = ports

    async def getaddrinfo(self, *_: object, **__: object) -> Any:
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", port)) for port in self.ports
        ]

    async def getnameinfo(self, *_: object) -> Any:
        raise NotImplementedError  # pragma: no cover  # not asked


async def test_a_shared_address_in_use_frees_the_others() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        resolver = Resolver(port, taken.getsockname()[1])
        before = trio.socket.set_custom_hostname_resolver(resolver)
        try:
            async with open_session_manager(Router("toy"), config=NODE) as manager:
                with pytest.raises(OSError, match="in use"):
                    await serve_http(manager, "a-name:1", reuse_port=True)
        finally:
            trio.socket.set_custom_hostname_resolver(before)
    socket.create_server(("127.0.0.1", port)).close()


@pytest.mark.parametrize("bind", ["", "8000", "localhost", "127.0.0.1:http", "::1:80", "unix:", []])
async def test_a_malformed_bind_address_is_refused(bind: str | Sequence[str]) -> None:
    async with open_session_manager(Toy().router()) as manager:
        with pytest.raises(ValueError, match=r"address|neither"):
            await serve_http(manager, bind)


@on_both_servers
async def test_serve_http_serves_sockets_that_listen_already(server: ServerName) -> None:
    plain = socket.create_server(("127.0.0.1", 0))
    (of_trio,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    expected = [listening.getsockname()[1] for listening in (plain, of_trio.socket)]
    async with open_session_manager(Toy().router()) as manager, trio.open_nursery() as nursery:
        serve = partial(serve_http, manager, server=server, listeners=[plain, of_trio])
        addresses = await nursery.start(serve)
        assert [address.port for address in addresses] == expected
        for address in addresses:
            async with await connect(address) as wire:
                assert (await wire.request("POST", request(1, "ping"))).status == 400
        await manager.drain()
    assert (plain.fileno(), of_trio.socket.fileno()) == (-1, -1)


@pytest.mark.parametrize(
    "settings",
    [
        {"bind": "127.0.0.1:0"},
        {"unix_mode": 0o666},
        {"unix_group": "x"},
        {"reuse_port": True, "options": HttpOptions(stateless=True)},
    ],
    ids=["bind", "mode", "group", "reuse_port"],
)
async def test_listeners_exclude_the_settings_of_listening(settings: dict[str, Any]) -> None:
    async with open_session_manager(Toy().router()) as manager:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            with pytest.raises(ValueError, match="listeners listen already"):
                await serve_http(manager, listeners=[listening], **settings)
            assert listening.fileno() >= 0


# What it serves.


@on_both_servers
async def test_serve_http_passes_its_settings_to_the_endpoint(server: ServerName) -> None:
    settings: dict[str, Any] = {
        "path": "/elsewhere",
        "allowed_hosts": ["mcp.example"],
        "allowed_origins": ["https://*.example"],
        "options": HttpOptions(answers="sse"),
    }
    async with live(server=server, **settings) as it, await it.connect() as wire:
        body = request(1, "ping")
        good = {"Host": "mcp.example", "Origin": "https://ui.example"}
        assert (await wire.request("POST", body, good)).status == 404
        here = partial(wire.request, "POST", body, path="/elsewhere")
        assert (await here({**good, "Host": "127.0.0.1"})).status == 403
        assert (await here({**good, "Origin": "http://127.0.0.1"})).status == 403
        assert (await here(good)).status == 400
    async with live(server=server, path=None, options=HttpOptions(answers="sse")) as it:
        own = await it.open_session()
        answer = await own.wire.request("POST", body, own.headers, path="/any/where")
        assert answer.headers["content-type"] == "text/event-stream"


async def test_serve_http_applies_the_limits_of_the_server() -> None:
    async with live(limits=HttpServerLimits(max_headers=6)) as it:
        own = await it.open_session()
        await own.echo("within them")
        answer = await own.post(request(1, "ping"), {"X-One": "1", "X-Two": "2"})
        assert answer.status == 431


@attrs.define
class Front:
    """An application around others."""

    inner: dict[str, Any]
    scopes: list[str] = attrs.field(factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope["type"])
        if scope["type"] != "http":
            raise NotImplementedError
        if (inner := self.inner.get(scope["path"])) is not None:
            await inner(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"healthy"})


@on_both_servers
async def test_endpoints_mounted_in_another_application_share_one_manager(
    server: ServerName,
) -> None:
    """Two endpoints in another application, and a third by itself, for one manager."""
    async with live(server=server) as it:
        endpoints = {"/a": http_app(it.manager, path="/a"), "/b": http_app(it.manager, path=None)}
        front = Front(endpoints)
        in_front = await it.serve(app=front, server=server)
        own = await it.open_session()
        async with await it.connect(in_front.addresses[0]) as wire:
            assert (await wire.request("GET", path="/health")).body == b"healthy"
            for path in endpoints:
                body = request(path, "tools/call", call("echo", text=path))
                answer = await wire.request("POST", body, own.headers, path=path)
                assert answer.json["id"] == path
            # A stream that one of them carries, each of them can end.
            listening = await wire.begin("GET", headers=own.headers, path="/b")
            assert (await own.wire.request("DELETE", headers=own.headers)).status == 204
            await wire.to_the_end(listening)
        assert set(front.scopes) == {"http", "lifespan"}


@pytest.mark.parametrize(
    "settings",
    [
        {"path": "/elsewhere"},
        {"path": None},
        {"authenticate": lambda _scope, _headers: None},
        {"allowed_hosts": ["x"]},
        {"allowed_origins": []},
        {"options": HttpOptions()},
    ],
)
async def test_settings_that_an_application_of_ones_own_has_itself(
    settings: dict[str, Any],
) -> None:
    async with open_session_manager(Toy().router()) as manager:
        with pytest.raises(ValueError, match="http_app itself"):
            await serve_http(manager, "127.0.0.1:0", app=http_app(manager), **settings)


@pytest.mark.parametrize(
    "settings, told",
    [
        ({"server": "hypercorn", "limits": HttpServerLimits()}, "see hypercorn_config"),
        ({"server": "builtin", "hypercorn_config": Config()}, "is for server='hypercorn'"),
        ({"server": "uvicorn"}, "'builtin' or 'hypercorn', not 'uvicorn'"),
    ],
)
async def test_settings_of_another_server(settings: dict[str, Any], told: str) -> None:
    async with open_session_manager(Toy().router()) as manager:
        with pytest.raises(ValueError, match=told):
            await serve_http(manager, "127.0.0.1:0", **settings)


NOT_INSTALLED = """
import sys, trio
sys.modules["httptools"] = sys.modules["hypercorn"] = None
from trio_mcp_session import Router, http_app, open_session_manager, serve_http

async def main():
    async with open_session_manager(Router("x")) as manager:
        http_app(manager)  # For some other server, it needs neither.
        for server in ("builtin", "hypercorn"):
            try:
                await serve_http(manager, "127.0.0.1:0", server=server)
            except ImportError as error:
                print(error.name)

trio.run(main)
"""


def test_a_server_that_is_not_installed() -> None:
    command = [sys.executable, "-c", NOT_INSTALLED]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["httptools", "hypercorn.trio"]


# How it ends.


async def open_streams(it: Live, count: int) -> list[tuple[Wire, Answer]]:
    """Open streams that listen, of a session each."""
    opened: list[tuple[Wire, Answer]] = []
    for _ in range(count):
        own = await it.open_session()
        answer = await own.wire.begin("GET", headers=own.headers)
        assert (answer.status, await own.wire.event(answer)) != (200, {})
        opened.append((own.wire, answer))
    return opened


@on_both_servers
async def test_a_drain_ends_every_stream_and_answers_every_call_before_serve_http_returns(
    server: ServerName, mock_clock: MockClock
) -> None:
    """Every stream ends properly, every answer is given; then it returns, in no time."""
    async with live(server=server) as it:
        streams = await open_streams(it, 200)
        own = await it.open_session()
        answering = []
        for say in (False, True):
            wire = await it.connect()
            body = request(1, "tools/call", call("wait", name="own", say=say))
            await wire.send(write_request("POST", body, own.headers))
            answering.append(wire)
        unused = await it.connect()
        await wait_all_tasks_blocked()
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(it.manager.drain)
            await wait_all_tasks_blocked()
            # Whatever listens has its end, while a call runs.
            for wire, answer in streams:
                await wire.to_the_end(answer)
            assert not it.served.returned.is_set()
            it.toy.release("own")
        await it.served.returned.wait()
        assert trio.current_time() == began
        as_json, as_events = answering
        assert (await as_json.answer()).json["id"] == 1
        events = await as_events.head()
        assert await as_events.message(events) == notification("notifications/begun")
        assert (await as_events.message(events))["id"] == 1
        await as_events.to_the_end(events)
        # No client is left waiting for a connection's end, nor for one.
        for wire in (unused, own.wire, *answering, *(wire for wire, _ in streams)):
            assert await wire.rest() == b""
        with pytest.raises(OSError, match=NOBODY):
            await it.connect()


@on_both_servers
async def test_with_a_manager_that_is_drained(server: ServerName) -> None:
    async with open_session_manager(Toy().router()) as manager:
        await manager.drain()
        with assert_checkpoints():
            await serve_http(manager, "127.0.0.1:0", server=server)


@on_both_servers
async def test_with_a_manager_whose_block_is_left(server: ServerName) -> None:
    async with guarded(), trio.open_nursery() as nursery:
        async with open_session_manager(Toy().router()) as manager:
            serve = partial(serve_http, manager, "127.0.0.1:0", server=server)
            (address,) = await nursery.start(serve)
            wire = await connect(address)
        # It is part of what the block waits for, wherever it runs.
        async with wire:
            assert await wire.rest() == b""


@on_both_servers
async def test_a_cancelled_serve_http_cuts_connections_and_keeps_sessions(
    server: ServerName, mock_clock: MockClock
) -> None:
    """Connections are cut; sessions and their calls continue, and are found elsewhere."""
    async with live(server=server) as it:
        own = await it.open_session()
        listening, calling, half = await it.connect(), await it.connect(), await it.connect()
        stream = await listening.begin("GET", headers=own.headers)
        body = request(1, "tools/call", call("wait", name="own", say=True))
        answer = await calling.begin("POST", body, own.headers)
        event = await calling.event(answer)
        await half.send(write_request("POST", body, own.headers)[:-10])
        await wait_all_tasks_blocked()

        it.served.scope.cancel()
        await it.served.returned.wait()
        assert own.session.termination_reason is None
        for wire, cut in [(listening, stream), (calling, answer)]:
            with pytest.raises(EOFError):
                await wire.to_the_end(cut)
        for wire in (half, own.wire):
            assert await wire.rest() == b""
        with pytest.raises(OSError, match=NOBODY):
            await it.connect()

        it.toy.release("own")
        again = await it.serve(server=server)
        async with await it.connect(again.addresses[0]) as wire:
            await Caller(wire, own.session, own.headers).echo("it is I")
            answer = await wire.begin("GET", headers={**own.headers, "Last-Event-ID": event["id"]})
            assert await wire.message(answer) == notification("notifications/begun")
            assert (await wire.message(answer))["id"] == 1
            await wire.to_the_end(answer)


@on_both_servers
async def test_cancelled_from_the_beginning(server: ServerName) -> None:
    async with open_session_manager(Toy().router()) as manager:
        with trio.CancelScope() as scope, assert_checkpoints():
            scope.cancel()
            await serve_http(manager, "127.0.0.1:0", server=server)
        assert scope.cancelled_caught


@on_both_servers
async def test_of_two_servers_of_one_manager_the_other_serves_after_a_cancel(
    server: ServerName,
) -> None:
    async with live(server=server) as it:
        other = await it.serve(server="builtin")
        own = await it.open_session()
        it.served.scope.cancel()
        await it.served.returned.wait()
        own.wire = await it.connect(other.addresses[0])
        await own.echo("still here")
        own.session.terminate(TerminationReason.REQUESTED)
        await own.session.wait_terminated()
        answer = await own.post(request(1, "ping"))
        assert answer.status == 404
