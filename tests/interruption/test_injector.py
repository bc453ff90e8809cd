"""A scenario, interrupted wherever CPython may deliver a signal.

A sample by default: ``TRIO_MCP_SESSION_EVERY_POINT=1`` runs every point, which takes minutes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
import trio

from .programs import command
from .scenarios import LONGEST, SCENARIOS, BodyError, Record

SAMPLE = {"failing-body": 45, "normal-leave": 30, "tasks": 60}
"""Every how many points by default."""

EVERY_POINT = "TRIO_MCP_SESSION_EVERY_POINT" in os.environ

FIRST_OFFSET = 7


@pytest.mark.parametrize("name", SCENARIOS)
async def test_a_scenario_without_an_interrupt_has_no_problems(
    name: str, autojump_clock: trio.testing.MockClock
) -> None:
    record = Record()
    with trio.fail_after(LONGEST):  # noqa: ASYNC912  # they all wait
        try:
            await SCENARIOS[name](record)
        except BodyError:
            assert record.body_failed
        assert record.problems() == []


async def test_the_scenario_has_all_that_a_session_can_own(
    autojump_clock: trio.testing.MockClock,
) -> None:
    record = Record()
    with pytest.raises(BodyError):
        await SCENARIOS["failing-body"](record)
    entered = {(owner, name) for step, owner, name in record.marks if step == "entered"}
    assert entered >= {
        *((owner, name) for owner in ("one", "two") for name in ("life", "A", "B", "task")),
        *((owner, name) for owner in ("one", "two") for name in ("late", "grown")),
        *(("legacy", "call"), ("modern", "call"), ("box", "box"), ("box", "use")),
    }
    assert record.parked


async def test_the_scenario_of_tasks_has_them_in_every_state(
    autojump_clock: trio.testing.MockClock,
) -> None:
    record = Record()
    await SCENARIOS["tasks"](record)
    assert record.tasks == {"completed": 1, "cancelled": 2, "input_required": 1, "working": 1}


needs_bytecode_of_311 = pytest.mark.skipif(
    sys.implementation.name != "cpython" or sys.version_info[:2] != (3, 11),
    reason="knows the bytecode of CPython 3.11",
)


def inject(*arguments: str) -> None:
    done = subprocess.run(
        command("injector", *arguments),
        # Coverage needs the trace hook that the injector takes.
        env={key: value for key, value in os.environ.items() if not key.startswith("COVERAGE_")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@needs_bytecode_of_311
@pytest.mark.parametrize("name", SCENARIOS)
def test_an_interrupt_at_any_point(name: str) -> None:
    every = 1 if EVERY_POINT else SAMPLE[name]
    inject(name, f"--every={every}", f"--offset={FIRST_OFFSET % every}")


@needs_bytecode_of_311
def test_a_shell_that_has_it_ignore_interrupts() -> None:
    """Shells do, for what they start in the background: runs without any would prove nothing."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        inject("normal-leave", "--at=117")
    finally:
        signal.signal(signal.SIGINT, before)


@needs_bytecode_of_311
@pytest.mark.parametrize("name", SCENARIOS)
def test_two_interrupts_at_any_points(name: str) -> None:
    inject(name, f"--pairs={1_000 if EVERY_POINT else 40}")
