"""Functions that cannot be used with ``async with`` are refused before they are called."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import pytest

from tests.helpers import serving
from trio_mcp_session import HandleKind, Router
from trio_mcp_session.core.context_functions import check_context_function


async def forgotten(*_: object) -> AsyncIterator[None]:  # noqa: ASYNC900
    yield  # pragma: no cover  # never called


async def coroutine(*_: object) -> None:
    raise AssertionError  # pragma: no cover  # never called


def generator(*_: object) -> Iterator[None]:
    yield  # pragma: no cover  # never called


@contextmanager
def not_async(*_: object) -> Iterator[None]:
    yield  # pragma: no cover  # never called


@asynccontextmanager
async def right(*_: object) -> AsyncIterator[None]:
    yield  # pragma: no cover  # never called


class Called:
    def __call__(self) -> AbstractAsyncContextManager[None]:
        raise AssertionError  # pragma: no cover  # never called


class CalledWrongly:
    async def __call__(self) -> None:
        raise AssertionError  # pragma: no cover  # never called

    async def method(self) -> AsyncIterator[None]:  # noqa: ASYNC900
        yield  # pragma: no cover  # never called


class Context(AbstractAsyncContextManager[None]):
    async def __aexit__(self, *_: object) -> None:
        raise AssertionError  # pragma: no cover  # never called


WRONG = [
    (forgotten, "forgotten must .* is an async generator function: decorate it with @asyncc"),
    (partial(forgotten, 1), "forgotten must .* is an async generator function"),
    (CalledWrongly().method, "CalledWrongly.method must .* is an async generator function"),
    (coroutine, "coroutine must .* is a coroutine function: yield the value in it"),
    (CalledWrongly(), "CalledWrongly object .* is a coroutine function"),
    (generator, "generator must .* is not async: write `async def`"),
    (not_async, "not_async must .* is not async: write `async def`"),
    (5, "must be a function, not 5"),
]


@pytest.mark.parametrize("function, why", WRONG)
async def test_what_cannot_be_an_async_context_manager_is_refused(function: Any, why: str) -> None:
    with pytest.raises(TypeError, match=f"the opener .*{why}"):
        HandleKind("x", function)
    with pytest.raises(TypeError, match=f"the lifespan .*{why}"):
        Router("test", lifespan=function)
    async with serving(Router("test")) as manager:
        with pytest.raises(TypeError, match=f"the lifespan .*{why}"):
            await manager.create_session(lifespan=function)
        with pytest.raises(TypeError, match=f"the lifespan .*{why}"):
            async with manager.open_session(lifespan=function):
                raise AssertionError  # pragma: no cover  # never entered
        assert manager.sessions() == []


@pytest.mark.parametrize(
    "function", [right, partial(right, 1), Called(), Called, Context, lambda: right(1), dict]
)
def test_what_may_be_one_is_taken(function: Any) -> None:
    check_context_function(function, "opener")
