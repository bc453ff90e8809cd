"""Clients that retry, never, twice, with old states and those of others; at any time.

A model says of each request what it must be answered with. After each step the sessions agree with
the model, and whatever has ended has left nothing behind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from math import inf
from typing import Any, TypeVar

import attrs
import pytest
import trio
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.leaks.guest import Guest
from tests.rounds import DECLINE, SCHEMA, Call, Pipe, Town, Way, accept, town
from trio_mcp_session import (
    CleanupConfig,
    Elicitation,
    Principal,
    RequestContext,
    Router,
    Session,
    SessionKind,
    SessionLimits,
)

T = TypeVar("T")

PATIENCE = 20.0
INTERVAL = 1.0
CLOCKS = CleanupConfig(
    eof_grace=0.25,
    request_state_timeout=PATIENCE,
    cleanup_interval=INTERVAL,
    idle_after=5,
    # Connections stay until a rule says otherwise.
    handshake_timeout=inf,
    max_idle_time=inf,
)
LIMITS = SessionLimits(max_sessions_of={SessionKind.PARKED: 4})
NO_MATCH = (-32602, "requestState does not match this request")
EXPIRED = (-32602, "requestState has expired: send the request without it")
UNUSED = (-32602, "requestState has been used already")
FULL = "too many parked sessions (limit: 4)"
GONE = "The server no longer waits for this call"

PICK = st.integers(0, 10_000)
USERS = st.sampled_from(["ann", "bob", None])
ROUNDS = st.lists(
    st.tuples(st.sets(st.sampled_from("abc"), min_size=1, max_size=3), st.booleans()),
    min_size=1,
    max_size=3,
)
"""What a handler asks, round by round, and whether it waits for the test after that."""

HOW = st.sampled_from(
    ["all", "all", "all", "some", "some", "nothing", "unknown", "malformed", "other parameters"]
)
"""What a client brings when it retries."""


def one_of(number: int, among: Sequence[T]) -> T:
    return among[number % len(among)]


@attrs.define
class State:
    """What a client was given to carry."""

    text: str
    number: int
    """The round that it is for."""
    expires: float
    key: int
    """The key that it was signed with."""


@attrs.define(eq=False)
class Chain:
    """One handler, and what the model knows of it."""

    name: str
    owner: object
    """What may retry: a user, or a connection without a principal."""
    call: Call
    """A request that it can be called by again."""
    rounds: list[tuple[set[str], bool]]
    session: Session
    states: list[State]
    quiet_since: float
    number: int = 0
    """The round that an answer may be for now."""
    position: int = 0
    """How many of its rounds are answered."""
    given: dict[str, str] = attrs.field(factory=dict)
    """What has been brought of this round."""
    heard: list[dict[str, str]] = attrs.field(factory=list)
    """What the handler must have heard."""
    attached: Call | None = None
    """The request that waits for it now."""
    at: Way | None = None
    """The client that sent it."""
    gone: bool = False

    @property
    def keys(self) -> set[str]:
        """What it asks now, by key."""
        return {f"{key}{self.position}" for key in self.rounds[self.position][0]}


class Parked(RuleBasedStateMachine):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self.guest = Guest()
        self.stop = trio.Event()
        self.closed = trio.Event()
        self.here: Town
        self.chains: list[Chain] = []
        self.pipes: list[Pipe] = []
        self.began: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self.heard: dict[str, list[dict[str, str]]] = {}
        self.gates: dict[str, trio.Event] = {}
        self.keys = 0
        self.last = 0
        self.guest.run(self._open)

    # The server.

    async def _open(self) -> None:
        opened = trio.Event()
        assert self.guest.nursery is not None
        self.guest.nursery.start_soon(self._keep, opened)
        await opened.wait()

    async def _keep(self, opened: trio.Event) -> None:
        async with town(self._router(), limits=LIMITS, cleanup=CLOCKS) as self.here:
            opened.set()
            await self.stop.wait()
        self.closed.set()

    def _router(self) -> Router:
        router = Router("machine")

        @router.tool()
        async def work(ctx: RequestContext, name: str, rounds: list[tuple[list[str], bool]]) -> str:
            self.began[name] += 1
            try:
                for number, (keys, waits) in enumerate(rounds):
                    questions = [Elicitation(one, SCHEMA, key=f"{one}{number}") for one in keys]
                    answers = await ctx.ask_all(*questions)
                    self.heard[name].append(
                        {
                            f"{key}{number}": str((answer.content or {}).get("said"))
                            for key, answer in zip(keys, answers, strict=True)
                        }
                    )
                    if waits:
                        await self.gates.setdefault(name, trio.Event()).wait()
                        del self.gates[name]
                return name
            finally:
                # Joined, whatever it still has to do.
                with trio.CancelScope(shield=True):
                    await trio.lowlevel.checkpoint()
                self.ended[name] += 1

        return router

    def run(self, async_fn: Callable[..., Awaitable[T]], *args: object) -> T:
        return self.guest.run(async_fn, *args)

    @property
    def now(self) -> float:
        return self.guest.clock.current_time()

    @property
    def wall(self) -> float:
        return self.here.clock().timestamp()

    def waiting(self) -> list[Chain]:
        return [one for one in self.chains if not one.gone and one.attached is None]

    def working(self) -> list[Chain]:
        return [one for one in self.chains if one.attached is not None]

    def ways(self) -> list[Way]:
        return [*self.pipes, *(self.here.http(user) for user in ("ann", "bob", None))]

    # Clients that call.

    @initialize()
    def begin(self) -> None:
        self.connect(user="ann")
        self.connect(user=None)

    @precondition(lambda self: len(self.pipes) < 4)
    @rule(user=USERS)
    def connect(self, user: str | None) -> None:
        self.pipes.append(self.run(self.here.pipe, user))

    @precondition(lambda self: self.pipes)
    @rule(number=PICK)
    def disconnect(self, number: int) -> None:
        pipe = self.pipes.pop(number % len(self.pipes))
        self.run(pipe.leave)
        for chain in self.chains:
            # What works for it ends with it; so does what could be retried on it only.
            if chain.at is pipe or chain.owner is pipe:
                self.ends(chain)
        self.passes(0.5)  # What runs has a moment to come to its end.

    def owner_of(self, way: Way) -> object:
        return way if way.user is None and isinstance(way, Pipe) else way.user

    @rule(number=PICK, rounds=ROUNDS)
    def call(self, number: int, rounds: list[tuple[set[str], bool]]) -> None:
        way = one_of(number, self.ways())
        self.last += 1
        name = f"call {self.last}"
        self.heard[name] = []
        arguments = {"name": name, "rounds": [(sorted(keys), waits) for keys, waits in rounds]}
        known = set(self.here.manager.sessions())
        place = len(self.here.parked) < 4
        call = self.run(way.call, "work", arguments)
        self.here.look()
        if not place:
            assert call.complaint == FULL
            return
        (session,) = set(self.here.parked) - known
        principal = session.principal
        if way.user is not None:
            assert principal == Principal(way.user)
        else:
            assert (principal is None) is not isinstance(way, Pipe)
        chain = Chain(name, self.owner_of(way), call, rounds, session, [], self.now)
        self.chains.append(chain)
        self.is_asked(chain, call)

    def is_asked(self, chain: Chain, call: Call) -> None:
        """A request is answered with what is missing, and a state for the round."""
        assert call.keys == chain.keys - chain.given.keys()
        for key, question in call.asked.items():
            assert question["params"]["message"] == key[0]
        chain.states.append(State(call.state, chain.number, self.wall + PATIENCE, self.keys))

    @precondition(lambda self: self.chains)
    @rule(number=PICK, who=PICK, which=PICK, how=HOW, some=PICK, newest=st.booleans())
    def come_again(
        self, number: int, who: int, which: int, how: str, some: int, *, newest: bool
    ) -> None:
        chain = one_of(number, self.chains)
        state = chain.states[-1] if newest else one_of(which, chain.states)
        owners = [way for way in self.ways() if self.owner_of(way) == chain.owner]
        # Mostly a client that may.
        way = one_of(who, self.ways() if who % 5 == 0 or not owners else owners)
        answers: dict[str, Any] = {}
        keys = sorted(chain.keys) if chain.position < len(chain.rounds) else []
        said = {key: f"{key} {self.last} {some}" for key in keys}
        if how in ("all", "other parameters"):
            answers = {key: accept(said=said[key]) for key in keys}
        elif how == "some":
            answers = {key: accept(said=said[key]) for key in keys[: some % 3]}
        elif how == "unknown":
            answers = {"nobody asked": DECLINE, "c9": None}
        elif how == "malformed":
            answers = {key: {"action": "perhaps"} for key in keys[:1]}
        if how == "malformed" and not keys:
            how = "nothing"
        change = {"more": 1} if how == "other parameters" else {}
        self.last += 1

        async def retry() -> Call:
            return await way.retry(
                chain.call, answers, state=state.text, change=change, request_id=f"r {self.last}"
            )

        again = self.run(retry)
        self.here.look()
        if (
            self.owner_of(way) != chain.owner
            or how == "other parameters"
            or state.key < self.keys - 1
        ):
            assert again.error == NO_MATCH
        elif self.wall >= state.expires:
            assert again.error == EXPIRED
        elif chain.gone:
            assert again.complaint.startswith(GONE)
        elif state.number != chain.number or chain.attached is not None:
            assert again.error == UNUSED
        elif how == "malformed":
            assert again.code == -32602
        else:
            self.brings(chain, way, again, {key: said[key] for key in answers if key in said})

    def brings(self, chain: Chain, way: Way, again: Call, said: dict[str, str]) -> None:
        """Its own client has retried, in time, with well-formed answers."""
        news = said.keys() - chain.given.keys()
        chain.given |= said
        if chain.given.keys() < chain.keys:
            if news:
                chain.number += 1
                chain.quiet_since = self.now
            self.is_asked(chain, again)
            return
        chain.number += 1
        chain.attached, chain.at = again, way
        self.goes_on(chain)

    def goes_on(self, chain: Chain) -> None:
        """The handler has all answers."""
        chain.heard.append(chain.given)
        if not chain.rounds[chain.position][1]:
            self.next_round(chain)

    def next_round(self, chain: Chain) -> None:
        call, chain.attached, chain.at = chain.attached, None, None
        assert call is not None
        chain.given = {}
        chain.position += 1
        chain.quiet_since = self.now
        if chain.position == len(chain.rounds):
            assert call.text == chain.name
            self.ends(chain)
        else:
            self.is_asked(chain, call)

    def ends(self, chain: Chain) -> None:
        chain.gone = True
        chain.attached = chain.at = None

    @precondition(lambda self: self.working())
    @rule(number=PICK)
    def let_go_on(self, number: int) -> None:
        chain = one_of(number, self.working())
        self.gates[chain.name].set()
        self.run(trio.testing.wait_all_tasks_blocked)
        self.next_round(chain)

    # How they end.

    @precondition(lambda self: self.working())
    @rule(number=PICK)
    def cancel(self, number: int) -> None:
        chain = one_of(number, self.working())
        call, way = chain.attached, chain.at
        assert call is not None
        if isinstance(way, Pipe):
            self.run(way.cancel, call)
        else:
            call.scope.cancel()
            for _ in range(3):  # It is looked now and then whether its client is there.
                self.passes(0.5)
        self.ends(chain)
        assert call.answer is None

    @rule(number=PICK)
    def cancel_what_is_over(self, number: int) -> None:
        """It changes nothing: the requests before have been answered."""
        for chain in self.waiting():
            way = chain.call.way
            if isinstance(way, Pipe) and way in self.pipes:
                self.run(way.cancel, chain.call)

    @precondition(lambda self: self.waiting() or self.working())
    @rule(number=PICK)
    def terminate(self, number: int) -> None:
        chain = one_of(number, self.waiting() + self.working())
        call = chain.attached
        self.run_sync(chain.session.terminate)
        self.ends(chain)
        if call is not None:
            assert call.error == (-32603, "Session has ended: requested")

    def run_sync(self, sync_fn: Callable[..., object], *args: object) -> None:
        async def call() -> None:
            await trio.lowlevel.checkpoint()
            sync_fn(*args)

        self.run(call)

    @rule(user=st.sampled_from(["ann", "bob"]))
    def revoke(self, user: str) -> None:
        self.run_sync(self.here.manager.revoke, Principal(user))
        for chain in self.chains:
            if chain.owner == user:
                self.ends(chain)
        self.pipes = [one for one in self.pipes if one.user != user]

    @rule()
    def rotate(self) -> None:
        self.here.keys.rotate()
        self.keys += 1

    @rule(seconds=st.sampled_from([0.5, 3, 6, 11, 25]))
    def time_passes(self, seconds: float) -> None:
        self.passes(seconds)

    def passes(self, seconds: float) -> None:
        self.here.clock.turn(seconds)
        self.run_sync(self.guest.clock.jump, seconds)
        self.run(trio.testing.wait_all_tasks_blocked)
        for chain in self.waiting():
            quiet = self.now - chain.quiet_since
            there = chain.session in self.here.parked
            if quiet < PATIENCE:
                assert there
            elif quiet > PATIENCE + INTERVAL:
                assert not there
            if not there:
                self.ends(chain)

    @rule(seconds=st.sampled_from([-15.0, 15.0]))
    def the_wall_clock_is_set(self, seconds: float) -> None:
        """Then states expire sooner or later than handlers."""
        self.here.clock.turn(seconds)

    # What holds at any time.

    @invariant()
    def the_books_agree(self) -> None:
        live = {one.session for one in self.chains if not one.gone}
        assert set(self.here.parked) == live
        for chain in self.chains:
            assert self.began[chain.name] == 1
            assert self.ended[chain.name] == chain.gone
            assert self.heard[chain.name] == chain.heard
            if not chain.gone:
                assert chain.session.busy is (chain.attached is not None)
        self.here.check()
        assert self.here.errors == []

    def teardown(self) -> None:
        try:
            self.run_sync(self.stop.set)
            for _ in range(3):
                self.run_sync(self.guest.clock.jump, 5)
            assert self.closed.is_set()
            assert self.ended == self.began
        finally:
            self.guest.close()


ParkedTest = Parked.TestCase
ParkedTest.settings = settings(max_examples=40, stateful_step_count=40)


# What the machine can find it may not find in every run: each of these by itself.


@pytest.fixture
def machine() -> Any:
    machine = Parked()
    machine.begin()
    try:
        yield machine
    finally:
        machine.teardown()


ONE = [({"a", "b"}, True), ({"c"}, False)]


def again(machine: Parked, how: str = "all", **more: Any) -> None:
    given: dict[str, Any] = {"number": 0, "who": 1, "which": 0, "some": 1, "newest": True}
    machine.come_again(how=how, **{**given, **more})
    machine.the_books_agree()


@pytest.mark.parametrize("number", range(5))
def test_a_parked_conversation_with_every_kind_of_retry_reaches_its_end(
    number: int, machine: Parked
) -> None:
    machine.call(number, ONE)
    for how in ("nothing", "unknown", "malformed", "other parameters", "some", "some"):
        again(machine, how)
    again(machine)
    again(machine)
    machine.let_go_on(0)
    again(machine)
    again(machine)
    again(machine, "malformed")
    assert machine.chains[0].gone


@pytest.mark.parametrize("who", [0, 5, 10, 15, 20])
def test_a_retry_of_another_client_does_not_resume_the_handler(who: int, machine: Parked) -> None:
    machine.call(0, ONE)
    again(machine, who=who)


def test_a_retry_after_the_state_timeout_finds_no_parked_handler(machine: Parked) -> None:
    machine.call(0, ONE)
    machine.time_passes(11)
    again(machine, "some")
    machine.the_wall_clock_is_set(15)
    again(machine, newest=False)
    machine.time_passes(PATIENCE + INTERVAL / 2)
    machine.time_passes(3)
    machine.the_wall_clock_is_set(-15)
    machine.the_wall_clock_is_set(-15)
    again(machine)
    assert machine.chains[0].gone


@pytest.mark.parametrize(
    "end", ["disconnect", "cancel", "terminate", "revoke", "rotate", "cancel_what_is_over"]
)
@pytest.mark.parametrize("number", range(5))
def test_each_way_to_end_a_parked_handler_agrees_with_the_model(
    end: str, number: int, machine: Parked
) -> None:
    for _ in range(5):
        machine.call(number, ONE)
    again(machine)
    if end == "revoke":
        machine.revoke("ann")
    elif end == "rotate":
        for _ in range(3):
            machine.rotate()
            again(machine, number=1)
    else:
        rules: dict[str, Any] = {
            "disconnect": machine.disconnect,
            "cancel": machine.cancel,
            "terminate": lambda _: machine.terminate(-1),
            "cancel_what_is_over": machine.cancel_what_is_over,
        }
        rules[end](number)
    machine.the_books_agree()
    again(machine, number=1)
    machine.time_passes(0.5)
    machine.the_books_agree()
