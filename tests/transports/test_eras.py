"""On each transport the server chooses which eras it serves, and the transport's word counts more.

The tests with real sockets have no autojumping clock, and wait for nothing but what must come.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
import trio
from trio.testing import memory_stream_pair

from tests.helpers import MODERN, initialize, modern, serving
from trio_mcp_session import (
    Eras,
    Router,
    SessionManager,
    connect_memory,
    serve_channel,
    serve_listeners,
    serve_stream,
    serve_tcp,
    serve_unix,
)
from trio_mcp_session.transports.memory import memory_channel_pair

ALL = cast("Any", "all")
HANG_GUARD = 20.0

Way = Callable[..., Any]
"""Serves a manager, and yields the client's end as a stream of bytes or a channel of frames."""


@asynccontextmanager
async def over_memory(
    manager: SessionManager, _: Path, **options: Any
) -> AsyncIterator[trio.abc.Channel[bytes]]:
    async with await connect_memory(manager, **options) as channel:
        yield channel


@asynccontextmanager
async def over_channel(
    manager: SessionManager, _: Path, **options: Any
) -> AsyncIterator[trio.abc.Channel[bytes]]:
    here, there = memory_channel_pair()
    async with trio.open_nursery() as nursery:
        serve = partial(serve_channel, manager, there, **options)
        nursery.start_soon(serve)  # noqa: ASYNC113  # it ends with the channel
        async with here:
            yield here


@asynccontextmanager
async def over_stream(
    manager: SessionManager, _: Path, **options: Any
) -> AsyncIterator[trio.abc.Stream]:
    here, there = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        serve = partial(serve_stream, manager, there, **options)
        nursery.start_soon(serve)  # noqa: ASYNC113  # it ends with the stream
        async with here:
            yield here


@asynccontextmanager
async def over_tcp(
    manager: SessionManager, _: Path, **options: Any
) -> AsyncIterator[trio.abc.Stream]:
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(serve_tcp, manager, 0, **options))
        async with await trio.open_tcp_stream(*listener.socket.getsockname()[:2]) as stream:
            yield stream
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def over_unix(
    manager: SessionManager, folder: Path, **options: Any
) -> AsyncIterator[trio.abc.Stream]:
    path = folder / "socket"
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_unix, manager, path, **options))
        async with await trio.open_unix_socket(path) as stream:
            yield stream
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def over_listeners(
    manager: SessionManager, _: Path, **options: Any
) -> AsyncIterator[trio.abc.Stream]:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_listeners, manager, listeners, **options))
        address = listeners[0].socket.getsockname()[:2]
        async with await trio.open_tcp_stream(*address) as stream:
            yield stream
        nursery.cancel_scope.cancel()


WAYS: dict[str, Way] = {
    "memory": over_memory,
    "channel": over_channel,
    "stream": over_stream,
    "tcp": over_tcp,
    "unix": over_unix,
    "listeners": over_listeners,
}


async def exchange(
    peer: trio.abc.Stream | trio.abc.Channel[bytes], *messages: object
) -> list[dict[str, Any]]:
    """Send messages, and return as many answers."""
    frames = [msgspec.json.encode(message) for message in messages]
    if isinstance(peer, trio.abc.Channel):
        for frame in frames:
            await peer.send(frame)
        return [msgspec.json.decode(await peer.receive()) for _ in messages]
    await peer.send_all(b"".join(frame + b"\n" for frame in frames))
    received = b""
    while received.count(b"\n") < len(messages):
        received += await peer.receive_some()
    return [msgspec.json.decode(line) for line in received.splitlines()]


async def served(peer: trio.abc.Stream | trio.abc.Channel[bytes]) -> set[object]:
    """Which eras are served at the other end."""
    answers = await exchange(peer, modern("modern", "server/discover"), initialize("legacy"))
    for answer in answers:
        assert "result" in answer or answer["error"]["code"] == -32022
    return {answer["id"] for answer in answers if "result" in answer}


@pytest.mark.parametrize("way", WAYS)
async def test_each_transport_may_choose(way: str, tmp_path: Path) -> None:
    with trio.fail_after(HANG_GUARD):
        async with serving(Router("r", eras="legacy")) as manager:
            async with WAYS[way](manager, tmp_path) as peer:
                assert await served(peer) == {"legacy"}
            choices: dict[Eras, set[str]] = {
                "modern": {"modern"},
                "both": {"modern", "legacy"},
                "legacy": {"legacy"},
            }
            for eras, expected in choices.items():
                async with WAYS[way](manager, tmp_path, eras=eras) as peer:
                    assert await served(peer) == expected


async def _serve_stream(manager: SessionManager, **options: Any) -> None:
    here, there = memory_stream_pair()
    async with here:
        with pytest.raises(ValueError, match="eras must be") as caught:
            await serve_stream(manager, there, **options)
        assert await here.receive_some() == b""  # It is closed in any case.
    raise caught.value


async def _serve_listeners(manager: SessionManager, **options: Any) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        await serve_listeners(manager, [listener], **options)


@pytest.mark.parametrize(
    "serve",
    [
        connect_memory,
        _serve_stream,
        _serve_listeners,
        partial(serve_tcp, port=0),
        partial(serve_unix, path="never-made"),
    ],
)
async def test_an_invalid_choice_of_eras_is_refused_at_once(
    serve: Callable[..., Awaitable[Any]],
) -> None:
    async with serving(Router("r")) as manager:
        with pytest.raises(ValueError, match="eras must be"):
            await serve(manager, eras=ALL)
        assert manager.sessions() == []
    assert not await trio.Path("never-made").exists()


async def test_what_is_declined_names_what_is_served() -> None:
    async with serving(Router("r")) as manager:
        async with over_stream(manager, Path(), eras="legacy") as peer:
            (answer,) = await exchange(peer, modern(1, "server/discover"))
            assert answer["error"]["data"] == {
                "supported": ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"],
                "requested": MODERN,
            }
