"""What instrumentation sees of requests and sessions, in both eras and on each transport."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.helpers import Peer, cancelled, connect, listening, modern, notification
from tests.transports.http.asgi_client import Client
from tests.transports.http.modern import headers_of
from trio_mcp_session import (
    Instrumentation,
    RequestContext,
    RequestDetails,
    RequestOutcome,
    Router,
    SessionDetails,
    SessionKind,
    SessionManager,
    SessionOutcome,
    TerminationReason,
    http_app,
    open_session_manager,
)

ELICITS: dict[str, Any] = {"elicitation": {"form": {}}}
router = Router("r", resource_subscriptions=True)


@router.request("resources/read")
async def read(ctx: RequestContext) -> None:
    raise NotImplementedError  # pragma: no cover  # never called


@router.tool()
async def work(ctx: RequestContext, how: str = "well") -> str:
    if how == "fail":
        raise ValueError(how)
    if how == "ask":
        return (await ctx.elicit("Who?", {"type": "object"}, key="who")).action
    if how == "wait":
        await trio.sleep_forever()
    return how


@router.notification("notifications/custom")
async def custom(ctx: RequestContext) -> None:
    await trio.lowlevel.checkpoint()


@attrs.define
class Recorder(Instrumentation):
    """Keeps all that it is called with."""

    requests: list[RequestDetails] = attrs.field(factory=list)
    outcomes: list[tuple[str, RequestOutcome]] = attrs.field(factory=list)
    sessions: list[SessionDetails] = attrs.field(factory=list)
    ended: list[SessionOutcome] = attrs.field(factory=list)

    def request_begun(self, details: RequestDetails) -> Callable[[RequestOutcome], object]:
        self.requests.append(details)
        return lambda outcome: self.outcomes.append((details.method, outcome))

    def session_begun(self, details: SessionDetails) -> Callable[[SessionOutcome], object]:
        self.sessions.append(details)
        return self.ended.append

    @property
    def last(self) -> RequestOutcome:
        assert len(self.requests) == len(self.outcomes)
        return self.outcomes[-1][1]


@asynccontextmanager
async def watched() -> AsyncIterator[tuple[SessionManager, Recorder]]:
    recorder = Recorder()
    async with open_session_manager(router, instrumentation=recorder) as manager:
        yield manager, recorder
    assert len(recorder.requests) == len(recorder.outcomes)
    assert len(recorder.sessions) == len(recorder.ended)
    assert not manager._on_finished


async def established(manager: SessionManager) -> Peer:
    peer = await connect(manager)
    await peer.establish(capabilities=ELICITS)
    return peer


def after_initialize(recorder: Recorder) -> list[RequestDetails]:
    """The requests after the handshake."""
    first, *others = recorder.requests
    assert first.method == "initialize"
    return others


def call(request_id: int, how: str, **more: object) -> dict[str, Any]:
    params = {"name": "work", "arguments": {"how": how}, **more}
    return modern(request_id, "tools/call", params, capabilities=ELICITS)


async def test_a_request_of_a_session(autojump_clock: MockClock) -> None:
    async with watched() as (manager, recorder):
        peer = await established(manager)
        await peer.ask(1, "tools/call", {"name": "work", "arguments": {}})
        assert recorder.last == RequestOutcome()
        (seen,) = after_initialize(recorder)
        assert seen == RequestDetails(
            method="tools/call",
            request_id=1,
            params={"name": "work", "arguments": {}},
            protocol_version="2025-11-25",
            session_id=peer.session.session_id,
            transport=peer.session.transport,
            principal=peer.session._default_principal,
            target="work",
        )
        await peer.ask(2, "tools/call", {"name": "work", "arguments": {"how": "fail"}})
        assert recorder.last == RequestOutcome(is_tool_error=True)
        await peer.ask(3, "tools/call", {"name": "work", "arguments": {"how": 7}})
        assert recorder.last == RequestOutcome(is_tool_error=True)
        await peer.ask(4, "ping")
        assert recorder.outcomes[-1] == ("ping", RequestOutcome())
        assert len(after_initialize(recorder)) == 4


async def test_methods_that_the_session_answers(autojump_clock: MockClock) -> None:
    async with watched() as (manager, recorder):
        peer = await established(manager)
        await peer.ask(1, "resources/subscribe", {"uri": "file:///x"})
        assert recorder.last == RequestOutcome()
        await peer.ask(2, "resources/subscribe", {})
        assert recorder.last == RequestOutcome(error_code=-32602)


async def test_a_notification_ends_with_its_handler(autojump_clock: MockClock) -> None:
    async with watched() as (manager, recorder):
        peer = await established(manager)
        await peer.send(notification("notifications/custom"))
        await wait_all_tasks_blocked()
        assert recorder.outcomes[1:] == [("notifications/custom", RequestOutcome())]
        assert recorder.requests[1].request_id is None


async def test_a_request_that_its_client_cancels(autojump_clock: MockClock) -> None:
    async with watched() as (manager, recorder):
        peer = await established(manager)
        arguments = {"name": "work", "arguments": {"how": "wait"}}
        await peer.send({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": arguments})
        await wait_all_tasks_blocked()
        await peer.send(cancelled(1))
        await wait_all_tasks_blocked()
        assert recorder.last == RequestOutcome(cancelled=True)


async def test_modern_requests_of_a_pipe(autojump_clock: MockClock) -> None:
    async with watched() as (manager, recorder):
        peer = await connect(manager)
        await peer.send(call(1, "well"))
        await peer.receive()
        assert recorder.last == RequestOutcome()
        seen = recorder.requests[0]
        assert (seen.protocol_version, seen.session_id) == ("2026-07-28", None)
        assert seen.transport is peer.session.transport
        await peer.send(modern(2, "server/discover"))
        await peer.receive()
        assert recorder.outcomes[-1] == ("server/discover", RequestOutcome())


async def test_a_question_ends_its_request_and_the_retry_is_another(
    autojump_clock: MockClock,
) -> None:
    async with watched() as (manager, recorder):
        peer = await connect(manager)
        await peer.send(call(1, "ask"))
        asked = (await peer.receive())["result"]
        assert recorder.last == RequestOutcome(needs_input=True)
        answer = {"who": {"action": "accept", "content": {}}}
        await peer.send(call(2, "ask", requestState=asked["requestState"], inputResponses=answer))
        await peer.receive()
        assert recorder.last == RequestOutcome()
        assert [one.request_id for one in recorder.requests] == [1, 2]
        parked = recorder.sessions[-1]
        assert parked.kind is SessionKind.PARKED


async def test_a_retry_with_a_foreign_state(autojump_clock: MockClock) -> None:
    async with watched() as (manager, recorder):
        peer = await connect(manager)
        await peer.send(call(1, "ask", requestState="nonsense"))
        await peer.receive()
        assert recorder.last == RequestOutcome(error_code=-32602)


async def test_a_subscription_lasts_until_its_end(autojump_clock: MockClock) -> None:
    async with watched() as (manager, recorder):
        peer = await connect(manager)
        await peer.send(listening(1, toolsListChanged=True))
        await peer.receive()
        assert [one.method for one in recorder.requests] == ["subscriptions/listen"]
        assert recorder.outcomes == []
        await peer.send(cancelled(1))
        await wait_all_tasks_blocked()
        assert recorder.last == RequestOutcome(cancelled=True)


async def test_modern_requests_over_http(autojump_clock: MockClock) -> None:
    async with watched() as (manager, recorder):
        client = Client(http_app(manager))
        message = call(1, "well")
        await client.post(message, headers=headers_of(message))
        assert recorder.last == RequestOutcome()
        assert recorder.requests[0].transport is None
        assert recorder.requests[0].principal is None


async def test_instrumentation_sees_the_begin_and_the_end_of_a_session(
    autojump_clock: MockClock,
) -> None:
    async with watched() as (manager, recorder):
        peer = await established(manager)
        session = peer.session
        assert recorder.sessions == [
            SessionDetails(
                session_id=session.session_id,
                kind=SessionKind.CONNECTION,
                transport=session.transport,
                principal=None,
            )
        ]
        failure = ValueError("it")

        async def crash() -> None:
            raise failure

        session.start_soon(crash)
        await session.wait_terminated()
        assert recorder.ended == [
            SessionOutcome(
                reason=TerminationReason.CRASHED, error=failure, protocol_version="2025-11-25"
            )
        ]


class Broken(Instrumentation):
    """Raises when something begins, or when it ends."""

    def __init__(self, when: str) -> None:
        self.when = when
        self.calls = 0

    def request_begun(self, details: RequestDetails) -> Callable[[RequestOutcome], object]:
        if self.when == "begins":
            self.fail()
        return self.fail

    def session_begun(self, details: SessionDetails) -> Callable[[SessionOutcome], object]:
        if self.when == "begins":
            self.fail()
        return self.fail

    def fail(self, *_: object) -> None:
        self.calls += 1
        raise SystemExit("broken") if self.calls % 2 else ZeroDivisionError("broken")


@pytest.mark.parametrize("when", ["begins", "ends"])
async def test_instrumentation_that_fails_is_logged_once_and_changes_nothing(
    when: str, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    broken, recorder = Broken(when), Recorder()
    everything = [broken, recorder, Instrumentation()]
    async with open_session_manager(router, instrumentation=everything) as manager:
        peer = await established(manager)
        for number in range(2):
            answer = await peer.ask(number, "tools/call", {"name": "work", "arguments": {}})
            assert "result" in answer
    assert broken.calls == 4
    assert len(recorder.outcomes) == 3
    (record,) = [one for one in caplog.records if one.levelname == "ERROR"]
    assert record.getMessage() == (
        "instrumentation Broken failed; its further failures are not logged"
    )
    assert record.exc_info is not None


async def test_each_instrumentation_that_fails_is_logged(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    several = [Broken("begins"), Broken("ends")]
    async with open_session_manager(router, instrumentation=several) as manager:
        await established(manager)
    assert len([one for one in caplog.records if one.levelname == "ERROR"]) == 2


async def test_instrumentation_that_wants_nothing_is_not_called_again(
    autojump_clock: MockClock,
) -> None:
    async with open_session_manager(router, instrumentation=Instrumentation()) as manager:
        peer = await established(manager)
        await peer.ask(1, "tools/call", {"name": "work", "arguments": {}})
        assert manager._instruments
        assert not manager._on_finished


async def test_without_instrumentation_nothing_is_kept(autojump_clock: MockClock) -> None:
    async with open_session_manager(router) as manager:
        peer = await established(manager)
        await peer.ask(1, "tools/call", {"name": "work", "arguments": {}})
        assert not manager._instruments
        assert not manager._on_finished
