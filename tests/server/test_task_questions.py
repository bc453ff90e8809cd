"""Questions of a task to its client: ``inputRequests``, and the answers by ``tasks/update``."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.helpers import Peer, modern
from tests.rounds import ALL, DECLINE, SCHEMA, Way, accept, town
from tests.tasking import (
    BOTH,
    WITH_TASKS,
    Workshop,
    acknowledged,
    ask_for,
    cancel,
    client_of,
    complaint_in,
    get,
    name_in,
    start,
    status,
    text_in,
    the_task,
    update,
)
from trio_mcp_session import (
    CleanupConfig,
    Elicitation,
    ElicitResult,
    InputRequired,
    NoChannel,
    QuestionTimeout,
    RequestContext,
    Roots,
    Router,
    Sampling,
    SessionLimits,
    connect_memory,
    open_session_manager,
)
from trio_mcp_session.server.task import task_of


async def asked(client: Way, task_id: str) -> dict[str, Any]:
    """What a task asks now."""
    state = await get(client, task_id)
    assert state["status"] == "input_required", state
    requests: dict[str, Any] = state["inputRequests"]
    return requests


@BOTH
async def test_a_question_is_a_part_of_the_status(way: str, autojump_clock: MockClock) -> None:
    async with town(Workshop().router) as here:
        client = await client_of(here, way)
        task_id = await start(client, "ask")
        question = {
            "method": "elicitation/create",
            "params": {"mode": "form", "message": "?", "requestedSchema": SCHEMA},
        }
        found = await asked(client, task_id)
        assert found.keys() == {"name"}
        assert found["name"]["method"] == question["method"]
        assert found["name"]["params"]["message"] == "?"
        assert acknowledged(await update(client, task_id, {"name": accept(name="Ada")}))
        assert text_in(await get(client, task_id)) == "Ada"


@BOTH
async def test_every_kind_of_question_may_be_asked(way: str, autojump_clock: MockClock) -> None:
    router, heard = Router("test"), []

    @router.tool(task="required")
    async def work(ctx: RequestContext) -> None:
        form, message, roots = await ctx.ask_all(
            Elicitation("?", SCHEMA), Sampling([], max_tokens=5), Roots()
        )
        heard.append((name_in(form), message["model"], roots))

    async with town(router) as here:
        client = await client_of(here, way)
        task_id = await start(client, "work")
        found = await asked(client, task_id)
        methods = {key: one["method"] for key, one in found.items()}
        assert methods == {
            "elicitation-1": "elicitation/create",
            "sampling-1": "sampling/createMessage",
            "roots-1": "roots/list",
        }
        answers = {
            "elicitation-1": accept(name="Ada"),
            "sampling-1": {"role": "assistant", "model": "m", "content": []},
            "roots-1": {"roots": [{"uri": "file:///"}]},
        }
        await update(client, task_id, answers)
        assert (await get(client, task_id))["status"] == "completed"
        assert heard == [("Ada", "m", [{"uri": "file:///"}])]


@BOTH
async def test_some_of_the_answers_may_come_first(way: str, autojump_clock: MockClock) -> None:
    workshop = Workshop()
    async with town(workshop.router) as here:
        client = await client_of(here, way)
        task_id = await start(client, "ask_many", groups=[["a", "b"], ["c", "d"], ["e"]])
        assert set(await asked(client, task_id)) == set("abcde")
        # The very next look shows what is left.
        await update(client, task_id, {"a": accept(name="A")})
        assert set(await asked(client, task_id)) == set("bcde")
        assert workshop.log == []
        # Each of the tasks of the handler wakes alone.
        await update(client, task_id, {"e": accept(name="E"), "c": DECLINE})
        assert set(await asked(client, task_id)) == set("bd")
        assert workshop.log == [["E"]]
        await update(client, task_id, {"d": accept(name="D")})
        assert workshop.log == [["E"], ["decline", "D"]]
        await update(client, task_id, {"b": accept(name="B")})
        assert workshop.log == [["E"], ["decline", "D"], ["A", "B"]]
        assert text_in(await get(client, task_id)) == "asked all"


@BOTH
async def test_a_key_that_was_used_is_not_used_again(way: str, autojump_clock: MockClock) -> None:
    router = Router("test")

    @router.tool(task="required")
    async def work(ctx: RequestContext) -> str:
        heard = [name_in(await ctx.elicit("?", SCHEMA, key="name")) for _ in range(2)]
        # As the second one is called for clients.
        heard.append(name_in(await ctx.elicit("?", SCHEMA, key="name-2")))
        heard.append(name_in(await ctx.elicit("?", SCHEMA, key="name")))
        async with trio.open_nursery() as nursery:
            # In two tasks at the same time.
            async def ask() -> None:
                heard.append(name_in(await ctx.elicit("?", SCHEMA, key="name")))

            nursery.start_soon(ask)
            nursery.start_soon(ask)
        # What the second of these would be called is taken.
        for key in ("x-2", "x", "x"):
            answer = await ctx.elicit("?", SCHEMA, key=key)
            heard += [name_in(answer)]
        with trio.move_on_after(1):
            await ctx.elicit("?", SCHEMA, key="gone")
        heard.append(name_in(await ctx.elicit("?", SCHEMA, key="gone")))
        return " ".join(heard)

    async with town(router) as here:
        client = await client_of(here, way)
        task_id = await start(client, "work")
        keys: list[str] = []
        while (await get(client, task_id))["status"] == "input_required":
            found = list(await asked(client, task_id))
            if found == ["gone"]:
                await trio.sleep(2)
            else:
                await update(client, task_id, {key: accept(name=key) for key in found})
            keys += found
            # Old answers answer nothing.
            state = await get(client, task_id)
            old = [key for key in keys if key not in state.get("inputRequests", {})]
            await update(client, task_id, {key: accept(name="old") for key in old})
            assert await get(client, task_id) == state
        assert keys[:4] == ["name", "name-2", "name-3", "name-4"]
        assert len(set(keys)) == len(keys) == 11
        assert keys[6:] == ["x-2", "x-3", "x-4", "gone", "gone-2"]
        assert "old" not in text_in(await get(client, task_id))


@BOTH
@pytest.mark.parametrize("key", ["name", None])
async def test_many_questions_leave_nothing_behind(
    key: str | None, way: str, autojump_clock: MockClock
) -> None:
    workshop = Workshop()

    @workshop.router.tool(task="required")
    async def ask_often(ctx: RequestContext) -> str:
        for _ in range(300):
            await ctx.elicit("?", SCHEMA, key=key)
        return "done"

    async with town(workshop.router) as here:
        client = await client_of(here, way)
        task_id = await start(client, "ask_often")
        for number in range(1, 301):
            numbered = f"{key or 'elicitation'}-{number}"
            wire_key = "name" if numbered == "name-1" else numbered
            await update(client, task_id, {wire_key: accept(name="x")})
        task = task_of(the_task(here))
        assert task is not None
        assert len(task._numbers) == 1
        assert text_in(await get(client, task_id)) == "done"


@pytest.mark.parametrize(
    "wanted, used",
    [
        (["a", "a-1", "a"], ["a", "a-2", "a-3"]),
        (["a-7", "a-3", "a", "a-9"], ["a-7", "a-8", "a-9", "a-10"]),
        (["a-02", "a-02", "a-2"], ["a-02", "a-02-2", "a-2"]),
        (["-1", "", "-1"], ["-1", "-2", "-3"]),
        (["a-b-2", "a-b", "a"], ["a-b-2", "a-b-3", "a"]),
        (["a-\n-2", "a-\n"], ["a-\n-2", "a-\n-3"]),
        (
            ["a-999999999", "a", "a-1", "a-1000000000", "a-999999999"],
            ["a-999999999", "a-1-1", "a-1-2", "a-1000000000", "a-999999999-1"],
        ),
    ],
)
async def test_keys_are_those_wanted_or_get_numbers(
    wanted: list[str], used: list[str], autojump_clock: MockClock
) -> None:
    async with town(Workshop().router) as here:
        client = await client_of(here, "pipe")
        await start(client, "work")
        task = task_of(the_task(here))
        assert task is not None
        assert [task._unused_key(one) for one in wanted] == used


async def test_the_bytes_of_a_question_do_not_change(autojump_clock: MockClock) -> None:
    """Clients compare them, from poll to poll."""
    workshop = Workshop()
    router = Router("test")

    @router.tool(task="required")
    async def work(ctx: RequestContext) -> None:
        schema = {
            "type": "object",
            "properties": {name: {"type": "number", "default": 1e21} for name in "zyx"},
        }
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ctx.elicit, "é\u2028 1.0 <&>", schema)
            await workshop.gate.wait()
            nursery.start_soon(ctx.elicit, "another", SCHEMA)

    async with open_session_manager(router) as manager:
        channel = await connect_memory(manager)
        await wait_all_tasks_blocked()
        peer = Peer(channel, manager.sessions()[0])
        call = modern(0, "tools/call", {"name": "work"}, capabilities=WITH_TASKS)
        await peer.send(call)
        task_id = (await peer.receive())["result"]["taskId"]
        await wait_all_tasks_blocked()
        found: set[bytes] = set()
        for number in range(1, 20):
            if number == 10:
                workshop.gate.set()
                await wait_all_tasks_blocked()
            poll = modern(number, "tasks/get", {"taskId": task_id}, capabilities=WITH_TASKS)
            await peer.send(poll)
            frame = await channel.receive()
            body = msgspec.json.decode(frame, type=dict[str, msgspec.Raw])
            result = msgspec.json.decode(body["result"], type=dict[str, msgspec.Raw])
            asked = msgspec.json.decode(result["inputRequests"], type=dict[str, msgspec.Raw])
            assert len(asked) == (1 if number < 10 else 2)
            found.add(bytes(asked["elicitation-1"]))
        assert len(found) == 1
        await channel.aclose()


@BOTH
async def test_a_malformed_answer_changes_nothing(way: str, autojump_clock: MockClock) -> None:
    workshop = Workshop()
    async with town(workshop.router) as here:
        client = await client_of(here, way)
        task_id = await start(client, "ask_many", groups=[["a", "b"]])
        state = await get(client, task_id)
        malformed: list[Any] = [None, 1, [], {}, {"action": "perhaps"}, {"action": 1}]
        for bad in malformed:
            for answers in ({"a": bad}, {"a": accept(name="x"), "b": bad}, {"a": bad, "c": {}}):
                assert (await update(client, task_id, answers)).code == -32602
                assert await get(client, task_id) == state
        await update(client, task_id, {"a": DECLINE, "b": DECLINE})
        assert workshop.log == [["decline", "decline"]]


@BOTH
async def test_answers_have_no_effect_on_the_questions_of_others(
    way: str, autojump_clock: MockClock
) -> None:
    async with town(Workshop().router) as here:
        client = await client_of(here, way)
        one, other = await start(client, "ask"), await start(client, "ask")
        await update(client, one, {"name": accept(name="x")})
        assert await status(client, other) == "input_required"
        assert text_in(await get(client, one)) == "x"


@BOTH
async def test_a_client_that_cannot_answer_gets_the_questions_all_the_same(
    way: str, autojump_clock: MockClock
) -> None:
    async with town(Workshop().router) as here:
        client = await client_of(here, way)
        task_id = await start(client, "ask")
        state = await get(client, task_id)
        less = {"extensions": WITH_TASKS["extensions"]}
        call = await ask_for(client, task_id, capabilities=less)
        assert call.result["inputRequests"] == state["inputRequests"]


@BOTH
async def test_a_question_that_the_client_of_the_call_cannot_answer_fails(
    way: str, autojump_clock: MockClock
) -> None:
    async with town(Workshop().router) as here:
        client = await client_of(here, way)
        client.capabilities = {"extensions": WITH_TASKS["extensions"]}
        task_id = await start(client, "ask")
        state = await get(client, task_id)
        assert state["status"] == "failed"
        assert state["error"]["code"] == -32021
        needed: dict[str, Any] = {"requiredCapabilities": {"elicitation": {}}}
        assert state["error"]["data"] == needed


@BOTH
async def test_a_question_is_withdrawn_when_its_time_is_over(
    way: str, autojump_clock: MockClock
) -> None:
    router = Router("test")

    @router.tool(task="required")
    async def work(ctx: RequestContext) -> str:
        with pytest.raises(QuestionTimeout, match="no answer to elicitation/create within 10 s"):
            await ctx.elicit("?", SCHEMA, key="a", timeout=10)
        await trio.sleep(10)
        return "without"

    async with town(router) as here:
        client = await client_of(here, way)
        task_id = await start(client, "work")
        await trio.sleep(9.9)
        assert list(await asked(client, task_id)) == ["a"]
        await trio.sleep(0.2)
        assert await status(client, task_id) == "working"
        assert acknowledged(await update(client, task_id, {"a": DECLINE}))
        await trio.sleep(10)
        assert text_in(await get(client, task_id)) == "without"


@BOTH
async def test_a_task_with_more_open_questions_than_its_limit_fails(
    way: str, autojump_clock: MockClock
) -> None:
    limits = SessionLimits(max_questions=3)
    async with town(Workshop().router, limits=limits) as here:
        client = await client_of(here, way)
        fits = await start(client, "ask_many", groups=[["a", "b"], ["c"]])
        assert len(await asked(client, fits)) == 3
        too_many = await start(client, "ask_many", groups=[["a", "b"], ["c", "d"]])
        assert complaint_in(await get(client, too_many)).startswith("3 questions ")
        # Answers make room.
        await update(client, fits, {"c": DECLINE})
        assert list(await asked(client, fits)) == ["a", "b"]


async def test_a_question_that_fails_when_it_is_asked_does_not_stay_open(
    autojump_clock: MockClock,
) -> None:
    workshop = Workshop()
    told: list[str] = []

    @workshop.router.tool(task="required")
    async def fails_once(ctx: RequestContext) -> None:
        task = ctx._request.task
        assert task is not None
        on_change = task._on_change

        def fail(_: object) -> None:
            task._on_change = on_change
            raise MemoryError

        task._on_change = fail
        with pytest.raises(MemoryError):
            await ctx.elicit("?", SCHEMA, key="a")
        told.append(task.status.value)
        await workshop.gate.wait()

    async with town(workshop.router) as here:
        client = await client_of(here, "pipe")
        task_id = await start(client, "fails_once")
        assert told == ["working"]
        assert "inputRequests" not in await get(client, task_id)


@BOTH
async def test_a_question_that_does_not_encode_is_an_error_of_the_handler(
    way: str, autojump_clock: MockClock
) -> None:
    router = Router("test")

    @router.tool(task="required")
    async def work(ctx: RequestContext) -> None:
        await ctx._request.ask("elicitation/create", {"message": object()})

    async with town(router) as here:
        client = await client_of(here, way)
        task_id = await start(client, "work")
        assert complaint_in(await get(client, task_id)).endswith("failed with an internal error")
        assert isinstance(here.crash(), TypeError)


@BOTH
async def test_answers_need_room(way: str, autojump_clock: MockClock) -> None:
    limits = SessionLimits(max_session_bytes=40_000, max_party_bytes=40_000)
    workshop = Workshop()
    async with town(workshop.router, limits=limits) as here:
        client = await client_of(here, way, "ann")
        task_id = await start(client, "ask_many", groups=[["a", "b"]])
        before = here.manager.statistics().bytes_held
        await update(client, task_id, {"a": accept(name="x" * 5_000)})
        assert here.manager.statistics().bytes_held > before + 5_000
        state = await get(client, task_id)
        refused = await update(client, task_id, {"b": accept(name="x" * 30_000)})
        assert refused.code == -32603
        assert await get(client, task_id) == state
        await update(client, task_id, {"b": accept(name="x" * 5_000)})
        assert (await get(client, task_id))["status"] == "completed"
        assert workshop.log == [["x" * 5_000] * 2]
        # They count until the handler has them.
        assert here.manager.statistics().bytes_held < 2_000


@BOTH
async def test_answers_that_wait_count_although_others_of_the_same_message_are_taken(
    way: str, autojump_clock: MockClock
) -> None:
    workshop = Workshop()
    async with town(workshop.router) as here:
        client = await client_of(here, way, "ann")
        task_id = await start(client, "ask_many", groups=[["a"], ["b", "c"]])
        before = here.manager.statistics().bytes_held
        await update(client, task_id, {"a": DECLINE, "b": accept(name="x" * 50_000)})
        assert workshop.log == [["decline"]]
        assert here.manager.statistics().bytes_held > before + 50_000
        await update(client, task_id, {"c": DECLINE})
        assert here.manager.statistics().bytes_held < 2_000


@BOTH
@pytest.mark.parametrize("asks", ["asks", "returns"])
async def test_a_cancelled_task_asks_nothing(
    asks: str, way: str, autojump_clock: MockClock
) -> None:
    router, log = Router("test"), []

    @router.tool(task="required")
    async def work(ctx: RequestContext) -> InputRequired:
        try:
            await ctx.elicit("?", SCHEMA, key="first")
        except trio.Cancelled:  # noqa: ASYNC103  # the handler answers its cancellation
            if asks == "asks":
                await ask_again(ctx)  # noqa: ASYNC102  # the handler ends late on purpose
        return InputRequired(Elicitation("?", SCHEMA, key="second"))

    async def ask_again(ctx: RequestContext) -> None:
        with trio.CancelScope(shield=True):  # noqa: ASYNC912  # the handler is to ignore its cancellation
            try:
                await ctx.elicit("?", SCHEMA, key="second")
            except NoChannel as error:
                log.append(str(error))
        with pytest.raises(trio.Cancelled):
            await ctx.elicit("?", SCHEMA, key="third")
        log.append("cancelled")

    async with town(router) as here:
        client = await client_of(here, way)
        task_id = await start(client, "work")
        assert list(await asked(client, task_id)) == ["first"]
        await cancel(client, task_id)
        assert await status(client, task_id) == "cancelled: cancelled by the client"
        said = ["the task was cancelled, or has ended", "cancelled"]
        assert log == (said if asks == "asks" else [])


@BOTH
async def test_a_question_in_a_shield_can_be_answered_after_a_cancellation(
    way: str, autojump_clock: MockClock
) -> None:
    router = Router("test")

    @router.tool(task="required")
    async def work(ctx: RequestContext) -> str:
        with trio.CancelScope(shield=True):
            answer: ElicitResult[Any] = await ctx.elicit("?", SCHEMA, key="name")
        return name_in(answer)

    async with town(router) as here:
        client = await client_of(here, way)
        task_id = await start(client, "work")
        await cancel(client, task_id)
        assert list(await asked(client, task_id)) == ["name"]
        await update(client, task_id, {"name": accept(name="Ada")})
        assert text_in(await get(client, task_id)) == "Ada"


@BOTH
@pytest.mark.parametrize("how", ["terminate", "drain"])
async def test_a_question_in_a_shield_fails_when_the_task_is_ended(
    how: str, way: str, autojump_clock: MockClock
) -> None:
    router, log = Router("test"), []

    @router.tool(task="required")
    async def work(ctx: RequestContext) -> None:
        for _ in range(2):
            with trio.CancelScope(shield=True):  # noqa: ASYNC912  # the handler is to ignore its cancellation
                try:
                    await ctx.elicit("?", SCHEMA)
                except Exception as error:
                    log.append(type(error).__name__)

    async with town(router) as here:
        client = await client_of(here, way, "ann")
        task_id = await start(client, "work")
        if how == "terminate":
            here.manager.terminate_session(task_id)
            await wait_all_tasks_blocked()
        else:
            await here.manager.drain(grace=1)
        assert log == ["SessionTerminated"] * 2


@BOTH
async def test_a_handler_asks_nothing_when_it_has_ended(
    way: str, autojump_clock: MockClock
) -> None:
    router, contexts = Router("test"), []

    @router.tool(task="required")
    async def work(ctx: RequestContext) -> None:
        contexts.append(ctx)

    async with town(router) as here:
        client = await client_of(here, way)
        task_id = await start(client, "work")
        (ctx,) = contexts
        with pytest.raises(NoChannel):
            await ctx.elicit("?", SCHEMA)
        task = ctx._request.task
        assert task is not None
        with pytest.raises(NoChannel, match="has ended"):
            await task.ask({})
        await ctx.progress(1)
        assert (await get(client, task_id))["status"] == "completed"


@BOTH
async def test_the_time_of_questions_is_told_to_middleware(
    way: str, autojump_clock: MockClock
) -> None:
    router, seen = Router("test"), []

    @router.tool(task="optional")
    async def work(ctx: RequestContext) -> None:
        await ctx.elicit("?", SCHEMA, key="a")
        await trio.sleep(1)  # It becomes a task.
        await ctx.elicit("?", SCHEMA, key="b")
        await trio.sleep(1)
        seen.append((ctx.suspended_for, ctx.time_left))

    async with town(router, cleanup=CleanupConfig(task_timeout=1_000)) as here:
        client = await client_of(here, way)
        call = await client.call("work")
        await trio.sleep(10)
        again = await client.retry(call, {"a": DECLINE})
        await trio.sleep(6)
        task_id = again.result["taskId"]
        await update(client, task_id, {"b": DECLINE})
        await trio.sleep(2)
        assert seen == [(15, 993.5)]
        assert ALL.keys() < WITH_TASKS.keys()
