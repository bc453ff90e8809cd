"""Tasks over HTTP, on real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, final

import attrs
import pytest
import trio

from tests.helpers import ACKNOWLEDGED, brief, error
from tests.transports.http.live import SERVERS, Answer, ServerName, Wire, call, connect, guarded
from tests.transports.http.modern import TASKS, headers_of, modern
from tests.transports.http.site import bearer, token
from trio_mcp_session import (
    BoundAddress,
    CleanupConfig,
    Principal,
    RequestContext,
    Router,
    SessionConfig,
    SessionKind,
    SessionLimits,
    SessionManager,
    TaskStatus,
    open_session_manager,
    serve_http,
)
from trio_mcp_session.testing import find_leaks

UNKNOWN, MISSING, MISMATCH, NOT_FOUND = -32602, -32021, -32020, -32601
ABLE: Mapping[str, Any] = {"elicitation": {}, **TASKS}
METHODS = ("tasks/get", "tasks/update", "tasks/cancel")
"""Each of them takes `params_for` a task."""
QUICK = CleanupConfig(drain_grace=0)
NAME = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


def params_for(task_id: object) -> dict[str, Any]:
    return {"taskId": task_id, "inputResponses": {}}


@final
@attrs.define(eq=False)
class Client:
    """A client on a connection of its own; its requests are numbered."""

    wire: Wire
    headers: Mapping[str, str]
    capabilities: Mapping[str, Any] = ABLE
    _number: int = attrs.field(default=0, init=False)

    async def send(
        self, method: str, params: Mapping[str, Any], **headers: str | None
    ) -> tuple[Answer, Any]:
        """Make a request; return the response and the message, which has its id."""
        self._number += 1
        message = modern(self._number, method, params, capabilities=self.capabilities)
        sent = {**self.headers, **headers_of(message, **headers)}
        answer = await self.wire.request("POST", message, sent)
        told = answer.json
        assert told["id"] == self._number
        return answer, told

    async def ask(self, method: str, **params: object) -> Any:
        """Make a request; return the result."""
        answer, told = await self.send(method, params)
        assert answer.status == 200, told
        return told["result"]

    async def refused(
        self, method: str, params: Mapping[str, Any], **headers: str | None
    ) -> tuple[int, int]:
        """Make a request that is refused; return the status and the code."""
        answer, told = await self.send(method, params, **headers)
        assert isinstance(told["error"]["message"], str)
        return answer.status, told["error"]["code"]

    async def call(self, tool: str, **arguments: object) -> Any:
        return await self.ask("tools/call", **call(tool, **arguments))

    async def begin(self, tool: str, **arguments: object) -> str:
        """Call a tool that becomes a task; return its id."""
        result = await self.call(tool, **arguments)
        assert (result["resultType"], result["status"]) == ("task", "working")
        task_id: str = result["taskId"]
        return task_id

    async def get(self, task_id: str) -> Any:
        return await self.ask("tasks/get", taskId=task_id)

    async def until(self, task_id: str, status: str) -> Any:
        """Ask for a task until it has this status."""
        while (snapshot := await self.get(task_id))["status"] != status:
            pass
        return snapshot

    async def listen(self, *task_ids: str) -> tuple[int, Answer]:
        """Subscribe to tasks; return the id of the subscription, and its stream."""
        self._number += 1
        wanted = {"notifications": {"taskIds": list(task_ids)}}
        message = modern(self._number, "subscriptions/listen", wanted, capabilities=ABLE)
        sent = {**self.headers, **headers_of(message)}
        answer = await self.wire.begin("POST", message, sent)
        assert (await self.wire.message(answer))["method"] == ACKNOWLEDGED
        return self._number, answer


@final
@attrs.define(eq=False)
class Place:
    """A server on a real socket."""

    manager: SessionManager
    address: BoundAddress
    work: Work

    @asynccontextmanager
    async def client(
        self, subject: str | None = None, capabilities: Mapping[str, Any] = ABLE
    ) -> AsyncIterator[Client]:
        async with await connect(self.address) as wire:
            yield Client(wire, token(subject) if subject else {}, capabilities)

    def status_of(self, task_id: str) -> TaskStatus:
        (status,) = [one.status for one in self.manager.list_tasks() if one.task_id == task_id]
        return status


@final
@attrs.define(eq=False)
class Work:
    """What the tools of the server do."""

    begun: list[str] = attrs.field(factory=list[str])
    released: dict[str, trio.Event] = attrs.field(factory=dict[str, trio.Event])

    def of(self, name: str) -> trio.Event:
        return self.released.setdefault(name, trio.Event())

    def router(self) -> Router:
        router = Router("tasks", "1")

        @router.tool(structured=False)
        async def echo(text: str) -> str:
            return text

        @router.tool(structured=False, task="required")
        async def work(name: str) -> str:
            self.begun.append(name)
            await self.of(name).wait()
            return name

        @router.tool(structured=False, task="optional", promote_after=0)
        async def may_take_long(name: str) -> str:
            await self.of(name).wait()
            return name

        @router.tool(structured=False, task="required")
        async def report(ctx: RequestContext, name: str, times: int, size: int) -> str:
            await self.of(name).wait()
            for number in range(times):
                await ctx.progress(number, times, "x" * size)
            return name

        @router.tool(structured=False, task="required")
        async def ask(ctx: RequestContext) -> str:
            answer = await ctx.elicit("Who?", NAME, key="who")
            return f"{answer.action} {answer.content}"

        return router


@asynccontextmanager
async def serving(
    *, limits: SessionLimits | None = None, cleanup: CleanupConfig = QUICK, **settings: Any
) -> AsyncIterator[Place]:
    """Serve for the length of a block; in the end nothing is left."""
    work = Work()
    config = SessionConfig(limits=limits or SessionLimits(), cleanup=cleanup)
    async with guarded(), open_session_manager(work.router(), config=config) as manager:
        async with trio.open_nursery() as nursery:

            async def serve(  # noqa: ASYNC128  # handed on
                *, task_status: trio.TaskStatus[tuple[BoundAddress, ...]]
            ) -> None:
                await serve_http(manager, "127.0.0.1:0", **settings, task_status=task_status)

            (address,) = await nursery.start(serve)
            yield Place(manager, address, work)
            for event in work.released.values():
                event.set()
            await manager.drain()
            nursery.cancel_scope.cancel()
        assert manager.list_tasks() == []
        assert find_leaks(manager) == []


# Headers.


@pytest.mark.parametrize("method", METHODS)
async def test_a_task_method_with_another_name_in_its_header_is_refused(method: str) -> None:
    async with serving() as place, place.client() as client:
        task_id = await client.begin("work", name="a")
        params = params_for(task_id)
        for wrong in (f"{task_id}x", task_id[:-1], "", "=?base64?eA==?="):
            assert await client.refused(method, params, mcp_name=wrong) == (400, MISMATCH)
        assert await client.refused(method, params, mcp_method="tools/call") == (400, MISMATCH)
        assert place.status_of(task_id) is TaskStatus.WORKING


@pytest.mark.parametrize("method", METHODS)
async def test_a_task_method_without_a_name_in_its_header_is_served(method: str) -> None:
    async with serving() as place, place.client() as client:
        task_id = await client.begin("work", name="a")
        params = params_for(task_id)
        answer, told = await client.send(method, params, mcp_name=None)
        assert (answer.status, told["result"]["resultType"]) == (200, "complete")


async def test_removed_task_methods_are_unknown_whatever_their_headers_say() -> None:
    async with serving() as place, place.client() as client:
        task_id = await client.begin("work", name="a")
        for name in (None, task_id, "other"):
            for method in ("tasks/result", "tasks/list"):
                refused = await client.refused(method, {"taskId": task_id}, mcp_name=name)
                assert refused == (404, NOT_FOUND)


# Clients that did not declare the extension.


@pytest.mark.parametrize("task_id", ["unknown", 5, None])
async def test_a_client_without_the_extension_is_refused_before_a_task_is_looked_up(
    task_id: object,
) -> None:
    async with serving() as place, place.client(capabilities={"elicitation": {}}) as client:
        for method in METHODS:
            params = params_for(task_id)
            answer, told = await client.send(method, params, mcp_name=None)
            assert (answer.status, told["error"]["code"]) == (400, MISSING)
            assert told["error"]["data"] == {"requiredCapabilities": TASKS}


async def test_a_client_without_the_extension_cannot_listen_to_a_task_or_call_a_required_one() -> (
    None
):
    async with serving() as place, place.client(capabilities={}) as client:
        listen = {"notifications": {"taskIds": ["unknown"]}}
        assert await client.refused("subscriptions/listen", listen) == (400, MISSING)
        assert await client.refused("tools/call", call("work", name="a")) == (400, MISSING)
        assert place.work.begun == []
        place.work.of("b").set()
        assert (await client.call("may_take_long", name="b"))["content"][0]["text"] == "b"


async def test_a_declaration_is_not_remembered_on_the_connection() -> None:
    async with serving() as place, place.client() as client:
        task_id = await client.begin("work", name="a")
        client.capabilities = {}
        assert await client.refused("tasks/get", {"taskId": task_id}) == (400, MISSING)
        client.capabilities = ABLE
        assert (await client.get(task_id))["status"] == "working"


# Bad parameters.


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("task_id", ["unknown", "", "x" * 5_000, "é\n\u2028"])
async def test_an_unknown_task_is_refused_with_the_id_of_the_request(
    task_id: str, method: str
) -> None:
    async with serving() as place, place.client() as client:
        params = params_for(task_id)
        _, told = await client.send(method, params, mcp_name=None)
        assert brief(told) == error(1, UNKNOWN)
        assert (await client.call("echo", text="after"))["content"][0]["text"] == "after"


async def test_a_task_of_another_principal_is_unknown_in_the_same_words() -> None:
    async with (
        serving(authenticate=bearer) as place,
        place.client("ada") as ada,
        place.client("bob") as bob,
    ):
        task_id = await ada.begin("work", name="a")
        for method in METHODS:
            params = params_for(task_id)
            (_, foreign) = await bob.send(method, params)
            (_, unknown) = await bob.send(method, {**params, "taskId": "unknown"})
            assert foreign["error"] == unknown["error"]
        assert (await ada.get(task_id))["status"] == "working"


WRONG_IDS: list[object] = [None, 5, [], {}, True]
WRONG_ANSWERS: list[dict[str, Any]] = [
    {},
    {"inputResponses": None},
    {"inputResponses": []},
    {"inputResponses": "who"},
    {"inputResponses": {"who": None}},
    {"inputResponses": {"who": {"action": "perhaps"}}},
    {"inputResponses": {"who": {"action": ["accept"]}}},
    {"inputResponses": {"who": {"content": {"name": "Ada"}}}},
    {"inputResponses": {"other": {}, "who": {}}},
]


async def test_malformed_parameters_are_refused_with_the_id_of_the_request_and_change_nothing() -> (
    None
):
    async with serving() as place, place.client() as client:
        task_id = await client.begin("ask")
        before = await client.until(task_id, "input_required")
        wrong = [(method, {"taskId": one}) for method in METHODS for one in WRONG_IDS]
        wrong += [(method, {}) for method in METHODS]
        wrong += [("tasks/update", {"taskId": task_id, **one}) for one in WRONG_ANSWERS]
        for method, params in wrong:
            _, told = await client.send(method, params, mcp_name=None)
            assert told.get("error", {}).get("code") == UNKNOWN, (method, params, told)
        assert await client.get(task_id) == before
        answers = {"who": {"action": "accept", "content": {"name": "Ada"}}}
        await client.ask("tasks/update", taskId=task_id, inputResponses=answers)
        done = await client.until(task_id, "completed")
        assert done["result"]["content"][0]["text"] == "accept {'name': 'Ada'}"


@pytest.mark.parametrize("task_ids", ["x", {}, [5], [None], 5, ["x"] * 10_000])
async def test_a_subscription_with_malformed_task_ids_is_refused(task_ids: object) -> None:
    async with serving() as place, place.client() as client:
        params = {"notifications": {"taskIds": task_ids}}
        assert await client.refused("subscriptions/listen", params) == (200, UNKNOWN)
        assert place.manager.statistics().listens == 0


async def test_an_update_with_ten_thousand_keys_is_taken() -> None:
    unknown = {f"key {number}": {"ignored": True} for number in range(10_000)}
    async with serving() as place, place.client() as client:
        task_id = await client.begin("ask")
        await client.until(task_id, "input_required")
        done = await client.ask("tasks/update", taskId=task_id, inputResponses=unknown)
        assert done.keys() == {"resultType", "_meta"}
        assert (await client.get(task_id))["status"] == "input_required"
        answers = {**unknown, "who": {"action": "decline"}}
        await client.ask("tasks/update", taskId=task_id, inputResponses=answers)
        done = await client.until(task_id, "completed")
        assert done["result"]["content"][0]["text"] == "decline None"


# Many requests.


async def test_a_thousand_polls_beside_the_calls_of_another_client_are_all_answered() -> None:
    polled, called = 0, 0
    async with serving() as place, place.client() as owner, trio.open_nursery() as nursery:
        task_id = await owner.begin("work", name="a")
        over = trio.Event()

        async def poll() -> None:
            nonlocal polled
            async with place.client() as client:
                for _ in range(250):
                    assert (await client.get(task_id))["status"] == "working"
                    polled += 1

        async def call_all_the_time() -> None:
            nonlocal called
            async with place.client(capabilities={}) as client:
                while not over.is_set():
                    text = f"call {called}"
                    result = await client.call("echo", text=text)
                    assert result["content"][0]["text"] == text
                    called += 1

        nursery.start_soon(call_all_the_time)
        async with trio.open_nursery() as pollers:
            for _ in range(4):
                pollers.start_soon(poll)
        over.set()
        place.work.of("a").set()
        assert (await owner.until(task_id, "completed"))["result"]["content"][0]["text"] == "a"
    assert polled == 1_000
    assert called > 0


async def test_a_client_that_opens_tasks_up_to_the_limit_is_told_so_by_the_next_call() -> None:
    limits = SessionLimits(max_tasks_per_principal=3)
    async with (
        serving(limits=limits, authenticate=bearer) as place,
        place.client("ada") as ada,
        place.client("bob") as bob,
    ):
        ids = [await ada.begin("work", name=f"{number}") for number in range(3)]
        for _ in range(3):
            result = await ada.call("work", name="too many")
            assert result["isError"]
            assert "(limit: 3)" in result["content"][0]["text"]
        assert place.work.begun == ["0", "1", "2"]
        # A call that can do without a task does.
        place.work.of("short").set()
        assert (await ada.call("may_take_long", name="short"))["resultType"] == "complete"
        # Other clients are not affected, and a place is free when a task was removed.
        await bob.begin("work", name="bob's")
        assert [(await ada.get(one))["status"] for one in ids] == ["working"] * 3
        place.manager.terminate_session(ids[0])
        while len(place.manager.list_tasks()) == 4:  # noqa: ASYNC110  # nothing tells
            await trio.lowlevel.checkpoint()
        await ada.begin("work", name="again")


async def test_the_limit_on_all_tasks_holds_for_clients_without_a_principal() -> None:
    limits = SessionLimits(max_sessions_of={SessionKind.TASK: 2})
    async with serving(limits=limits) as place, place.client() as client:
        await client.begin("work", name="a")
        await client.begin("work", name="b")
        result = await client.call("work", name="c")
        assert result["isError"]
        assert place.work.begun == ["a", "b"]


# Clients that leave.


async def test_a_task_continues_when_its_client_leaves_right_after_it_was_made() -> None:
    async with serving() as place:
        for how in ("closes", "resets"):
            async with place.client() as client:
                task_id = await client.begin("work", name=how)
                if how == "resets":
                    await client.wire.reset()
            async with place.client() as another:
                assert (await another.get(task_id))["status"] == "working"
                place.work.of(how).set()
                done = await another.until(task_id, "completed")
                assert done["result"]["content"][0]["text"] == how


async def test_a_subscription_that_is_left_does_not_touch_its_task() -> None:
    async with serving() as place, place.client() as client:
        task_id = await client.begin("work", name="a")
        async with place.client() as listener:
            _, answer = await listener.listen(task_id, "unknown")
            snapshot = await listener.wire.message(answer)
            assert snapshot["params"]["status"] == "working"
            await listener.wire.reset()
        while place.manager.statistics().listens:  # noqa: ASYNC110  # nothing tells
            await trio.lowlevel.checkpoint()
        place.work.of("a").set()
        await client.until(task_id, "completed")


async def test_a_subscription_says_what_a_get_would() -> None:
    async with serving() as place, place.client() as client, place.client() as listener:
        task_id = await client.begin("ask")
        asked = await client.until(task_id, "input_required")
        number, answer = await listener.listen(task_id)
        assert pushed(await listener.wire.message(answer), number) == plain(asked)
        answers = {"who": {"action": "cancel"}}
        await client.ask("tasks/update", taskId=task_id, inputResponses=answers)
        assert (await listener.wire.message(answer))["params"]["status"] == "working"
        done = pushed(await listener.wire.message(answer), number)
        assert done == plain(await client.get(task_id))
        assert done["status"] == "completed"


async def test_a_subscriber_that_reads_slowly_gets_only_the_newest_snapshots() -> None:
    times = 3_000
    async with serving() as place, place.client() as client, place.client() as listener:
        task_id = await client.begin("report", name="a", times=times, size=20_000)
        number, answer = await listener.listen(task_id)
        place.work.of("a").set()
        done = await client.until(task_id, "completed")
        snapshots = [pushed(await listener.wire.message(answer), number)]
        while snapshots[-1]["status"] == "working":
            snapshots.append(pushed(await listener.wire.message(answer), number))
        assert snapshots[-1] == plain(done)
        # The buffers of the sockets hold some hundreds.
        assert 2 < len(snapshots) < times / 2
        assert place.manager.statistics().listens == 1


def pushed(message: Any, number: int) -> dict[str, Any]:
    """What a notification of a subscription says of a task."""
    assert message["method"] == "notifications/tasks"
    meta = message["params"]["_meta"]
    assert meta == {"io.modelcontextprotocol/subscriptionId": number}
    return {name: it for name, it in message["params"].items() if name != "_meta"}


def plain(result: Mapping[str, Any]) -> dict[str, Any]:
    """What a result says of a task."""
    return {name: it for name, it in result.items() if name not in ("resultType", "_meta")}


# The end of the server.


@pytest.mark.parametrize("server", SERVERS)
async def test_a_drain_pushes_the_end_of_a_task_before_the_stream_ends(
    server: ServerName,
) -> None:
    async with (
        serving(server=server) as place,
        place.client() as client,
        place.client() as listener,
    ):
        task_id = await client.begin("work", name="a")
        number, answer = await listener.listen(task_id)
        assert (await listener.wire.message(answer))["params"]["status"] == "working"
        await place.manager.drain()
        await hears_failure(listener, answer, number, task_id, "server is shutting down")


async def test_a_revocation_pushes_the_end_of_a_task_before_the_stream_ends() -> None:
    async with (
        serving(authenticate=bearer) as place,
        place.client("ada") as client,
        place.client("ada") as listener,
        place.client("bob") as bob,
    ):
        task_id, other = await client.begin("work", name="a"), await bob.begin("work", name="b")
        number, answer = await listener.listen(task_id)
        assert (await listener.wire.message(answer))["params"]["status"] == "working"
        place.manager.revoke(Principal("ada"))
        await hears_failure(listener, answer, number, task_id, "access was revoked")
        _, told = await client.send("tasks/get", {"taskId": task_id})
        assert brief(told) == error(2, UNKNOWN)
        assert (await bob.get(other))["status"] == "working"


async def test_a_task_that_is_terminated_is_pushed_as_failed_and_its_subscription_stays() -> None:
    async with serving() as place, place.client() as client, place.client() as listener:
        task_id = await client.begin("work", name="a")
        number, answer = await listener.listen(task_id)
        assert (await listener.wire.message(answer))["params"]["status"] == "working"
        place.manager.terminate_session(task_id)
        failed = pushed(await listener.wire.message(answer), number)
        assert (failed["status"], failed["statusMessage"]) == (
            "failed",
            "the server ended the task: requested",
        )
        assert place.manager.statistics().listens == 1


async def hears_failure(
    listener: Client, answer: Answer, number: int, task_id: str, why: str
) -> None:
    """The subscription says that the task has failed, and ends then."""
    failed = pushed(await listener.wire.message(answer), number)
    assert (failed["taskId"], failed["status"]) == (task_id, "failed")
    assert failed["error"] == {"code": -32603, "message": why}
    assert failed["statusMessage"] == why
    last = await listener.wire.message(answer)
    assert last["id"] == number
    assert "result" in last
    await listener.wire.to_the_end(answer)
