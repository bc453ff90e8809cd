"""Tasks in real server programs: on pipes, and when the process is told to end."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol, final

import attrs
import pytest
import trio

from tests.cli.programs import HttpClient, Program, running
from tests.helpers import ACKNOWLEDGED, SUBSCRIPTION_ID, brief, error, modern, notification
from tests.transports.http.live import Answer
from tests.transports.http.modern import TASKS, headers_of

TERM, INT = signal.SIGTERM, signal.SIGINT
UNKNOWN, MISSING = -32602, -32021
ABLE: Mapping[str, Any] = {"elicitation": {}, **TASKS}
METHODS = ("tasks/get", "tasks/update", "tasks/cancel")
LISTENING = "listen"
"""The id of the subscription."""

SERVER = """
import logging, sys
import trio
from trio_mcp_session import (
    CleanupConfig, RequestContext, Router, SessionConfig, run_http, run_stdio,
)

router = Router("toy", "1")


@router.tool()
async def echo(text: str) -> str:
    return text


@router.tool(task="required")
async def work(seconds: float) -> str:
    print("begun", file=sys.stderr, flush=True)
    await trio.sleep(seconds)
    return "done"


@router.tool(task="required")
async def refuse_to_end() -> str:
    print("begun", file=sys.stderr, flush=True)
    with trio.CancelScope(shield=True):
        await trio.sleep_forever()
    return "never"


@router.tool(task="required")
async def ask(ctx: RequestContext) -> str:
    answer = await ctx.elicit("Who?", {"type": "object", "properties": {}}, key="who")
    return answer.action


config = SessionConfig(cleanup=CleanupConfig(**eval(sys.argv[2])))
logging.basicConfig(level="DEBUG", format="%(message)s")
if sys.argv[1] == "stdio":
    run_stdio(router, config=config)
else:
    run_http(router, "127.0.0.1:0", config=config)
print("it returned", file=sys.stderr)
"""


class Peer(Protocol):
    """A client of such a program."""

    async def ask(self, request_id: object, method: str, **params: object) -> Any:
        """Make a request; return the answer."""

    async def listen(self, *task_ids: str) -> None:
        """Subscribe to tasks."""

    async def hear(self) -> Any:
        """Return the next message of the subscription."""

    async def hear_the_end(self) -> None:
        """Make sure that nothing else comes."""


@final
@attrs.define(eq=False)
class OnPipes:
    """A client at standard input and output. It waits for each answer."""

    program: Program

    async def ask(self, request_id: object, method: str, **params: object) -> Any:
        await self.send(request_id, method, params)
        return await self.program.stdio.receive()

    async def send(
        self,
        request_id: object,
        method: str,
        params: Mapping[str, object],
        capabilities: Mapping[str, Any] = ABLE,
    ) -> None:
        sent = modern(request_id, method, params, capabilities=capabilities)
        await self.write(sent)

    async def write(self, message: Any) -> None:
        await self.program.stdio.send(message["method"], message["params"], message.get("id"))

    async def listen(self, *task_ids: str) -> None:
        wanted = {"notifications": {"taskIds": task_ids}}
        answer = await self.ask(LISTENING, "subscriptions/listen", **wanted)
        assert answer["method"] == ACKNOWLEDGED

    async def hear(self) -> Any:
        return await self.program.stdio.receive()

    async def hear_the_end(self) -> None:
        assert await self.program.stdio.lines.rest() == []


@final
@attrs.define(eq=False)
class OverHttp:
    """A client over HTTP, with a connection for requests and one for its subscription."""

    client: HttpClient
    listener: HttpClient
    _stream: Answer | None = None

    async def ask(self, request_id: object, method: str, **params: object) -> Any:
        message = modern(request_id, method, params, capabilities=ABLE)
        return (await self.client.wire.request("POST", message, headers_of(message))).json

    async def listen(self, *task_ids: str) -> None:
        wanted = {"notifications": {"taskIds": task_ids}}
        message = modern(LISTENING, "subscriptions/listen", wanted, capabilities=ABLE)
        self._stream = await self.listener.wire.begin("POST", message, headers_of(message))
        assert (await self.hear())["method"] == ACKNOWLEDGED

    async def hear(self) -> Any:
        assert self._stream is not None
        return await self.listener.wire.message(self._stream)

    async def hear_the_end(self) -> None:
        assert self._stream is not None
        assert await self.listener.wire.to_the_end(self._stream) == b""


@asynccontextmanager
async def on_pipes(folder: Path, **clocks: float) -> AsyncIterator[tuple[Program, OnPipes]]:
    (folder / "toy.py").write_text(SERVER, "utf-8")
    async with running(["toy.py", "stdio", repr(clocks)], folder) as program:
        yield program, OnPipes(program)


@asynccontextmanager
async def over_http(folder: Path, **clocks: float) -> AsyncIterator[tuple[Program, OverHttp]]:
    (folder / "toy.py").write_text(SERVER, "utf-8")
    async with running(["toy.py", "http", repr(clocks)], folder) as program:
        line = await program.stderr.until("listening on")
        client, listener = await HttpClient.connect(line), await HttpClient.connect(line)
        async with client.wire, listener.wire:
            yield program, OverHttp(client, listener)


BOTH = pytest.mark.parametrize("serve", [on_pipes, over_http])


async def begin(peer: Peer, program: Program, tool: str, **arguments: object) -> str:
    """Call a tool that becomes a task; return its id when its handler runs."""
    answer = await peer.ask("call", "tools/call", name=tool, arguments=arguments)
    assert answer["result"]["resultType"] == "task"
    task_id: str = answer["result"]["taskId"]
    if tool != "ask":
        await program.stderr.until("begun")
    return task_id


async def until(peer: Peer, task_id: str, status: str) -> Any:
    """Ask for a task until it has this status; return the answer."""
    while True:
        told = await peer.ask("status", "tasks/get", taskId=task_id)
        if told["result"]["status"] == status:  # pragma: no branch  # it may have it at once
            return told


async def hear_failure(peer: Peer, task_id: str, why: str = "server is shutting down") -> None:
    """The subscription says that the task has failed, and its result follows."""
    failed = await peer.hear()
    assert failed["method"] == "notifications/tasks"
    said = failed["params"]
    assert said["_meta"] == {SUBSCRIPTION_ID: LISTENING}
    assert (said["taskId"], said["status"]) == (task_id, "failed")
    assert said["error"]["code"] == -32603
    assert said["statusMessage"] == why
    last = await peer.hear()
    assert (last["id"], last["result"]["resultType"]) == (LISTENING, "complete")


# The process is told to end.


@BOTH
async def test_a_signal_lets_a_short_task_end_and_its_subscriber_hears_the_result(
    serve: Any, tmp_path: Path
) -> None:
    async with serve(tmp_path) as (program, peer):
        task_id = await begin(peer, program, "work", seconds=1)
        await peer.listen(task_id)
        assert (await peer.hear())["params"]["status"] == "working"
        program.process.send_signal(TERM)
        done = (await peer.hear())["params"]
        assert (done["status"], done["result"]["content"][0]["text"]) == ("completed", "done")
        assert (await peer.hear())["id"] == LISTENING
        await peer.hear_the_end()
        assert await program.wait() == 0


@BOTH
async def test_a_subscriber_hears_that_a_signal_has_ended_a_task(
    serve: Any, tmp_path: Path
) -> None:
    async with serve(tmp_path, drain_grace=0.2) as (program, peer):
        task_id = await begin(peer, program, "work", seconds=1000)
        await peer.listen(task_id)
        assert (await peer.hear())["params"]["status"] == "working"
        program.process.send_signal(TERM)
        await hear_failure(peer, task_id)
        await peer.hear_the_end()
        assert await program.wait() == 0
        told = await program.stderr.rest()
    assert not [line for line in told if "Traceback" in line or "did not end" in line]


@BOTH
async def test_a_task_that_waits_for_its_client_ends_at_a_signal(
    serve: Any, tmp_path: Path
) -> None:
    async with serve(tmp_path, drain_grace=0.2) as (program, peer):
        task_id = await begin(peer, program, "ask")
        await until(peer, task_id, "input_required")
        await peer.listen(task_id)
        assert (await peer.hear())["params"]["status"] == "input_required"
        program.process.send_signal(TERM)
        await hear_failure(peer, task_id)
        await peer.hear_the_end()
        assert await program.wait() == 0


@BOTH
async def test_a_second_signal_ends_a_task_within_its_grace(serve: Any, tmp_path: Path) -> None:
    async with serve(tmp_path, drain_grace=1000, shutdown_timeout=1000) as (program, peer):
        task_id = await begin(peer, program, "work", seconds=1000)
        await peer.listen(task_id)
        assert (await peer.hear())["params"]["status"] == "working"
        program.process.send_signal(INT)
        await program.stderr.until("SIGINT")
        program.process.send_signal(INT)
        if serve is on_pipes:  # The second signal closes the connections of HTTP at once.
            await hear_failure(peer, task_id)
            await peer.hear_the_end()
        assert await program.wait() == 128 + INT


@BOTH
async def test_a_task_that_ignores_two_signals_is_reported_and_ended_by_the_deadline(
    serve: Any, tmp_path: Path
) -> None:
    async with serve(tmp_path, drain_grace=0.1, shutdown_timeout=2) as (program, peer):
        task_id = await begin(peer, program, "refuse_to_end")
        await peer.listen(task_id)
        assert (await peer.hear())["params"]["status"] == "working"
        program.process.send_signal(INT)
        await hear_failure(peer, task_id)
        program.process.send_signal(INT)
        await peer.hear_the_end()
        assert await program.wait() == 128 + INT
        (line,) = [one for one in await program.stderr.rest() if "did not end" in one]
    assert task_id[:6] in line


@BOTH
async def test_a_third_signal_ends_a_process_with_a_task_that_ignores_the_others(
    serve: Any, tmp_path: Path
) -> None:
    async with serve(tmp_path, drain_grace=1000, shutdown_timeout=1000) as (program, peer):
        await begin(peer, program, "refuse_to_end")
        while program.process.poll() is None:
            program.process.send_signal(INT)
            with trio.move_on_after(0.05):
                await program.wait()
        assert program.process.returncode == 128 + INT


# Pipes.


async def test_a_task_ends_with_the_pipe_of_its_client(tmp_path: Path) -> None:
    async with on_pipes(tmp_path, eof_grace=0.2) as (program, peer):
        task_id = await begin(peer, program, "work", seconds=1000)
        await peer.listen(task_id)
        assert (await peer.hear())["params"]["status"] == "working"
        await program.stdio.sink.aclose()
        await hear_failure(peer, task_id, "the session of its client has ended: client closed")
        await peer.hear_the_end()
        assert await program.wait() == 0


async def test_bad_requests_for_tasks_are_answered_on_a_pipe_with_their_ids(
    tmp_path: Path,
) -> None:
    async with on_pipes(tmp_path) as (program, peer):
        task_id = await begin(peer, program, "ask")
        wrong_params: list[dict[str, Any]] = [{}, {"taskId": 5}, {"taskId": "unknown"}]
        wrong_answers: list[Any] = [None, [], {"who": None}, {"who": {"action": "perhaps"}}]
        for method in METHODS:
            await peer.send(1, method, {"taskId": "unknown"}, {"elicitation": {}})
            assert brief(await program.stdio.receive()) == error(1, MISSING)
            for params in wrong_params:
                assert brief(await peer.ask("x", method, **params)) == error("x", UNKNOWN)
        for answers in wrong_answers:
            told = await peer.ask(2, "tasks/update", taskId=task_id, inputResponses=answers)
            assert brief(told) == error(2, UNKNOWN)
        many: dict[str, Any] = {f"key {number}": {} for number in range(10_000)}
        many["who"] = {"action": "decline"}
        told = await peer.ask(3, "tasks/update", taskId=task_id, inputResponses=many)
        assert told["result"]["resultType"] == "complete"
        told = await until(peer, task_id, "completed")
        assert told["result"]["result"]["content"][0]["text"] == "decline"
        await program.stdio.sink.aclose()
        assert await program.wait() == 0


async def test_a_thousand_polls_on_a_pipe_are_all_answered_beside_other_calls(
    tmp_path: Path,
) -> None:
    async with on_pipes(tmp_path) as (program, peer), trio.open_nursery() as nursery:
        task_id = await begin(peer, program, "work", seconds=1000)

        async def ask_all() -> None:
            for number in range(1_000):
                await peer.send(number, "tasks/get", {"taskId": task_id})
                if number % 10 == 0:
                    call = {"name": "echo", "arguments": {"text": f"{number}"}}
                    await peer.send(f"call {number}", "tools/call", call)

        nursery.start_soon(ask_all)
        polls: list[int] = []
        calls: dict[str, str] = {}
        while len(polls) < 1_000 or len(calls) < 100:
            answer = await program.stdio.receive()
            if isinstance(answer["id"], int):
                assert answer["result"]["status"] == "working"
                polls.append(answer["id"])
            else:
                calls[answer["id"]] = answer["result"]["content"][0]["text"]
        assert sorted(polls) == list(range(1_000))
        assert calls == {f"call {number}": f"{number}" for number in range(0, 1_000, 10)}
        cancel = await peer.ask("cancel", "tasks/cancel", taskId=task_id)
        assert cancel["result"]["resultType"] == "complete"
        await program.stdio.sink.aclose()
        assert await program.wait() == 0


async def test_a_notice_that_cancels_the_call_of_a_task_changes_nothing(tmp_path: Path) -> None:
    async with on_pipes(tmp_path) as (program, peer):
        task_id = await begin(peer, program, "work", seconds=1000)
        await peer.write(notification("notifications/cancelled", {"requestId": "call"}))
        told = await peer.ask(1, "tasks/get", taskId=task_id)
        assert told["result"]["status"] == "working"
        await peer.ask(2, "tasks/cancel", taskId=task_id)
        await program.stdio.sink.aclose()
        assert await program.wait() == 0
