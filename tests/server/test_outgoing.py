"""Questions to the client: ids, deadlines, answers of every kind, and ends of every kind."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from math import inf
from typing import Any, final

import attrs
import pytest
import trio
from trio.testing import (
    MockClock,
    assert_checkpoints,
    assert_no_checkpoints,
    wait_all_tasks_blocked,
)

from tests.helpers import (
    Peer,
    cancelled,
    connect,
    error,
    errors_of,
    notification,
    request,
    result,
    serving,
    talking,
)
from trio_mcp_session import (
    CapabilityMissing,
    CleanupConfig,
    McpError,
    NoChannel,
    PeerViolation,
    QuestionTimeout,
    RequestContext,
    Router,
    SessionLimits,
    SessionTerminated,
    TerminationReason,
    TooManyQuestions,
)
from trio_mcp_session.protocol.jsonrpc import Response
from trio_mcp_session.server.client_connection import client_of

EVERYTHING: dict[str, Any] = {"elicitation": {}, "sampling": {}, "roots": {}}
FORM = {"type": "object", "properties": {}}


class Asker:
    """An application whose one request asks the client, and keeps what came of it."""

    def __init__(self) -> None:
        self.router = Router("asker")
        self.outcomes: list[object] = []
        self.router.request("ask")(self.ask)

    async def ask(self, ctx: RequestContext, params: dict[str, Any]) -> dict[str, Any]:
        timeout = params.get("timeout")
        try:
            match params.get("what", "elicit"):
                case "elicit":
                    elicited = await ctx.elicit("Well?", FORM, timeout=timeout)
                    return {"action": elicited.action}
                case "sample":
                    return await ctx.sample([], max_tokens=1, timeout=timeout)
                case _:
                    return {"roots": await ctx.list_roots(timeout=timeout)}
        except BaseException as outcome:
            self.outcomes.append(outcome)
            raise


@pytest.fixture
def asker() -> Asker:
    return Asker()


def open_questions(peer: Peer) -> int:
    if peer.session._connection is None:
        return 0  # It had none open when it let its connection go.
    questions = client_of(peer.session).outgoing
    return 0 if questions is None else len(questions)


async def catch(
    outcomes: list[object], async_fn: Callable[..., Awaitable[object]], *args: object
) -> None:
    """Append what ``async_fn`` returns or raises."""
    try:
        outcomes.append(await async_fn(*args))
    except Exception as outcome:
        outcomes.append(outcome)


# Capabilities.


@pytest.mark.parametrize(
    "what, method, capability",
    [
        ("elicit", "elicitation/create", "elicitation"),
        ("sample", "sampling/createMessage", "sampling"),
        ("roots", "roots/list", "roots"),
    ],
)
async def test_only_what_the_client_can_answer_is_asked(
    what: str, method: str, capability: str, asker: Asker, autojump_clock: MockClock
) -> None:
    others: dict[str, Any] = {name: {} for name in EVERYTHING if name != capability}
    async with talking(asker.router, capabilities=others) as peer:
        answer = await peer.ask(1, "ask", {"what": what})
        assert answer == error(1, -32603, str(CapabilityMissing(capability)))
        (missing,) = asker.outcomes
        assert isinstance(missing, CapabilityMissing)
        assert missing.capability == capability
        assert await peer.waiting() == []
        # A ping needs none.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.session.ask, "ping")
            await peer.send(result((await peer.receive())["id"]))
    async with talking(asker.router, capabilities={capability: {}}) as peer:
        await peer.send(request(1, "ask", {"what": what}))
        (question,) = await peer.waiting()
        assert question["method"] == method


# Answers.


async def test_ids_are_the_servers_own(asker: Asker, autojump_clock: MockClock) -> None:
    async with talking(asker.router, capabilities=EVERYTHING) as peer:
        # The client's requests have the ids that the questions get.
        await peer.send(*(request(number, "ask") for number in (1, 2, 3)))
        questions = await peer.waiting()
        assert sorted(one["id"] for one in questions) == [1, 2, 3]
        assert questions[0] == {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "elicitation/create",
            "params": {"message": "Well?", "requestedSchema": FORM},
        }
        assert open_questions(peer) == 3
        # Answers come in any order, and each wakes the task that asked.
        for question_id, action in ((3, "cancel"), (1, "accept"), (2, "decline")):
            await peer.send(result(question_id, {"action": action}))
            (answer,) = await peer.waiting()
            assert answer["result"] == {"action": action}
        assert open_questions(peer) == 0
        assert peer.session.metrics.bad_input == 0
        await peer.send(request(1, "ask"))
        (question,) = await peer.waiting()
        assert question["id"] == 4


async def test_ids_are_per_session(asker: Asker, autojump_clock: MockClock) -> None:
    async with serving(asker.router) as manager:
        peers = [await connect(manager) for _ in range(2)]
        for peer in peers:
            await peer.establish(capabilities=EVERYTHING)
            await peer.send(request("r", "ask"))
            (question,) = await peer.waiting()
            assert question["id"] == 1
        await peers[1].send(result(1, {"action": "accept"}))
        assert await peers[1].waiting() == [result("r", {"action": "accept"})]
        assert open_questions(peers[0]) == 1
        assert await peers[0].waiting() == []


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(result(99), id="an id that was never used"),
        pytest.param(result("1"), id="an id of another type"),
        pytest.param(error(99, 1, "no"), id="an error for an unknown id"),
        pytest.param({"jsonrpc": "2.0", "id": 1}, id="nothing but an id"),
        pytest.param({"jsonrpc": "2.0", "id": 1, "result": {}, "error": {}}, id="both"),
        pytest.param({"jsonrpc": "2.0", "result": {}}, id="no id"),
        pytest.param({"jsonrpc": "2.0", "id": None, "result": {}}, id="null"),
        pytest.param({"jsonrpc": "2.0", "id": True, "result": {}}, id="true"),
        pytest.param({"jsonrpc": "2.0", "id": 1.5, "result": {}}, id="a fraction"),
        pytest.param({"jsonrpc": "1.0", "id": 1, "result": {}}, id="another protocol"),
    ],
)
async def test_answers_that_answer_nothing(
    answer: dict[str, Any], asker: Asker, autojump_clock: MockClock
) -> None:
    async with talking(asker.router, capabilities=EVERYTHING) as peer:
        await peer.send(request("r", "ask"))
        await peer.waiting()
        with peer.session.subscribe() as events:
            await peer.send(answer)
            await wait_all_tasks_blocked()
            (violation,) = errors_of([events.receive_nowait()])
            assert isinstance(violation, PeerViolation)
        assert peer.session.metrics.bad_input == 1
        assert open_questions(peer) == 1
        # An answer is not answered, except one that looks like a request without a method.
        told = [one.get("error", {}).get("code") for one in await peer.waiting()]
        assert told == ([-32600] if set(answer) == {"jsonrpc", "id"} else [])
        await peer.send(result(1, {"action": "accept"}))
        assert await peer.waiting() == [result("r", {"action": "accept"})]


async def test_double_and_late_answers(asker: Asker, autojump_clock: MockClock) -> None:
    async with talking(asker.router, capabilities=EVERYTHING) as peer:
        await peer.send(request("r", "ask"))
        await peer.waiting()
        await peer.send(result(1, {"action": "accept"}), result(1, {"action": "decline"}))
        assert await peer.waiting() == [result("r", {"action": "accept"})]
        assert peer.session.metrics.bad_input == 1
        await peer.send(result(1, {"action": "decline"}))
        assert await peer.waiting() == []
        assert peer.session.metrics.bad_input == 2


async def test_an_answer_before_any_question(asker: Asker, autojump_clock: MockClock) -> None:
    async with talking(asker.router) as peer:
        await peer.send(result(1))
        assert await peer.waiting() == []
        assert peer.session.metrics.bad_input == 1


@pytest.mark.parametrize(
    "answered, raised",
    [
        ({"code": -1, "message": "no", "data": {"x": 1}}, McpError(-1, "no", {"x": 1})),
        ({"code": 5, "message": "five"}, McpError(5, "five")),
        ({"code": "5", "message": "five"}, None),
        ({"code": 5}, None),
        ({"message": "five"}, None),
        ("text", None),
        (None, None),
        ([], None),
    ],
    ids=repr,
)
async def test_an_error_answer_of_the_client_is_raised_in_the_handler(
    answered: object, raised: McpError | None, asker: Asker, autojump_clock: MockClock
) -> None:
    async with talking(asker.router, capabilities=EVERYTHING) as peer:
        await peer.send(request("r", "ask", {"what": "sample"}))
        await peer.waiting()
        await peer.send({"jsonrpc": "2.0", "id": 1, "error": answered})
        # The handler did not handle it, so its own request fails with it.
        (answer,) = await peer.waiting()
        expected = raised or McpError(-32603, "the client answered with a malformed error")
        (outcome,) = asker.outcomes
        assert isinstance(outcome, McpError)
        assert (outcome.code, outcome.message, outcome.data) == (
            *(expected.code, expected.message),
            expected.data,
        )
        assert answer["error"]["code"] == expected.code
        assert open_questions(peer) == 0


@pytest.mark.parametrize(
    "what", ["elicit", "sample", "roots"], ids=["elicit", "sample", "list_roots"]
)
@pytest.mark.parametrize("answered", [None, [], "text", {"action": "maybe", "roots": "none"}])
async def test_a_malformed_result_of_the_client_fails_the_question(
    what: str, answered: object, asker: Asker, autojump_clock: MockClock
) -> None:
    async with talking(asker.router, capabilities=EVERYTHING) as peer:
        await peer.send(request("r", "ask", {"what": what}))
        await peer.waiting()
        await peer.send({"jsonrpc": "2.0", "id": 1, "result": answered})
        (answer,) = await peer.waiting()
        if what == "sample" and isinstance(answered, dict):
            assert answer["result"] == answered
        else:
            assert answer == error("r", -32603, "the client answered with a malformed result")


# Time, and giving up.


async def test_a_question_without_an_answer_is_cancelled_at_its_timeout(
    asker: Asker, autojump_clock: MockClock
) -> None:
    async with talking(
        asker.router, capabilities=EVERYTHING, cleanup=CleanupConfig(question_timeout=7)
    ) as peer:
        for question_id, timeout in ((1, None), (2, 3)):
            start = trio.current_time()
            await peer.send(request("r", "ask", {"timeout": timeout}))
            assert (await peer.receive())["id"] == question_id
            assert await peer.receive() == cancelled(question_id)
            seconds = timeout or 7
            assert trio.current_time() == start + seconds
            told = f"no answer to elicitation/create within {seconds} s"
            assert await peer.receive() == error("r", -32603, told)
            outcome = asker.outcomes[-1]
            assert isinstance(outcome, QuestionTimeout)
            assert (outcome.method, outcome.seconds) == ("elicitation/create", seconds)
            # Too late.
            await peer.send(result(question_id, {"action": "accept"}))
            assert await peer.waiting() == []
            assert peer.session.metrics.bad_input == question_id
        assert open_questions(peer) == 0


async def test_an_answer_at_the_last_moment(asker: Asker, autojump_clock: MockClock) -> None:
    async with talking(asker.router, capabilities=EVERYTHING) as peer:
        await peer.send(request("r", "ask", {"timeout": 5}))
        await peer.waiting()
        await trio.sleep(4.999)
        await peer.send(result(1, {"action": "accept"}))
        assert await peer.waiting() == [result("r", {"action": "accept"})]
        await trio.sleep(10)
        assert await peer.waiting() == []


async def test_a_cancelled_request_takes_its_question_back(
    asker: Asker, autojump_clock: MockClock
) -> None:
    async with talking(asker.router, capabilities=EVERYTHING) as peer:
        await peer.send(request("r", "ask"))
        await peer.waiting()
        await peer.send(cancelled("r"))
        assert await peer.waiting() == [cancelled(1)]
        assert isinstance(asker.outcomes[0], trio.Cancelled)
        assert open_questions(peer) == 0


async def test_a_cancellation_after_the_answer_takes_nothing_back(
    asker: Asker, autojump_clock: MockClock
) -> None:
    async with talking(asker.router, capabilities=EVERYTHING) as peer:
        await peer.send(request("r", "ask"))
        await peer.waiting()
        await peer.send(result(1, {"action": "accept"}), cancelled("r"))
        # The client gets no message about a question that it has answered.
        assert cancelled(1) not in await peer.waiting()
        assert open_questions(peer) == 0


async def test_questions_above_the_limit_are_refused_and_not_sent(
    asker: Asker, autojump_clock: MockClock
) -> None:
    async with talking(
        asker.router, capabilities=EVERYTHING, limits=SessionLimits(max_questions=3)
    ) as peer:
        await peer.send(*(request(number, "ask") for number in range(3)))
        assert len(await peer.waiting()) == 3
        with assert_checkpoints(), pytest.raises(TooManyQuestions) as caught:
            await peer.session.ask("ping")
        assert caught.value.limit == 3
        # Nothing was sent, and no id was used up.
        assert await peer.waiting() == []
        await peer.send(result(2, {"action": "accept"}))
        await peer.waiting()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.session.ask, "ping")
            assert (await peer.receive())["id"] == 4
            await peer.send(result(4))


async def test_what_cannot_be_encoded_is_the_askers_fault(
    asker: Asker, autojump_clock: MockClock
) -> None:
    async with talking(asker.router, capabilities=EVERYTHING) as peer:
        with pytest.raises(TypeError):
            await peer.session.ask("ping", {"a": object()})
        assert open_questions(peer) == 0
        assert await peer.waiting() == []


async def test_asking_is_a_checkpoint(asker: Asker, autojump_clock: MockClock) -> None:
    async with talking(asker.router) as peer:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _() -> None:
                with assert_checkpoints():
                    assert await peer.session.ask("ping") == {"pong": 1}

            await peer.send(result((await peer.receive())["id"], {"pong": 1}))
        questions = client_of(peer.session).outgoing
        assert questions is not None
        with assert_no_checkpoints():
            assert not questions.resolve(Response(77, {}))
            questions.fail_all()


# The end of the session.


@pytest.mark.parametrize("reason", [TerminationReason.REVOKED, TerminationReason.CLIENT_CLOSED])
async def test_the_end_of_a_session_wakes_all_tasks_that_asked(
    reason: TerminationReason, asker: Asker, autojump_clock: MockClock
) -> None:
    outcomes: list[object] = []
    async with talking(asker.router, capabilities=EVERYTHING) as peer:
        await peer.send(request("r", "ask", {"timeout": inf}))
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(catch, outcomes, peer.session.ask, "ping")
            assert len(await peer.waiting()) == 4
            if reason is TerminationReason.CLIENT_CLOSED:
                await peer.channel.aclose()
            else:
                peer.session.terminate(reason)
        assert [type(one) for one in outcomes] == [SessionTerminated] * 3
        assert {one.reason for one in outcomes if isinstance(one, SessionTerminated)} == {reason}
        assert await peer.session.wait_terminated() is reason
        assert open_questions(peer) == 0
        # Its handler was notified in one of the two ways.
        (outcome,) = asker.outcomes
        assert isinstance(outcome, (SessionTerminated, trio.Cancelled))
        with pytest.raises(SessionTerminated):
            await peer.session.ask("ping")


async def test_a_handler_that_asks_when_all_is_over(autojump_clock: MockClock) -> None:
    router = Router("r")
    outcomes: list[object] = []

    @router.request("late")
    async def late(ctx: RequestContext) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await catch(outcomes, ctx.list_roots)
                await catch(outcomes, ctx.session.ask, "ping")

    async with talking(router, capabilities=EVERYTHING) as peer:
        await peer.send(request(1, "late"))
        await peer.waiting()
        start = trio.current_time()
        peer.session.terminate()
        await peer.session.wait_terminated()
        assert trio.current_time() == start
        assert [type(one) for one in outcomes] == [SessionTerminated] * 2


async def test_sessions_without_a_client_raise_no_channel_on_ask(
    asker: Asker, autojump_clock: MockClock
) -> None:
    async with serving(asker.router) as manager, manager.open_session() as session:
        with pytest.raises(NoChannel):
            await session.ask("ping")


# A client that does not read.


async def clogged(peer: Peer) -> None:
    """Fill the way to the client, with room for one frame on the wire, until nothing goes."""
    while peer.session.notify_nowait("notifications/fill"):
        await wait_all_tasks_blocked()


async def test_a_question_waits_for_room(asker: Asker, autojump_clock: MockClock) -> None:
    outcomes: list[object] = []
    async with serving(asker.router, limits=SessionLimits(max_output=1)) as manager:
        peer = await connect(manager, capacity=2)
        await peer.establish()
        await clogged(peer)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(catch, outcomes, peer.session.ask, "ping")
            await wait_all_tasks_blocked()
            assert open_questions(peer) == 1
            methods = []
            while "ping" not in methods:
                methods.append((await peer.receive())["method"])
            assert set(methods[:-1]) == {"notifications/fill"}
            await peer.send(result(1, {"pong": 1}))
        assert outcomes == [{"pong": 1}]


@pytest.mark.parametrize("way", ["timeout", "cancel"])
async def test_a_question_that_was_never_sent_is_not_taken_back(
    way: str, asker: Asker, autojump_clock: MockClock
) -> None:
    async with serving(asker.router, limits=SessionLimits(max_output=1)) as manager:
        peer = await connect(manager, capacity=2)
        await peer.establish()
        await clogged(peer)
        if way == "timeout":
            with pytest.raises(QuestionTimeout):
                await peer.session.ask("ping", timeout=3)
        else:
            with trio.move_on_after(3):
                await peer.session.ask("ping")
        assert open_questions(peer) == 0
        assert {one["method"] for one in await peer.waiting()} == {"notifications/fill"}


async def test_a_cancelled_question_without_room_for_its_cancellation_is_counted_as_dropped(
    asker: Asker, autojump_clock: MockClock
) -> None:
    async with serving(asker.router, limits=SessionLimits(max_output=1)) as manager:
        peer = await connect(manager, capacity=2)
        await peer.establish()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.session.ask, "ping")
            await wait_all_tasks_blocked()
            await clogged(peer)
            dropped = peer.session.metrics.dropped
            nursery.cancel_scope.cancel()
        assert open_questions(peer) == 0
        assert peer.session.metrics.dropped == dropped + 1
        messages = await peer.waiting()
        assert messages[0]["method"] == "ping"
        assert cancelled(1) not in messages


@pytest.mark.parametrize("how", ["terminate", "unresponsive", "close"])
async def test_the_end_of_a_session_wakes_questions_that_wait_for_room(
    how: str, asker: Asker, autojump_clock: MockClock
) -> None:
    outcomes: list[object] = []
    async with serving(asker.router, limits=SessionLimits(max_output=1)) as manager:
        peer = await connect(manager, capacity=2)
        await peer.establish()
        await clogged(peer)
        with trio.fail_after(200):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(catch, outcomes, peer.session.ask, "ping")
                nursery.start_soon(catch, outcomes, peer.session.notify, "notifications/n")
                await wait_all_tasks_blocked()
                if how == "terminate":
                    peer.session.terminate()
                elif how == "close":
                    await peer.channel.aclose()
        assert [type(one) for one in outcomes] == [SessionTerminated] * 2
        reason = {
            "terminate": TerminationReason.REQUESTED,
            "unresponsive": TerminationReason.UNRESPONSIVE,
            "close": TerminationReason.TRANSPORT_FAILED,
        }[how]
        assert await peer.session.wait_terminated() is reason


@final
@attrs.define(eq=False)
class Way:
    """A way to the client that may be gone, and that has no room for now."""

    connected: bool = True
    reachable: bool = True
    more: trio.Event = attrs.field(factory=trio.Event)

    def send_message(self, frame: bytes) -> bool:
        return False

    async def wait_writable(self) -> None:
        await self.more.wait()


async def test_a_client_that_cannot_be_reached_is_not_asked(
    asker: Asker, autojump_clock: MockClock
) -> None:
    async with talking(asker.router, capabilities=EVERYTHING) as peer:
        way: Any = Way(reachable=False)
        with pytest.raises(NoChannel), assert_checkpoints():
            await client_of(peer.session).ask_client(way, "ping", None, 10)
        assert open_questions(peer) == 0
        assert peer.session.metrics.messages_sent == 1


async def test_the_way_may_be_lost_while_a_question_waits_for_room(
    asker: Asker, autojump_clock: MockClock
) -> None:
    outcomes: list[object] = []
    async with talking(asker.router, capabilities=EVERYTHING) as peer:
        way: Any = Way()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                catch, outcomes, client_of(peer.session).ask_client, way, "ping", None, 10
            )
            await wait_all_tasks_blocked()
            assert open_questions(peer) == 1
            way.reachable = False
            way.more.set()
        assert [type(one) for one in outcomes] == [NoChannel]
        assert open_questions(peer) == 0
        # It was not told to forget what it never heard.
        assert await peer.waiting() == []


async def test_progress_may_be_asked_for_beside_a_question(
    asker: Asker, autojump_clock: MockClock
) -> None:
    async with talking(asker.router, capabilities=EVERYTHING) as peer:
        await peer.send(request("r", "ask"), notification("notifications/unknown"))
        await peer.waiting()
        # Pings pass while the client thinks about its answer.
        assert await peer.ask("p", "ping") == result("p")
        await peer.send(result(1, {"action": "decline"}))
        assert await peer.waiting() == [result("r", {"action": "decline"})]
