"""Third-party clients and proxies, each in an environment of its own, against one server.

`clients.toml` lists them. Each runs all checks of `driving.py` over HTTP and over stdio, and says
what it has seen as lines of JSON.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, final

import attrs
import pytest

from tests.interop.node import install
from tests.interop.third_party.environments import python_of
from tests.interop.third_party.servers import SERVER, HttpServer, free_port, http_server

pytestmark = pytest.mark.interop

HERE: Final = Path(__file__).parent
CLIENTS: Final[Mapping[str, Any]] = tomllib.loads((HERE / "clients.toml").read_text("utf-8"))[
    "clients"
]
COMMON: Final = ["list", "call", "error"]
MANY: Final = 50
HANG_GUARD: Final = 240.0
"""Seconds after which a driver is killed."""
IDLE: Final = 5.0
"""Seconds after which the server ends the sessions of clients that have vanished."""


def checks_of(client: str) -> list[str]:
    """The checks over both transports."""
    can = CLIENTS[client]["can"]
    return [*COMMON, *can, "refused_question"]


def transports_of(client: str) -> list[str]:
    """Where it can be used: a proxy has only one side to the server."""
    config = CLIENTS[client]
    return (
        ["stdio"] if "serves" in config else ["http"] if "command" in config else ["http", "stdio"]
    )


@final
@attrs.define(eq=False)
class Environment:
    """What a client is started with."""

    config: Mapping[str, Any]
    command: Sequence[str]
    folder: Path

    @contextmanager
    def driver(self, where: Mapping[str, Any], *checks: str) -> Iterator[subprocess.Popen[str]]:
        """Run the driver for the length of a block, and for a time that is bounded."""
        command = [*self.command, json.dumps(where), *checks]
        # What is right for the tests would hide the driver's own folder.
        variables = {name: it for name, it in os.environ.items() if name != "PYTHONSAFEPATH"}
        path = os.pathsep.join([str(self.folder / "node_modules" / ".bin"), os.environ["PATH"]])
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env={**variables, "PATH": path, "HOME": str(self.folder)},
        ) as process:
            killer = threading.Timer(HANG_GUARD, process.kill)
            killer.start()
            try:
                yield process
            finally:
                killer.cancel()
                process.kill()

    def client_of(self, server: HttpServer) -> Mapping[str, Any]:
        """Where the client connects to, for a server over HTTP: a proxy is in between."""
        if "command" not in self.config:
            return {"url": server.url}
        program, *arguments = self.config["command"]
        arguments = [server.url if one == "URL" else one for one in arguments]
        return {"command": [str(self.folder / program), *arguments]}


def environment_of(client: str, environments: Path, node_modules: Path) -> Environment:
    config = CLIENTS[client]
    driver = HERE / config["driver"]
    folder = environments
    if "package" in config:
        folder = install((HERE / config["package"]).resolve(), node_modules)
    if driver.suffix == ".mjs":
        # Node wants the packages beside the program.
        shutil.copy(driver, folder)
        command = [str(folder / "node_modules" / ".bin" / "node"), driver.name]
    elif "requirements" in config:
        python = python_of(environments / client.replace("/", "-"), config["requirements"])
        command = [str(python), str(driver)]
    else:  # the official client, which these tests have
        command = [sys.executable, str(driver)]
    folder.mkdir(parents=True, exist_ok=True)
    return Environment(config, command, folder)


@pytest.fixture(scope="session")
def environment_for(environments: Path, node_modules: Path) -> Callable[[str], Environment]:
    """Make the environment of a client, once."""
    made: dict[str, Environment] = {}

    def get(client: str) -> Environment:
        if client not in made:
            made[client] = environment_of(client, environments, node_modules)
        return made[client]

    return get


@contextmanager
def place(environment: Environment, transport: str) -> Iterator[Mapping[str, Any]]:
    """What a client connects to, for the length of a block."""
    if "serves" in environment.config:
        with gateway(environment) as where:
            yield where
    elif transport == "http":
        with http_server() as server:
            yield environment.client_of(server)
    else:
        yield {"command": SERVER}


@contextmanager
def gateway(environment: Environment) -> Iterator[Mapping[str, Any]]:
    """Run a proxy that serves at a port what the server says on its pipes."""
    port = free_port()
    known = {"SERVER": shlex.join(SERVER), "PORT": str(port)}
    program, *arguments = environment.config["serves"]
    arguments = [known.get(one, one) for one in arguments]
    with subprocess.Popen(
        [str(environment.folder / program), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            await_port(port)
            yield {"url": f"http://127.0.0.1:{port}/mcp"}
        finally:
            process.terminate()


Reports = Callable[[str, str], Mapping[str, Mapping[str, Any]]]


@pytest.fixture(scope="session")
def reports(environment_for: Callable[[str], Environment]) -> Reports:
    """Run all checks of a client over a transport, once; what it says, by check."""
    made: dict[tuple[str, str], Mapping[str, Mapping[str, Any]]] = {}

    def get(client: str, transport: str) -> Mapping[str, Mapping[str, Any]]:
        if (client, transport) not in made:
            environment = environment_for(client)
            with place(environment, transport) as where:
                with environment.driver(where, *checks_of(client)) as process:
                    told = [json.loads(line) for line in process.stdout or ()]
            made[client, transport] = {report["check"]: report for report in told}
        return made[client, transport]

    return get


CELLS: Final = [
    (client, transport, check)
    for client in CLIENTS
    for transport in transports_of(client)
    for check in checks_of(client)
]


@pytest.mark.parametrize("client, transport, check", CELLS)
def test_a_third_party_client_passes_each_check(
    client: str, transport: str, check: str, reports: Reports, figure: Callable[[str], None]
) -> None:
    report = reports(client, transport)[check]
    assert report["ok"], report["error"]
    told = report["told"]
    if told is not None:
        figure(f"{client}, {transport}: {check}: {told}")
    EXPECTED.get(check, lambda _: None)(told)


def expect_steps(told: Any) -> None:
    assert told == [1, 2, 3, 4, 5]


def expect_levels(told: Any) -> None:
    assert [level for level in told if level != "debug"] == ["info", "warning", "error"]


def expect_answer(told: Any) -> None:
    assert told == ["accept: Ada", False]


def expect_refusal(told: Any) -> None:
    text, is_error = told
    assert is_error
    assert "elicitation" in text


EXPECTED: Final = {
    "progress": expect_steps,
    "log": expect_levels,
    "question": expect_answer,
    "refused_question": expect_refusal,
}

OVER_HTTP: Final = [client for client in CLIENTS if "serves" not in CLIENTS[client]]


@pytest.mark.parametrize("client", OVER_HTTP)
def test_fifty_sessions_of_a_client_that_vanishes_end(
    client: str,
    environment_for: Callable[[str], Environment],
    figure: Callable[[str], None],
) -> None:
    environment = environment_for(client)
    with http_server(IDLE) as server:
        with environment.driver(environment.client_of(server), "sessions") as process:
            (report,) = [json.loads(line) for line in process.stdout or ()]
        assert report["ok"], report["error"]
        figure(f"{client}: {report['told']} sessions for {MANY} connections")
        opened = int(report["told"].partition(" of ")[2])
        assert opened >= MANY or not opened, "some, or no sessions in the modern era"
        server.await_sessions(0)


@pytest.mark.parametrize("client", OVER_HTTP)
def test_a_client_survives_a_restart_of_the_server(
    client: str,
    environment_for: Callable[[str], Environment],
    figure: Callable[[str], None],
) -> None:
    environment = environment_for(client)
    with http_server() as server, ExitStack() as stack:
        process = stack.enter_context(environment.driver(environment.client_of(server), "restart"))
        assert process.stdin is not None
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        assert ready == {"stage": "connected"}, ready
        assert server.stop() == 0
        server.start()
        process.stdin.write("\n")
        process.stdin.flush()
        report = json.loads(process.stdout.readline())
        assert report["ok"], report.get("error")
        figure(f"{client}: after a restart: {report['told']}")
        assert report["told"]["in flight"][1]


def await_port(port: int) -> None:
    """Wait until a program listens."""
    end = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except ConnectionRefusedError:
            assert time.monotonic() < end, "it does not listen"
            time.sleep(0.05)
        else:
            return
