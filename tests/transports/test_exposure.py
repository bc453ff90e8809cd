"""Servers that other machines can reach, without authentication, log a warning."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.helpers import request
from tests.transports.http.live import SERVERS, ServerName, live, write_request
from tests.transports.http.site import bearer, token
from trio_mcp_session import (
    BoundAddress,
    HttpOptions,
    Router,
    http_app,
    open_session_manager,
    serve_http,
    serve_tcp,
)
from trio_mcp_session.transports.exposure import is_exposed


@pytest.mark.parametrize(
    "host, exposed",
    [
        ("127.0.0.1", False),
        ("127.9.9.9", False),
        ("::1", False),
        ("localhost", False),
        ("0.0.0.0", True),
        ("::", True),
        ("192.168.1.5", True),
        ("::ffff:127.0.0.1", False),
        ("fe80::1%eth0", True),
        ("notes.example.com", True),
    ],
)
def test_only_loopback_is_not_exposed(host: str, exposed: bool) -> None:
    assert is_exposed(host) is exposed


NAMED = {"host": "0.0.0.0", "principal_of": lambda stream: None}


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "NO AUTH" in record.getMessage()]


@pytest.mark.parametrize("server", SERVERS)
async def test_a_reachable_server_without_authentication_warns(
    server: ServerName, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bind = ["0.0.0.0:0", "127.0.0.1:0", f"unix:{tmp_path}/socket"]
    async with live(bind, server=server) as it:
        port = it.served.addresses[0].port
    assert warnings(caplog) == [
        (
            f"NO AUTHENTICATION on 0.0.0.0:{port}: every program that can reach it can use this "
            "server; set authenticate, or listen on 127.0.0.1, or let only an authenticating proxy "
            "reach it"
        )
    ]
    assert [record.levelname for record in caplog.records if "NO AUTH" in record.msg] == ["WARNING"]


@pytest.mark.parametrize(
    "bind, settings",
    [("127.0.0.1:0", {}), ("localhost:0", {}), ("0.0.0.0:0", {"authenticate": bearer})],
)
async def test_other_servers_do_not_warn(
    bind: str, settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    async with live(bind, **settings) as it, await it.connect() as wire:
        answer = await wire.request("POST", request(1, "ping"), token("ada"))
        assert answer.status == 400
    assert warnings(caplog) == []


async def test_an_own_application_may_authenticate_itself(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with live() as it, trio.open_nursery() as nursery:
        serve = partial(serve_http, app=http_app(it.manager))
        await nursery.start(serve, it.manager, "0.0.0.0:0")
        nursery.cancel_scope.cancel()
    assert warnings(caplog) == []


@pytest.mark.parametrize(
    "settings, warns",
    [({"host": "0.0.0.0"}, True), ({"host": None}, True), ({}, False), (NAMED, False)],
)
async def test_a_reachable_tcp_port_warns(
    settings: dict[str, Any], warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_session_manager(Router("x")) as manager, trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(serve_tcp, **settings), manager, 0)
        port = listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()
    found = warnings(caplog)
    assert bool(found) is warns
    if warns:
        assert f":{port}" in found[0]
        assert found[0].endswith("listen on 127.0.0.1, or let only trusted machines reach it")


@pytest.mark.parametrize("server", SERVERS)
async def test_all_connections_of_a_listener_have_one_rule(server: ServerName) -> None:
    """A proxy on the same machine reaches a server on all addresses through loopback."""
    async with live("0.0.0.0:0", server=server) as it:
        port = it.served.addresses[0].port
        for host in ("127.0.0.1", "127.0.0.2"):
            async with await it.connect(BoundAddress(host=host, port=port)) as wire:

                async def status(**headers: str) -> int:
                    return (await wire.request("POST", request(1, "ping"), headers)).status

                # 400: it is let in, and names no session.
                assert await status(Host="notes.example.com") == 400
                assert await status(Host="127.0.0.1") == 400
                page = {"Origin": f"http://192.168.1.5:{port}", "Host": f"192.168.1.5:{port}"}
                assert await status(**page) == 400
                # DNS rebinding.
                page = {"Origin": f"http://evil.example:{port}", "Host": f"evil.example:{port}"}
                assert await status(**page) == 403
                # A server for other machines does not accept all pages of its own machine.
                page = {"Origin": "http://localhost:5173", "Host": f"localhost:{port}"}
                assert await status(**page) == 403


@pytest.mark.parametrize("server", SERVERS)
async def test_an_address_and_all_addresses_in_one_server(
    server: ServerName, tmp_path: Path
) -> None:
    path = f"unix:{tmp_path}/socket"
    async with live(["127.0.0.1:0", "0.0.0.0:0", path], server=server) as it:
        local, every, unix = it.served.addresses
        for address, status in [
            (local, 403),
            (BoundAddress(host="127.0.0.1", port=every.port), 400),
            (unix, 400),
        ]:
            async with await it.connect(address) as wire:
                await wire.send(write_request(headers={"Host": "notes.example.com"}))
                assert (await wire.answer()).status == status


@pytest.mark.parametrize("server", SERVERS)
async def test_a_proxy_at_a_unix_socket_can_be_trusted(server: ServerName, tmp_path: Path) -> None:
    path = f"unix:{tmp_path}/socket"
    hosts = {"Host": "backend", "X-Forwarded-Host": "notes.example.com"}
    settings: dict[str, Any] = {"allowed_hosts": ["notes.example.com"], "server": server}
    for proxies, status in [(["unix"], 400), (["127.0.0.1"], 403)]:
        async with live(path, options=HttpOptions(trusted_proxies=proxies), **settings) as it:
            async with await it.connect() as wire:
                assert (await wire.request("POST", request(1, "ping"), hosts)).status == status
