"""Runs the suite: installs it, starts a server, and keeps what comes of it."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import attrs

import trio_mcp_session
from tests.conformance.judging import Check, Expected, read_results

HERE = Path(__file__).parent
# The package that is tested comes first: the checkout has one, too.
PATHS = [str(Path(trio_mcp_session.__file__).parents[1]), str(HERE.parents[1])]
EXPECTED = {
    path.stem.removeprefix("expected-"): Expected.read(path)
    for path in sorted(HERE.glob("expected-*.toml"))
}
GIVEN_URL = os.environ.get("TRIO_MCP_SESSION_CONFORMANCE_URL")
SERVERS = ["given"] if GIVEN_URL else ["builtin", "hypercorn"]
APPLICATIONS = ["given"] if GIVEN_URL else ["router", "sdk"]

GREETING = "listening on "
SUITE_TIMEOUT = 300
PATIENCE = 30
"""Seconds for the server to start, and to end. Only a hang takes as long."""


@attrs.frozen
class Leg:
    """A requirement set, with the scenarios beside it, a server, and how it answers."""

    revision: str
    application: str
    server: str
    answers: str

    def __str__(self) -> str:
        return f"{self.revision}-{self.application}-{self.server}-{self.answers}"

    @property
    def expected(self) -> Expected:
        expected = EXPECTED[self.revision]
        # The official SDK has no skills, which those that are run by name are about.
        return attrs.evolve(expected, by_name={}) if self.application == "sdk" else expected

    def arguments(self) -> list[list[str]]:
        """Return the options of each run of the suite that the leg consists of."""
        beside = ["--spec-version", self.revision, "--force"]
        return [
            ["--requirements", self.revision],
            *(["--scenario", scenario, *beside] for scenario in self.expected.by_name),
        ]

    def complaints(self, scenario: str, checks: list[Check] | None) -> list[str]:
        return self.expected.complaints(scenario, checks, json_answers=self.answers == "auto")


def ways_to_answer(revision: str) -> list[str]:
    """Return how a server can be told to answer, and whether it can be."""
    if revision >= "2026-07-28":  # Always as JSON where it can be, whatever it is told.
        return ["auto"]
    return ["sse"] if GIVEN_URL else ["sse", "auto"]


def servers_of(application: str) -> list[str]:
    """Return the servers that an application is served by."""
    return SERVERS[:1] if application == "sdk" else SERVERS  # It does not see which one it is.


LEGS = [
    Leg(revision, application, server, answers)
    for revision in EXPECTED
    for application in APPLICATIONS
    for server in servers_of(application)
    for answers in ways_to_answer(revision)
]


@attrs.frozen(kw_only=True)
class Run:
    """What came of one run."""

    leg: Leg
    status: int
    output: str
    results: dict[str, list[Check]]
    seconds: float
    server_status: int
    server_errors: str

    @property
    def figures(self) -> str:
        """How much of what is expected there is, in one line."""
        good = [
            s
            for s in self.leg.expected.scenarios
            if not self.leg.complaints(s, self.results.get(s))
        ]
        parts = [f"{self.leg}:"]
        for name, scenarios in (
            ("required", self.leg.expected.required),
            ("not scored", self.leg.expected.not_scored),
            ("skipped", self.leg.expected.skipped),
            ("by name", self.leg.expected.by_name),
        ):
            if scenarios:
                parts.append(f"{sum(s in scenarios for s in good)}/{len(scenarios)} {name},")
        checks = sum(
            check.status == "SUCCESS" for found in self.results.values() for check in found
        )
        return " ".join([*parts, f"{checks} checks SUCCESS, {self.seconds:.1f} s"])


@attrs.frozen
class Suite:
    """The suite, installed in a folder."""

    folder: Path

    def install(self) -> None:
        """Install what package.json says, unless it is there."""
        source = HERE / "package.json"
        wanted: dict[str, str] = json.loads(source.read_text("utf-8"))["dependencies"]
        if all(self._version(name) == version for name, version in wanted.items()):
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, self.folder)
        command = ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund"]
        subprocess.run(command, cwd=self.folder, check=True)

    def _version(self, name: str) -> str | None:
        file = self.folder / "node_modules" / name / "package.json"
        return str(json.loads(file.read_text("utf-8"))["version"]) if file.exists() else None

    def run(self, leg: Leg, work: Path) -> Run:
        """Run the suite against a server of its own, and end that."""
        modules = self.folder / "node_modules"
        node = modules / "node" / "bin" / "node"
        suite = modules / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"
        results = work / "results"
        results.mkdir()
        with open_server(leg, work) as server:
            start = time.monotonic()
            command = [str(node), str(suite), "server", "--url", server.url, "-o", str(results)]
            ended = [
                subprocess.run(
                    [*command, *arguments],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    encoding="utf-8",
                    check=False,
                    timeout=SUITE_TIMEOUT,
                )
                for arguments in leg.arguments()
            ]
            seconds = time.monotonic() - start
        return Run(
            leg=leg,
            status=max(one.returncode for one in ended),
            output="".join(one.stdout for one in ended),
            results=read_results(results),
            seconds=seconds,
            server_status=server.status,
            server_errors=server.errors,
        )


@attrs.define
class Server:
    """A server that the suite is run against."""

    url: str
    status: int = 0
    errors: str = ""


@contextmanager
def open_server(leg: Leg, work: Path) -> Iterator[Server]:
    """Start a server, and end it as a service manager would."""
    if GIVEN_URL:
        yield Server(GIVEN_URL)
        return
    program = [sys.executable, "-m", "tests.conformance.server"]
    command = [*program, "--application", leg.application]
    command += ["--server", leg.server, "--answers", leg.answers]
    log = work / "server.log"
    with (
        log.open("w", encoding="utf-8") as errors,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(PATHS)},
        ) as process,
    ):
        try:
            assert process.stdout is not None
            ready, _, _ = select.select([process.stdout], [], [], PATIENCE)
            line = process.stdout.readline() if ready else ""
            if not line.startswith(GREETING):
                raise RuntimeError(f"the server did not start\n{log.read_text('utf-8')}")
            server = Server(line.removeprefix(GREETING).strip())
            yield server
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE)
        finally:
            process.kill()
    server.status, server.errors = process.returncode, log.read_text("utf-8")
