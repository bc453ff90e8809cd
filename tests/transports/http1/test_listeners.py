from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest
import trio

from trio_mcp_session.transports.http1 import socket_activation
from trio_mcp_session.transports.http1.listeners import (
    BoundAddress,
    bound_address,
    given_listeners,
    open_listeners,
    parse_bind,
)
from trio_mcp_session.transports.unix_sockets import UnixSocketAccess


@pytest.mark.parametrize(
    "bind, address, url",
    [
        ("127.0.0.1:8000", BoundAddress(host="127.0.0.1", port=8000), "http://127.0.0.1:8000"),
        ("localhost:0", BoundAddress(host="localhost", port=0), "http://localhost:0"),
        ("[::1]:65535", BoundAddress(host="::1", port=65535), "http://[::1]:65535"),
        ("unix:/a b", BoundAddress(unix_path="/a b"), "http+unix://%2Fa%20b"),
        ("unix:x:1", BoundAddress(unix_path="x:1"), "http+unix://x%3A1"),
    ],
)
def test_addresses_as_they_are_written(bind: str, address: BoundAddress, url: str) -> None:
    assert parse_bind(bind) == address
    assert str(address) == bind
    assert address.url == url


@pytest.mark.parametrize(
    "bind",
    [
        "",
        ":",
        ":80",
        "a",
        "a:",
        "a:b",
        "a:65536",
        "a:-1",
        "a: 1",
        "::1:80",
        "[::1]",
        "[::1]:",
        "[a]:1",
        "unix:",
        "[]:1",
        "[::1:1",
        "::1]:1",
        "a:\N{ARABIC-INDIC DIGIT ONE}",
    ],
)
def test_a_malformed_bind_address_is_refused(bind: str) -> None:
    with pytest.raises(ValueError, match="neither HOST:PORT"):
        parse_bind(bind)


async def test_closed_listeners_leave_no_socket_and_no_socket_file(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    async with open_listeners(
        ["127.0.0.1:0", f"unix:{path}"], unix_access=UnixSocketAccess(mode=0o660)
    ) as listeners:
        tcp, unix = map(bound_address, listeners)
        assert (tcp.host, tcp.unix_path) == ("127.0.0.1", None)
        assert tcp.port > 0
        assert unix == BoundAddress(unix_path=path)
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o660
        await (await trio.open_tcp_stream("127.0.0.1", tcp.port)).aclose()
        await (await trio.open_unix_socket(path)).aclose()
    assert os.listdir(tmp_path) == []
    with pytest.raises(OSError, match=r"."):
        await trio.open_tcp_stream("127.0.0.1", tcp.port)
    # What was left behind by others makes room.
    async with open_listeners(f"unix:{path}"):
        # Other code may have removed the file.
        os.unlink(path)


async def test_a_listener_binds_to_an_ipv6_address() -> None:
    try:
        async with open_listeners("[::1]:0") as (listener,):
            assert str(bound_address(listener)).startswith("[::1]:")
    except OSError:  # pragma: no cover - there are machines without
        pytest.skip("there is no IPv6 here")


async def test_a_taken_address_closes_the_other_listeners(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    async with open_listeners("127.0.0.1:0") as (listener,):
        taken = str(bound_address(listener))
        with pytest.raises(OSError, match=r"."):
            async with open_listeners([f"unix:{path}", taken]):
                pytest.fail("one of them is taken")  # pragma: no cover
    assert os.listdir(tmp_path) == []


async def test_an_empty_list_of_addresses_is_refused() -> None:
    with pytest.raises(ValueError, match="must be an address"):
        async with open_listeners([]):
            pytest.fail("there is none")  # pragma: no cover


async def test_a_unix_socket_in_use_is_left_alone(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    async with open_listeners(f"unix:{path}"):
        with pytest.raises(FileExistsError):
            async with open_listeners(f"unix:{path}"):
                pytest.fail("it is taken")  # pragma: no cover
        assert os.listdir(tmp_path) == ["socket"]


async def test_a_socket_that_listens_already() -> None:
    with socket.socket() as ours:
        ours.bind(("127.0.0.1", 0))
        ours.listen()
        copy = os.dup(ours.fileno())
        async with open_listeners(f"fd:{copy}") as (listener,):
            assert bound_address(listener).port == ours.getsockname()[1]
            async with await trio.open_tcp_stream(*ours.getsockname()):
                await (await listener.accept()).aclose()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(copy)


async def test_a_descriptor_that_is_something_else() -> None:
    copy = socket.socket().detach()
    for bind, why in [
        (f"fd:{copy}", "is not a socket that listens"),
        ("fd:x", "is neither fd:NUMBER nor fd:LISTEN_FDS"),
        (["fd:7", "fd:7"], "fd:7 is named twice"),
    ]:
        with pytest.raises(ValueError, match=why):
            await open_listeners(bind).__aenter__()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(copy)


def pass_sockets(monkeypatch: pytest.MonkeyPatch, first: int, count: str, process: int) -> None:
    """Set what a service manager sets; real ones begin with descriptor 3."""
    monkeypatch.setattr(socket_activation, "_FIRST", first)
    monkeypatch.setenv("LISTEN_FDS", count)
    monkeypatch.setenv("LISTEN_PID", str(process))
    monkeypatch.setenv("LISTEN_FDNAMES", "http")


async def test_the_sockets_of_a_service_manager_are_taken_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as ours:
        copy = os.dup(ours.fileno())
        os.set_inheritable(copy, True)
        pass_sockets(monkeypatch, copy, "1", os.getpid())
        async with open_listeners("fd:LISTEN_FDS") as (listener,):
            assert bound_address(listener).port == ours.getsockname()[1]
            assert not os.get_inheritable(copy)
            assert not {name for name in os.environ if name.startswith("LISTEN_")}
            with pytest.raises(ValueError, match="has passed sockets to this process"):
                await open_listeners("fd:LISTEN_FDS").__aenter__()


@pytest.mark.parametrize("count, other", [("1", True), ("0", False), ("x", False), ("", False)])
async def test_sockets_of_another_process_are_not_taken(
    monkeypatch: pytest.MonkeyPatch, count: str, other: bool
) -> None:
    process = os.getppid() if other else os.getpid()
    pass_sockets(monkeypatch, 3, count, process)
    with pytest.raises(ValueError, match=f"LISTEN_FDS is '{count}' and LISTEN_PID is '{process}'"):
        await open_listeners("fd:LISTEN_FDS").__aenter__()
    assert os.environ["LISTEN_FDS"] == count


async def test_given_listeners_are_closed_in_the_end() -> None:
    plain = socket.create_server(("127.0.0.1", 0))
    (of_trio,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with given_listeners([plain, of_trio]) as listeners:
        assert listeners[1] is of_trio
        for listener in listeners:
            async with await trio.open_tcp_stream(*listener.socket.getsockname()):
                await (await listener.accept()).aclose()
    assert (plain.fileno(), of_trio.socket.fileno()) == (-1, -1)


async def test_given_sockets_that_do_not_listen_are_refused() -> None:
    plain, other = socket.create_server(("127.0.0.1", 0)), socket.socket()
    with pytest.raises(ValueError, match=r"<socket.socket .*> is not a socket that listens"):
        await given_listeners([plain, other]).__aenter__()
    assert (plain.fileno(), other.fileno()) == (-1, -1)
    with pytest.raises(ValueError, match="must name a socket"):
        await given_listeners([]).__aenter__()
