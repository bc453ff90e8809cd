"""The example of tasks: clients with and without tasks, in virtual time and as processes."""

from __future__ import annotations

import importlib.util
import signal
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from types import ModuleType
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.examples.test_examples import EXAMPLES, running
from tests.examples.test_http_examples import HttpClient
from trio_mcp_session import McpError, SessionManager, TaskStatus, open_session_manager
from trio_mcp_session.testing import (
    Client,
    ClientEraName,
    check_leaks,
    connect_client,
    connect_http_client,
)

PREFIX = "io.modelcontextprotocol/"
ACCEPTED: dict[str, Any] = {"action": "accept", "content": {}}
PUBLISHED = "Built and published 4 modules."
Connecting = partial[AbstractAsyncContextManager[Client[Any]]]


@pytest.fixture
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build", EXAMPLES / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def accept(question: dict[str, Any]) -> dict[str, Any]:
    await trio.sleep(20)  # A person thinks.
    assert question["message"].endswith("?")
    return {"action": "accept", "content": {}}


def clients(manager: SessionManager) -> Mapping[str, Connecting]:
    """One of each kind, in memory and over HTTP."""
    ways: dict[str, Any] = {"in memory": connect_client, "over HTTP": connect_http_client}
    kinds: list[tuple[str, ClientEraName, bool]] = [
        ("legacy", "legacy", False),
        ("without tasks", "modern", False),
        ("with tasks", "modern", True),
    ]
    return {
        f"{kind} {way}": partial(connect, manager, era=era, tasks=tasks)
        for way, connect in ways.items()
        for kind, era, tasks in kinds
    }


async def test_a_build_has_the_same_result_for_every_client(
    example: ModuleType, autojump_clock: MockClock
) -> None:
    async with (
        check_leaks(strict=True),
        open_session_manager(example.router, config=example.CONFIG) as manager,
    ):
        for kind, connect in clients(manager).items():
            began = trio.current_time()
            async with connect(elicit=accept) as client:
                result = await client.call_tool("build", {"target": "release"})
                assert (kind, result.text) == (kind, PUBLISHED)
                # Five steps, and the time to think. A client with tasks asks each second.
                assert 0 <= trio.current_time() - began - 45 <= 2
            assert example.MACHINES.borrowed_tokens == 0
        names = [one.name for one in manager.list_tasks()]
        assert set(names) == {"tool 'build'"}


async def test_what_requires_a_task_is_refused_to_modern_clients_without_only(
    example: ModuleType, autojump_clock: MockClock
) -> None:
    async with open_session_manager(example.router, config=example.CONFIG) as manager:
        for kind, connect in clients(manager).items():
            async with connect(elicit=accept) as client:
                if kind.startswith("without"):
                    with pytest.raises(McpError) as caught:
                        await client.call_tool("delete_builds")
                    assert caught.value.code == -32021
                else:
                    assert (await client.call_tool("delete_builds")).text == "Deleted 3 builds."


async def test_a_build_is_watched_and_asks_in_its_middle(
    example: ModuleType, autojump_clock: MockClock
) -> None:
    async with open_session_manager(example.router, config=example.CONFIG) as manager:
        async with clients(manager)["with tasks over HTTP"](elicit=accept) as client:
            task = await client.start_task("build", {"target": "release"})
            async with task.listen() as updates:
                asked = await updates.wait(TaskStatus.INPUT_REQUIRED)
                (question,) = asked.questions.values()
                assert question["params"]["message"] == "All modules are built. Publish them?"
                await task.answer({"action": "decline"})
                ended = await updates.wait()
            messages = [one.message for one in updates.all]
            assert messages[:2] == ["compiling parser", "compiling compiler"]
            assert ended.result is not None
            assert ended.result.text == "Built 4 modules, and published nothing."
            # The result is kept for a quarter of an hour.
            await trio.sleep(14 * 60)
            assert (await task.get()).result == ended.result
            await trio.sleep(2 * 60)
            with pytest.raises(McpError, match="Unknown task"):
                await task.get()


async def test_a_build_that_is_cancelled_gives_its_machine_back(
    example: ModuleType, autojump_clock: MockClock
) -> None:
    async with open_session_manager(example.router, config=example.CONFIG) as manager:
        async with clients(manager)["with tasks over HTTP"]() as client:
            tasks = [await client.start_task("build") for _ in range(3)]
            waiting = await tasks[2].get()
            assert waiting.message == "waiting for a machine"
            await tasks[0].cancel()
            assert (await tasks[0].wait()).status is TaskStatus.CANCELLED
            await trio.sleep(1)
            assert (await tasks[2].get()).message == "compiling parser"
            assert [(await one.result()).text for one in tasks[1:]] == ["Built 4 modules."] * 2
        assert example.MACHINES.borrowed_tokens == 0


async def test_the_user_can_say_no_before_a_task_begins(
    example: ModuleType, autojump_clock: MockClock
) -> None:
    async def decline(_: dict[str, Any]) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        return {"action": "decline"}

    async with open_session_manager(example.router, config=example.CONFIG) as manager:
        async with clients(manager)["with tasks in memory"](elicit=decline) as client:
            told = await client.call_tool("delete_builds")
            assert (told.is_error, told.text) == (True, "the user did not agree")
        assert manager.list_tasks() == []


# As processes.


EXTENSIONS: dict[str, Any] = {f"{PREFIX}tasks": {}}
META = {
    f"{PREFIX}protocolVersion": "2026-07-28",
    f"{PREFIX}clientCapabilities": {"elicitation": {}, "extensions": EXTENSIONS},
}


async def test_a_task_over_pipes() -> None:
    async with running("build.py", "--step", "0.2") as program:
        client = program.client
        call = {"name": "build", "arguments": {"target": "release"}, "_meta": META}
        task = await client.request("tools/call", **call)
        assert (task["resultType"], task["status"]) == ("task", "working")
        task_id = task["taskId"]

        # The server sends each change.
        wanted = {"taskIds": [task_id]}
        listen = {"notifications": wanted, "_meta": META}
        await client.send(id="listening", method="subscriptions/listen", params=listen)
        assert (await client.next_note())["params"]["notifications"] == wanted
        while (now := (await client.next_note())["params"])["status"] == "working":
            pass
        assert now["status"] == "input_required"
        keys: list[str] = list(now["inputRequests"])
        answers: dict[str, Any] = dict.fromkeys(keys, ACCEPTED)
        await client.request("tasks/update", taskId=task_id, inputResponses=answers, _meta=META)
        while (now := (await client.next_note())["params"])["status"] == "working":
            pass
        assert now["result"]["content"][0]["text"] == PUBLISHED
        read = await client.request("tasks/get", taskId=task_id, _meta=META)
        assert read["result"] == now["result"]

        # One that works ends with the connection.
        await client.request("tools/call", **call)
        assert await program.leave() == 0
    assert not program.said


async def test_a_legacy_client_over_pipes_waits_for_the_result() -> None:
    async with running("build.py", "--step", "0.01") as program:
        await program.client.shake_hands("test")
        assert await program.client.call("build") == "Built 4 modules."
        assert await program.leave() == 0
    assert not program.said


async def test_a_task_over_http_and_the_end_of_the_program() -> None:
    async with running("build.py", "--http", "127.0.0.1:0", "--step", "0.2") as program:
        url = await program.wait_said("listening on ")

        async def ask(method: str, about: str, **params: Any) -> Any:
            headers = {
                "MCP-Protocol-Version": "2026-07-28",
                "Mcp-Method": method,
                "Mcp-Name": about,
            }
            client = HttpClient(url, more=headers)
            params["_meta"] = META
            return (await client.ask("POST", id=1, method=method, params=params)).result

        task = await ask("tools/call", "build", name="build", arguments={})
        assert task["resultType"] == "task"
        task_id = task["taskId"]
        now = task
        while now["status"] == "working":  # noqa: ASYNC110  # clients poll
            await trio.sleep(0.05)
            now = await ask("tasks/get", task_id, taskId=task_id)
        assert now["result"]["content"][0]["text"] == "Built 4 modules."

        # The program can end while another one works.
        await ask("tools/call", "build", name="build", arguments={})
        program.process.send_signal(signal.SIGTERM)
        assert await program.process.wait() == 0
    assert b"Traceback" not in program.said
