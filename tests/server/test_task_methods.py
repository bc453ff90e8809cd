"""``tasks/get``, ``tasks/update`` and ``tasks/cancel``: what they refuse, and in which order."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.helpers import connect, modern
from tests.rounds import ALL, Call, Town, Way, accept, town
from tests.tasking import (
    BOTH,
    NEEDED,
    TASKS,
    UNKNOWN,
    WITH_TASKS,
    Workshop,
    acknowledged,
    ask_for,
    cancel,
    client_of,
    get,
    start,
    status,
    text_in,
    the_task,
    update,
)
from tests.transports.http.asgi_client import Client
from tests.transports.http.modern import headers_of
from trio_mcp_session import CleanupConfig, Principal, RequestContext, Router, SessionKind
from trio_mcp_session.server.task_methods import find_task

METHODS = ("tasks/get", "tasks/update", "tasks/cancel")
ALL_METHODS = pytest.mark.parametrize("method", METHODS)
PARAMS: Mapping[str, Any] = {"inputResponses": {}}


async def ask(client: Way, method: str, task_id: object, **more: Any) -> Call:
    """Send one of the methods with what it needs."""
    return await client.begin(method, {"taskId": task_id, **PARAMS}, **more)


# Negotiation.


@BOTH
async def test_the_extension_is_advertised_as_an_empty_object(
    way: str, autojump_clock: MockClock
) -> None:
    async with town(Workshop().router) as here:
        client = await here.way(way)
        found = await client.begin("server/discover")
        capabilities = found.result["capabilities"]
        assert capabilities["extensions"] == {TASKS: {}}
        assert "tasks" not in capabilities


@BOTH
@ALL_METHODS
async def test_the_extension_has_to_be_declared_with_each_request(
    method: str, way: str, autojump_clock: MockClock
) -> None:
    async with town(Workshop().router) as here:
        client = await client_of(here, way)
        task_id = await start(client, "work")
        # Before the id is looked at, or any other parameter.
        for params in ({"taskId": task_id, **PARAMS}, {"taskId": "unknown"}, {"taskId": 1}, {}):
            for capabilities in (
                ALL,
                {**ALL, "extensions": {}},
                {**ALL, "tasks": {}},
                {**ALL, "extensions": {TASKS: None}},
                {**ALL, "extensions": {TASKS: True}},
                {**ALL, "extensions": {f"{TASKS}/more": {}}},
            ):
                refused = await client.begin(method, params, capabilities=capabilities)
                assert refused.code == -32021
                assert refused.answer["error"]["data"] == NEEDED
                if way == "http":
                    assert refused.status == 400
        assert await status(client, task_id) == "working"


@BOTH
async def test_a_client_may_declare_settings_of_the_extension(
    way: str, autojump_clock: MockClock
) -> None:
    async with town(Workshop().router) as here:
        client = await client_of(here, way)
        client.capabilities = {"extensions": {TASKS: {"anything": 1}}}
        task_id = await start(client, "work")
        assert await status(client, task_id) == "working"


@BOTH
@pytest.mark.parametrize("method", [*METHODS, "tasks/result", "tasks/list"])
async def test_a_server_without_tasks_does_not_know_the_methods(
    method: str, way: str, autojump_clock: MockClock
) -> None:
    router = Router("none")

    @router.tool()
    def one() -> None: ...

    async with town(router) as here:
        client = await client_of(here, way)
        found = await client.begin("server/discover")
        assert "extensions" not in found.result["capabilities"]
        assert (await ask(client, method, "any")).error == (-32601, "Method not found")


@BOTH
@pytest.mark.parametrize("method", ["tasks/result", "tasks/list"])
async def test_the_methods_of_earlier_drafts_do_not_exist(
    method: str, way: str, autojump_clock: MockClock
) -> None:
    async with town(Workshop().router) as here:
        client = await client_of(here, way)
        task_id = await start(client, "work")
        assert (await ask(client, method, task_id)).code == -32601


async def test_the_methods_do_not_exist_for_clients_of_earlier_revisions(
    autojump_clock: MockClock,
) -> None:
    async with town(Workshop().router) as here:
        peer = await connect(here.manager)
        said = await peer.establish(
            "2025-11-25", {"tasks": {"list": {}}, "extensions": {TASKS: {}}}
        )
        assert "tasks" not in said["capabilities"]
        assert "extensions" not in said["capabilities"]
        for method in METHODS:
            answer = await peer.ask(method, method, {"taskId": "x"})
            assert answer["error"]["code"] == -32601
        await peer.channel.aclose()


@BOTH
async def test_tasks_of_mounted_routers_count(way: str, autojump_clock: MockClock) -> None:
    outer, inner = Router("outer"), Workshop()
    outer.mount(inner.router, prefix="in")
    async with town(outer) as here:
        client = await client_of(here, way)
        found = await client.begin("server/discover")
        assert found.result["capabilities"]["extensions"] == {TASKS: {}}
        task_id = await start(client, "in_work", seconds=1)
        assert here.manager.list_tasks()[0].name == "tool 'in_work'"
        await trio.sleep(1)
        assert text_in(await get(client, task_id)) == "done"


# Ids.


LONG_IDS = ["x" * 10_240, "naïve ☃ \U0001f600", "", "\x00", "../..", "not-there"]


@BOTH
@ALL_METHODS
@pytest.mark.parametrize("task_id", LONG_IDS, ids=range(len(LONG_IDS)))
async def test_any_text_is_an_unknown_id(
    task_id: str, method: str, way: str, autojump_clock: MockClock
) -> None:
    async with town(Workshop().router) as here:
        client = await client_of(here, way)
        refused = await ask(client, method, task_id)
        assert refused.error == UNKNOWN
        assert "data" not in refused.answer["error"]


@BOTH
@ALL_METHODS
@pytest.mark.parametrize("task_id", [1, 1.5, None, True, ["x"], {"x": 1}], ids=str)
async def test_an_id_has_to_be_a_text(
    task_id: object, method: str, way: str, autojump_clock: MockClock
) -> None:
    async with town(Workshop().router) as here:
        client = await client_of(here, way)
        refused = await ask(client, method, task_id)
        assert refused.error == (-32602, "taskId must be a string")
        assert (await client.begin(method)).error == (-32602, "taskId must be a string")


@BOTH
@ALL_METHODS
async def test_unknown_foreign_and_expired_ids_are_answered_with_the_same(
    method: str, way: str, autojump_clock: MockClock
) -> None:
    cleanup = CleanupConfig(task_retention=10, cleanup_interval=1)
    async with town(Workshop().router, cleanup=cleanup) as here:
        ann, bob = await client_of(here, way, "ann"), await client_of(here, way, "bob")
        old = await start(ann, "work", seconds=0)
        await trio.sleep(20)
        working = await start(ann, "work")
        answers = [
            (await ask(client, method, task_id, request_id="same")).answer
            for client, task_id in [(ann, "unknown"), (ann, old), (bob, working), (bob, old)]
        ]
        assert answers[0]["error"] == {"code": UNKNOWN[0], "message": UNKNOWN[1]}
        assert all(one == answers[0] for one in answers)
        # Neither does the order of the checks tell them apart.
        bad = [
            (
                await client.begin(
                    method, {"taskId": task_id, "inputResponses": 1}, request_id="same"
                )
            ).answer
            for client, task_id in [(ann, "unknown"), (ann, old), (bob, working)]
        ]
        assert all(one == answers[0] for one in bad)
        assert await status(ann, working) == "working"


@BOTH
async def test_the_session_of_something_else_is_not_a_task(
    way: str, autojump_clock: MockClock
) -> None:
    router = Workshop().router

    @router.tool()
    async def parks(ctx: RequestContext) -> None:
        await ctx.list_roots()

    async with town(router) as here:
        client = await client_of(here, way, "ann")
        await client.call("parks")
        for session in here.manager.sessions():
            for method in METHODS:
                assert (await ask(client, method, session.session_id)).error == UNKNOWN


async def test_clients_of_one_principal_share_its_tasks_on_all_ways(
    autojump_clock: MockClock,
) -> None:
    async with town(Workshop().router) as here:
        clients = [await client_of(here, way, "ann") for way in ("pipe", "http", "pipe")]
        for starter in clients:
            task_id = await start(starter, "work")
            assert [await status(one, task_id) for one in clients] == ["working"] * 3


async def test_a_task_without_authentication_belongs_to_its_pipe(
    autojump_clock: MockClock,
) -> None:
    async with town(Workshop().router) as here:
        one, other = await client_of(here, "pipe"), await client_of(here, "pipe")
        http, named = await client_of(here, "http"), await client_of(here, "http", "ann")
        task_id = await start(one, "work")
        for method in METHODS:
            for client in (other, http, named):
                assert (await ask(client, method, task_id)).error == UNKNOWN
        assert await status(one, task_id) == "working"


async def test_without_authentication_over_http_the_id_is_the_secret(
    autojump_clock: MockClock,
) -> None:
    async with town(Workshop().router) as here:
        one, other = await client_of(here, "http"), await client_of(here, "http")
        pipe, named = await client_of(here, "pipe"), await client_of(here, "http", "ann")
        task_id = await start(one, "work")
        assert len(task_id) >= 128 / 6  # 128 bits and more, in Base64
        assert task_id.isascii()
        assert task_id.replace("-", "").replace("_", "").replace(".", "").isalnum()
        assert await status(other, task_id) == "working"
        for client in (pipe, named):
            assert (await ask_for(client, task_id)).error == UNKNOWN


async def test_a_task_that_is_being_opened_is_unknown(autojump_clock: MockClock) -> None:
    async with town(Workshop().router) as here:
        async with here.manager.open_session() as session:
            assert find_task(here.manager, session.session_id, None) is None
        # Its session is there, and the task is not yet.
        async with here.manager.open_session(kind=SessionKind.TASK) as session:
            assert find_task(here.manager, session.session_id, None) is None
            assert here.manager.list_tasks() == []
            assert not here.manager.cancel_task(session.session_id)


# Reading.


@BOTH
async def test_a_thousand_polls_change_nothing(way: str, autojump_clock: MockClock) -> None:
    async with town(Workshop().router, cleanup=CleanupConfig(task_retention=10)) as here:
        client = await client_of(here, way, "ann")
        working, over = await start(client, "work"), await start(client, "work", seconds=1)
        asking = await start(client, "ask")
        await trio.sleep(1)
        for task_id in (working, over, asking):
            first = await get(client, task_id)
            held = here.manager.statistics().bytes_held
            for number in range(1_000):
                call = await ask_for(client, task_id, request_id=number)
                result = dict(call.result)
                del result["resultType"], result["_meta"]
                assert result == first
            assert here.manager.statistics().bytes_held == held
        # Not even its end is later than it was.
        await trio.sleep(10.1)
        assert (await ask_for(client, over)).error == UNKNOWN


@BOTH
async def test_the_moment_a_call_is_answered_its_task_is_there(
    way: str, autojump_clock: MockClock
) -> None:
    workshop = Workshop()
    async with town(workshop.router) as here:
        client = await client_of(here, way)
        found: list[Any] = []

        @workshop.router.tool(task="required")
        async def looks(ctx: RequestContext) -> None:
            assert ctx.task is not None
            found.append(find_task(here.manager, ctx.task.task_id, ctx.principal))

        await start(client, "looks")
        assert found[0] is not None


# Answers.


@BOTH
async def test_ten_thousand_unknown_keys_are_ignored(way: str, autojump_clock: MockClock) -> None:
    async with town(Workshop().router) as here:
        client = await client_of(here, way)
        task_id = await start(client, "ask")
        before = await get(client, task_id)
        unknown = {f"key {number}": {"ignored": True} for number in range(10_000)}
        assert acknowledged(await update(client, task_id, unknown))
        assert await get(client, task_id) == before
        assert acknowledged(await update(client, task_id, {**unknown, "name": accept(name="x")}))
        assert text_in(await get(client, task_id)) == "x"


@BOTH
@pytest.mark.parametrize("answers", [None, [], "x", 1, True], ids=str)
async def test_answers_have_to_be_an_object(
    answers: object, way: str, autojump_clock: MockClock
) -> None:
    async with town(Workshop().router) as here:
        client = await client_of(here, way)
        for tool in ("ask", "work"):
            task_id = await start(client, tool)
            refused = await update(client, task_id, answers)
            assert refused.error == (-32602, "inputResponses must be an object")
            missing = await client.begin("tasks/update", {"taskId": task_id})
            assert missing.error == refused.error


@BOTH
async def test_answers_to_a_task_that_asks_nothing_are_ignored(
    way: str, autojump_clock: MockClock
) -> None:
    async with town(Workshop().router) as here:
        client = await client_of(here, way)
        for seconds in (0, 1_000):
            task_id = await start(client, "work", seconds=seconds)
            before = await get(client, task_id)
            for answers in ({}, {"name": accept(name="x")}, {"unknown-key": {"ignored": True}}):
                assert acknowledged(await update(client, task_id, answers))
            assert await get(client, task_id) == before


@BOTH
async def test_a_cancellation_is_acknowledged_as_often_as_it_comes(
    way: str, autojump_clock: MockClock
) -> None:
    workshop = Workshop()
    async with town(workshop.router) as here:
        client = await client_of(here, way)
        for tool, arguments in [
            ("work", {}),
            ("work", {"seconds": 0}),
            ("stubborn", {"seconds": 9}),
        ]:
            task_id = await start(client, tool, **arguments)
            for _ in range(3):
                assert acknowledged(await cancel(client, task_id))
            final = await get(client, task_id)
            assert acknowledged(await cancel(client, task_id))
            assert await get(client, task_id) == final
        assert workshop.log == ["began", "cancelled", "began"]


class Odd(str):
    """The subject of a principal that the application made."""

    __slots__ = ()
    fails = False
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        if Odd.fails:
            raise OSError("cannot be compared")
        return str.__eq__(self, other)


async def test_a_principal_that_cannot_be_compared_fails_only_the_request(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with town(Workshop().router) as here:
        peer = await connect(here.manager, principal=Principal(Odd("ann")))
        call = modern(0, "tools/call", {"name": "work"}, capabilities=WITH_TASKS)
        await peer.send(call)
        task_id = (await peer.receive())["result"]["taskId"]
        # Equal, and another object: one object need not be compared with itself.
        the_task(here).principal = Principal(Odd("ann"))
        monkeypatch.setattr(Odd, "fails", True)
        await peer.send(modern(1, "tasks/get", {"taskId": task_id}, capabilities=WITH_TASKS))
        answer = await peer.receive()
        monkeypatch.undo()
        assert answer["error"] == {"code": -32603, "message": "Internal error"}
        assert isinstance(here.crash(), OSError)
        await peer.send(modern(2, "tasks/get", {"taskId": task_id}, capabilities=WITH_TASKS))
        assert (await peer.receive())["result"]["status"] == "working"
        await peer.channel.aclose()


# The header.


Headers = Callable[[str], str | None]
SAME: Mapping[str, Headers] = {
    "absent": lambda _: None,
    "the id": lambda task_id: task_id,
    "encoded": lambda task_id: f"=?base64?{encoded(task_id)}?=",
}
OTHER: Mapping[str, Headers] = {
    "another": lambda _: "another",
    "empty": lambda _: "",
    "longer": lambda task_id: f"{task_id}x",
    "encoded": lambda task_id: f"=?base64?{encoded(task_id + 'x')}?=",
    "malformed": lambda _: "=?base64?*?=",
}


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


async def with_header(
    here: Town, method: str, task_id: object, name: str | None, capabilities: Any = WITH_TASKS
) -> tuple[int, Any]:
    message = modern(1, method, {"taskId": task_id, **PARAMS}, capabilities=capabilities)
    headers = headers_of(message, mcp_name=name)
    response = await Client(here.app).request("POST", message, headers=headers)
    return response.status, json.loads(response.body)


@ALL_METHODS
@pytest.mark.parametrize("header", SAME)
async def test_the_name_in_the_header_may_be_missing(
    header: str, method: str, autojump_clock: MockClock
) -> None:
    async with town(Workshop().router) as here:
        client = await client_of(here, "http")
        task_id = await start(client, "work")
        code, answer = await with_header(here, method, task_id, SAME[header](task_id))
        assert code == 200
        assert "result" in answer


@ALL_METHODS
@pytest.mark.parametrize("header", OTHER)
async def test_another_name_in_the_header_is_refused_before_anything_else(
    header: str, method: str, autojump_clock: MockClock
) -> None:
    async with town(Workshop().router) as here:
        client = await client_of(here, "http")
        task_id = await start(client, "work")
        for named in (task_id, "unknown"):
            for capabilities in (WITH_TASKS, {}):
                code, answer = await with_header(
                    here, method, named, OTHER[header](named), capabilities
                )
                assert (code, answer["error"]["code"]) == (400, -32020)
        assert await status(client, task_id) == "working"


async def test_without_an_id_the_name_in_the_header_is_not_looked_at(
    autojump_clock: MockClock,
) -> None:
    async with town(Workshop().router) as here:
        _, answer = await with_header(here, "tasks/get", 1, "x")
        assert answer["error"] == {"code": -32602, "message": "taskId must be a string"}


async def test_a_name_that_is_not_ascii_is_compared_decoded(autojump_clock: MockClock) -> None:
    async with town(Workshop().router) as here:
        name = f"=?base64?{encoded('☃')}?="
        _, answer = await with_header(here, "tasks/get", "☃", name)
        assert (answer["error"]["code"], answer["error"]["message"]) == UNKNOWN
