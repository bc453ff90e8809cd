"""The cost of tasks: thousands at rest, a thousand at work, and what a poll takes.

    python benchmarks/tasks.py [--wait 600]

Each column is measured in its own process, because freed memory does not go back to the system.
README.md says what each row means.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
from contextlib import AsyncExitStack
from time import perf_counter, process_time
from typing import Any, Final

import trio
from client import Client, Lines, socket_pair
from processes import resident_bytes
from report import percentile, table

from trio_mcp_session import (
    RequestContext,
    Router,
    SessionConfig,
    SessionKind,
    SessionLimits,
    SessionManager,
    TaskStatus,
    open_session_manager,
    serve_stream,
)

PREFIX: Final = "io.modelcontextprotocol/"
META: Final = {
    f"{PREFIX}protocolVersion": "2026-07-28",
    f"{PREFIX}clientInfo": {"name": "benchmark", "version": "1"},
    f"{PREFIX}clientCapabilities": {"extensions": {f"{PREFIX}tasks": {}}},
}
CALLS: Final = 3_000

router = Router(name="tasks", version="1.0")


@router.tool()
async def echo(text: str) -> str:
    """Return the text."""
    return text


@router.tool(task="required")
async def rest() -> str:
    """Return at once: the task is at rest."""
    return "x" * 64


@router.tool(task="required")
async def work(ctx: RequestContext) -> str:
    """Report progress once a second, for ever."""
    step = 0
    while True:
        step += 1
        await ctx.progress(step, message="still at work")
        await trio.sleep(1)


class TaskClient:
    """One request of 2026-07-28 at a time."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def request(self, method: str, **params: Any) -> dict[str, Any]:
        return await self._client.request(method, {**params, "_meta": META})

    async def start(self, tool: str) -> str:
        result = await self.request("tools/call", name=tool, arguments={})
        assert result["resultType"] == "task", result
        return str(result["taskId"])

    async def echo(self) -> float:
        began = perf_counter()
        result = await self.request("tools/call", name="echo", arguments={"text": "x" * 64})
        assert result["content"][0]["text"] == "x" * 64, result
        return perf_counter() - began

    async def poll(self, task_id: str) -> float:
        began = perf_counter()
        result = await self.request("tasks/get", taskId=task_id)
        assert result["taskId"] == task_id, result
        return perf_counter() - began

    async def echoes(self) -> list[float]:
        for _ in range(200):
            await self.echo()
        return [await self.echo() for _ in range(CALLS)]


def resident_kib() -> float:
    """Return the memory of this process, after a full garbage collection."""
    gc.collect()
    return resident_bytes() / 1024


async def end_tasks(manager: SessionManager) -> None:
    sessions = manager.sessions(lambda one: one.kind is SessionKind.TASK)
    for session in sessions:
        session.terminate()
    for session in sessions:
        await session.wait_terminated()


async def measure(tool: str, count: int, wait: float) -> dict[str, float]:
    limits = SessionLimits(max_sessions=count + 1000, max_tasks_per_principal=count + 1000)
    found: dict[str, float] = {"tasks": count}
    async with AsyncExitStack() as stack:
        manager = await stack.enter_async_context(
            open_session_manager(router, config=SessionConfig(limits=limits))
        )
        nursery = await stack.enter_async_context(trio.open_nursery())
        near, far = socket_pair()
        nursery.start_soon(serve_stream, manager, far)
        client = TaskClient(Client(Lines(near)))
        before = await client.echoes()

        memory, tracked = resident_kib(), len(gc.get_objects())
        began = perf_counter()
        ids = [await client.start(tool) for _ in range(count)]
        found["start µs"] = (perf_counter() - began) / count * 1e6
        await trio.sleep(0.5)
        wanted = TaskStatus.COMPLETED if tool == "rest" else TaskStatus.WORKING
        assert manager.statistics().tasks == {wanted.value: count}
        found["KiB each before a collection"] = (resident_bytes() / 1024 - memory) / count
        found["KiB each"] = (resident_kib() - memory) / count
        found["objects each"] = (len(gc.get_objects()) - tracked) / count

        among = await client.echoes()
        cpu = process_time()
        polls = [await client.poll(ids[number % count]) for number in range(CALLS)]
        found["poll µs"] = percentile(polls, 50) * 1e6
        # Client and server are one process: this is the processor time of both.
        found["poll, both ends, µs of CPU"] = (process_time() - cpu) / CALLS * 1e6

        await trio.sleep(wait)
        found["KiB each later"] = (resident_kib() - memory) / count
        assert manager.statistics().tasks == {wanted.value: count}
        await end_tasks(manager)
        after = await client.echoes()

        alone = (percentile(before, 50) + percentile(after, 50)) / 2
        found["call alone µs"] = alone * 1e6
        found["call µs"] = percentile(among, 50) * 1e6
        found["call ratio"] = percentile(among, 50) / alone
        found["poll / call alone"] = percentile(polls, 50) / alone
        nursery.cancel_scope.cancel()
    return found


ROWS: Final = {
    "tasks": ",.0f",
    "start µs": ".0f",
    "KiB each before a collection": ".2f",
    "KiB each": ".2f",
    "KiB each later": ".2f",
    "objects each": ".1f",
    "poll µs": ".0f",
    "poll, both ends, µs of CPU": ".0f",
    "poll / call alone": ".2f",
    "call alone µs": ".0f",
    "call µs": ".0f",
    "call ratio": ".2f",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--resting", type=int, default=10_000)
    parser.add_argument("--working", type=int, default=1_000)
    parser.add_argument("--wait", type=float, default=600, help="seconds until the second look")
    parser.add_argument("--inside", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        tool, count = options.inside
        print(json.dumps(trio.run(measure, tool, int(count), options.wait)))
        return 0

    columns: list[dict[str, float]] = []
    for tool, count in (("rest", options.resting), ("work", options.working)):
        wait = options.wait if tool == "rest" else 0
        command = [sys.executable, __file__, "--inside", tool, str(count), "--wait", str(wait)]
        done = subprocess.run(command, stdout=subprocess.PIPE, timeout=600 + wait, check=True)
        columns.append(json.loads(done.stdout))
    rows = [
        (name, *(format(found[name], form) for found in columns)) for name, form in ROWS.items()
    ]
    print(table(("", "at rest", "at work"), rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
