"""The goals over HTTP, and whether they are reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from http_contender import Contender
from report import ratio, table

CONNECTIONS: Final = 32
STREAMS: Final = 200

BUILTIN: Final = "ours, built-in"
HYPERCORN: Final = "ours, Hypercorn"
BUILTIN_SSE: Final = "ours, built-in, SSE"
MCP: Final = "mcp, uvicorn"
MCP_HYPERCORN: Final = "mcp, Hypercorn"
MCP_SSE: Final = "mcp, uvicorn, SSE"
FLOOR: Final = "(no server)"
FLOOR_HYPERCORN: Final = "(no application), Hypercorn"


@dataclass
class Goal:
    """A row of the table of goals."""

    what: str
    name: str
    """The era, and the workload."""
    mine: str
    peer: str
    accept: float
    aim: float
    more_is_better: bool = False
    limit: str = ""
    """What nothing of ours can be better than: no application at all on the same server."""
    required: bool = True
    """Whether what is not acceptable fails the benchmark; else it is shown."""


NOISE: Final = 0.9
"""How near to the limit counts as there."""


def goals_of_calls(era: str, peer: str) -> tuple[Goal, ...]:
    """Return the goals that both eras share."""
    one, many = "1 connection, p50", f"{CONNECTIONS} connections, req/s"
    return (
        Goal(f"{era}: {one}", f"{era} one", BUILTIN, peer, 2, 3.5),
        Goal(f"{era}: {many}", f"{era} many", BUILTIN, peer, 4, 8, more_is_better=True),
        Goal(
            f"{era}: Hypercorn, {one}",
            *(f"{era} one", HYPERCORN, MCP_HYPERCORN, 1.6, 1.9, False, FLOOR_HYPERCORN),
        ),
        Goal(
            f"{era}: Hypercorn, {many}",
            *(f"{era} many", HYPERCORN, MCP_HYPERCORN, 1.6, 1.9, True, FLOOR_HYPERCORN),
        ),
        Goal(f"{era}: start to first answer", f"{era} start", BUILTIN, MCP, 2.5, 3.5),
    )


GOALS: Final = (
    *goals_of_calls("legacy", MCP),
    Goal(
        f"legacy: SSE answers, {CONNECTIONS} connections, req/s",
        *("legacy sse", BUILTIN_SSE, MCP_SSE, 4, 10, True),
    ),
    Goal(
        "legacy: session churn, sessions/s",
        *("legacy churn", BUILTIN, MCP, 1.5, 2.5, True),
    ),
    # Compared with the mode that cancels a call when its client leaves, as the revision demands.
    *goals_of_calls("modern", MCP_SSE),
    # And with the mode that does not notice it.
    Goal("modern: 1 connection, p50", "modern one", BUILTIN, MCP, 2, 3.5, required=False),
    Goal(
        f"modern: {CONNECTIONS} connections, req/s",
        *("modern many", BUILTIN, MCP, 4, 8, True),
        required=False,
    ),
)


def judge(contenders: Mapping[str, Contender], workloads: Sequence[str]) -> bool:
    """Print the goals and the measured figures.

    Returns:
        whether all measured figures are acceptable.
    """
    rows: list[tuple[str, ...]] = []
    good = True

    def add(
        what: str,
        peer: str,
        got: float,
        form: str,
        accept: float,
        aim: float,
        *,
        less: bool,
        limit: float | None = None,
        required: bool = True,
    ) -> None:
        nonlocal good
        reached = [got <= goal if less else got >= goal for goal in (accept, aim)]
        words = ["met" if it else "missed" for it in reached]
        if limit is not None and not reached[0]:
            words[0] += f" (limit {limit:.2f})"
            reached[0] = got >= NOISE * limit
        if not required:
            words[0] += " (for information)"
        good = good and (reached[0] or not required)
        cells = (form.format(it) for it in (got, accept, aim))
        got_cell, accept_cell, aim_cell = cells
        rows.append((what, peer, got_cell, accept_cell, words[0], aim_cell, words[1]))

    for goal in GOALS:
        if goal.name not in workloads:
            continue
        mine = contenders[goal.mine].figures.get(goal.name, [])
        theirs = contenders[goal.peer].figures.get(goal.name, [])
        if not mine or len(mine) != len(theirs):
            good = False
            rows.append((goal.what, goal.peer, "not measured", f"{goal.accept:.2f}×", "-", "", ""))
        else:
            got = _times_better(goal, mine, theirs)
            least = contenders[goal.limit].figures.get(goal.name) if goal.limit else None
            limit = None if least is None else _times_better(goal, least, theirs)
            add(
                *(goal.what, goal.peer, got, "{:.2f}×", goal.accept, goal.aim),
                less=False,
                limit=limit,
                required=goal.required,
            )
    for name in (BUILTIN, HYPERCORN):
        figures = contenders[name].figures
        if "legacy stop" in figures and "legacy stop" in workloads:
            what = f"legacy: {name}, SIGTERM, {STREAMS} streams"
            milliseconds = median(figures["legacy stop"]) * 1e3
            add(f"{what}, ms", "", milliseconds, "{:.0f}", 500, 200, less=True)
            ends = min(figures["legacy stop ends"])
            add(f"{what}, proper ends", "", ends, "{:.0f}", STREAMS, STREAMS, less=False)
    print(table(("workload", "against", "measured", "accept", "", "aim", ""), rows))
    return good


def _times_better(goal: Goal, mine: Sequence[float], theirs: Sequence[float]) -> float:
    return ratio(mine, theirs) if goal.more_is_better else ratio(theirs, mine)
