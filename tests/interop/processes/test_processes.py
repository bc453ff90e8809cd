"""Three processes behind a real proxy, while one is retired and replaced and another one killed.

The official Python and TypeScript clients of both eras use sessions, handles, questions, tasks,
subscriptions and resumption under random load. Each thing that they use has a name, and a name has
the label of its process. So each failure can be told apart: what lived in the killed process, what
was left in the retired one at the end of its time, and anything else, which fails the test.

`TRIO_MCP_SESSION_PROCESSES_SECONDS` is the length of the load, for each proxy; 30 by default.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from tests.cli.programs import Lines
from tests.interop.node import install
from tests.interop.test_supergateway import free_port
from trio_mcp_session.core.node import node_of

HERE = Path(__file__).parent
SECONDS = float(os.environ.get("TRIO_MCP_SESSION_PROCESSES_SECONDS", "30"))
WHERE = f"{os.environ.get('PATH', '')}:/usr/sbin"
PROXIES = {name: shutil.which(name, path=WHERE) for name in ("nginx", "haproxy")}

RETIRES_AT, KILLED_AT, RETIRE_TIME = 0.2 * SECONDS, 0.75 * SECONDS, 0.25 * SECONDS
NOTICED = 2.0
"""Seconds after which the proxy has noticed that a node retires."""
SETTLED = 6.0
"""Seconds after which a process that ends has been replaced, and its clients have noticed."""

pytestmark = pytest.mark.interop


@asynccontextmanager
async def running(
    command: list[str], name: str, folder: Path, **options: Any
) -> AsyncIterator[trio.Process]:
    """Run a program for the length of a block; its output is in a file."""
    with (folder / f"{name}.log").open("wb") as log:
        process = await trio.lowlevel.open_process(
            command,
            stdin=subprocess.DEVNULL,
            cwd=folder,
            **{"stderr": log, "stdout": log, **options},
        )
    try:
        yield process
    finally:
        with trio.CancelScope(shield=True), trio.move_on_after(10):
            process.terminate()
            await process.wait()
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()


def free_ports(count: int) -> int:
    """The first of several free ports in a row."""
    while True:
        first = free_port()
        try:
            for port in range(first, first + count):
                socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return first


@attrs.define(eq=False)
class Nodes:
    """The processes, and the command that has started them."""

    supervisor: trio.Process
    process: dict[str, int] = attrs.field(factory=dict)
    said: list[str] = attrs.field(factory=list)

    async def listen(self, stream: trio.abc.ReceiveStream) -> None:
        """Note what the command says."""
        lines = Lines(stream)
        while line := await lines.next():
            self.said.append(line)
            if " is process " in line:
                self.process[line.split()[2]] = int(line.rpartition(" ")[2])

    async def until(self, condition: Callable[[], bool], seconds: float = 30) -> None:
        with trio.fail_after(seconds):  # noqa: ASYNC912  # it may be so already
            while not condition():  # noqa: ASYNC110  # of other programs
                await trio.sleep(0.05)


@asynccontextmanager
async def three_nodes(folder: Path, port: int) -> AsyncIterator[Nodes]:
    command = [
        *(sys.executable, "-m", "trio_mcp_session", "serve", "shop:router", "--workers", "3"),
        *("--http", f"127.0.0.1:{port}", "--retire-grace", str(RETIRE_TIME)),
        *("--wrong-node-header", "X-Accel-Redirect: @{node}", "--trusted-proxy", "127.0.0.1"),
        *("--max-stateless-per-principal", "500", "--log-level", "warning"),
    ]
    shutil.copy(HERE / "shop.py", folder)
    async with (
        running(command, "nodes", folder, stderr=subprocess.PIPE) as process,
        trio.open_nursery() as nursery,
    ):
        nodes = Nodes(process)
        assert process.stderr is not None
        nursery.start_soon(nodes.listen, process.stderr)
        await nodes.until(lambda: len(nodes.process) == 3)
        yield nodes
        nursery.cancel_scope.cancel()


def printed(proxy: str, port: int, bind: int) -> str:
    """The configuration that the command prints."""
    command = [sys.executable, "-m", "trio_mcp_session", "serve", "shop:router", "--workers", "3"]
    command += ["--http", f"127.0.0.1:{port}", "--print-proxy", proxy]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "127.0.0.1:8080" in text
    return text.replace("127.0.0.1:8080", f"127.0.0.1:{bind}")


def write_nginx(folder: Path, config: str) -> None:
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; worker_processes 1; pid {folder}/pid; error_log stderr error;"
        f"events {{ worker_connections 1000; }}"
        f"http {{ access_log off; {temporary}\n{config}\n}}",
        "utf-8",
    )


@asynccontextmanager
async def proxied(proxy: str, folder: Path, port: int, bind: int) -> AsyncIterator[trio.Process]:
    program = PROXIES[proxy]
    assert program is not None
    config = printed(proxy, port, bind)
    if proxy == "nginx":
        write_nginx(folder, config)
        command = [program, "-p", str(folder), "-c", "nginx.conf", "-e", "stderr"]
    else:
        (folder / "haproxy.cfg").write_text(config, "utf-8")
        command = [program, "-db", "-f", "haproxy.cfg"]
    async with running(command, proxy, folder) as process:
        while True:
            try:
                stream = await trio.open_tcp_stream("127.0.0.1", bind)
            except OSError:
                await trio.sleep(0.05)
            else:
                await stream.aclose()
                break
        yield process


def take_out(proxy: str, process: trio.Process, folder: Path, port: int) -> None:
    """Take a node out of those that get new clients. HAProxy does so by itself."""
    if proxy == "nginx":
        path = folder / "nginx.conf"
        config = path.read_text("utf-8")
        changed = config.replace(f"127.0.0.1:{port} max_fails=0;", f"127.0.0.1:{port} down;", 1)
        assert changed != config
        path.write_text(changed, "utf-8")
        process.send_signal(signal.SIGHUP)


def put_back(proxy: str, process: trio.Process, folder: Path, port: int) -> None:
    if proxy == "nginx":
        path = folder / "nginx.conf"
        config = path.read_text("utf-8")
        path.write_text(config.replace(f"127.0.0.1:{port} down;", f"127.0.0.1:{port} max_fails=0;"))
        process.send_signal(signal.SIGHUP)


@attrs.frozen
class Times:
    """When what happened."""

    retired: float
    retire_over: float
    killed: float


def verdict(one: Mapping[str, Any], times: Times) -> str:
    """How a thing ended: it was used, or why it was lost; *wrong* fails the test."""
    if one["error"] is None:
        return "used"
    node = None if one["name"] is None else node_of(one["name"])
    began, ended = one["began"], one["ended"]
    in_killed = began < times.killed + SETTLED and ended >= times.killed
    after_retired = began < times.retire_over + SETTLED and ended >= times.retire_over
    if node == "n3" and in_killed:
        return "lost with the killed process"
    if node == "n2" and after_retired:
        return "left at the end of the retire time"
    if node is None and in_killed:
        return "lost with the killed process"
    if node is None and after_retired and ended <= times.retire_over + SETTLED + 30:
        return "left at the end of the retire time"
    # A node that retires opens nothing new, and the proxy has not noticed yet.
    if node is None and times.retired <= ended <= times.retired + NOTICED and one["uses"] == 0:
        return "refused while the node began to retire"
    return "wrong"


@pytest.mark.parametrize("proxy", ["haproxy", "nginx"])
async def test_a_process_is_retired_and_replaced_and_another_one_killed(
    proxy: str, tmp_path: Path, node_modules: Path, figure: Callable[[str], None]
) -> None:
    if PROXIES[proxy] is None:
        pytest.skip(f"{proxy} is not installed")
    packages = install(HERE.parent / "typescript" / "package.json", node_modules)
    shutil.copy(HERE / "drive_typescript.mjs", packages)
    port, bind = free_ports(3), free_port()
    url = f"http://127.0.0.1:{bind}/mcp"
    async with AsyncExitStack() as stack:
        nodes = await stack.enter_async_context(three_nodes(tmp_path, port))
        process = await stack.enter_async_context(proxied(proxy, tmp_path, port, bind))
        reports: list[dict[str, Any]] = []

        async def drive(name: str, era: str, *command: str) -> None:
            line = [*command, url, era, str(SECONDS), str(len(name + era))]
            options: dict[str, Any] = {"stdout": subprocess.PIPE}
            async with running(line, f"{name}-{era}", tmp_path, **options) as driver:
                assert driver.stdout is not None
                lines = Lines(driver.stdout)
                while told := await lines.next():
                    reports.append({**json.loads(told), "client": f"{name}, {era}"})
                assert await driver.wait() == 0

        async with trio.open_nursery() as nursery:
            python = [sys.executable, str(HERE / "drive_python.py")]
            typescript = ["node", str(packages / "drive_typescript.mjs")]
            nursery.start_soon(drive, "python", "legacy", *python)
            nursery.start_soon(drive, "python", "2026-07-28", *python)
            nursery.start_soon(drive, "typescript", "legacy", *typescript)
            nursery.start_soon(drive, "typescript", "2026-07-28", *typescript)
            await trio.sleep(RETIRES_AT)
            take_out(proxy, process, tmp_path, port + 1)
            await trio.sleep(0.5)
            retired = time.time()
            old = nodes.process["n2"]
            os.kill(old, signal.SIGTERM)
            await nodes.until(lambda: nodes.process["n2"] != old, RETIRE_TIME + 20)
            put_back(proxy, process, tmp_path, port + 1)
            await trio.sleep(max(0.0, KILLED_AT - (time.time() - retired + RETIRES_AT)))
            killed, dead = time.time(), nodes.process["n3"]
            os.kill(dead, signal.SIGKILL)
            await nodes.until(lambda: nodes.process["n3"] != dead)
        times = Times(retired, retired + RETIRE_TIME, killed)
        nodes.supervisor.terminate()
        with trio.fail_after(RETIRE_TIME + 20):
            assert await nodes.supervisor.wait() == 0
    (tmp_path / "reports.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in reports))
    found = Counter((one["kind"], verdict(one, times)) for one in reports)
    for (kind, what), number in sorted(found.items()):
        uses = sum(one["uses"] for one in reports if one["kind"] == kind)
        figure(f"{proxy}, {SECONDS:g} s: {number} {kind}: {what} ({uses} uses in all)")
    errors = Counter(
        (one["kind"], one["error"].partition("(")[0][:110])
        for one in reports
        if verdict(one, times) == "lost with the killed process"
    )
    for (kind, error), number in errors.most_common(12):
        figure(f"{proxy}: {number} {kind} of the killed process: {error}")
    wrong = [one for one in reports if verdict(one, times) == "wrong"]
    assert wrong == [], (times, nodes.said)
    for kind in ("session", "handle", "question", "task", "plain"):
        assert found[kind, "used"] > 3, kind
    made_at = {node_of(one["name"]) for one in reports if one["name"] is not None}
    assert made_at == {"n1", "n2", "n3"}
