"""Runs end also where they hang."""

from __future__ import annotations

import subprocess

import trio

from .programs import command
from .watchdog import run_watched


def test_a_hang_is_noticed() -> None:
    # What was given up complains on standard error at the end of the interpreter.
    done = subprocess.run(command("hangs"), capture_output=True, text=True, check=True)
    assert done.stdout == "True True\n"


def test_the_watchdog_reports_the_duration_of_a_run() -> None:
    async def main() -> None:
        await trio.sleep(7)

    outcome = run_watched(main)
    assert (outcome.error, outcome.seconds, outcome.hung) == (None, 7, False)


def test_the_watchdog_reports_the_error_of_a_failed_run() -> None:
    async def main() -> None:
        async with trio.open_nursery():
            raise ValueError

    outcome = run_watched(main)
    assert isinstance(outcome.error, ExceptionGroup)
    assert not outcome.hung
