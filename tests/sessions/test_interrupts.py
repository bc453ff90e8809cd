"""What is protected from `KeyboardInterrupt`, what is not, and waits that no interrupt ends."""

from __future__ import annotations

import importlib
import pkgutil
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import ModuleType
from typing import Any

import msgspec
import pytest
import trio
from trio.lowlevel import currently_ki_protected
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.helpers import connect, initialize, leftovers, result
from trio_mcp_session import (
    RequestContext,
    Router,
    Session,
    SessionHooks,
    SessionManager,
    TerminationReason,
    open_session_manager,
    serve_channel,
)
from trio_mcp_session.sessions import interrupts
from trio_mcp_session.sessions.failures import _leaves
from trio_mcp_session.sessions.interrupts import (
    ProtectedAsyncBlock,
    ProtectedBlock,
    UserContext,
    raise_with,
    run_user_code,
    wait_for,
    with_interrupts,
)

INTERFACES = ("sessions.host", "sessions.manager_server", "sessions.session_client")
"""Imported by type checkers only: no function of them is ever called."""

PROTECTED = ("handles", "server", "sessions", "transports")


def codes(module: ModuleType) -> list[Any]:
    return list(interrupts._codes_in(module))


def is_protected(code: Any) -> bool:
    status = sys.modules["trio._core._ki"]._CODE_KI_PROTECTION_STATUS_WMAP
    try:
        return bool(status[code])
    except KeyError:
        return False


@pytest.mark.parametrize("package", PROTECTED)
def test_every_function_of_the_engine_is_protected(package: str) -> None:
    importlib.import_module("trio_mcp_session.transports.http1.server")  # not with the rest
    root = importlib.import_module(f"trio_mcp_session.{package}")
    names = [one.name for one in pkgutil.walk_packages(root.__path__, f"{root.__name__}.")]
    open_to_interrupts = {
        f"{name}.{code.co_qualname}"
        for name in names
        if name in sys.modules and not name.endswith(INTERFACES)
        for code in codes(sys.modules[name])
        if not is_protected(code)
    }
    door = f"trio_mcp_session.sessions.interrupts.{run_user_code.__qualname__}"
    assert open_to_interrupts == ({door} if package == "sessions" else set())
    assert names


def test_methods_properties_and_nested_functions_are_found() -> None:
    found = {code.co_qualname for code in codes(sys.modules[SessionManager.__module__])}
    assert {"SessionManager.drain", "SessionManager.ready", "_while_open"} <= found
    nested = {code.co_qualname for code in codes(sys.modules[Router.__module__])}
    assert any("<locals>" in name for name in nested)


def test_code_of_other_modules_is_left_alone() -> None:
    assert not is_protected(contextmanager.__code__)
    assert not is_protected(test_code_of_other_modules_is_left_alone.__code__)


def test_names_that_must_not_be_imported_are_not_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trio_mcp_session.sessions.missing", None)
    interrupts.protect_modules("trio_mcp_session.sessions")


# User code is open to interrupts.


async def test_user_code_is_open_and_the_engine_around_it_is_not(
    autojump_clock: MockClock,
) -> None:
    seen: dict[str, bool] = {}

    def look(where: str) -> None:
        seen[where] = currently_ki_protected()

    @asynccontextmanager
    async def context(name: str) -> AsyncIterator[None]:
        look(f"{name} is entered")
        yield
        look(f"{name} is left")

    async def task() -> None:
        look("task")

    async def hook(session: Session) -> None:
        look("hook")

    hooks = SessionHooks(on_session_created=hook)
    async with open_session_manager(hooks=hooks) as manager:
        session = await manager.create_session(lifespan=lambda _: context("lifespan"))
        await session.enter_async_context(context("held context"))
        session.start_soon(task)
        await wait_all_tasks_blocked()
        look("body")
    assert seen == {
        "lifespan is entered": False,
        "held context is entered": False,
        "hook": False,
        "task": False,
        "body": False,
        # A call of ``__aexit__`` that is interrupted on its first instruction would leave it open.
        "held context is left": True,
        "lifespan is left": True,
    }


async def test_an_object_that_is_not_a_context_manager_is_refused() -> None:
    with pytest.raises(TypeError, match="expected an async context manager, not None"):
        UserContext(None)  # type: ignore[arg-type]  # that is the mistake


# Blocks of the library.


async def test_blocks_are_entered_and_left_protected() -> None:
    seen: list[bool] = []

    @contextmanager
    def block() -> Iterator[str]:
        seen.append(currently_ki_protected())
        try:
            yield "it"
        except ValueError:
            seen.append(currently_ki_protected())
            return
        seen.append(currently_ki_protected())

    @asynccontextmanager
    async def async_block() -> AsyncIterator[str]:
        with block() as value:
            yield value

    for failing in (False, True):
        with ProtectedBlock(block()) as value:
            assert value == "it"
            if failing:
                raise ValueError
        async with ProtectedAsyncBlock(async_block()) as value:
            assert value == "it"
            if failing:  # pragma: no branch  # the way back is behind the block
                raise ValueError
    assert seen == [True] * 8


async def test_public_blocks_are_protected() -> None:
    async with open_session_manager() as manager:
        session = await manager.create_session()
        assert isinstance(session.lease(), ProtectedBlock)
        assert isinstance(session.subscribe(), ProtectedBlock)
        assert isinstance(manager.subscribe(), ProtectedBlock)
        assert isinstance(manager.open_session(), ProtectedAsyncBlock)


# Waits.


@pytest.fixture
def in_main_task() -> Any:
    """Run something as a main task: pytest-trio's tests are none."""

    def run(async_fn: Any) -> Any:
        return trio.run(async_fn, clock=MockClock(autojump_threshold=0))

    return run


def interrupt() -> None:
    """Deliver a SIGINT as the system does: the running code, which is this, is protected."""
    signal.raise_signal(signal.SIGINT)


trio.lowlevel.enable_ki_protection(interrupt)


def test_a_wait_collects_interrupts_and_ends_when_the_event_comes(in_main_task: Any) -> None:
    told: list[KeyboardInterrupt] = []

    async def main() -> list[KeyboardInterrupt]:
        event = trio.Event()

        async def strike() -> None:
            for _ in range(3):
                interrupt()
                await wait_all_tasks_blocked()
            event.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(strike)
            found = await wait_for(event, told.append)
        assert await wait_for(event) == []
        return found

    found = in_main_task(main)
    assert len(found) == 3
    assert found == told


async def test_a_cancellation_does_not_end_such_a_wait(autojump_clock: MockClock) -> None:
    event = trio.Event()

    async def later() -> None:
        await trio.sleep(5)
        event.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(later)
        with trio.move_on_after(1) as scope:
            assert await wait_for(event) == []
            assert trio.current_time() == 5
            await trio.lowlevel.checkpoint()
        assert scope.cancelled_caught


def test_what_is_raised_after_a_wait() -> None:
    error, first, second = ValueError(), KeyboardInterrupt(), KeyboardInterrupt()
    assert with_interrupts(None, []) is None
    assert with_interrupts(error, []) is error
    assert with_interrupts(first, [second]) is first
    assert with_interrupts(None, [first, second]) is first
    both = with_interrupts(error, [first, second])
    assert isinstance(both, BaseExceptionGroup)
    assert both.exceptions == (error, first)
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # it is this one
        raise_with(error, [])
    assert caught.value is error
    with pytest.RaisesGroup(ValueError, KeyboardInterrupt):
        raise_with(error, [first])


# Interrupts of the main task, at each wait that has something to undo.


async def interrupted_soon(nursery: trio.Nursery) -> None:
    async def strike() -> None:
        await wait_all_tasks_blocked()
        interrupt()

    nursery.start_soon(strike)


@pytest.mark.parametrize(
    "what", ["create", "start", "hold", "drain", "leave", "open_session", "body"]
)
def test_an_interrupted_call_undoes_what_it_began(what: str, in_main_task: Any) -> None:
    managers: list[SessionManager] = []
    trace: list[str] = []
    undone: list[bool] = []

    @asynccontextmanager
    async def slow(seconds: float = 1) -> AsyncIterator[None]:
        trace.append("entering")
        try:
            await trio.sleep(seconds)
            yield
        finally:
            trace.append("left")

    async def begin(*, task_status: trio.TaskStatus[None]) -> None:  # noqa: ASYNC128  # never up
        trace.append("entering")
        try:
            await trio.sleep_forever()
        finally:
            trace.append("left")

    async def main() -> None:
        async with open_session_manager() as manager:
            managers.append(manager)
            session = await manager.create_session()
            async with trio.open_nursery() as nursery:
                await interrupted_soon(nursery)
                try:
                    await call(manager, session)
                except KeyboardInterrupt:
                    # When the call raises, and not only at the end of the manager.
                    undone.append(trace.count("entering") == trace.count("left"))
                    raise

    async def call(manager: SessionManager, session: Session) -> None:
        match what:
            case "create":
                await manager.create_session(lifespan=lambda _: slow())
            case "start":
                await session.start(begin)
            case "hold":
                await session.enter_async_context(slow())
            case "drain":
                session.start_soon(trio.sleep, 2)
                await manager.drain()
            case "open_session" | "body":
                seconds = 0 if what == "body" else 1
                async with manager.open_session(lifespan=lambda _: slow(seconds)):
                    await trio.sleep_forever()
            case _:
                session.start_soon(trio.sleep, 2)

    with pytest.raises(BaseException) as caught:  # noqa: PT011  # in the group of the nursery
        in_main_task(main)
    assert {type(one) for one in _leaves(caught.value)} == {KeyboardInterrupt}
    assert undone == ([] if what == "leave" else [True])
    assert trace.count("entering") == trace.count("left")
    assert leftovers(managers[0]) == []


@pytest.mark.parametrize("where", ["drain", "body"])
def test_an_interrupt_of_a_manager_comes_out_in_no_group(where: str, in_main_task: Any) -> None:
    ended: list[TerminationReason] = []

    async def main() -> None:
        async with open_session_manager() as manager:
            session = await manager.create_session()
            session.start_soon(trio.sleep, 2)
            trio.lowlevel.spawn_system_task(strike)
            if where == "body":
                try:
                    await trio.sleep_forever()
                finally:
                    ended.append(TerminationReason.SHUTDOWN)

    async def strike() -> None:
        await wait_all_tasks_blocked()
        interrupt()

    with pytest.raises(KeyboardInterrupt):
        in_main_task(main)


def test_the_error_of_the_body_stays_beside_an_interrupt_of_the_end(in_main_task: Any) -> None:
    @asynccontextmanager
    async def slow() -> AsyncIterator[None]:
        yield
        interrupt()
        await trio.sleep(1)
        interrupt()
        await trio.sleep(1)

    async def main() -> None:
        async with open_session_manager() as manager:
            await manager.create_session(lifespan=lambda _: slow())
            raise ValueError("of the body")

    with pytest.RaisesGroup(ValueError, KeyboardInterrupt):
        in_main_task(main)


def test_an_interrupt_while_the_manager_opens(in_main_task: Any) -> None:
    opening = open_session_manager()

    async def main() -> None:
        interrupt()  # It is delivered at the next wait, for the sessions nursery.
        await opening.__aenter__()

    trio.lowlevel.enable_ki_protection(main)
    with pytest.raises(KeyboardInterrupt):
        in_main_task(main)


async def test_a_manager_is_opened_once() -> None:
    opening = open_session_manager()
    async with opening:
        pass
    with pytest.raises(RuntimeError, match="opened only once"):
        await opening.__aenter__()


class Breaking(trio.abc.Channel[bytes]):
    """A client that says hello, and whose connection breaks a second later."""

    def __init__(self) -> None:
        self.frames = [msgspec.json.encode(initialize())]

    async def receive(self) -> bytes:
        await trio.sleep(1)
        if self.frames:
            return self.frames.pop()
        raise trio.BrokenResourceError

    async def send(self, value: bytes) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("what", ["open_session", "serve_channel"])
def test_an_interrupt_while_a_session_is_left_normally_comes_out(
    what: str, in_main_task: Any
) -> None:
    @asynccontextmanager
    async def slow(_: Session) -> AsyncIterator[None]:
        yield
        interrupt()
        await trio.sleep(1)

    async def main() -> None:
        router = Router("r", lifespan=slow)
        async with open_session_manager(router) as manager:
            if what == "open_session":
                async with manager.open_session(lifespan=slow):
                    pass
            else:
                await serve_channel(manager, Breaking())

    with pytest.raises(BaseException) as caught:  # noqa: PT011  # in the groups of nurseries
        in_main_task(main)
    assert {type(one) for one in _leaves(caught.value)} == {KeyboardInterrupt}


# Handlers.


async def test_a_handler_is_open_to_interrupts(autojump_clock: MockClock) -> None:
    seen: list[bool] = []
    router = Router("r")

    @router.request("look")
    async def look(ctx: RequestContext) -> None:
        seen.append(currently_ki_protected())
        await trio.lowlevel.checkpoint()

    async with open_session_manager(router) as manager:
        peer = await connect(manager)
        await peer.establish()
        assert await peer.ask(1, "look") == result(1)
    assert seen == [False]


def test_what_has_no_code_of_its_own_stays_as_it_is() -> None:
    interrupts.leave_unprotected(print)
