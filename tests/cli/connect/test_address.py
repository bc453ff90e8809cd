from __future__ import annotations

import argparse

import pytest
import trio

from trio_mcp_session.cli.connect.address import ServerAddress, parse_server_address


@pytest.mark.parametrize(
    "text, where",
    [
        ("unix:/run/x", {"unix_path": "/run/x"}),
        ("tcp:localhost:80", {"host": "localhost", "port": 80}),
        ("tcp:[::1]:80", {"host": "::1", "port": 80}),
        ("http://a.test", {"host": "a.test", "port": 80, "url": "http://a.test/mcp"}),
        ("http://a.test:81/", {"host": "a.test", "port": 81, "url": "http://a.test:81/mcp"}),
        ("https://[::1]/x/", {"host": "::1", "port": 443, "url": "https://[::1]/x/"}),
        ("http+unix:/run/x", {"unix_path": "/run/x", "url": "http://localhost/mcp"}),
    ],
)
def test_an_address_is_read(text: str, where: dict[str, object]) -> None:
    address = parse_server_address(text)
    assert address == ServerAddress(text=text, **where)  # type: ignore[arg-type]
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "unix:",
        "http+unix:",
        "x",
        "tcp:",
        "tcp:80",
        "tcp:host",
        "tcp:a:b",
        "http://",
        "ftp://a.test",
        "http://a.test:x",
        "http://u:p@a.test",
        "http://a.test?x",
        "http://a.test#x",
        "http://[a",
    ],
)
def test_a_malformed_address_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"must be unix:PATH, .*, not "):
        parse_server_address(text)


def test_each_address_has_a_lock_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/me")
    texts = ["unix:/a/x", "tcp:localhost:80", "tcp:localhost:81"]
    first, *others = [parse_server_address(text).lock_path for text in texts]
    assert first == "/a/x.lock"
    assert len(set(others)) == 2
    assert all(path.startswith("/run/me/trio-mcp-session-") for path in others)
    # The protocol makes no difference: the server is the same.
    assert parse_server_address("http://localhost:80").lock_path == others[0]


async def test_a_probe_leaves_no_connection() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        port = listener.socket.getsockname()[1]
        await parse_server_address(f"tcp:127.0.0.1:{port}").probe()
        async with await listener.accept() as stream:
            assert await stream.receive_some() == b""
    with pytest.raises(OSError, match="connect"):
        await parse_server_address(f"tcp:127.0.0.1:{port}").probe()
