"""`demo`: the sessions of real client processes, connected by pipes, in one terminal."""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, final

import attrs
import trio

from ...core.reasons import TerminationReason
from ...sessions.consistency import validate_sessions
from ..failure import CommandFailed, find_failure
from ..screen import Screen
from ..shutdown import Shutdown
from ..signals import run_until_signal
from ..table import sorted_by_count
from ..text import Style, fit
from .script import CONFIG, EXPECTED, DemoRun, Launch
from .server import make_application

NEEDED: Final = (2, 3)
"""The oldest version of the official SDK that the clients run on."""

PATIENCE: Final = 5.0
"""Seconds that a client has to exit after its session has ended."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "--plain", action="store_true", help="print lines only, without the live table"
    )


def run(options: argparse.Namespace) -> int:
    """Run the demo; return 0 if every session ended as expected.

    Raises:
        CommandFailed: The official SDK is not installed, or a client failed.
    """
    check_sdk()
    # The demo reports its crash itself; a traceback would be printed into the table.
    logging.getLogger("trio_mcp_session").addHandler(logging.NullHandler())
    style = Style() if options.plain else None
    with TemporaryDirectory() as name:
        folder = Path(name)
        try:
            return trio.run(run_demo, Screen(sys.stdout, style), ProcessLauncher(folder), folder)
        except BaseExceptionGroup as group:
            failure = find_failure(group)
            if failure is None:
                raise
            raise failure from failure.__cause__


def check_sdk() -> str:
    """Return the version of the official SDK.

    Raises:
        CommandFailed: It is not installed, or too old.
    """
    needed = ".".join(map(str, NEEDED))
    how = f'{Path(sys.executable).name} -m pip install "mcp >= {needed}"'
    try:
        version = metadata.version("mcp")
    except metadata.PackageNotFoundError:
        raise CommandFailed(f"the demo's clients need the official SDK: {how}", status=2) from None
    if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < NEEDED:
        raise CommandFailed(
            f"the demo's clients need a newer SDK than mcp {version}: {how}",
            status=2,
        )
    return version


@final
@attrs.define(eq=False)
class ClientProcess:
    """A client process, and the two pipes to it."""

    name: str
    process: trio.Process
    errors: Path
    _killed: bool = attrs.field(default=False, init=False)

    @property
    def stream(self) -> trio.abc.Stream:
        """Its standard input and output."""
        assert self.process.stdio is not None
        return self.process.stdio

    @property
    def peer(self) -> str:
        """Its process id."""
        return f"pid {self.process.pid}"

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        self._killed = True
        self.process.kill()

    async def wait_gone(self) -> str | None:
        """Wait until it has exited, or kill it; return an error message if it failed."""
        with trio.move_on_after(PATIENCE):
            await self.process.wait()
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
            return f"client {self.name} did not exit"
        if self._killed or self.process.returncode == 0:
            return None
        output = self.errors.read_text("utf-8", "replace").strip()
        return f"client {self.name} failed with status {self.process.returncode}:\n{output}"


@final
@attrs.frozen
class ProcessLauncher:
    """Starts client processes."""

    folder: Path
    """Where their standard error goes."""

    command: Sequence[str] = (sys.executable, "-m", f"{__package__}.client")
    """What to start; the client's name is added as the last argument."""

    async def __call__(self, name: str) -> ClientProcess:
        """Start a client by name."""
        errors = self.folder / f"{name}.err"
        # Their own process groups: only the server gets the SIGINT of Ctrl-C.
        with errors.open("wb") as output:
            process = await trio.lowlevel.open_process(
                [*self.command, name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                start_new_session=True,
            )
        return ClientProcess(name, process, errors)


async def run_demo(screen: Screen, launch: Launch, folder: Path) -> int:
    """Run the demo and print a summary; return the exit status.

    Args:
        screen: Where to print.
        launch: Starts clients.
        folder: Where the sessions create their workspaces.
    """
    workspaces = folder / "workspaces"
    workspaces.mkdir()
    tasks_before = trio.lowlevel.current_statistics().tasks_living
    demo_run = DemoRun(screen, launch)
    with screen, Shutdown(CONFIG.cleanup) as shutdown:
        await run_until_signal(
            make_application(workspaces),
            lambda manager, _: demo_run.run(manager),
            shutdown=shutdown,
            config=CONFIG,
        )
    tasks = trio.lowlevel.current_statistics().tasks_living - tasks_before
    left = {
        "sessions in the manager's tables": len(demo_run.manager.sessions()),
        "errors of validate_sessions": len(validate_sessions(demo_run.manager.store)),
        "tasks": tasks,
        "workspaces on disk": len(os.listdir(workspaces)),
        "client processes": len(demo_run.clients) - len(demo_run.gone),
    }
    screen.print(*summary(demo_run, left, screen.style))
    ended = {name: session.termination_reason for name, session in demo_run.sessions.items()}
    return 0 if ended == EXPECTED and not any(left.values()) else 1


def summary(demo_run: DemoRun, left: Mapping[str, int], style: Style) -> list[str]:
    """Return lines that say how the sessions ended, and what is left."""
    names_of: dict[TerminationReason, list[str]] = {}
    for name, session in demo_run.sessions.items():
        if session.termination_reason is not None:
            names_of.setdefault(session.termination_reason, []).append(name)
    statistics = demo_run.manager.statistics()
    lines = ["", style.paint(f"How {statistics.opened} sessions ended", "bold")]
    for reason, number in sorted_by_count(statistics.ended):
        names = ", ".join(sorted(names_of.get(reason, [])))
        lines.append(f"  {fit(reason.value, 18)}{number:>3}   {style.paint(names, 'dim')}".rstrip())
    if (report := demo_run.report) is not None:
        lines.append(
            f"  The drain: {len(report.completed)} completed, {len(report.cancelled)} cancelled, "
            f"{len(report.failed)} failed, {len(report.overran)} overran."
        )
    else:
        lines.append("  The demo was interrupted.")
    lines += ["", style.paint("What is left", "bold")]
    for what, number in left.items():
        sign, looks = (("✓", "ok"), "green") if not number else (("✗", "!!"), "red")
        lines.append(style.paint(f"  {sign[not style.unicode]} {number} {what}", looks))
    if not any(left.values()):
        lines += ["", "When the nursery of a session has exited, nothing of the session is left."]
    return [*lines, ""]
