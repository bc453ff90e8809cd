"""The default admission: which sessions make room at the limit, and which never do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from math import inf
from typing import Any, cast, final

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.helpers import OpenOutlet
from trio_mcp_session import (
    AdmissionPolicy,
    CleanupConfig,
    HandleKind,
    OpeningRateExceeded,
    Principal,
    RateLimit,
    Router,
    Session,
    SessionConfig,
    SessionKind,
    SessionLimitReached,
    SessionLimits,
    SessionManager,
    SessionSink,
    SessionState,
    TerminationReason,
    Transport,
    accept,
    open_session_manager,
    validate_sessions,
)
from trio_mcp_session.sessions import crowds as crowds_module
from trio_mcp_session.sessions.crowds import SPARE, Crowds

ALICE, BOB = Principal("alice"), Principal("bob")
EVICTED = TerminationReason.EVICTED
KIND = SessionKind.HANDLE


@final
class Silent(OpenOutlet):
    """The sink of a client that is sent nothing."""

    async def finish(self) -> None:
        await trio.lowlevel.checkpoint()


SINK = cast("SessionSink", Silent())


@asynccontextmanager
async def manager_of(places: int, **limits: Any) -> AsyncIterator[SessionManager]:
    config = SessionConfig(
        limits=SessionLimits(max_sessions=places, **limits),
        cleanup=CleanupConfig(drain_grace=0, handshake_timeout=inf, max_idle_time=inf),
    )
    async with open_session_manager(Router("r"), config=config) as manager:
        yield manager
        assert validate_sessions(manager.store) == []
        assert manager.statistics().reserved == 0
        assert not manager._admission._claimed
        assert not manager._admission._reserved
        for crowds in manager._admission._crowds.values():
            check(crowds, manager)
    assert not manager._admission._crowds


def check(crowds: Crowds, manager: SessionManager) -> None:
    """Compare what is counted with the table."""
    there: dict[str, set[Session]] = {}
    for session in manager.store.of_kind(KIND):
        if session in crowds._addresses:
            there.setdefault(crowds._addresses[session], set()).add(session)
    assert {address: crowds[address] for address in there} == {
        address: len(sessions) for address, sessions in there.items()
    }
    assert crowds._heaps.keys() == there.keys()
    for address, heap in crowds._heaps.items():
        assert {one.session for one in heap} - {None} == there[address]
    assert crowds._entries.keys() == crowds._addresses.keys()


async def come(
    manager: SessionManager, host: str, count: int = 1, principal: Principal | None = None
) -> list[Session]:
    peer = Transport("http", f"{host}:1" if host else "")
    return [await manager.create_session(transport=peer, principal=principal) for _ in range(count)]


async def refused(manager: SessionManager, host: str, principal: Principal | None = None) -> None:
    with pytest.raises(SessionLimitReached):
        await come(manager, host, 1, principal)


def reasons(sessions: list[Session]) -> list[TerminationReason | None]:
    return [session.termination_reason for session in sessions]


async def test_the_address_with_the_most_sessions_makes_room(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with manager_of(10) as manager:
        few = await come(manager, "192.0.2.1", 3)
        many = await come(manager, "192.0.2.2", 7)
        new_ones = await come(manager, "192.0.2.3", 3)
        assert reasons(few) == [None] * 3
        assert reasons(many) == [EVICTED] * 3 + [None] * 4
        # Now 3, 4 and 3 are held: with a fourth one, this address would also hold 4.
        await refused(manager, "192.0.2.3")
        await refused(manager, "192.0.2.2")
        assert reasons(new_ones) == [None] * 3
        (told,) = [text for text in caplog.messages if "makes room" in text]
        assert told == (
            "all 10 places for handle sessions are taken: 192.0.2.2 holds 7 without "
            "authentication, and makes room for others"
        )


async def test_a_network_of_ipv6_is_one_address() -> None:
    async with manager_of(4) as manager:
        many = [
            *await come(manager, "[2001:db8::1]"),
            *await come(manager, "[2001:db8::2]"),
            *await come(manager, "[2001:db8::3]"),
        ]
        other = await come(manager, "[2001:db8:0:1::1]")
        await come(manager, "192.0.2.1")
        assert reasons([*many, *other]) == [EVICTED, None, None, None]


async def test_the_longest_quiet_makes_room_first() -> None:
    async with manager_of(3) as manager:
        first, second, third = await come(manager, "192.0.2.1", 3)
        first.touch()
        await come(manager, "192.0.2.2")
        assert reasons([first, second, third]) == [None, EVICTED, None]


async def test_activity_after_the_places_are_taken_counts(autojump_clock: MockClock) -> None:
    async with manager_of(6) as manager:
        crowd = await come(manager, "192.0.2.1", 6)
        await trio.sleep(1)
        await come(manager, "192.0.2.2")
        assert crowd[0].termination_reason is EVICTED
        for session in crowd[1:4]:
            session.touch()
        await come(manager, "192.0.2.3")
        assert reasons(crowd) == [EVICTED, None, None, None, EVICTED, None]


async def test_clients_without_a_handshake_make_room_first(autojump_clock: MockClock) -> None:
    kinds = {SessionKind.HEADER: 4}
    async with manager_of(99, max_sessions_of=kinds) as manager:

        async def connect(host: str) -> Session:
            return await accept(
                manager,
                SINK,
                transport=Transport("http", f"{host}:1"),
                kind=SessionKind.HEADER,
            )

        sessions = []
        for number in range(4):
            session = await connect("192.0.2.1")
            await trio.sleep(1)
            if number in (0, 1, 3):
                session._handshake_done()
            sessions.append(session)
        await connect("192.0.2.2")
        # The last one finishes its handshake after its place was counted.
        assert reasons(sessions) == [None, None, EVICTED, None]
        later = await connect("192.0.2.3")
        assert reasons(sessions) == [EVICTED, None, EVICTED, None]
        assert later.state is SessionState.INITIALIZING
        manager._admission._crowds.clear()


async def test_a_session_with_work_a_lease_or_a_stream_never_makes_room() -> None:
    async with manager_of(4) as manager:
        leased, working, streaming, idle = crowd = await come(manager, "192.0.2.1", 4)
        streaming._connection = Streaming()  # type: ignore[assignment]  # what matters of it
        working.start_soon(trio.sleep_forever)
        with leased.lease():
            await come(manager, "192.0.2.2")
            assert reasons(crowd) == [None, None, None, EVICTED]
            await refused(manager, "192.0.2.3")
        await come(manager, "192.0.2.3")
        assert reasons(crowd) == [EVICTED, None, None, EVICTED]
        streaming._connection = None
        assert idle.termination_reason is EVICTED


class Streaming:
    has_open_stream = True


async def test_a_session_that_is_being_opened_never_makes_room() -> None:
    entered, opens = trio.Event(), trio.Event()

    @asynccontextmanager
    async def slow(_: Session) -> AsyncIterator[None]:
        entered.set()
        await opens.wait()
        yield

    async with manager_of(2) as manager, trio.open_nursery() as nursery:
        peer = Transport("http", "192.0.2.1:1")
        nursery.start_soon(partial(manager.create_session, transport=peer, lifespan=slow))
        await entered.wait()
        (opening,) = manager.sessions()
        (idle,) = await come(manager, "192.0.2.1")
        await come(manager, "192.0.2.2")
        assert reasons([opening, idle]) == [None, EVICTED]
        opens.set()


async def test_principals_and_clients_without_an_address_keep_their_places() -> None:
    async with manager_of(12) as manager:
        hers = await come(manager, "192.0.2.1", 6, ALICE)
        nowhere = await come(manager, "", 3)
        crowd = await come(manager, "192.0.2.2", 3)
        # A principal that holds none takes a place of the address that holds more than one.
        await come(manager, "192.0.2.9", 1, BOB)
        assert reasons(crowd) == [EVICTED, None, None]
        # It would hold the same number as the address with the most.
        await refused(manager, "192.0.2.9", BOB)
        await refused(manager, "192.0.2.1", ALICE)
        await refused(manager, "")
        assert reasons([*hers, *nowhere]) == [None] * 9


async def test_at_the_limit_of_a_principal_or_a_kind_of_handles_no_other_makes_room() -> None:
    async with manager_of(3, max_sessions_per_principal=1) as manager:
        crowd = await come(manager, "192.0.2.1", 2)
        await come(manager, "192.0.2.1", 1, ALICE)
        await refused(manager, "192.0.2.2", ALICE)
        assert reasons(crowd) == [None, None]


async def test_handles_are_not_counted() -> None:
    @asynccontextmanager
    async def opener() -> AsyncIterator[int]:
        yield 1

    kind = HandleKind("box", opener)
    async with manager_of(3) as manager:
        # It is quiet for longest: if it were counted, it would make room first.
        handle = await manager._open(
            transport=Transport("http", "192.0.2.1:1"),
            principal=None,
            lifespan=lambda _: opener(),
            clocks=None,
            handle_kind=kind,
        )
        crowd = await come(manager, "192.0.2.1", 2)
        await come(manager, "192.0.2.2")
        assert reasons([handle, *crowd]) == [None, EVICTED, None]


async def test_openings_at_the_same_time_take_no_more_than_their_share(
    autojump_clock: MockClock,
) -> None:
    @asynccontextmanager
    async def slow(_: Session) -> AsyncIterator[None]:
        yield
        await trio.sleep(1)

    async with manager_of(8) as manager:
        crowd = [
            await manager.create_session(transport=Transport("http", "192.0.2.1:1"), lifespan=slow)
            for _ in range(8)
        ]
        outcomes: list[bool] = []

        async def one() -> None:
            try:
                await come(manager, "192.0.2.2")
                outcomes.append(True)
            except SessionLimitReached:
                outcomes.append(False)

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(one)
        # 8 against 0, 7 against 1, 6 against 2, 5 against 3.
        assert outcomes.count(True) == 4
        assert reasons(crowd).count(EVICTED) == 4


async def test_reservations_count_when_the_places_become_full(autojump_clock: MockClock) -> None:
    async with manager_of(3) as manager:
        crowd = await come(manager, "192.0.2.1", 2)
        with (
            manager._admission.reserve(KIND, None, None, "192.0.2.2:1"),
            manager._admission.reserve(SessionKind.TASK, None, None, "192.0.2.2:1"),
        ):
            with pytest.raises(SessionLimitReached):
                # Its address would hold two with the reserved place, as the other one does.
                await come(manager, "192.0.2.2")
        assert reasons(crowd) == [None, None]
        await come(manager, "192.0.2.2")


async def test_what_is_counted_is_dropped_when_there_is_room_again() -> None:
    async with manager_of(8) as manager:
        crowd = await come(manager, "192.0.2.1", 8)
        assert not manager._admission._crowds
        await come(manager, "192.0.2.2")
        assert manager._admission._crowds.keys() == {KIND}
        crowd[5].terminate()
        await crowd[5].wait_terminated()
        assert manager._admission._crowds
        crowd[6].terminate()
        await crowd[6].wait_terminated()
        assert not manager._admission._crowds


async def test_entries_of_sessions_that_have_ended_do_not_pile_up() -> None:
    async with manager_of(10) as manager:
        await come(manager, "192.0.2.1", 9)
        crowds = Crowds.of(manager.store.of_kind(KIND))
        manager._admission._crowds[KIND] = crowds
        for _ in range(300):
            (passing,) = await come(manager, "192.0.2.1")
            passing.terminate()
            await passing.wait_terminated()
            assert len(crowds._heaps["192.0.2.1"]) <= 2 * 10 + SPARE
        check(crowds, manager)
        # Entries of ended sessions are passed over.
        early, next_one = manager.sessions()[:2]
        early.terminate()
        await early.wait_terminated()
        await come(manager, "192.0.2.1", 2)
        await come(manager, "192.0.2.2")
        assert reasons([early, next_one]) == [TerminationReason.REQUESTED, EVICTED]


async def test_an_attempt_looks_at_few_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crowds_module, "LOOKS", 6)
    async with manager_of(20) as manager:
        crowd = [*await come(manager, "192.0.2.1", 10), *await come(manager, "192.0.2.2", 10)]
        looked: list[object] = []
        real = crowds_module._may_end

        def may_end(session: Session) -> bool:
            looked.append(session)
            return real(session)

        monkeypatch.setattr(crowds_module, "_may_end", may_end)
        for session in crowd:
            session._begin_work()
        await refused(manager, "192.0.2.3")
        assert len(looked) == 6
        await refused(manager, "192.0.2.3")
        # The next attempt looks at others.
        assert len(looked) == 12
        assert len(set(looked)) >= 10
        for session in crowd:
            session._end_work()


async def test_all_addresses_that_hold_the_most_are_looked_at() -> None:
    async with manager_of(4) as manager:
        busy = await come(manager, "192.0.2.1", 2)
        idle = await come(manager, "192.0.2.2", 2)
        with busy[0].lease(), busy[1].lease():
            await come(manager, "192.0.2.3")
        assert reasons([*busy, *idle]) == [None, None, EVICTED, None]


async def test_a_session_that_ends_already_makes_no_room(autojump_clock: MockClock) -> None:
    @asynccontextmanager
    async def stubborn(_: Session) -> AsyncIterator[None]:
        yield
        await trio.sleep(2)

    peer = Transport("http", "192.0.2.1:1")
    async with manager_of(4) as manager:
        ending = await manager.create_session(transport=peer, lifespan=stubborn)
        crowd = await come(manager, "192.0.2.1", 3)
        ending.terminate()
        await wait_all_tasks_blocked()
        await come(manager, "192.0.2.2")
        assert reasons(crowd) == [EVICTED, None, None]
        await ending.wait_terminated()


# The rate of openings.


async def open_one(
    manager: SessionManager,
    peer: str,
    principal: Principal | None = None,
    kind: SessionKind = SessionKind.HEADER,
) -> Session:
    return await accept(
        manager, SINK, transport=Transport("x", peer), principal=principal, kind=kind
    )


async def test_the_rate_of_openings_is_limited_for_each_party(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with manager_of(99, opening_rate=RateLimit(0.5, burst=2)) as manager:
        for _ in range(2):
            await open_one(manager, "192.0.2.1:1")
            await open_one(manager, "192.0.2.1:1", ALICE)
        for principal, who in ((None, "192.0.2.1"), (ALICE, "alice")):
            with pytest.raises(OpeningRateExceeded, match="try again in 2 s") as caught:
                await open_one(manager, "192.0.2.1:2", principal)
            assert caught.value.retry_after == 2
            assert manager.statistics().refused["OpeningRateExceeded"] == (2 if principal else 1)
            if principal is None:
                assert caplog.messages == [
                    f"{who} opens header sessions too often: new ones are refused (opening_rate)"
                ]
        await open_one(manager, "192.0.2.2:1")
        await open_one(manager, "192.0.2.2:1", BOB)
        await trio.sleep(2)
        await open_one(manager, "192.0.2.1:1")


async def test_clients_without_an_address_open_at_any_rate() -> None:
    async with manager_of(99, opening_rate=RateLimit(0.5, burst=1)) as manager:
        for kind in (SessionKind.CONNECTION, SessionKind.HEADER):
            for _ in range(3):
                await open_one(manager, "", kind=kind)
        for _ in range(3):
            await open_one(manager, "", ALICE, SessionKind.CONNECTION)
        await open_one(manager, "", ALICE)
        with pytest.raises(OpeningRateExceeded):
            await open_one(manager, "", ALICE)
        # What the application opens itself is not limited.
        await come(manager, "192.0.2.1", 3)


async def test_the_opening_rate_may_be_off() -> None:
    async with manager_of(999, opening_rate=RateLimit(inf)) as manager:
        for _ in range(50):
            await open_one(manager, "192.0.2.1:1")


def test_fair_admission_is_the_default() -> None:
    assert SessionLimits().admission is AdmissionPolicy.FAIR
