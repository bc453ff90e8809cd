"""Dependencies: when they are made, which requests share them, and when they are closed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import pytest
import trio
from trio.testing import MockClock

from trio_mcp_session import RequestContext, Router, Session
from trio_mcp_session.application.dependencies import Depends

from .client import D, M, connected

if TYPE_CHECKING:
    pass

if TYPE_CHECKING:
    import trio_mcp_session as late

EVENTS: list[str] = []


@pytest.fixture(autouse=True)
def _empty() -> None:
    EVENTS.clear()


def settings() -> dict[str, int]:
    EVENTS.append("settings")
    return {"a": 1}


async def loaded(context: RequestContext) -> str:
    await trio.lowlevel.checkpoint()
    return context.method


@asynccontextmanager
async def opened(own: Annotated[dict[str, int], Depends(settings)]) -> AsyncIterator[str]:
    EVENTS.append("open")
    yield f"opened {own['a']}"
    EVENTS.append("close")


@contextmanager
def plain() -> Iterator[str]:
    EVENTS.append("open plain")
    yield "plain"
    EVENTS.append("close plain")


@asynccontextmanager
async def pool() -> AsyncIterator[str]:
    EVENTS.append("open pool")
    await trio.sleep(1)
    yield "pool"
    EVENTS.append("close pool")


@asynccontextmanager
async def database(
    session: Session, pool: Annotated[str, Depends(pool, scope="session")]
) -> AsyncIterator[str]:
    EVENTS.append("open database")
    yield f"{pool} of {session.kind.value}"
    EVENTS.append("close database")


Settings = Annotated[dict[str, int], Depends(settings)]
Database = Annotated[str, Depends(database, scope="session")]


def needing(*marks: Depends) -> Callable[[Any], Any]:
    """Mark the parameters of a function: annotations cannot name what is local."""

    def annotate(function: Any) -> Any:
        names = function.__code__.co_varnames
        marked = zip(names, marks, strict=False)
        function.__annotations__ |= {name: Annotated[Any, mark] for name, mark in marked}
        return function

    return annotate


def serve(function: Callable[..., Any]) -> Router:
    router = Router("x")
    router.resource("x://x", name="x")(function)
    return router


async def read(client: Any) -> str:
    result = await client.request("resources/read", {"uri": "x://x"})
    text: str = result["contents"][0]["text"]
    return text


async def test_dependencies_are_made_for_the_request_and_closed_after_it() -> None:
    async def function(
        own: Settings,
        method: Annotated[str, Depends(loaded)],
        resource: Annotated[str, Depends(opened)],
        other: Annotated[str, Depends(plain)],
    ) -> str:
        EVENTS.append("call")
        return f"{own} {method} {resource} {other}"

    async with connected(serve(function)) as client:
        assert await read(client) == "{'a': 1} resources/read opened 1 plain"
        assert EVENTS == ["settings", "open", "open plain", "call", "close plain", "close"]
        await read(client)
        assert len(EVENTS) == 12


async def test_a_dependency_is_closed_when_the_function_fails() -> None:
    @asynccontextmanager
    async def transaction() -> AsyncIterator[None]:
        try:
            yield
        except RuntimeError:
            EVENTS.append("rolled back")
            raise

    @needing(Depends(transaction))
    async def function(_: None) -> str:
        raise RuntimeError

    async with connected(serve(function)) as client:
        error = await client.refused("resources/read", {"uri": "x://x"})
        assert error["code"] == -32603
        assert isinstance(await client.crash(), RuntimeError)
    assert EVENTS == ["rolled back"]


async def test_a_value_of_the_session_is_made_once_and_closed_with_it(
    autojump_clock: MockClock,
) -> None:
    async def function(database: Database) -> str:
        EVENTS.append("call")
        return database

    async with connected(serve(function)) as client:
        ids = [await client.ask("resources/read", {"uri": "x://x"}) for _ in range(3)]
        answers = [await client.receive() for _ in ids]  # in any order
        assert sorted(answer["id"] for answer in answers) == sorted(ids)
        for answer in answers:
            assert answer["result"]["contents"][0]["text"] == "pool of connection"
        assert EVENTS == ["open pool", "open database", "call", "call", "call"]
    assert EVENTS[5:] == ["close database", "close pool"]


async def test_a_value_of_the_session_that_cannot_be_made_is_tried_again() -> None:
    attempts: list[int] = []

    def failing() -> str:
        attempts.append(1)
        if len(attempts) == 1:
            raise RuntimeError
        return "made"

    @needing(Depends(failing, scope="session"))
    async def function(value: str) -> str:
        return value

    async with connected(serve(function)) as client:
        await client.refused("resources/read", {"uri": "x://x"})
        assert isinstance(await client.crash(), RuntimeError)
        assert await read(client) == "made"
        assert await read(client) == "made"
    assert len(attempts) == 2


async def test_without_a_session_a_value_of_the_session_is_an_error_or_the_requests() -> None:
    async def strict(value: Annotated[Any, Depends(settings, scope="session")]) -> Any: ...

    async def lenient(
        value: Annotated[Any, Depends(settings, scope="session", without_session="request")],
    ) -> Any:
        return value

    async with connected(serve(strict), version=M) as client:
        error = await client.refused("resources/read", {"uri": "x://x"})
        assert "has no session" in error["message"]
    async with connected(serve(lenient), version=M) as client:
        assert await read(client) == '{"a":1}'
        await read(client)
    async with connected(serve(lenient), version=D) as client:
        await read(client)
        await read(client)
    assert len(EVENTS) == 3


async def test_dependencies_are_not_arguments_for_clients() -> None:
    router = Router("x")

    @router.prompt()
    async def prompt(text: str, own: Settings) -> str:
        return f"{text} {own}"

    async with connected(router) as client:
        (described,) = (await client.request("prompts/list"))["prompts"]
        assert [one["name"] for one in described["arguments"]] == ["text"]
        arguments = {"text": "a", "own": "mine"}
        result = await client.request("prompts/get", {"name": "prompt", "arguments": arguments})
    assert result["messages"][0]["content"]["text"] == "a {'a': 1}"


async def test_a_parameter_with_a_default_may_be_left_out() -> None:
    def function(size: int = 3) -> int:
        return size

    @needing(Depends(function))
    async def resource(size: int) -> int:
        return size

    async with connected(serve(resource)) as client:
        assert await read(client) == "3"


def with_parameter(size: int) -> Any: ...


def of_a_late_request(context: late.RequestContext) -> Any: ...


def of_a_known_request(context: RequestContext) -> Any: ...


def needs_a_request(own: Settings) -> Any: ...


def with_session(session: Session) -> Any: ...


@pytest.mark.parametrize(
    "mark, text",
    [
        (Depends(with_parameter), "dependency 'with_parameter': the parameter 'size' is not a"),
        (Depends(with_session), "the parameter 'session' is not a dependency itself"),
        (Depends(of_a_known_request, scope="session"), "must not take the context of a request"),
        (Depends(of_a_late_request, scope="session"), "must not take the context of a request"),
        (Depends(needs_a_request, scope="session"), "needs 'own' for one"),
    ],
)
def test_a_dependency_that_cannot_be_made_is_refused(mark: Depends, text: str) -> None:
    with pytest.raises(TypeError, match=text):

        @serve
        @needing(mark)
        async def function(value: Any) -> Any: ...


def test_unknown_options_are_refused() -> None:
    with pytest.raises(ValueError, match="scope"):
        Depends(settings, scope="process")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="without_session"):
        Depends(settings, without_session="none")  # type: ignore[arg-type]
