"""Real processes and real signals: none hangs, nothing is left, no interrupt is lost.

A handful of runs: ``python -m tests.interruption.signals --runs 200`` makes more of them.
"""

from __future__ import annotations

import signal

import msgspec
import pytest

from .signals import Run, judge_library, main, problems_of, run_once

RUNS = [
    *(("library", seed) for seed in (1, 3, 5)),
    ("many", 5),
    *(("stdio", seed) for seed in (0, 1, 2)),
    *(("http", seed) for seed in (0, 1, 2)),
    *(("terminal", seed) for seed in (0, 1, 2)),
]


@pytest.mark.parametrize("name, seed", RUNS)
async def test_signals_at_random_moments(name: str, seed: int) -> None:
    run = await run_once(name, seed)
    assert problems_of(name, run) == []


async def test_a_program_without_signals_ends_as_expected() -> None:
    run = await run_once("library", 0, signals=0)
    assert problems_of("library", run) == []
    assert b"BodyError" in run.out


async def test_a_shell_that_has_it_ignore_interrupts() -> None:
    """Shells do, for what they start in the background: no interrupt would come out."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        run = await run_once("library", 1)
    finally:
        signal.signal(signal.SIGINT, before)
    assert problems_of("library", run) == []
    assert b"KeyboardInterrupt" in run.out


async def test_the_command_line_runs_a_program_and_returns_success() -> None:
    assert await main(["--runs=1", "--first=6", "--program=library"]) == 0


# What is a problem.


def library_run(kinds: str, *, status: int = 0, end: float = 10) -> Run:
    run = Run(0, (), status=status)
    run.sent.append((signal.SIGINT, 1))
    told = {"end": end, "kinds": kinds.split(), "problems": []}
    run.out = b"ready\n" + msgspec.json.encode(told) + b"\n"
    return run


@pytest.mark.parametrize(
    "run, found",
    [
        (library_run("KeyboardInterrupt BodyError"), []),
        (library_run("BodyError", end=0.5), []),
        (library_run("KeyboardInterrupt SessionTerminated"), []),
        (library_run("SessionTerminated", end=0.5), ["out came {'SessionTerminated': 1}"]),
        (library_run("BodyError"), ["1 interrupts, and none came out"]),
        (library_run("KeyboardInterrupt OSError"), ["out came {'OSError': 1}"]),
        (library_run("KeyboardInterrupt", status=1), ["status 1"]),
    ],
)
def test_a_library_run_is_judged_by_its_output_and_its_time(run: Run, found: list[str]) -> None:
    assert list(judge_library(run)) == found


def server_run(status: int, signals: int, err: bytes = b"entered a\nleft a\n") -> Run:
    run = Run(0, (), status=status, err=err)
    run.sent += [(signal.SIGTERM, 1), (signal.SIGINT, 2), (signal.SIGINT, 3)][:signals]
    return run


@pytest.mark.parametrize(
    "run, found",
    [
        (server_run(0, 1), []),
        (server_run(0, 2), []),
        (server_run(130, 2), []),
        (server_run(130, 1), ["status 130 after ['SIGTERM']"]),
        (server_run(143, 2), ["status 143 after ['SIGTERM', 'SIGINT']"]),
        (server_run(130, 2, b"entered a\n"), ["session a was never left"]),
        (server_run(130, 3, b"entered a\n"), []),
        (server_run(0, 1, b"Traceback"), ["a traceback: b'Traceback'"]),
    ],
)
def test_a_server_run_is_judged_by_its_exit_status_and_signals(run: Run, found: list[str]) -> None:
    assert problems_of("http", run) == found


def test_a_process_that_hangs() -> None:
    assert problems_of("http", Run(0, (), hung=True)) == ["it hangs"]
