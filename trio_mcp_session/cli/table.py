"""The table of sessions as lines of text: a pure function of snapshots of sessions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import attrs

from ..core.lifecycle_states import SessionState
from ..core.metrics import ManagerStatistics
from ..core.reasons import TerminationReason
from ..core.task_info import TaskInfo
from .text import Style, clip, count, fit, seconds, visible, width_of

GAP: Final = 2

DOTS: Final[Mapping[SessionState, tuple[str, str, str]]] = {
    SessionState.INITIALIZING: ("◌", "?", "yellow"),
    SessionState.ACTIVE: ("●", "*", "green"),
    SessionState.IDLE: ("○", "o", "blue"),
    SessionState.TERMINATING: ("◍", "!", "magenta"),
    SessionState.TERMINATED: ("×", "x", "dim"),
}
"""The sign of each state, the same in ASCII, and its colour."""

ALARMING: Final = frozenset(
    {
        TerminationReason.CRASHED,
        TerminationReason.UNRESPONSIVE,
        TerminationReason.TRANSPORT_FAILED,
        TerminationReason.HANDSHAKE_TIMEOUT,
    }
)
"""Reasons that an operator should investigate; shown in red."""


@attrs.frozen(kw_only=True)
class SessionPicture:
    """A snapshot of one session."""

    client: str
    """The name of its client. The client chose it: shown escaped."""

    state: SessionState
    """Its state."""

    age: float
    """Seconds since it was opened."""

    idle: float
    """Seconds since it was last active."""

    in_flight: int = 0
    """Requests that run or wait."""

    tasks: int = 0
    """Work tasks and leases, without the requests."""

    received: int = 0
    """Messages from the client."""

    sent: int = 0
    """Messages to the client."""

    note: str = ""
    """What it is working on, if known."""

    reason: TerminationReason | None = None
    """Why it ends or has ended."""

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self.state is SessionState.TERMINATED


def describe_task(task: TaskInfo) -> str:
    """Return a task in a few words: what matters most first, because a line may be cut."""
    status = task.status.value.replace("_", " ")
    if task.questions:
        status += f", {len(task.questions)} question{'s' * (len(task.questions) > 1)} open"
    message = "" if task.status_message is None else f", {task.status_message}"
    return f"task {status}: {task.name}{message}"


@attrs.frozen
class _Column:
    title: str
    text: Callable[[SessionPicture, Style], str]
    looks: Callable[[SessionPicture], str] = lambda _: ""
    right: bool = True
    narrowest: int = 0
    """Least width; 0 for the width of its widest cell, and then it is never cut."""
    widest: int = 1_000
    usual: int = 0
    """Width if there is room, so that the layout does not change with the content."""
    expendable: int = 0
    """Order of removal if there is no room: the highest first; 0 is never removed."""


def _state(picture: SessionPicture, style: Style) -> str:
    sign, plain, _ = DOTS[picture.state]
    return f"{sign if style.unicode else plain} {picture.state.value}"


def _note(picture: SessionPicture, _: Style) -> str:
    return visible(picture.note if picture.reason is None else picture.reason.value)


def _looks_of_note(picture: SessionPicture) -> str:
    if picture.reason is None:
        return "cyan"
    return "red" if picture.reason in ALARMING else "yellow"


def _unless_ended(text: str, picture: SessionPicture) -> str:
    return "" if picture.ended else text


def _idle(picture: SessionPicture, style: Style) -> str:
    busy = picture.in_flight or picture.tasks
    return _unless_ended(_number(0, style) if busy else seconds(picture.idle), picture)


def _number(value: int, style: Style) -> str:
    return count(value) if value else ("·" if style.unicode else "-")


COLUMNS: Final = (
    _Column(
        "state",
        _state,
        lambda picture: DOTS[picture.state][2],
        right=False,
        usual=len("@ initializing"),
    ),
    _Column(
        "client",
        lambda picture, _: visible(picture.client.strip()) or "-",
        lambda picture: "dim" if picture.ended else "bold",
        right=False,
        narrowest=6,
        widest=24,
        usual=9,
    ),
    _Column("age", lambda picture, _: seconds(picture.age), usual=5, expendable=3),
    _Column(
        "idle",
        _idle,
        expendable=4,
    ),
    _Column(
        "in flight",
        lambda picture, style: _unless_ended(_number(picture.in_flight, style), picture),
        expendable=2,
    ),
    _Column(
        "tasks",
        lambda picture, style: _unless_ended(_number(picture.tasks, style), picture),
        expendable=5,
    ),
    _Column(
        "messages",
        lambda picture, style: (
            f"{count(picture.received)} {'⇄' if style.unicode else '/'} {count(picture.sent)}"
        ),
        expendable=6,
    ),
    _Column("doing/reason", _note, _looks_of_note, right=False, narrowest=8, expendable=1),
)


def render_table(
    pictures: Sequence[SessionPicture],
    width: int,
    style: Style,
    *,
    max_rows: int = 1_000,
    hidden: int = 0,
) -> list[str]:
    """Return sessions as a table.

    Args:
        pictures: The sessions, in the order of the rows.
        width: Columns of the terminal: the longest line.
        style: What the terminal can show.
        max_rows: Most rows for sessions; another row counts the sessions that are left out.
        hidden: The number of further sessions, which ``pictures`` leaves out.
    """
    shown = pictures if len(pictures) + bool(hidden) <= max_rows else pictures[: max_rows - 1]
    hidden += len(pictures) - len(shown)
    cells = {
        column: [style.encodable(column.text(picture, style)) for picture in shown]
        for column in COLUMNS
    }
    widths = _choose(cells, width)
    lines = [_header(widths, width, style)]
    lines += [
        _row(
            [
                (
                    fit(cells[column][number], size, right=column.right, ellipsis=style.ellipsis),
                    "dim"
                    if picture.ended and column.title == "messages"
                    else column.looks(picture),
                )
                for column, size in widths.items()
            ],
            width,
            style,
        )
        for number, picture in enumerate(shown)
    ]
    if hidden:
        lines.append(style.paint(clip(f"{style.ellipsis} and {hidden} more", width, ""), "dim"))
    elif not shown:
        lines.append(style.paint(clip("no sessions", width, ""), "dim"))
    return lines


def _choose(cells: Mapping[_Column, Sequence[str]], width: int) -> dict[_Column, int]:
    """Return the columns that fit, with their widths."""
    natural = {
        column: min(column.widest, max(column.usual, *map(width_of, (column.title, *texts))))
        for column, texts in cells.items()
    }
    least = {
        column: min(natural[column], column.narrowest)
        if column.narrowest
        else max(map(width_of, (column.title, *texts)))
        for column, texts in cells.items()
    }
    while sum(least.values()) + GAP * (len(least) - 1) > width:
        expendable = max(least, key=lambda column: column.expendable)
        if not expendable.expendable:
            break
        del least[expendable]
    spare = max(0, width - sum(least.values()) - GAP * (len(least) - 1))
    for column in reversed(least):  # the work of a session is more important than its name
        more = min(spare, natural[column] - least[column])
        least[column] += more
        spare -= more
    return least


def _header(widths: Mapping[_Column, int], width: int, style: Style) -> str:
    titles = [
        fit(column.title.upper(), size, right=column.right, ellipsis=style.ellipsis)
        for column, size in widths.items()
    ]
    return _row([(title, "dim") for title in titles], width, style)


def _row(cells: Sequence[tuple[str, str]], width: int, style: Style) -> str:
    """Join the cells; cut each one at the end of the line."""
    line, left = "", width
    for number, (text, looks) in enumerate(cells):
        gap = min(left, GAP if number else 0)
        text = clip(text, left - gap, "")  # noqa: PLW2901  # what is left of it
        line += " " * gap + style.paint(text, looks)
        left -= gap + width_of(text)
    return line.rstrip(" ")


def render_totals(statistics: ManagerStatistics, width: int, style: Style) -> str:
    """Return the counters of a manager as one line."""
    parts = [f"{sum(statistics.active.values())} open", f"{statistics.opened} opened so far"]
    if refused := sum(statistics.refused.values()):
        parts.append(f"{refused} refused")
    if statistics.tasks:
        by_status = sorted(statistics.tasks.items(), key=lambda item: (-item[1], item[0]))
        listed = ", ".join(f"{number} {status.replace('_', ' ')}" for status, number in by_status)
        parts.append(f"tasks: {listed}")
    ended = [
        f"{number} {reason.value}" for reason, number in sorted_by_count(statistics.ended) if number
    ]
    if ended:
        parts.append(f"ended: {', '.join(ended)}")
    if statistics.draining:
        parts.append("draining")
    dot = " · " if style.unicode else " | "
    return style.paint(clip(dot.join(parts), width, style.ellipsis), "dim")


def sorted_by_count(
    ended: Mapping[TerminationReason, int],
) -> list[tuple[TerminationReason, int]]:
    """Return reasons with their counts, the most frequent first."""
    return sorted(ended.items(), key=lambda item: (-item[1], item[0].value))
