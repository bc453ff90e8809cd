"""Which log messages a client gets before it has set a level."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from trio.testing import MockClock

from tests.helpers import connect, modern, request, serving
from trio_mcp_session import LogLevel, RequestContext, Router, SessionConfig, open_session_manager

LEVELS: tuple[LogLevel, ...] = get_args(LogLevel)


def server(**settings: Any) -> Router:
    router = Router("r", **settings)

    @router.request("log")
    async def log(ctx: RequestContext) -> None:
        for level in LEVELS:
            await ctx.log(level, "text")

    return router


@pytest.mark.parametrize("default", [*LEVELS, None])
async def test_the_default_log_level_of_a_session(
    default: LogLevel | None, autojump_clock: MockClock
) -> None:
    config = SessionConfig(default_log_level=default)
    async with open_session_manager(server(), config=config) as manager:
        peer = await connect(manager)
        await peer.establish()
        await peer.send(request(1, "log"))
        *heard, _ = await peer.waiting()
        expected = () if default is None else LEVELS[LEVELS.index(default) :]
        assert [one["params"]["level"] for one in heard] == list(expected)
        # The client's choice replaces it.
        await peer.ask(2, "logging/setLevel", {"level": "alert"})
        await peer.send(request(3, "log"))
        *heard, _ = await peer.waiting()
        assert [one["params"]["level"] for one in heard] == ["alert", "emergency"]


async def test_a_server_without_the_capability_sends_no_log_messages(
    autojump_clock: MockClock,
) -> None:
    async with serving(server(logging=False)) as manager:
        peer = await connect(manager)
        await peer.establish()
        await peer.send(request(1, "log"))
        assert [one["id"] for one in await peer.waiting()] == [1]


async def test_a_request_of_2026_07_28_gets_only_what_it_asks_for(
    autojump_clock: MockClock,
) -> None:
    async with serving(server()) as manager:
        peer = await connect(manager)
        # Also on the connection of a session, which has a default.
        await peer.establish()
        await peer.send(modern(1, "log"))
        assert [one["id"] for one in await peer.waiting()] == [1]
        await peer.send(modern(2, "log", logLevel="alert"))
        *heard, _ = await peer.waiting()
        assert [one["params"]["level"] for one in heard] == ["alert", "emergency"]
