from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from trio.testing import MockClock

from trio_mcp_session import (
    CleanupFailed,
    HandlerCrashed,
    HookFailed,
    RequestContext,
    Router,
    Session,
    SessionHooks,
    TaskCrashed,
    open_session_manager,
)
from trio_mcp_session.sessions.error_log import failure_watchers, write_log
from trio_mcp_session.testing import (
    ClientEraName,
    FaultyContext,
    LeakError,
    UnexpectedFailures,
    check_leaks,
    connect_client,
    connect_http_client,
    crash,
)

router = Router("demo", "1")


@router.tool()
async def fail(text: str) -> str:
    raise OSError(text)


@router.tool()
async def crash_later(ctx: RequestContext) -> str:
    ctx.session.start_soon(crash, ValueError("later"))
    return "started"


@router.tool()
async def hold(ctx: RequestContext) -> str:
    context = FaultyContext(leave=lambda: crash(OSError("disk is full")))
    await ctx.session.enter_async_context(context)
    return "held"


@pytest.fixture(autouse=True)
def _no_watcher_is_left() -> Iterator[None]:
    yield
    assert failure_watchers == []


@pytest.mark.parametrize("connect", [connect_client, connect_http_client])
@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_a_crash_of_a_handler_fails_a_strict_test(
    connect: Any, era: ClientEraName, autojump_clock: MockClock
) -> None:
    with pytest.raises(UnexpectedFailures, match="'fail' crashed: OSError: oops") as caught:
        async with check_leaks(strict=True), open_session_manager(router) as manager:
            async with connect(manager, era=era) as client:
                assert (await client.call_tool("fail", {"text": "oops"})).is_error
    (failure,) = caught.value.unexpected
    assert isinstance(failure.error, HandlerCrashed)
    assert caught.value.__cause__ is failure.error
    assert caught.value.missing == ()


async def test_a_crash_of_a_task_and_a_failed_clean_up_fail_a_strict_test(
    autojump_clock: MockClock,
) -> None:
    with pytest.raises(UnexpectedFailures) as caught:
        async with check_leaks(strict=True), open_session_manager(router) as manager:
            async with connect_client(manager) as client:
                await client.call_tool("hold")
            async with connect_client(manager) as client:
                await client.call_tool("crash_later")
    kinds = [type(one.error) for one in caught.value.unexpected]
    assert kinds == [CleanupFailed, TaskCrashed]


async def test_a_failed_hook_fails_a_strict_test(autojump_clock: MockClock) -> None:
    async def on_terminated(_session: Session, _reason: object) -> None:
        await crash(OSError("in a hook"))

    hooks = SessionHooks(on_session_terminated=on_terminated)
    with pytest.raises(UnexpectedFailures, match="in a hook") as caught:
        async with check_leaks(strict=True), open_session_manager(router, hooks=hooks) as manager:
            async with connect_client(manager):
                pass
    assert isinstance(caught.value.unexpected[0].error, HookFailed)


async def test_a_manager_of_before_the_block_is_watched_too(autojump_clock: MockClock) -> None:
    async with open_session_manager(router) as manager:
        with pytest.raises(UnexpectedFailures):
            async with check_leaks(strict=True), connect_client(manager) as client:
                await client.call_tool("fail", {"text": "oops"})


async def test_an_expected_failure_does_not_fail_the_test(autojump_clock: MockClock) -> None:
    async with check_leaks(strict=True) as check, open_session_manager(router) as manager:
        check.expect(CleanupFailed, match="disk is full")  # Before it is reported.
        async with connect_client(manager) as client:
            await client.call_tool("hold")
        async with connect_client(manager) as client:
            await client.call_tool("fail", {"text": "one"})
            await client.call_tool("fail", {"text": "two"})
            await client.call_tool("fail", {"text": "three"})
        check.expect(OSError, times=2)  # After that, by the class of the cause.
        check.expect(HandlerCrashed, match="two")
    assert len(check.failures) == 4


@pytest.mark.parametrize("texts", [("a", "ab"), ("ab", "a")])
@pytest.mark.parametrize("matches", [("a", "b", None), (None, "b", "a"), ("b", None, "a")])
async def test_the_order_of_expectations_and_failures_does_not_matter(
    texts: tuple[str, ...], matches: tuple[str | None, ...]
) -> None:
    async with check_leaks(strict=True) as check:
        for match in matches:
            check.expect(Exception if match is None else OSError, match=match and f"said .*{match}")
        for text in texts:
            write_log(logging.ERROR, "said %s", text, error=OSError())
        write_log(logging.ERROR, "said c", error=ValueError())
    # The class is enough to tell them apart.
    async with check_leaks(strict=True) as check:
        check.expect(Exception)
        check.expect(OSError)
        write_log(logging.ERROR, "first", error=OSError())
        write_log(logging.ERROR, "second", error=ValueError())


async def test_an_expected_failure_that_does_not_come_fails_the_test(
    autojump_clock: MockClock,
) -> None:
    with pytest.raises(UnexpectedFailures) as caught:
        async with check_leaks() as check, open_session_manager(router) as manager:
            check.expect(CleanupFailed, match="disk")
            check.expect(HandlerCrashed, times=2)
            async with connect_client(manager) as client:
                await client.call_tool("fail", {"text": "one"})
    assert caught.value.missing == ("CleanupFailed that matches 'disk'", "HandlerCrashed")
    assert caught.value.unexpected == ()
    assert caught.value.__cause__ is None
    assert "expected, and not reported: HandlerCrashed" in str(caught.value)


async def test_without_strict_a_failure_is_only_listed(autojump_clock: MockClock) -> None:
    async with check_leaks() as check, open_session_manager(router) as manager:
        async with connect_client(manager) as client:
            await client.call_tool("fail", {"text": "oops"})
    (failure,) = check.failures
    assert "tool 'fail' crashed: OSError: oops" in failure.text


async def test_a_failure_is_seen_whatever_the_log_shows(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("trio_mcp_session"), "disabled", True)
    with pytest.raises(UnexpectedFailures):
        async with check_leaks(strict=True), open_session_manager(router) as manager:
            async with connect_client(manager) as client:
                await client.call_tool("fail", {"text": "oops"})


async def test_a_mistake_of_a_client_is_not_reported_as_a_failure(
    autojump_clock: MockClock,
) -> None:
    async with check_leaks(strict=True) as check, open_session_manager(router) as manager:
        async with connect_client(manager) as client:
            await client.send_raw(b"{")
            await client.wait_stray()
    assert check.failures == []


async def test_a_failure_that_belongs_to_no_session_is_seen() -> None:
    with pytest.raises(UnexpectedFailures, match="a task of x failed"):
        async with check_leaks(strict=True):
            write_log(logging.ERROR, "a task of %s failed", "x", error=OSError())
            write_log(logging.ERROR, "all tasks:", stack="no error")
            write_log(logging.WARNING, "only a warning", error=OSError())


async def test_the_error_of_a_strict_test_names_the_failures_before(
    autojump_clock: MockClock,
) -> None:
    with pytest.raises(ValueError, match="mine") as caught:
        async with check_leaks(strict=True), open_session_manager(router) as manager:
            async with connect_client(manager) as client:
                await client.call_tool("fail", {"text": "oops"})
            raise ValueError("mine")
    assert "reported before" in caught.value.__notes__[0]
    with pytest.raises(ValueError, match="mine") as caught:
        async with check_leaks():
            raise ValueError("mine")
    assert not hasattr(caught.value, "__notes__")


async def test_leaks_are_named_beside_an_unexpected_failure(autojump_clock: MockClock) -> None:
    async with open_session_manager(router) as manager:
        with pytest.raises(UnexpectedFailures) as caught:
            async with check_leaks(strict=True):
                await manager.create_session()
                async with connect_client(manager) as client:
                    await client.call_tool("fail", {"text": "oops"})
        assert "has not ended" in caught.value.__notes__[0]
        with pytest.raises(LeakError):
            async with check_leaks(strict=True):
                await manager.create_session()


async def test_at_least_one_failure_is_expected() -> None:
    async with check_leaks() as check:
        with pytest.raises(ValueError, match="at least 1, not 0"):
            check.expect(OSError, times=0)
