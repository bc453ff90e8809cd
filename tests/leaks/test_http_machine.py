"""The leak proof over HTTP: the same machine, with sessions that no connection carries.

Clients leave in each phase, read nothing, resume, cancel, delete; servers are cut off in the
middle of a response. What the endpoint keeps has to be exactly what the live sessions need.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, cast

import attrs
import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from tests.helpers import LATEST, request, result
from trio_mcp_session import (
    AdmissionPolicy,
    McpError,
    NoChannel,
    Principal,
    Session,
    SessionKind,
    SessionLimitReached,
    TerminationReason as R,
)
from trio_mcp_session.transports.http.endpoint import Endpoint
from trio_mcp_session.transports.http.http_app import http_app
from trio_mcp_session.transports.http.http_options import HttpOptions, SlowReader
from trio_mcp_session.transports.http.memory_event_store import EVENT_OVERHEAD, MemoryEventStore
from trio_mcp_session.transports.http.session_streams import SessionStreams, streams_of

from .exchange import Exchange, HttpCall, HttpPeer, authenticate
from .machine import CLOCKS, FLAVOURS, LIMITS, PRINCIPALS, Record
from .test_machine import ENDINGS, PICK, Attempt, LeakMachine, can_release, is_live, there_is

STORES: Mapping[str, Any] = {
    "none": lambda: None,
    "large": MemoryEventStore,
    "small": lambda: MemoryEventStore(max_session_events=3),
}
MAX_STREAMS = 2
BODY_TIMEOUT = 5
PULSE = 1
"""How late a clock of a response may expire."""

WAYS_IN = ("stays", "stays", "stays", "leaves", "does not read")
"""What the client does while it is answered."""

WRONG = (
    "foreign POST",
    "foreign GET",
    "foreign DELETE",
    "foreign resume",
    "another session's event",
    "unauthenticated",
    "unknown session",
    "no session",
    "not waiting for the answer",
)
HTTP_ENDINGS = ("delete", "delete_twice", "delete_beside_calls")


@attrs.define(eq=False)
class HttpRecord(Record):
    """What the machine knows of one session that is reached over HTTP."""

    peer: HttpPeer | None = None
    blocks: bool = False
    """Whether a client that does not read blocks the session, until it ends."""

    def excuses(self, now: float) -> Collection[R]:
        exchanges = [] if self.peer is None else self.peer.exchanges
        longest = max((one.blocked_for(now) for one in exchanges if one.is_stream), default=0)
        if self.blocks and longest >= CLOCKS.send_timeout:
            return (R.UNRESPONSIVE,)
        return ()


@attrs.define(eq=False)
class HttpAttempt(Attempt):
    """A client that opens a session over HTTP."""

    peer: HttpPeer = attrs.field(kw_only=True)
    exchange: Exchange = attrs.field(kw_only=True)
    flavour: str = attrs.field(kw_only=True)


def peer_of(record: Record) -> HttpPeer:
    assert isinstance(record.client, HttpPeer)
    return record.client


def opening_of(record: Record) -> Exchange:
    """What its ``initialize`` came with."""
    return peer_of(record).exchanges[0]


def log_of(session: Session) -> Any:
    """What the session keeps in its event store; None where that is nothing."""
    log = streams_of(session)._log
    return None if log is None else log._log


def in_order(event: Any, link: str) -> Iterator[Any]:
    """An event, and those that follow it by a link."""
    while event is not None:
        yield event
        event = getattr(event, link)


def is_http(record: Record) -> bool:
    return isinstance(record.client, HttpPeer)


def is_known(record: Record) -> bool:
    """Whether its client knows what it is called."""
    return isinstance(record.client, HttpPeer) and record.client.session_id is not None


def calls_of(record: Record) -> dict[str, HttpCall]:
    return cast("dict[str, HttpCall]", record.requests)


def can_call_http(record: Record) -> bool:
    return is_known(record) and record.established


def listening(record: Record) -> list[Exchange]:
    """What carries its stream for messages outside of requests, or still does not know better."""
    return [
        one
        for one in peer_of(record).exchanges
        if one.method == "GET" and one.running and one.is_stream
    ]


def carrier(there: Iterable[Exchange], stream: object) -> Exchange | None:
    """What carries a stream now, of what listens."""
    return next((one for one in there if one.stream is stream and not one.relieved), None)


def relieve(exchanges: Iterable[Exchange], newest: Exchange) -> None:
    """Note and check that the newest GET has taken its stream over."""
    for one in exchanges:
        if one is not newest and one.stream is newest.stream:
            one.relieved = one.excused = True
            assert one.over or not one.reads


def questions(record: Record) -> list[str]:
    if not can_call_http(record):
        return []
    return [name for name, call in calls_of(record).items() if call.question is not None]


def ambiguous(record: Record) -> list[str]:
    if not can_call_http(record):
        return []
    ids = Counter(call.id for call in record.requests.values())
    return [name for name, call in record.requests.items() if ids[call.id] > 1]


class HttpLeakMachine(LeakMachine):
    exchanges_outlive_sessions = True
    # What has nothing to do with HTTP would leave it no room.
    shake_hands = hold_context = leave_contexts = subscribe = touch = None  # type: ignore[assignment]
    open_handle = cancel_opener = start_task = lease = end_lease = None  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.peers: list[HttpPeer] = []

    @initialize(
        policy=st.sampled_from(AdmissionPolicy),
        ending=st.sampled_from(["leave", "cancel", "raise"]),
        slow_reader=st.sampled_from(SlowReader),
        store=st.sampled_from(sorted(STORES)),
        answers=st.sampled_from(["auto", "auto", "sse"]),
    )
    def begin(
        self,
        policy: AdmissionPolicy,
        ending: str,
        slow_reader: SlowReader = SlowReader.BLOCK,
        store: str = "large",
        answers: Any = "auto",
    ) -> None:
        super().begin(policy, ending)
        self.options = HttpOptions(
            answers=answers,
            stream_after=2,
            keep_alive=6,
            body_timeout=BODY_TIMEOUT,
            max_streams=MAX_STREAMS,
            slow_reader=slow_reader,
            event_store=STORES[store](),
        )
        app = http_app(self.manager, authenticate=authenticate, options=self.options)
        self.app = cast("Endpoint", app)

    @property
    def exchanges(self) -> list[Exchange]:
        return [exchange for peer in self.peers for exchange in peer.exchanges]

    def running(self) -> list[Exchange]:
        return [exchange for exchange in self.exchanges if exchange.running]

    def owner(self, exchange: Exchange) -> Record | None:
        """The live session that was opened by this very exchange."""
        for record in self.live(is_http):
            if opening_of(record) is exchange:
                return record
        return None

    def new_peer(self, principal: Principal | None, version: str = "2025-11-25") -> HttpPeer:
        peer = HttpPeer(
            self.app,
            self.spawn,
            user=None if principal is None else principal.subject,
            version=version,
        )
        self.peers.append(peer)
        return peer

    # The model.

    def new_record(self, session: Session) -> Record:
        record = HttpRecord(session, session._opened_at, session._last_active)
        for attempt in self.attempts:
            if isinstance(attempt, HttpAttempt) and session.transport == attempt.peer.transport:
                attempt.result = session
                record.client = record.peer = attempt.peer
                record.blocks = self.options.slow_reader is SlowReader.BLOCK
                self.foresee(record, attempt.flavour, left=attempt.exchange.left)
        return record

    def look(self) -> None:
        for session in self.server.asked:
            # It may be out of the table already, and not over all the same.
            if session.kind is SessionKind.HEADER and session.session_id not in self.records:
                self.records[session.session_id] = self.adopt(session)
        super().look()
        for attempt in self.attempts:
            if isinstance(attempt, HttpAttempt) and attempt.result is None:
                exchange = attempt.exchange
                if exchange.status == 503:
                    attempt.result = SessionLimitReached(attempt.kind, 0)
                elif exchange.status or exchange.over:
                    # Undone, or over before the test looked.
                    attempt.result = McpError(0, "not opened")
        for record in self.live(is_http):
            peer_of(record).learn(opening_of(record))

    def foresee(self, record: Record, flavour: str, *, left: bool) -> None:
        if flavour in ("enter crashes", "holds and crashes"):
            record.cause = R.CRASHED
        elif flavour == "veto":
            record.cause = R.REQUESTED
        elif flavour == "created hangs":
            record.may_end[R.REQUESTED] = record.opened + CLOCKS.hook_budget
        elif left and flavour != "enter hangs":
            record.cause = R.CLIENT_CLOSED

    @invariant()
    def the_endpoint_holds_what_it_needs(self) -> None:
        expected = 0
        for record in self.records.values():
            if not is_http(record):
                continue
            running = [one for one in peer_of(record).exchanges if one.running]
            carried = [one for one in running if one.is_stream]
            # A session is unknown as soon as it ends: these are the last ones.
            waiting = [
                one
                for one in running
                if one.method == "POST" and one.whole and one.message_id is not None
            ]
            if record.session._connection is None:
                assert record.session._finished
                assert not carried, record
                assert all(one.status and not one.reads for one in waiting), record
                continue
            streams = streams_of(record.session)
            assert len(streams._sse_responses or ()) == len(carried), record
            assert streams.listeners == sum(one.method == "GET" for one in carried), record
            assert streams._responses == len(waiting) + len(carried), record
            expected += len(carried) + sum(not one.status for one in waiting)
            if record.live:
                self.check_streams(record, streams)
            if record.session._finished:
                assert all(one.status and not one.reads for one in waiting), record
        assert len(self.app.ticker) == expected
        assert not expected or self.app.ticker._running
        self.check_store()
        self.check_exchanges()

    def check_streams(self, record: Record, streams: SessionStreams) -> None:
        """Nothing is kept for calls that are answered, and all for those that are not."""
        open_calls = sum(call.exchange.is_stream for call in calls_of(record).values())
        log = log_of(record.session)
        if self.options.event_store is None:
            assert log is None
            assert not streams._unfinished
            return
        assert len(streams._unfinished or ()) == open_calls, record
        if log is not None:
            standalone = streams._standalone
            numbered = standalone is not None and standalone.kept is not None
            assert streams._log is not None
            assert len(streams._log._streams) == open_calls + numbered, record

    def check_store(self) -> None:
        store = self.options.event_store
        if store is None:
            return
        assert isinstance(store, MemoryEventStore)
        kept = list(in_order(store._all.oldest, "newer"))
        assert store._all.newest is (kept[-1] if kept else None)
        assert [event.older for event in kept] == [None, *kept][: len(kept)]
        sizes = [len(event.message) + EVENT_OVERHEAD for event in kept]
        assert (len(kept), sum(sizes)) == (len(store), store.size)
        for record in self.records.values():
            if is_http(record) and not record.session._finished:
                log = log_of(record.session)
                if log is not None:
                    own = list(in_order(log._first, "following"))
                    assert own == [event for event in kept if event.log is log]
                    assert log._last is (own[-1] if own else None)
                    kept = [event for event in kept if event.log is not log]
        assert kept == [], "events of sessions that have ended"

    def check_exchanges(self) -> None:
        """A client that reads receives the end; the server does not wait for others."""
        for one in self.exchanges:
            if one.running and one.is_stream:
                late = self.now - one.blocked_since
                assert late <= CLOCKS.send_timeout + PULSE, (one, "stands still")
            if one.left and one.method == "GET":
                assert one.over, (one, "is kept for nobody")
            if one.running or one.checked:
                continue
            one.checked = True
            # Where messages come at once, also a client that reads may be too slow for the smallest
            # of buffers.
            if not one.excused and self.options.slow_reader is not SlowReader.END_STREAM:
                assert one.complete, one
                if not one.is_stream:
                    assert one.data or one.status in (202, 204), one
                elif one.method == "POST":
                    assert one.has_answer, one

    # Opening.

    @rule(
        principal=st.sampled_from(PRINCIPALS),
        flavour=st.sampled_from([*FLAVOURS, "plain", "plain", "plain", "plain"]),
        how=st.sampled_from(WAYS_IN),
        confirm=st.booleans(),
        version=st.sampled_from(["2025-06-18", "2025-11-25"]),
    )
    def open_http(
        self, principal: Principal | None, flavour: str, how: str, *, confirm: bool, version: str
    ) -> None:
        async def open_it(attempt: Attempt) -> None:
            with attempt.scope:
                await exchange.run()
            exchange.excused |= attempt.scope.cancelled_caught

        peer = self.new_peer(principal, version)
        exchange = peer.prepare_initialize(flavour, reads=how != "does not read")
        if how == "leaves":
            exchange.leave()
        attempt = HttpAttempt(
            SessionKind.HEADER, principal, peer=peer, exchange=exchange, flavour=flavour
        )
        self.newcomer_comes(attempt, open_it)
        if peer.session_id is not None and confirm:
            self.confirm_one(peer)

    @rule(principal=st.sampled_from(PRINCIPALS), version=st.sampled_from(["2025-11-25"]))
    def arrive_http(self, principal: Principal | None, version: str) -> None:
        """Open a session that has nothing special to it."""
        self.open_http(principal, "plain", "stays", confirm=True, version=version)

    def connect(self, principal: Principal | None) -> None:
        super().connect(principal)  # No rule here: its clients do the handshake, too.

    @rule(seconds=st.sampled_from([1, 1, 2, 2, 4, 13]))
    def time_passes(self, seconds: int) -> None:
        super().time_passes(seconds)

    @precondition(there_is(lambda record: is_known(record) and not record.established))
    @rule(number=PICK)
    def confirm(self, number: int) -> None:
        new = self.live(lambda record: is_known(record) and not record.established)
        self.confirm_one(peer_of(new[number % len(new)]))

    def confirm_one(self, peer: HttpPeer) -> None:
        for record in self.live(lambda one: one.client is peer):
            record.quiet_since = self.now
        self.step(peer.confirm)

    # Working.

    @precondition(there_is(can_call_http))
    @rule(
        number=PICK,
        tool=st.sampled_from(["work", "talk", "ask", "poll", "stubborn"]),
        how=st.sampled_from(WAYS_IN),
        again=st.booleans(),
    )
    def call_http(self, number: int, tool: str, how: str, *, again: bool) -> None:
        record = self.pick(number, can_call_http)
        peer = peer_of(record)
        peer.how_next, peer.again = how, again
        self.call_one(record, f"{tool} {self.new_name()}", tool)

    def call_one(self, record: Record, name: str, tool: str) -> None:
        if isinstance(record.client, HttpPeer) and self.options.event_store is None:
            # A client that cannot resume cannot be asked once it is gone, or reads nothing.
            queued = len(record.requests) >= LIMITS.max_in_flight
            if tool == "ask" and (queued or record.client.how_next != "stays"):
                name, tool = name.replace("ask", "work"), "work"
        super().call_one(record, name, tool)

    @precondition(lambda self: any(self.live(lambda one: bool(questions(one)))))
    @rule(number=PICK, which=PICK)
    def answer(self, number: int, which: int) -> None:
        record = self.pick(number, lambda one: bool(questions(one)))
        names = questions(record)
        name = names[which % len(names)]
        call = calls_of(record)[name]
        record.finish(name, self.now)
        self.step(peer_of(record).begin, "POST", result(call.question, {"action": "decline"}))

    @precondition(lambda self: any(self.live(lambda one: bool(ambiguous(one)))))
    @rule(number=PICK, which=PICK)
    def cancel_one_of_several(self, number: int, which: int) -> None:
        """Two ids are ambiguous: the request names no session."""
        record = self.pick(number, lambda one: bool(ambiguous(one)))
        names = ambiguous(record)
        self.step(record.requests[names[which % len(names)]].cancel)

    @precondition(there_is(is_known))
    @rule(number=PICK, reads=st.booleans())
    def listen(self, number: int, *, reads: bool) -> None:
        record = self.pick(number, is_known)
        there = listening(record)
        exchange = peer_of(record).prepare("GET", reads=reads)
        self.step(self.spawn, exchange.run)
        if len(there) >= MAX_STREAMS and carrier(there, None) is None:
            assert exchange.status == 429
            return
        assert exchange.status == 200
        relieve(there, exchange)

    @precondition(there_is(is_known))
    @rule(number=PICK, which=PICK, reads=st.booleans())
    def resume(self, number: int, which: int, *, reads: bool) -> None:
        record = self.pick(number, is_known)
        peer = peer_of(record)
        seen = [one for one in peer.exchanges if one.is_stream and one.last_event_id]
        if not seen:
            return
        before = seen[which % len(seen)]
        there = listening(record)
        full = len(there) >= MAX_STREAMS and carrier(there, before.stream) is None
        after = peer.prepare("GET", last_event_id=before.last_event_id, reads=reads, resumes=before)
        self.step(self.spawn, after.run)
        carried = [call.exchange for call in calls_of(record).values()]
        if full:
            assert after.status == 429
        elif after.stream is None or after.stream in carried:
            assert after.status in (200, 410)  # Whatever is no longer kept.
        else:
            assert after.status in (200, 204, 410)
        if after.status != 200:
            return
        relieve(peer.exchanges, after)
        for call in calls_of(record).values():
            if call.exchange is after.stream:
                call.resumed.append(after)

    @precondition(there_is(is_known))
    @rule(number=PICK, everybody=st.booleans())
    def notify(self, number: int, *, everybody: bool) -> None:
        session = self.pick(number, is_known).session

        def tell() -> None:
            if everybody:
                # Not to connections: writing to one that is gone would be its end.
                self.manager.broadcast(
                    "notifications/tools/list_changed",
                    where=lambda one: one.kind is SessionKind.HEADER,
                )
                return
            with suppress(NoChannel):
                session.notify_nowait("notifications/resources/list_changed")

        self.step(tell)

    # What goes wrong.

    @precondition(lambda self: bool(self.running()))
    @rule(number=PICK, what=st.sampled_from(["leave", "cut", "stop_reading", "read_on"]))
    def disturb(self, number: int, what: str) -> None:
        running = self.running()
        exchange = running[number % len(running)]
        if what == "leave":
            self.leave_exchange(exchange)
        elif what == "cut":
            self.cut_exchange(exchange)
        else:
            self.step(getattr(exchange, what))

    def leave_exchange(self, exchange: Exchange) -> None:
        """A client vanishes: from its own call, its stream, or while it is let in."""
        record = self.owner(exchange)
        if record is not None and exchange.status:
            record.cause = R.CLIENT_CLOSED  # No client will ever know its id.
        self.step(exchange.leave)

    def cut_exchange(self, exchange: Exchange) -> None:
        """A server is stopped at once: its tasks are cancelled."""
        if self.waits_to_ask(exchange):
            return
        record = self.owner(exchange)
        if record is not None:
            record.cause = R.CANCELLED
        self.step(exchange.cut)

    def waits_to_ask(self, exchange: Exchange) -> bool:
        """Whether its handler would have no client to ask when its turn comes."""
        return any(
            call.exchange is exchange and name.startswith("ask") and not exchange.is_stream
            for record in self.live(is_http)
            for name, call in calls_of(record).items()
        )

    @precondition(there_is(is_known))
    @rule(number=PICK, some=st.booleans())
    def send_half(self, number: int, *, some: bool) -> None:
        """A client sends only the head of a request, or a part of the body."""
        peer = peer_of(self.pick(number, is_known))
        message = request(1, "tools/list") if some else None
        self.step(lambda: peer.begin("POST", message, whole=False))

    @precondition(there_is(is_known))
    @rule(number=PICK, what=st.sampled_from(WRONG))
    def do_wrong(self, number: int, what: str) -> None:
        """Ask for what does not exist, or for what belongs to another client."""
        record = self.pick(number, is_known)
        peer, principal = peer_of(record), record.session.principal
        ids = [one.last_event_id for one in self.exchanges if one.is_stream and one.last_event_id]
        others = [one for one in ids if one not in [each.last_event_id for each in peer.exchanges]]
        message = request(1, "tools/call", {"name": "end"})
        foreigners = [one for one in PRINCIPALS if one != principal]
        foreigner = foreigners[number % len(foreigners)]
        user = {"user": None if foreigner is None else foreigner.subject}
        busy = len(listening(record)) >= MAX_STREAMS
        cases: Mapping[str, Callable[[], tuple[Exchange, int]]] = {
            "foreign POST": lambda: (peer.prepare("POST", message, **user), 404),
            "foreign GET": lambda: (peer.prepare("GET", **user), 404),
            "foreign DELETE": lambda: (peer.prepare("DELETE", **user), 404),
            "foreign resume": lambda: (
                peer.prepare("GET", last_event_id=[*ids, "x.1.1"][0], **user),
                404,
            ),
            "another session's event": lambda: (
                peer.prepare("GET", last_event_id=[*others, "x.1.1"][0]),
                429 if busy else 400,
            ),
            "unauthenticated": lambda: (peer.prepare("DELETE", user="nobody"), 401),
            "unknown session": lambda: (peer.prepare("DELETE", session_id="x" * 32), 404),
            "no session": lambda: (peer.prepare("DELETE", session_id=None), 400),
            "not waiting for the answer": lambda: (peer.prepare("POST"), 400),
        }
        exchange, status = cases[what]()
        if what == "not waiting for the answer":
            exchange.leave()
        self.step(self.spawn, exchange.run)
        assert exchange.status == status
        assert exchange.complete or exchange.left

    # Ending.

    @precondition(there_is(is_live))
    @rule(number=PICK, how=st.sampled_from([*ENDINGS, *HTTP_ENDINGS]))
    def end(self, number: int, how: str) -> None:
        if how not in HTTP_ENDINGS:
            super().end(number, how)
        elif self.live(is_known):
            getattr(self, how)(self.pick(number, is_known))

    def delete(self, record: Record) -> None:
        record.cause = R.CLIENT_CLOSED
        exchange = peer_of(record).prepare("DELETE")
        self.step(self.spawn, exchange.run)
        assert exchange.status == 204

    def delete_twice(self, record: Record) -> None:
        peer = peer_of(record)
        self.delete(record)
        for method, message in (("DELETE", None), ("GET", None), ("POST", request(1, "ping"))):
            exchange = peer.prepare(method, message)
            self.step(self.spawn, exchange.run)
            assert exchange.status == 404

    def delete_beside_calls(self, record: Record) -> None:
        """Both in one moment, in either order."""
        peer = peer_of(record)
        record.cause = R.CLIENT_CLOSED

        def both() -> None:
            message = request("late", "tools/call", {"name": "work", "arguments": {"key": "-"}})
            for _ in range(2):
                peer.begin("POST", message)
            peer.begin("DELETE")
            peer.begin("POST", message)

        self.step(both)

    # The end of it all.

    def check_the_end(self) -> None:
        super().check_the_end()
        # What is left are unread answers, and requests that never came.
        for one in self.running():
            assert not one.is_stream, one
            assert not one.reads or not one.whole, one
        late = self.new_peer(None)
        opening = late.prepare_initialize("late")
        self.guest.run(self._run_and_leave, opening)
        assert opening.status == 503
        assert not self.running()
        self.check_exchanges()
        assert not len(self.app.ticker)
        for record in self.records.values():
            # It has none, unless something was open when it ended.
            if is_http(record) and record.session._connection is not None:
                streams = streams_of(record.session)
                assert (streams._responses, streams.listeners) == (0, 0)
        if self.options.event_store is not None:
            assert isinstance(self.options.event_store, MemoryEventStore)
            assert not len(self.options.event_store)
            assert not self.options.event_store.size

    async def _run_and_leave(self, exchange: Exchange) -> None:
        await exchange.run()
        for one in self.running():
            one.leave()


TestHttpLeakMachine = HttpLeakMachine.TestCase
TestHttpLeakMachine.settings = settings(max_examples=70, stateful_step_count=50)


def begun(**how: Any) -> HttpLeakMachine:
    machine = HttpLeakMachine()
    machine.begin(**{"policy": AdmissionPolicy.REJECT, "ending": "leave", **how})
    return machine


def check(machine: HttpLeakMachine) -> None:
    machine.books_agree()
    machine.nothing_is_left()
    machine.the_endpoint_holds_what_it_needs()


@pytest.mark.parametrize("how", sorted(set(WAYS_IN)))
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_each_way_to_open_an_http_session_leaves_nothing(flavour: str, how: str) -> None:
    machine = begun()
    try:
        for _ in range(3):
            machine.open_http(
                principal=PRINCIPALS[1], flavour=flavour, how=how, confirm=True, version=LATEST
            )
            check(machine)
        machine.time_passes(seconds=1)
        for what in ("read_on", "leave", "cut"):
            machine.disturb(number=0, what=what) if machine.running() else None
            check(machine)
        machine.time_passes(seconds=13)
        check(machine)
    finally:
        machine.teardown()


@pytest.mark.parametrize("slow_reader", SlowReader)
@pytest.mark.parametrize("store", STORES)
def test_each_rule_of_the_http_machine_leaves_nothing(store: str, slow_reader: SlowReader) -> None:
    machine = begun(store=store, slow_reader=slow_reader)
    ann = PRINCIPALS[1]
    try:
        for _ in range(3):
            machine.arrive_http(principal=ann, version=LATEST)
        assert machine.peers[-1].exchanges[0].status == 503
        machine.open_http(
            principal=None, flavour="plain", how="stays", confirm=False, version="2025-06-18"
        )
        machine.confirm(number=0)
        for reads in (True, False):
            machine.listen(number=0, reads=reads)
        machine.notify(number=0, everybody=False)
        machine.notify(number=1, everybody=True)
        machine.resume(number=0, which=0, reads=True)
        machine.call_http(number=0, tool="ask", how="stays", again=False)
        machine.call_http(number=0, tool="talk", how="stays", again=False)
        machine.call_http(number=0, tool="ask", how="stays", again=False)
        check(machine)
        machine.answer(number=0, which=0)
        machine.resume(number=0, which=2, reads=True)  # Of which nothing is left to come.
        machine.call_http(number=0, tool="talk", how="leaves", again=False)
        machine.call_http(number=0, tool="poll", how="stays", again=True)
        machine.cancel_one_of_several(number=0, which=0)
        check(machine)
        for _ in range(3):
            machine.resume(number=0, which=1, reads=True)
            check(machine)
        machine.listen(number=0, reads=True)
        for number, what in enumerate(WRONG):
            machine.do_wrong(number=number, what=what)
        machine.do_wrong(number=0, what="another session's event")
        machine.send_half(number=0, some=True)
        machine.send_half(number=0, some=False)
        machine.time_passes(seconds=6)
        check(machine)
        machine.call_http(number=1, tool="talk", how="does not read", again=False)
        machine.time_passes(seconds=4)
        there = machine.records[machine.live(is_known)[-1].session.session_id]
        check(machine)
        ended = [record.session.termination_reason for record in machine.records.values()]
        assert (R.UNRESPONSIVE in ended) == (slow_reader is SlowReader.BLOCK)
        assert there.live
    finally:
        machine.teardown()


def test_calls_and_resumptions_beyond_the_stream_limit_leave_nothing() -> None:
    machine = begun()
    try:
        machine.arrive_http(principal=None, version=LATEST)
        for _ in range(MAX_STREAMS):
            machine.call_http(number=0, tool="poll", how="stays", again=False)
            machine.resume(number=0, which=-1, reads=True)
            check(machine)
        machine.listen(number=0, reads=True)
        machine.resume(number=0, which=0, reads=True)
        check(machine)
        for _ in range(MAX_STREAMS):
            machine.release(number=0, which=0)
            check(machine)
        assert not machine.live(can_release)
    finally:
        machine.teardown()


@pytest.mark.parametrize("what", ["leave", "cut", "stop_reading", "read_on"])
def test_each_disturbance_of_open_exchanges_leaves_nothing(what: str) -> None:
    machine = begun(slow_reader=SlowReader.DROP)
    try:
        machine.arrive_http(principal=None, version=LATEST)
        machine.listen(number=0, reads=True)
        for tool in ("work", "talk", "ask", "talk"):
            machine.call_http(number=0, tool=tool, how="stays", again=False)
        for exchange in machine.running():
            machine.disturb(number=machine.running().index(exchange), what=what)
            check(machine)
        for _ in range(4):
            machine.listen(number=0, reads=True)
            for _ in machine.live(can_release):
                machine.release(number=0, which=0)  # Now those run that waited in the queue.
            check(machine)
            machine.time_passes(seconds=1)
            check(machine)
    finally:
        machine.teardown()


@pytest.mark.parametrize("what", ["leave", "cut", "nothing"])
def test_a_client_that_waits_for_a_session_slot_may_disconnect(what: str) -> None:
    machine = begun(policy=AdmissionPolicy.REPLACE_OWN)
    try:
        for _ in range(3):
            machine.open_http(
                principal=PRINCIPALS[1],
                flavour="leave refuses",
                how="stays",
                confirm=True,
                version=LATEST,
            )
        (waiting,) = machine.running()
        assert not waiting.status
        machine.disturb(number=0, what=what) if what != "nothing" else None
        check(machine)
        machine.time_passes(seconds=2)
        assert waiting.over
        check(machine)
        machine.time_passes(seconds=4)
        check(machine)
    finally:
        machine.teardown()


@pytest.mark.parametrize("how", HTTP_ENDINGS)
@pytest.mark.parametrize("ending", ["leave", "cancel", "raise"])
@pytest.mark.parametrize("answers", ["auto", "sse"])
def test_each_way_to_end_an_http_session_leaves_nothing(
    how: str, ending: str, answers: str
) -> None:
    machine = begun(ending=ending, answers=answers)
    try:
        for principal in PRINCIPALS[1:]:
            machine.arrive_http(principal=principal, version=LATEST)
        for tool in ("talk", "work", "stubborn", "ask"):
            machine.call_http(number=0, tool=tool, how="stays", again=False)
        machine.listen(number=0, reads=True)
        machine.end(number=0, how=how)
        check(machine)
        machine.time_passes(seconds=2)
        check(machine)
        assert len(machine.live()) == 1
    finally:
        machine.teardown()
