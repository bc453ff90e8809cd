"""The table of sessions, as lines of text: a pure function of pictures of sessions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import attrs

from ..core.metrics import ManagerStatistics
from ..core.reasons import TerminationReason
from ..core.state import SessionState
from .text import Style, clip, count, fit, seconds, visible, width_of

GAP: Final = 2

DOTS: Final[Mapping[SessionState, tuple[str, str, str]]] = {
    SessionState.INITIALIZING: ("◌", "?", "yellow"),
    SessionState.ACTIVE: ("●", "*", "green"),
    SessionState.IDLE: ("○", "o", "blue"),
    SessionState.TERMINATING: ("◍", "!", "magenta"),
    SessionState.TERMINATED: ("×", "x", "dim"),
}
"""What stands before each state: a sign, the same in ASCII, and its looks."""

ALARMING: Final = frozenset(
    {
        TerminationReason.CRASHED,
        TerminationReason.UNRESPONSIVE,
        TerminationReason.TRANSPORT_FAILED,
        TerminationReason.HANDSHAKE_TIMEOUT,
    }
)
"""Reasons that an operator may want to look into."""


@attrs.frozen(kw_only=True)
class SessionPicture:
    """One session at one moment."""

    client: str
    """What to call its client. It is the peer's word: shown escaped."""

    state: SessionState
    """Where it stands in its life."""

    age: float
    """Seconds since it was opened."""

    idle: float
    """Seconds since it was last active."""

    in_flight: int = 0
    """Requests that run or wait."""

    tasks: int = 0
    """Work tasks and leases besides those."""

    received: int = 0
    """Messages from the client."""

    sent: int = 0
    """Messages to the client."""

    note: str = ""
    """What it is doing, where that is known."""

    reason: TerminationReason | None = None
    """Why it ends or has ended."""

    @property
    def ended(self) -> bool:
        """Whether nothing is left of it."""
        return self.state is SessionState.TERMINATED


@attrs.frozen
class _Column:
    title: str
    text: Callable[[SessionPicture, Style], str]
    looks: Callable[[SessionPicture], str] = lambda _: ""
    right: bool = True
    narrowest: int = 0
    """Columns that it needs; 0 for as many as its widest cell, and then it is never cut."""
    widest: int = 1_000
    usual: int = 0
    """Columns that it has where there is room, so that the table stands still."""
    expendable: int = 0
    """Which go first where there is no room: the highest; those with 0 stay."""


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
    """Draw sessions as a table.

    Args:
        pictures: The sessions, in the order of the rows.
        width: Columns of the terminal; no line takes more.
        style: What the terminal can do.
        max_rows: Rows for sessions, at most; what is left out is counted in a row of its own.
        hidden: How many sessions there are that have no picture.
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
    """Choose the columns that there is room for, and how wide each is."""
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
    for column in reversed(least):  # what a session does, before its full name
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
    """Join cells, cut the last of them where even the narrowest row is too wide."""
    line, left = "", width
    for number, (text, looks) in enumerate(cells):
        gap = min(left, GAP if number else 0)
        text = clip(text, left - gap, "")  # noqa: PLW2901  # what is left of it
        line += " " * gap + style.paint(text, looks)
        left -= gap + width_of(text)
    return line.rstrip(" ")


def render_totals(statistics: ManagerStatistics, width: int, style: Style) -> str:
    """Draw what a manager counted as one line."""
    parts = [f"{sum(statistics.active.values())} open", f"{statistics.opened} opened so far"]
    if refused := sum(statistics.refused.values()):
        parts.append(f"{refused} refused")
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
