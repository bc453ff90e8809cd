"""The TypeScript clients on their way through their checks, beside whatever else is tested."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeAlias

from tests.interop.node import install

SOURCES = Path(__file__).parent / "typescript"

ANY_TYPESCRIPT = "typescript 1"

Leg: TypeAlias = tuple[str, str]
"""A client and a server."""


@dataclass
class Run:
    """A client with one server."""

    checks: Sequence[str]
    """What it is to make."""
    lines: SimpleQueue[str | None] = field(default_factory=SimpleQueue)
    """What it writes, and None after the last."""
    _known: Sequence[str] = ()
    _reports: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    def known(self) -> Sequence[str]:
        """Return the names of all the checks that it could make, as soon as it tells."""
        while not self._known:
            self._read()
        return self._known

    def report(self, check: str) -> Mapping[str, Any]:
        """Return what it says about a check, as soon as it does."""
        while check not in self._reports:
            self._read()
        return self._reports[check]

    def _read(self) -> None:
        line = self.lines.get()
        if line is None:
            # For the next question.
            self.lines.put(None)
            raise EOFError("the client has ended, and did not report this")
        told = json.loads(line)
        if "checks" in told:
            self._known = told["checks"]
        else:
            self._reports[told["check"]] = told


class Runs:
    """All that the TypeScript clients have to do, one run after the other."""

    def __init__(self, wanted: Mapping[Leg, Sequence[str]]) -> None:
        self._runs = {leg: Run(checks) for leg, checks in wanted.items()}
        self._process: subprocess.Popen[str] | None = None
        self._is_over = False

    def __getitem__(self, leg: Leg) -> Run:
        return self._runs[leg]

    def make(self, node_modules: Path, server_command: list[str]) -> None:
        """Make all of them."""
        if not self._runs:
            return
        try:
            folder = install(SOURCES / "package.json", node_modules)
            # Node wants the packages beside the program.
            for source in SOURCES.glob("*.mjs"):
                shutil.copy(source, folder)
            for (client, server), run in self._runs.items():
                if not self._is_over:
                    checks = ",".join(run.checks)
                    command = ["node", "client.mjs", client, server, checks, *server_command]
                    self._make_one(command, folder, run.lines)
        finally:
            # Whatever happened, no task waits for more.
            for run in self._runs.values():
                run.lines.put(None)

    def end(self) -> None:
        """Leave what is not done yet."""
        self._is_over = True
        if self._process is not None:
            self._process.terminate()

    def _make_one(self, command: list[str], folder: Path, lines: SimpleQueue[str | None]) -> None:
        with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
            self._process = process
            assert process.stdout is not None
            for line in process.stdout:
                lines.put(line)
        lines.put(None)


@contextmanager
def running(
    wanted: Mapping[Leg, Sequence[str]], node_modules: Path, server_command: list[str]
) -> Iterator[Runs]:
    """Let the clients make these checks, in the background."""
    runs = Runs(wanted)
    thread = Thread(target=runs.make, args=(node_modules, server_command))
    thread.start()
    try:
        yield runs
    finally:
        runs.end()
        thread.join()
