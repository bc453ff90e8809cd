"""What handlers raise: answers, crashes and interrupts, alone and in groups; and crash records."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.helpers import (
    connect,
    error,
    errors_of,
    events_so_far,
    listening,
    modern,
    notification,
    request,
    result,
    serving,
    talking,
)
from trio_mcp_session import (
    CapabilityMissing,
    CleanupConfig,
    ExitRequested,
    HandlerCrashed,
    McpError,
    NoSession,
    QuestionTimeout,
    RequestContext,
    Router,
    SendFailed,
    SessionConfig,
    SessionKind,
    SessionLimitReached,
    TerminationReason,
    ToolError,
    TooManyQuestions,
    UnknownHandle,
    open_session_manager,
)
from trio_mcp_session.sessions.error_log import log_error

MODERN = "2026-07-28"


def raising(*failures: BaseException, nested: bool = False) -> Router:
    """A router whose handler raises from its own nursery what the test gives it."""
    router = Router("r")

    async def fail(failure: BaseException) -> None:
        if nested:
            async with trio.open_nursery() as inner:
                inner.start_soon(trio.sleep_forever)
                await fail_at_once(failure)
        raise failure

    async def fail_at_once(failure: BaseException) -> None:
        raise failure

    async def work(ctx: RequestContext) -> None:
        async with trio.open_nursery() as nursery:
            for failure in failures:
                nursery.start_soon(fail, failure)

    router.request("work")(work)
    router.tool(name="work")(work)
    return router


def said(text: str) -> dict[str, Any]:
    """The result of a tool for the model."""
    return {"content": [{"type": "text", "text": text}], "isError": True}


def crashed(request_id: int, way: str, name: str = "work") -> dict[str, Any]:
    """The answer of a handler that crashed: of a tool it is a result, so that the model knows."""
    if way != "tools/call":
        return error(request_id, -32603, "Internal error")
    return result(request_id, said(f"The tool {name!r} failed with an internal error"))


@pytest.mark.parametrize("group", [False, True])
@pytest.mark.parametrize("way", ["work", "tools/call"])
async def test_system_exit_is_a_crash_of_its_request(
    group: bool, way: str, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    router = raising(SystemExit(2))

    @router.tool()
    async def leave(ctx: RequestContext) -> None:
        sys.exit(2)

    router.request("leave")(leave)
    name = "work" if group else "leave"
    async with serving(router) as manager:
        peer, neighbour = await connect(manager), await connect(manager)
        await peer.establish()
        await neighbour.establish()
        with peer.session.subscribe() as events:
            method = way if way == "tools/call" else name
            answer = await peer.ask(1, method, {"name": name})
            assert answer == crashed(1, way, name)
            (crash,) = errors_of(events_so_far(events))
        assert isinstance(crash, HandlerCrashed)
        assert isinstance(crash.__cause__, ExitRequested)
        assert len(caplog.records) == 1
        assert peer.session.error is None
        assert await peer.ask(2, "ping") == result(2)
        assert await neighbour.ask(2, "ping") == result(2)


FOR_ALL: list[tuple[Exception, int]] = [
    (McpError(7, "told"), 7),
    (UnknownHandle("box"), -32602),
    (NoSession("none"), -32603),
    (QuestionTimeout("a/b", 1), -32603),
    (SessionLimitReached(SessionKind.HANDLE, 1), -32603),
    (TooManyQuestions(1), -32603),
]


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("raised, code", FOR_ALL, ids=lambda value: type(value).__name__)
async def test_an_error_for_the_client_in_a_group_is_the_answer(
    raised: Exception, code: int, nested: bool, autojump_clock: MockClock
) -> None:
    async with talking(raising(raised, nested=nested)) as peer:
        with peer.session.subscribe() as events:
            answer = await peer.ask(1, "work")
            assert answer["error"]["code"] == code
            text = raised.message if isinstance(raised, McpError) else str(raised)
            assert answer["error"]["message"] == text
            answer = await peer.ask(2, "tools/call", {"name": "work"})
            if isinstance(raised, McpError):
                assert answer["error"]["code"] == code
            else:
                assert answer["result"] == said(str(raised))
            assert errors_of(events_so_far(events)) == []


async def test_a_capability_that_is_missing_may_come_in_a_group(
    autojump_clock: MockClock,
) -> None:
    """It is an answer in every era."""
    router = raising(CapabilityMissing("sampling"))
    async with talking(router) as peer:
        for number, method in enumerate(("work", "tools/call")):
            await peer.send(modern(number, method, {"name": "work"}))
            assert (await peer.receive())["error"]["code"] == -32021
        with peer.session.subscribe() as events:
            text = str(CapabilityMissing("sampling"))
            assert await peer.ask(9, "work") == error(9, -32603, text)
            answer = await peer.ask(10, "tools/call", {"name": "work"})
            assert answer["result"] == said(text)
            assert errors_of(events_so_far(events)) == []


@pytest.mark.parametrize("way", ["work", "tools/call"])
async def test_the_first_of_several_errors_for_the_client_is_told(
    way: str, autojump_clock: MockClock
) -> None:
    router = Router("r")
    failures: list[Exception] = []

    async def work(ctx: RequestContext) -> None:
        await trio.lowlevel.checkpoint()
        raise ExceptionGroup("outer", [ExceptionGroup("inner", failures)])

    router.request("work")(work)
    router.tool(name="work")(work)
    async with talking(router) as peer:
        failures[:] = [McpError(1, "first"), UnknownHandle("box")]
        assert (await peer.ask(1, way, {"name": "work"}))["error"]["code"] == 1
        failures[:] = [UnknownHandle("box"), McpError(1, "second")]
        answer = await peer.ask(2, way, {"name": "work"})
        if way == "work":
            assert answer["error"]["code"] == -32602
        else:
            assert answer["result"] == said(str(failures[0]))


async def test_a_group_of_tool_errors_is_a_result(autojump_clock: MockClock) -> None:
    async with talking(raising(ToolError("no"))) as peer:
        answer = await peer.ask(1, "tools/call", {"name": "work"})
        assert answer["result"] == said("no")
        # Elsewhere it is a crash, as it is alone.
        assert await peer.ask(2, "work") == error(2, -32603, "Internal error")


@pytest.mark.parametrize("crash", [ValueError("bug"), SystemExit(1)], ids=repr)
@pytest.mark.parametrize("told", [McpError(7, "told"), ToolError("told")], ids=repr)
@pytest.mark.parametrize("way", ["work", "tools/call"])
async def test_a_crash_beside_an_error_for_the_client_is_a_crash(
    crash: BaseException, told: Exception, way: str, autojump_clock: MockClock
) -> None:
    async with talking(raising(told, crash)) as peer:
        with peer.session.subscribe() as events:
            answer = await peer.ask(1, way, {"name": "work"})
            assert answer == crashed(1, way)
            (report,) = errors_of(events_so_far(events))
        # The whole of it is in the report.
        assert isinstance(report, HandlerCrashed)
        cause = report.__cause__
        whole = cause.__cause__ if isinstance(cause, ExitRequested) else cause
        assert "told" in repr(whole)


async def _told_when_cancelled(failure: Exception) -> None:
    try:
        await trio.sleep_forever()
    finally:
        raise failure


def cut_off(failure: Exception) -> Router:
    """A router whose handler raises an error when something outside of it cancels it."""
    router = Router("r")

    async def work(ctx: RequestContext) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            await _told_when_cancelled(failure)

    router.request("work")(work)
    router.tool(name="work")(work)
    return router


@pytest.mark.parametrize("way", ["work", "tools/call"])
@pytest.mark.parametrize("raised", [McpError(7, "told"), UnknownHandle("box"), ValueError("bug")])
async def test_nothing_is_answered_beside_a_cancellation_from_outside(
    raised: Exception, way: str, autojump_clock: MockClock
) -> None:
    """The cancellation is caught where it belongs, and says what the client gets."""
    async with talking(cut_off(raised), cleanup=CleanupConfig(request_timeout=5)) as peer:
        with peer.session.subscribe() as events:
            answer = await peer.ask(1, way, {"name": "work"})
            if way == "work":
                assert answer == error(1, -32603, "Request timed out")
            else:
                assert answer["result"] == said("The tool 'work' took too long, and was cancelled")
            crashes = errors_of(events_so_far(events))
        assert len(crashes) == isinstance(raised, ValueError)
        assert await peer.ask(2, "ping") == result(2)
        assert peer.session.error is None


async def test_a_handlers_own_cancellation_stays_inside(autojump_clock: MockClock) -> None:
    router = Router("r")

    @router.tool()
    async def work(ctx: RequestContext) -> str:
        with trio.move_on_after(1) as scope:
            await trio.sleep_forever()
        assert scope.cancelled_caught
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            raise ToolError("told")

    async with talking(router) as peer:
        answer = await peer.ask(1, "tools/call", {"name": "work"})
        assert answer["result"] == said("told")


@pytest.mark.parametrize(
    "beside", [None, McpError(7, "told"), ToolError("told"), ValueError("bug")], ids=repr
)
@pytest.mark.parametrize("way", ["work", "tools/call"])
async def test_an_interrupt_is_raised_and_no_error_beside_it_is_answered(
    way: str, beside: Exception | None, autojump_clock: MockClock
) -> None:
    answers: list[Any] = []
    reported: list[Exception] = []
    failures = [KeyboardInterrupt(), *([] if beside is None else [beside])]

    with pytest.raises(KeyboardInterrupt):
        async with open_session_manager(raising(*failures)) as manager:
            peer = await connect(manager)
            await peer.establish()
            with manager.subscribe() as events:
                await peer.send(request(1, way, {"name": "work"}))
                try:
                    answers.append(await peer.receive())
                    await trio.sleep_forever()
                finally:
                    reported += errors_of(events_so_far(events))
    assert all(one["error"]["message"].startswith("Session has ended") for one in answers)
    crashes = [one for one in reported if isinstance(one, HandlerCrashed)]
    assert len(crashes) <= 1


class Word(Exception):
    """An error whose text fails."""

    def __str__(self) -> str:
        raise ValueError("no text")


class HandleWithoutText(UnknownHandle):
    def __str__(self) -> str:
        raise SystemExit(1)


async def test_an_error_whose_text_fails_is_a_crash(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with talking(raising(HandleWithoutText("box"))) as peer:
        assert await peer.ask(1, "work") == crashed(1, "work")
        answer = await peer.ask(2, "tools/call", {"name": "work"})
        assert answer == crashed(2, "tools/call")
    assert len(caplog.records) == 2


# Crash records.


async def test_a_crash_leaves_one_record_that_names_the_tool(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    router = Router("r")

    @router.tool()
    async def add(ctx: RequestContext) -> float:
        return 1 / 0

    @router.request("prompts/get")
    async def prompt(ctx: RequestContext) -> None:
        raise Word

    async with talking(router) as peer:
        with peer.session.subscribe() as events:
            await peer.ask(1, "tools/call", {"name": "add"})
            await peer.ask(2, "prompts/get", {"name": "unknown\nto the library"})
            names = [getattr(one, "name", "") for one in errors_of(events_so_far(events))]
        assert names == ["tool 'add'", None]
        shown = repr(peer.session)
    first, second = caplog.records
    expected = f"{shown}: tool 'add' crashed: ZeroDivisionError: division by zero"
    assert first.getMessage() == expected
    assert (first.name, first.levelname) == ("trio_mcp_session", "ERROR")
    assert first.exc_info is not None
    assert first.exc_info[0] is ZeroDivisionError
    assert first.exc_info[2] is not None
    text = second.getMessage()
    assert text.endswith("handler of 'prompts/get' crashed: Word: <its text raised ValueError>")
    assert "unknown" not in text


def test_what_a_record_says_of_an_error(caplog: pytest.LogCaptureFixture) -> None:
    one: Any = _Reporter()
    with pytest.raises(LookupError) as caught:
        dict[str, int]()["gone"]
    raised = caught.value
    for failure in (raised, LookupError(), SendFailed()):
        log_error(one, failure)
    assert [record.getMessage() for record in caplog.records] == [
        "<reporter>: KeyError: 'gone'",
        "<reporter>: LookupError",
        "<reporter>: sending to the client failed",
    ]
    assert [record.exc_info is not None for record in caplog.records] == [True, False, False]


class _Reporter:
    def __repr__(self) -> str:
        return "<reporter>"


class BrokenHandler(logging.Handler):
    """Raises, as some handlers do on a full disk."""

    def __init__(self, failure: BaseException) -> None:
        super().__init__()
        self.failure = failure
        self.calls = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.calls += 1
        raise self.failure


@pytest.mark.parametrize("failure", [OSError(28, "disk full"), SystemExit(1)], ids=repr)
async def test_a_log_that_fails_changes_nothing(
    failure: BaseException, autojump_clock: MockClock
) -> None:
    handler = BrokenHandler(failure)
    logger = logging.getLogger("trio_mcp_session")
    logger.addHandler(handler)
    try:
        async with talking(raising(ValueError("bug"))) as peer:
            with peer.session.subscribe() as events:
                assert await peer.ask(1, "work") == error(1, -32603, "Internal error")
                assert len(errors_of(events_so_far(events))) == 1
            assert await peer.ask(2, "ping") == result(2)
            assert peer.session.error is None
    finally:
        logger.removeHandler(handler)
    assert handler.calls == 1


# What the application is asked besides, by the reader.


@pytest.mark.parametrize("failure", [ValueError("bug"), SystemExit(1)], ids=repr)
@pytest.mark.parametrize(
    "what, message",
    [
        ("capabilities", request(1, "logging/setLevel", {"level": "info"})),
        ("capabilities", request(1, "resources/subscribe", {"uri": "a:b"})),
        ("capabilities", modern(1, "server/discover")),
        ("capabilities", listening(1, toolsListChanged=True)),
        ("handles_request", modern(1, "work")),
        ("cache_hint", modern(1, "fine")),
        ("handles_notification", notification("a/b")),
    ],
    ids=lambda value: value if isinstance(value, str) else value["method"],
)
async def test_an_application_that_fails_when_it_is_asked(
    what: str,
    message: Mapping[str, Any],
    failure: BaseException,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    router = raising(failure)

    @router.request("fine")
    async def fine(ctx: RequestContext) -> None:
        await trio.lowlevel.checkpoint()

    async with serving(router) as manager:
        peer = await connect(manager)
        await peer.establish()

        def fail(*_: object) -> Any:
            raise failure

        monkeypatch.setattr(router, what, fail)
        with peer.session.subscribe() as events:
            await peer.send(message)
            answers = await peer.waiting()
            (crash,) = errors_of(events_so_far(events))
        assert answers == ([error(1, -32603, "Internal error")] if "id" in message else [])
        assert isinstance(crash, HandlerCrashed)
        if what != "cache_hint":
            assert crash.name is not None
            assert what in crash.name
        monkeypatch.undo()
        assert await peer.ask(2, "ping") == result(2)
        assert peer.session.error is None


async def test_an_application_that_exits_when_a_session_opens(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = Router("r")

    def leave(*_: object) -> Any:
        sys.exit(3)

    async with serving(router) as manager:
        neighbour = await connect(manager)
        await neighbour.establish()
        monkeypatch.setattr(router, "capabilities", leave)
        peer = await connect(manager)
        await peer.send(
            request(
                1,
                "initialize",
                {
                    "protocolVersion": "2025-11-25",
                    "capabilities": {},
                    "clientInfo": {"name": "c", "version": "1"},
                },
            ),
            request(2, "tools/list"),
        )
        answers = [await peer.receive(), await peer.receive()]
        assert [one["id"] for one in answers] == [1, 2]
        assert {one["error"]["message"] for one in answers} == {"Session has ended: crashed"}
        assert await peer.session.wait_terminated() is TerminationReason.CRASHED
        assert isinstance(peer.session.error, ExitRequested)
        assert await neighbour.ask(2, "ping") == result(2)


async def test_a_wall_clock_that_fails_at_a_retry_fails_the_request(
    autojump_clock: MockClock,
) -> None:
    def clock() -> Any:
        raise failing[0]

    failing: list[BaseException] = [ValueError("no time"), SystemExit(1)]
    router = raising(ValueError("never called"))
    config = SessionConfig(wall_clock=clock)
    async with open_session_manager(router, config=config) as manager:
        peer = await connect(manager)
        for number in range(2):
            message = modern(number, "tools/call", {"name": "work", "requestState": "v1.x"})
            await peer.send(message)
            assert await peer.receive() == error(number, -32603, "Internal error")
            failing.reverse()
        assert await peer.ask(2, "ping") == result(2)
