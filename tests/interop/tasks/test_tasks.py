"""The clients of the tasks extension that exist, over HTTP and on pipes, against one server."""

from __future__ import annotations

import functools
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, final

import attrs
import pytest
import trio

from tests.interop.node import install
from tests.interop.tasks.server import CONFIG, RETENTION, left, router
from tests.interop.third_party.environments import python_of
from trio_mcp_session import open_session_manager, serve_http

pytestmark = pytest.mark.interop

HERE: Final = Path(__file__).parent
EXT_TASKS: Final = "ext-tasks"
FASTMCP: Final = "fastmcp"
REQUIREMENTS: Final = ["fastmcp-tasks==4.1.4", "mcp==2.3.0"]
"""It needs the FastMCP of its own version."""
TRANSPORTS: Final = ["http", "stdio"]
HANG_GUARD: Final = 240.0

NOTHING: Final[Mapping[str, Any]] = {"tasks": [], "leaks": []}
ALWAYS_FAILS: Final = "this task always fails"
ALWAYS_REFUSED: Final = "this task is always refused"
EXPIRED: Final = "Unknown task: it does not exist, or has expired"
NOT_ABLE: Final = "the client cannot be asked: it did not declare the capability"
BY_TASK: Final = ["task", "task-update"]
LEGACY: Final = {
    "add": "3",
    "job": "2 steps",
    "fail": ALWAYS_FAILS,
    "elicit": "accept: Ada",
    "ask_first": "accept: Ada",
}


def plain(text: str) -> dict[str, Any]:
    """What the client of ext-tasks reports about a call that did not become a task."""
    return {
        "kind": "immediate",
        "statuses": [],
        "status": "completed",
        "text": text,
        "isError": False,
        "asked": [],
    }


def task(text: str, *asked: list[str], is_error: bool = False) -> dict[str, Any]:
    """What it reports about a task with a result."""
    waits = ["input_required"] if any(one[1:] == BY_TASK for one in asked) else []
    return {
        "kind": "task",
        "statuses": ["working", *waits, "completed"],
        "status": "completed",
        "text": text,
        "isError": is_error,
        "asked": list(asked),
    }


FROM_EXT_TASKS: Final[Mapping[str, Any]] = {
    "immediate": plain("3"),
    "quick": plain("at once"),
    "job": task("5 steps"),
    "fail": task(ALWAYS_FAILS, is_error=True),
    "refuse": {
        "kind": "task",
        "statuses": ["working", "failed"],
        "status": "failed",
        "error": {"code": -32000, "message": ALWAYS_REFUSED, "data": {"why": "a test"}},
        "asked": [],
    },
    "elicit": task("accept: Ada", ["elicitation", *BY_TASK]),
    "elicit_again": task("accept, accept", ["elicitation", *BY_TASK], ["elicitation", *BY_TASK]),
    # Without a handler it answers for its user.
    "unable": {**task("cancel: None"), "statuses": ["working", "input_required", "completed"]},
    "sample": task("sampled: Paris", ["sampling", *BY_TASK]),
    "roots": task("file:///home", ["roots", *BY_TASK]),
    "both": task("accept, Paris", ["elicitation", *BY_TASK], ["sampling", *BY_TASK]),
    "ask_first": task("accept: Ada", ["elicitation", "request", "request-retry"]),
    "cancel": "cancelled",
    "expiry": lambda told: (
        told["code"] == -32602 and RETENTION <= told["ttlMs"] / 1000 < 2 * RETENTION
    ),
    "push": lambda told: {*told[:-1]} == {"working"} and told[-1] == "completed",
    # Its own subscription leaves the ids of tasks out.
    "official_listen": {"toolsListChanged": True},
    "undeclared": [-32021, -32021, "1 steps"],
    "legacy": LEGACY,
}
ONLY_HTTP: Final = {"resume": "5 steps"}
"""On a pipe a task ends with its connection."""


def told_by_fastmcp(text: str, *asked: str) -> dict[str, Any]:
    return {"text": text, "asked": list(asked)}


def refused_by_fastmcp(text: str) -> dict[str, Any]:
    return {"error": text, "asked": []}


FROM_FASTMCP: Final[Mapping[str, Any]] = {
    "immediate": told_by_fastmcp("3"),
    "quick": told_by_fastmcp("at once"),
    "job": told_by_fastmcp("3 steps"),
    "fail": refused_by_fastmcp(ALWAYS_FAILS),
    "refuse": refused_by_fastmcp(ALWAYS_REFUSED),
    "elicit": told_by_fastmcp("accept: Ada", "Who?"),
    "elicit_again": told_by_fastmcp("accept, accept", "Who?", "Who else?"),
    "ask_first": told_by_fastmcp("accept: Ada", "Who?"),
    "unable": refused_by_fastmcp(f"{NOT_ABLE} elicitation"),
    # Its tasks know elicitation only.
    "sample": refused_by_fastmcp(f"{NOT_ABLE} sampling"),
    "statuses": {
        "created": "working",
        "completed": "completed",
        "result": "3 steps",
        "input_required": ["elicitation/create"],
        "answered": "accept: Ada",
        "failed": ["failed", -32000, ALWAYS_REFUSED],
    },
    "cancel": ["cancelled", "Task ID was cancelled"],
    "expiry": ["completed", EXPIRED],
    "legacy": {name: text for name, text in LEGACY.items() if name != "add"},
}

EXPECTED: Final[Mapping[tuple[str, str], Mapping[str, Any]]] = {
    (EXT_TASKS, "http"): {**FROM_EXT_TASKS, **ONLY_HTTP},
    (EXT_TASKS, "stdio"): FROM_EXT_TASKS,
    (FASTMCP, "http"): FROM_FASTMCP,
    (FASTMCP, "stdio"): FROM_FASTMCP,
}
"""What a client reports for each check over a transport; a function decides where it may differ."""

CELLS: Final = [(*leg, check) for leg, checks in EXPECTED.items() for check in checks]


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that happens outside of Trio, or by its clocks."""
    with trio.fail_after(20):  # noqa: ASYNC912  # it may be so already
        while not condition():  # noqa: ASYNC110  # nothing tells
            await trio.sleep(0.05)


@final
@attrs.frozen
class Driver:
    """How a client is run."""

    command: Sequence[str]
    folder: Path

    @classmethod
    def of(cls, client: str, environments: Path, node_modules: Path) -> Driver:
        """Prepare a client."""
        if client == FASTMCP:
            python = python_of(environments / "fastmcp-tasks", REQUIREMENTS)
            return cls([str(python), str(HERE / "drive_fastmcp.py")], environments)
        folder = install(HERE / "package.json", node_modules)
        shutil.copy(HERE / "drive_ext_tasks.mjs", folder)  # Node wants the packages beside it.
        return cls(["node", "drive_ext_tasks.mjs"], folder)

    async def run(self, where: Mapping[str, Any], checks: Sequence[str]) -> dict[str, Any]:
        """Run checks; return the reports by check."""
        # What is right for the tests would hide the driver's own folder.
        variables = {name: it for name, it in os.environ.items() if name != "PYTHONSAFEPATH"}
        with trio.fail_after(HANG_GUARD):
            done = await trio.run_process(
                [*self.command, json.dumps(where), *checks],
                capture_stdout=True,
                cwd=self.folder,
                env=variables,
            )
        told = [json.loads(line) for line in done.stdout.splitlines()]
        return {one["check"]: one for one in told}

    async def over_http(self, checks: Sequence[str]) -> dict[str, Any]:
        """Serve in this process, which sees what the server holds."""
        async with (
            open_session_manager(router, config=CONFIG) as manager,
            trio.open_nursery() as nursery,
        ):

            async def serve(  # noqa: ASYNC128  # handed on
                *, task_status: trio.TaskStatus[Any]
            ) -> None:
                await serve_http(manager, "127.0.0.1:0", task_status=task_status)

            (address,) = await nursery.start(serve)
            reports = await self.run({"url": f"{address.url}/mcp"}, checks)
            await until(lambda: left(manager) == NOTHING)
            statistics = manager.statistics()
            assert (statistics.listens, sum(statistics.active.values())) == (0, 0)
            nursery.cancel_scope.cancel()
        return reports

    async def over_stdio(self, checks: Sequence[str]) -> dict[str, Any]:
        """Let the client start a server, which reports what it holds in the end."""
        report = self.folder / "left.json"
        report.unlink(missing_ok=True)
        server = [sys.executable, str(HERE / "server.py"), str(report)]
        reports = await self.run({"command": server}, checks)
        await until(report.exists)
        assert json.loads(report.read_text("utf-8")) == NOTHING
        return reports


@pytest.fixture(scope="module")
def driver_for(environments: Path, node_modules: Path) -> Callable[[str], Driver]:
    """Prepare a client, once."""
    return functools.cache(lambda client: Driver.of(client, environments, node_modules))


@pytest.fixture(scope="module")
def over_http(driver_for: Callable[[str], Driver]) -> Callable[[str], Mapping[str, Any]]:
    """Run all checks of a client over HTTP with one server, once; what it says, by check."""

    @functools.cache
    def run(client: str) -> Mapping[str, Any]:
        return trio.run(driver_for(client).over_http, list(EXPECTED[client, "http"]))

    return run


@pytest.mark.parametrize("client, transport, check", CELLS)
def test_a_client_of_the_tasks_extension_passes_each_check(
    client: str,
    transport: str,
    check: str,
    driver_for: Callable[[str], Driver],
    over_http: Callable[[str], Mapping[str, Any]],
) -> None:
    if transport == "http":
        report = over_http(client)[check]
    else:
        report = trio.run(driver_for(client).over_stdio, [check])[check]
    assert report["ok"], report["error"]
    expected, told = EXPECTED[client, transport][check], report["told"]
    if callable(expected):
        assert expected(told), told
    else:
        assert told == expected
