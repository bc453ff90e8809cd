"""Real processes and real signals: none hangs, nothing is left, no interrupt is lost.

A handful of runs: ``python -m tests.interruption.signals --runs 200`` makes more of them.
"""

from __future__ import annotations

import pytest

from .signals import problems_of, run_once

RUNS = [
    *(("library", seed) for seed in (1, 3, 5)),
    ("many", 0),
    *(("stdio", seed) for seed in (0, 1, 2)),
    *(("http", seed) for seed in (0, 1, 2)),
]


@pytest.mark.parametrize("name, seed", RUNS)
async def test_signals_at_random_moments(name: str, seed: int) -> None:
    run = await run_once(name, seed)
    assert problems_of(name, run) == []
