"""Clients of 2026-07-28 that never retry, retry twice, or with what belongs to another client.

Each leaves nothing behind, and disturbs no other client; the world of each test is empty when
it is left.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import count, product

import msgspec
import pytest
import trio
from trio.testing import MockClock

from tests.helpers import cancelled
from trio_mcp_session import Principal, Session, SessionKind, SessionLimits, TerminationReason as R
from trio_mcp_session.server.mcp_server import server_of

from .machine import CLOCKS
from .modern import (
    ANSWERS,
    CLINGING,
    HURRY,
    IDLE_HANDLE,
    STATE_TIMEOUT,
    Asker,
    Call,
    HttpAsker,
    HttpCall,
    PipeAsker,
    PipeCall,
    World,
    world,
)

WAYS = list(product(["pipe", "http"], [None, "ann"]))
"""How a client comes, and on whose behalf."""

NEVER_MINE = [
    (("pipe", None), ("pipe", None)),
    (("pipe", None), ("http", None)),
    (("pipe", None), ("pipe", "ann")),
    (("http", None), ("pipe", None)),
    (("http", None), ("http", "ann")),
    (("http", "ann"), ("http", "bob")),
    (("http", "ann"), ("http", None)),
    (("http", "ann"), ("pipe", "bob")),
    (("pipe", "ann"), ("http", "bob")),
]
"""The owner of something, and another client that brings it."""

BAD_PARAMS = "-32602"


async def ends_by(session: Session, reason: R, when: float, *, late: float = 0.0) -> None:
    """Wait for the end of a session that is due at a certain time."""
    assert await session.wait_terminated() is reason
    assert when <= trio.current_time() <= when + CLOCKS.cleanup_interval + late


def only_parked(here: World) -> Session:
    (session,) = here.parked()
    return session


def handle_of(here: World, box: str) -> Session:
    session = here.manager.store.get(box, SessionKind.HANDLE)
    assert session is not None
    return session


# Never.


@pytest.mark.parametrize("how, user", WAYS)
@pytest.mark.parametrize("tool", ["inquire", "quiz", "cling"])
async def test_a_handler_without_a_retry_is_parked_until_its_state_expires(
    autojump_clock: MockClock, how: str, user: str | None, tool: str
) -> None:
    async with world() as here:
        await here.ask(await here.come(how, user), tool)
        await here.check()
        await ends_by(only_parked(here), R.IDLE, STATE_TIMEOUT, late=CLINGING)
        assert not here.server.held
        await here.check()


@pytest.mark.parametrize("how, user", WAYS)
async def test_a_handler_parked_a_second_time_ends_idle_without_a_retry(
    autojump_clock: MockClock, how: str, user: str | None
) -> None:
    async with world() as here:
        asker = await here.come(how, user)
        talk = await here.ask(asker, "quiz")
        await trio.sleep(2)
        call = await talk.come_back(asker)
        await here.settle()
        assert not call.over
        await trio.sleep(2)
        here.server.gate(str(talk.arguments["key"])).set()
        await here.settle()
        assert talk.hear(call) == "asked"
        await ends_by(only_parked(here), R.IDLE, 4 + STATE_TIMEOUT)
        await here.check()


@pytest.mark.parametrize("how, user", WAYS)
async def test_a_retry_without_answers_does_not_extend_the_idle_time(
    autojump_clock: MockClock, how: str, user: str | None
) -> None:
    async with world() as here:
        asker = await here.come(how, user)
        talk = await here.ask(asker, "quiz")
        session = only_parked(here)
        await trio.sleep(3)
        assert await here.answer(talk, asker, {"a": ANSWERS["a"]}) == "asked"
        for _ in range(3):
            await trio.sleep(2)
            assert await here.answer(talk, asker, {}) == "asked"
            assert talk.open == {"b"}
            await here.check()
        await ends_by(session, R.IDLE, 3 + STATE_TIMEOUT)
        assert await here.answer(talk, asker) == "failed"


@pytest.mark.parametrize("how, user", WAYS)
async def test_a_kept_result_is_dropped_without_a_retry(
    autojump_clock: MockClock, how: str, user: str | None
) -> None:
    # The handler has ended by itself: there is a result, and no client to take it.
    async with world() as here:
        await here.ask(await here.come(how, user), "hurry")
        session = only_parked(here)
        await trio.sleep(HURRY)
        await here.settle()
        assert not session._borrowers
        await here.check()
        # A connection without a principal ends its handlers before.
        leaves_first = (how, user) == ("pipe", None)
        end = CLOCKS.max_idle_time if leaves_first else HURRY + STATE_TIMEOUT
        await ends_by(session, R.IDLE, end)
        await here.check()


@pytest.mark.parametrize("how, user", WAYS)
async def test_a_handle_in_use_by_a_parked_handler_is_idle_after_the_handler_ended(
    autojump_clock: MockClock, how: str, user: str | None
) -> None:
    async with world() as here:
        asker = await here.come(how, user)
        box = await here.open_box(asker)
        await here.ask(asker, "borrow", box=box)
        handle = handle_of(here, box)
        await ends_by(only_parked(here), R.IDLE, STATE_TIMEOUT)
        assert handle.state.name == "ACTIVE"
        assert not handle.busy
        # A connection without a principal ends its handles before.
        leaves_first = (how, user) == ("pipe", None)
        end = CLOCKS.max_idle_time if leaves_first else STATE_TIMEOUT + IDLE_HANDLE
        await ends_by(handle, R.IDLE, end)
        await here.check()


@pytest.mark.parametrize("how, user", WAYS)
@pytest.mark.parametrize("flavour", ["plain", "leave crashes", "leave hangs", "leave refuses"])
async def test_an_abandoned_handle_ends_idle_and_leaves_nothing(
    autojump_clock: MockClock, how: str, user: str | None, flavour: str
) -> None:
    async with world() as here:
        box = await here.open_box(await here.come(how, user), flavour)
        handle = handle_of(here, box)
        await ends_by(handle, R.IDLE, IDLE_HANDLE, late=4)  # However long it takes to be left.
        await here.check()


@pytest.mark.parametrize("how, user", WAYS)
async def test_a_client_that_disconnects_while_it_uses_a_handle_releases_it(
    autojump_clock: MockClock, how: str, user: str | None
) -> None:
    async with world() as here:
        asker, neighbour = await here.come(how, user), await here.come("http", user)
        box = await here.open_box(asker)
        call = await asker.call("use", {"box": box, "key": "never"})
        await here.ask(neighbour, "inquire")
        handle = handle_of(here, box)
        assert handle._busy == 1
        vanish(asker, call)
        await trio.sleep(1)
        assert handle._busy == 0
        assert not server_of(here.manager).stateless.running
        assert here.server.held == 1, "the neighbour's"
        await here.check()


def vanish(asker: Asker, call: Call) -> None:
    """Disconnect, in the way of the transport."""
    if isinstance(asker, PipeAsker):
        asker.client.drop()
    else:
        call.withdraw()


@pytest.mark.parametrize("how, user", WAYS)
async def test_a_client_that_disconnects_after_a_retry_cancels_its_handler(
    autojump_clock: MockClock, how: str, user: str | None
) -> None:
    async with world() as here:
        asker = await here.come(how, user)
        talk = await here.ask(asker, "quiz")
        session = only_parked(here)
        call = await talk.come_back(asker)
        await here.settle()
        vanish(asker, call)
        await trio.sleep(1)
        assert session._finished
        assert session.termination_reason is R.CANCELLED
        assert not here.server.held
        await here.check()


@pytest.mark.parametrize("how, user", WAYS)
async def test_a_client_that_disconnects_while_it_listens_leaves_nothing(
    autojump_clock: MockClock, how: str, user: str | None
) -> None:
    async with world() as here:
        asker = await here.come(how, user)
        call = await asker.listen()
        await trio.sleep(1)
        assert len(server_of(here.manager).subscriptions) == 1
        vanish(asker, call)
        await trio.sleep(1)
        assert not len(server_of(here.manager).subscriptions)
        await here.check()


async def test_a_listen_that_is_not_read_ends_at_the_send_timeout(
    autojump_clock: MockClock,
) -> None:
    async with world() as here:
        asker = await here.come("http")
        call = await asker.listen(reads=False)
        await trio.sleep(CLOCKS.send_timeout + 1)
        assert call.over
        assert not len(server_of(here.manager).subscriptions)
        await here.check()


@pytest.mark.parametrize("how", ["pipe", "http"])
async def test_an_ended_listen_does_not_wait_for_its_unread_backlog(
    autojump_clock: MockClock, how: str
) -> None:
    async with world(SessionLimits(max_output=64)) as here:
        asker = await here.come(how, "ann")
        if isinstance(asker, PipeAsker):
            call = await asker.listen()
            await here.settle()
            asker.client.stall()
        else:
            call = await asker.listen(reads=False)
        for _ in range(1_100):  # More than the connection and its buffer take.
            here.manager.notify_list_changed("tools")
            await trio.lowlevel.checkpoint()
        await here.settle()
        (listen,) = server_of(here.manager).subscriptions._table.values()
        assert listen._backlog
        await here.check()
        if how == "pipe":
            call.withdraw()
        else:
            here.manager.revoke(Principal("ann"))
        await here.settle()
        assert not len(server_of(here.manager).subscriptions)
        await here.check()
        vanish(asker, call)


# Twice.


@pytest.mark.parametrize("how, user", WAYS)
async def test_a_retry_after_the_call_is_over_fails_and_says_to_call_again(
    autojump_clock: MockClock, how: str, user: str | None
) -> None:
    async with world() as here:
        asker = await here.come(how, user)
        talk = await here.ask(asker)
        assert await here.answer(talk, asker) == "done"
        assert not here.parked()
        assert await here.answer(talk, asker) == "failed"
        assert "call again" in talk.calls[-1].text
        await here.check()


@pytest.mark.parametrize("how, user", WAYS)
async def test_a_second_retry_does_not_disturb_the_running_handler(
    autojump_clock: MockClock, how: str, user: str | None
) -> None:
    async with world() as here:
        asker = await here.come(how, user)
        talk = await here.ask(asker, "quiz")
        first = await talk.come_back(asker)
        await here.settle()
        for _ in range(5):
            assert await here.answer(talk, asker) == BAD_PARAMS
        assert only_parked(here)._busy == 1
        await here.check()
        here.server.gate(str(talk.arguments["key"])).set()
        await here.settle()
        assert talk.hear(first) == "asked"
        for _ in range(5):
            assert await here.answer(talk, asker, state=talk.states[0]) == BAD_PARAMS
        assert await here.answer(talk, asker) == "done"
        await here.check()


@pytest.mark.parametrize("ways", [[("pipe", "ann")], [("http", "ann")], WAYS[1::2]])
async def test_of_simultaneous_retries_one_resumes_the_handler(
    autojump_clock: MockClock,
    ways: list[tuple[str, str | None]],
) -> None:
    async with world() as here:
        askers = [await here.come(*ways[number % len(ways)]) for number in range(20)]
        talk = await here.ask(askers[0], "quiz")
        for outcome in ("asked", "done"):
            calls = [await talk.come_back(asker) for asker in askers]
            here.server.gate(str(talk.arguments["key"])).set()
            await here.settle()
            (winner,) = (call for call in calls if call.outcome == outcome)
            assert {call.outcome for call in calls} <= {outcome, BAD_PARAMS, "failed"}
            assert talk.hear(winner) == outcome
            await here.check()
        assert not here.parked()


@pytest.mark.parametrize("how, user", WAYS)
async def test_what_was_kept_is_given_once(
    autojump_clock: MockClock, how: str, user: str | None
) -> None:
    async with world() as here:
        asker = await here.come(how, user)
        talk = await here.ask(asker, "hurry")
        await trio.sleep(HURRY + 1)
        calls = [await talk.come_back(asker) for _ in range(3)]
        await here.settle()
        calls.sort(key=lambda call: call.outcome)
        assert [call.outcome for call in calls] == ["done", "failed", "failed"]
        assert calls[0].text == "too late"
        assert not here.parked()
        await here.check()


@pytest.mark.parametrize("how, user", WAYS)
async def test_a_handle_that_is_closed_twice_leaves_nothing(
    autojump_clock: MockClock, how: str, user: str | None
) -> None:
    async with world() as here:
        asker = await here.come(how, user)
        box = await here.open_box(asker, "leave refuses")
        use = await asker.call("clutch", {"box": box, "key": "never"})
        await here.settle()
        calls = [await asker.call("close", {"box": box}) for _ in range(3)]
        await trio.sleep(CLINGING + 5)
        assert sorted(call.text for call in calls) == ["False", "False", "True"]
        assert use.outcome == "failed"
        assert box in use.text
        await here.check()


async def test_a_second_listen_with_the_same_id_is_refused(autojump_clock: MockClock) -> None:
    async with world() as here:
        pipe = await here.come("pipe")
        assert isinstance(pipe, PipeAsker)
        first = await pipe.listen()
        assert isinstance(first, PipeCall)
        await here.settle()
        pipe.client._ids = count(first.id)
        assert await here.outcome(await pipe.listen()) == "-32600"
        assert len(server_of(here.manager).subscriptions) == 1
        await here.check()


@pytest.mark.parametrize("how, user", WAYS)
async def test_a_retry_that_is_cancelled_twice_ends_the_parked_handler(
    autojump_clock: MockClock, how: str, user: str | None
) -> None:
    async with world() as here:
        asker = await here.come(how, user)
        talk = await here.ask(asker, "quiz")
        call = await talk.come_back(asker)
        await trio.sleep(1)
        for _ in range(2):
            take_back(asker, call)
            await here.settle()
        assert not here.parked()
        assert await here.answer(talk, asker) == "failed"
        await here.check()


def take_back(asker: Asker, call: Call) -> None:
    if isinstance(asker, PipeAsker):
        assert isinstance(call, PipeCall)
        asker.client._channel.send_nowait(encode(cancelled(call.id)))
    else:
        assert isinstance(call, HttpCall)
        call.withdraw()


# With what belongs to another client.


@pytest.mark.parametrize("owner, thief", NEVER_MINE)
async def test_a_retry_with_the_state_of_another_client_is_refused(
    autojump_clock: MockClock, owner: tuple[str, str | None], thief: tuple[str, str | None]
) -> None:
    async with world() as here:
        mine, other = await here.come(*owner), await here.come(*thief)
        talk = await here.ask(mine)
        session = only_parked(here)
        await trio.sleep(3)
        for answers in (None, {}, {"a": "nonsense"}):
            assert await here.answer(talk, other, answers) == BAD_PARAMS
        assert session.idle_time == 3, "it was no activity of the handler's"
        assert not session.busy
        await here.check()
        assert await here.answer(talk, mine) == "done"


@pytest.mark.parametrize("owner, thief", NEVER_MINE)
async def test_a_retry_with_the_state_of_another_client_keeps_nothing_alive(
    autojump_clock: MockClock, owner: tuple[str, str | None], thief: tuple[str, str | None]
) -> None:
    async with world() as here:
        mine, other = await here.come(*owner), await here.come(*thief)
        talk = await here.ask(mine)
        session = only_parked(here)
        for _ in range(int(STATE_TIMEOUT)):
            assert await here.answer(talk, other) == BAD_PARAMS
            await trio.sleep(1)
        await ends_by(session, R.IDLE, STATE_TIMEOUT)
        assert await here.answer(talk, other) == BAD_PARAMS
        await here.check()


@pytest.mark.parametrize("owner, thief", NEVER_MINE)
async def test_a_handle_of_another_client_is_unknown(
    autojump_clock: MockClock, owner: tuple[str, str | None], thief: tuple[str, str | None]
) -> None:
    async with world() as here:
        mine, other = await here.come(*owner), await here.come(*thief)
        box = await here.open_box(mine)
        handle = handle_of(here, box)
        await trio.sleep(3)
        for tool in ("use", "clutch", "borrow"):
            call = await other.call(tool, {"box": box, "key": "k"})
            assert await here.outcome(call) == "failed"
            made_up = await other.call(tool, {"box": box[::-1], "key": "k"})
            assert await here.outcome(made_up) == "failed"
            assert call.text.replace(box, "") == made_up.text.replace(box[::-1], "")
        call = await other.call("close", {"box": box})
        await here.outcome(call)
        assert call.text == "False"
        assert handle.idle_time == 3
        assert not here.parked()
        await here.check()
        assert await here.outcome(await mine.call("close", {"box": box})) == "done"


@pytest.mark.parametrize("how, user", WAYS)
async def test_a_retry_with_the_state_of_another_call_is_refused(
    autojump_clock: MockClock, how: str, user: str | None
) -> None:
    async with world() as here:
        asker = await here.come(how, user)
        one, other = await here.ask(asker), await here.ask(asker, "quiz")
        for talk, state in ((one, other.states[-1]), (other, one.states[-1])):
            assert await here.answer(talk, asker, state=state) == BAD_PARAMS
        assert len(here.parked()) == 2
        assert await here.answer(one, asker) == "done"
        await here.check()


async def test_a_cancellation_does_not_end_the_listen_of_another_client(
    autojump_clock: MockClock,
) -> None:
    async with world() as here:
        mine, other = await here.come("pipe"), await here.come("pipe")
        for asker in (mine, other):
            await asker.listen()
        assert isinstance(other, PipeAsker)
        for request_id in range(10):
            other.client._channel.send_nowait(encode(cancelled(request_id)))
        await here.settle()
        assert len(server_of(here.manager).subscriptions) == 1
        await here.check()


# When its owner is gone.


async def end_connection(here: World, mine: Asker) -> None:
    assert isinstance(mine, PipeAsker)
    mine.client.drop()


async def revoke(here: World, mine: Asker) -> None:
    assert here.manager.revoke(Principal("ann"))


async def revoke_connection(here: World, mine: Asker) -> None:
    (session,) = here.manager.sessions(lambda one: one.kind is SessionKind.CONNECTION)
    assert here.manager.revoke(session._default_principal) == 2


GONE: dict[str, tuple[str, str | None, Callable[[World, Asker], Awaitable[None]], R | None]] = {
    "a connection of nobody ends": ("pipe", None, end_connection, R.CLIENT_CLOSED),
    "a connection of somebody ends": ("pipe", "ann", end_connection, None),
    "somebody is revoked": ("http", "ann", revoke, R.REVOKED),
    "somebody is revoked on a pipe": ("pipe", "ann", revoke, R.REVOKED),
    "a connection is revoked": ("pipe", None, revoke_connection, R.REVOKED),
}


@pytest.mark.parametrize("what", GONE)
async def test_a_retry_after_a_revoke_or_a_lost_connection_fails_unless_the_handler_lives(
    autojump_clock: MockClock, what: str
) -> None:
    how, user, go, reason = GONE[what]
    async with world() as here:
        mine = await here.come(how, user)
        talk, box = await here.ask(mine), await here.open_box(mine)
        parked, handle = only_parked(here), handle_of(here, box)
        await go(here, mine)
        await trio.sleep(1)
        await here.check()
        assert {parked.termination_reason, handle.termination_reason} == {reason}
        again = await here.come("http", user) if user else await here.come(how)
        outcome = await here.answer(talk, again)
        use = await again.call("close", {"box": box})
        await here.outcome(use)
        if reason is None:
            assert (outcome, use.text) == ("done", "True")
        else:
            assert (outcome, use.text) == ("failed" if user else BAD_PARAMS, "False")
        await here.check()


async def test_a_retry_in_a_drain_is_refused(autojump_clock: MockClock) -> None:
    async with world() as here:
        askers = [await here.come(how, "ann") for how in ("pipe", "http")]
        talks = [await here.ask(asker, "quiz") for asker in askers]
        here.nursery.start_soon(here.manager.drain)
        await here.settle()
        assert not here.parked()
        assert not here.server.held
        http = askers[1]
        assert isinstance(http, HttpAsker)
        call = await talks[1].come_back(http)
        await here.settle()
        assert http.exchanges[-1].status == 503
        assert call.outcome == "-32603"
        await here.check()


def encode(message: object) -> bytes:
    return msgspec.json.encode(message)
