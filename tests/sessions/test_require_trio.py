"""Programs of another event loop get a sentence."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import trio

from trio_mcp_session import Router, http_app, open_session_manager


async def test_a_manager_opened_in_trio() -> None:
    async with open_session_manager():
        pass


def test_a_manager_under_asyncio() -> None:
    async def main() -> None:
        async with open_session_manager(Router("x")):
            raise AssertionError  # pragma: no cover

    expected = r"^open_session_manager\(\) needs Trio, .* uvicorn runs on asyncio only$"
    with pytest.raises(RuntimeError, match=expected):
        asyncio.run(main())


@pytest.mark.parametrize("kind", ["http", "lifespan"])
async def test_an_asgi_application_under_asyncio(kind: str) -> None:
    async with open_session_manager(Router("x")) as manager:
        app: Any = http_app(manager)
        # As uvicorn would call it in another thread.
        call = app({"type": kind}, None, None)
        expected = r"^the application of http_app\(\) needs Trio, "
        with pytest.raises(RuntimeError, match=expected):
            await trio.to_thread.run_sync(asyncio.run, call)
