from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given, strategies as st

from trio_mcp_session import (
    ManagerStatistics,
    SessionId,
    SessionKind,
    SessionState,
    TaskInfo,
    TaskStatus,
    TerminationReason,
)
from trio_mcp_session.cli.table import SessionPicture, describe_task, render_table, render_totals
from trio_mcp_session.cli.text import Style, width_of

PLAIN = Style()
COLOR = re.compile(r"\x1b\[[\d;]+m")

pictures = st.builds(
    SessionPicture,
    client=st.text(),
    state=st.sampled_from(SessionState),
    age=st.floats(0, 1e9),
    idle=st.floats(0, 1e9),
    in_flight=st.integers(0, 10**7),
    tasks=st.integers(0, 10**7),
    received=st.integers(0),
    sent=st.integers(0),
    note=st.text(),
    reason=st.none() | st.sampled_from(TerminationReason),
)
styles = st.builds(Style, color=st.booleans(), unicode=st.booleans())


def picture(**changes: Any) -> SessionPicture:
    values: dict[str, Any] = {
        "client": "ada",
        "state": SessionState.ACTIVE,
        "age": 2.5,
        "idle": 0.5,
    }
    return SessionPicture(**values | changes)


@given(st.lists(pictures, max_size=5), st.integers(1, 200), styles, st.integers(1, 6))
def test_no_line_is_wider_than_the_terminal(
    sessions: list[SessionPicture], width: int, style: Style, max_rows: int
) -> None:
    lines = render_table(sessions, width, style, max_rows=max_rows)
    assert len(lines) <= max_rows + 1
    for line in lines:
        text = COLOR.sub("", line)
        assert text.isprintable()
        assert width_of(text) <= width
        assert style.unicode or text.isascii()
        assert style.color or text == line
        # What is coloured is given back at the end.
        assert not style.color or line.count("\x1b[0m") * 2 == line.count("\x1b[")


@given(st.lists(pictures, min_size=1, max_size=5), st.integers(80, 200))
@example([SessionPicture(client=" ", state=SessionState.ACTIVE, age=0, idle=0)], 80)
def test_columns_stand_under_each_other(sessions: list[SessionPicture], width: int) -> None:
    # In ASCII a column of the terminal is a character.
    header, *rows = render_table(sessions, width, Style(unicode=False))
    start = header.index("CLIENT")
    for row in rows:
        assert row[start - 1 : start] in ("", " ")
        assert row[start : start + 1] not in ("", " ")


def test_the_table() -> None:
    lines = render_table(
        [
            picture(state=SessionState.INITIALIZING, client="", age=0.1, idle=0.1),
            picture(in_flight=1, tasks=2, received=12, sent=34, note="crunching"),
            picture(client="ben", state=SessionState.IDLE, age=90, idle=70),
            picture(client="eve", state=SessionState.TERMINATING, reason=TerminationReason.EVICTED),
            picture(
                client="dave",
                state=SessionState.TERMINATED,
                reason=TerminationReason.CRASHED,
                note="ticking",
                in_flight=1,
            ),
        ],
        85,
        PLAIN,
    )
    assert lines == [
        "STATE           CLIENT       AGE   IDLE  IN FLIGHT  TASKS  MESSAGES  DOING/REASON",
        "◌ initializing  -           0.1s   0.1s          ·      ·     0 ⇄ 0",
        "● active        ada         2.5s      ·          1      2   12 ⇄ 34  crunching",
        "○ idle          ben        1m30s  1m10s          ·      ·     0 ⇄ 0",
        "◍ terminating   eve         2.5s   0.5s          ·      ·     0 ⇄ 0  evicted",
        "× terminated    dave        2.5s                              0 ⇄ 0  crashed",
    ]


def test_the_table_in_ascii() -> None:
    (_, line) = render_table([picture(client="zoë", received=1)], 80, Style(unicode=False))
    assert line.split() == ["*", "active", "zo\\xeb", "2.5s", "0.5s", "-", "-", "1", "/", "0"]


@pytest.mark.parametrize(
    "width, gone",
    [
        (66, set[str]()),
        (65, {"MESSAGES"}),
        (55, {"MESSAGES", "TASKS"}),
        (48, {"MESSAGES", "TASKS", "IDLE"}),
        (42, {"MESSAGES", "TASKS", "IDLE", "AGE"}),
        (36, {"MESSAGES", "TASKS", "IDLE", "AGE", "IN FLIGHT"}),
        (25, {"MESSAGES", "TASKS", "IDLE", "AGE", "IN FLIGHT", "DOING"}),
    ],
)
def test_a_narrow_terminal_gets_fewer_columns(width: int, gone: set[str]) -> None:
    header, row = render_table([picture(note="a long explanation")], width, PLAIN)
    titles = {"STATE", "CLIENT", "AGE", "IDLE", "IN FLIGHT", "TASKS", "MESSAGES", "DOING"}
    assert {title for title in titles if title not in header} == gone
    assert width_of(row) <= width


def test_at_the_narrowest_a_row_is_cut() -> None:
    assert render_table([picture()], 12, PLAIN) == ["STATE     CL", "● active  ad"]


def test_the_table_stands_still_while_states_change() -> None:
    calm = render_table([picture()], 100, PLAIN)
    busy = render_table([picture(state=SessionState.INITIALIZING, client="pid 12345")], 100, PLAIN)
    assert calm[0] == busy[0]


def test_a_reason_is_shown_in_place_of_what_was_being_done() -> None:
    style = Style(color=True)
    for reason, color in [(TerminationReason.CRASHED, "31"), (TerminationReason.IDLE, "33")]:
        (_, line) = render_table([picture(note="working", reason=reason)], 120, style)
        assert f"\x1b[{color}m{reason.value}" in line
        assert "working" not in line


@pytest.mark.parametrize(
    "sessions, max_rows, hidden, rows",
    [
        (0, 3, 0, ["no sessions"]),
        (3, 3, 0, ["ada", "ada", "ada"]),
        (4, 3, 0, ["ada", "ada", "… and 2 more"]),
        (2, 3, 7, ["ada", "ada", "… and 7 more"]),
        (3, 3, 7, ["ada", "ada", "… and 8 more"]),
    ],
)
def test_rows_that_are_left_out_are_counted(
    sessions: int, max_rows: int, hidden: int, rows: list[str]
) -> None:
    _, *lines = render_table([picture()] * sessions, 80, PLAIN, max_rows=max_rows, hidden=hidden)
    assert ["ada" if "ada" in line else line for line in lines] == rows


@pytest.mark.parametrize(
    "changes, text",
    [
        ({}, "task working: tool 'build'"),
        ({"status_message": "2 of 3"}, "task working: tool 'build', 2 of 3"),
        (
            {"status": TaskStatus.INPUT_REQUIRED, "questions": ("q1",), "status_message": "x"},
            "task input required, 1 question open: tool 'build', x",
        ),
        (
            {"status": TaskStatus.INPUT_REQUIRED, "questions": ("q1", "q2")},
            "task input required, 2 questions open: tool 'build'",
        ),
        ({"status": TaskStatus.FAILED}, "task failed: tool 'build'"),
    ],
)
def test_a_task_in_a_few_words(changes: Mapping[str, Any], text: str) -> None:
    values: dict[str, Any] = {
        "task_id": SessionId("t"),
        "name": "tool 'build'",
        "status": TaskStatus.WORKING,
        "status_message": None,
        "principal": None,
        "created": datetime.now(UTC),
        "age": 1.0,
        "time_left": 2.0,
        "questions": (),
    }
    assert describe_task(TaskInfo(**{**values, **changes})) == text


def statistics(**changes: Any) -> ManagerStatistics:
    values: dict[str, Any] = {
        "active": {SessionKind.CONNECTION: 2, SessionKind.HANDLE: 1},
        "states": {SessionState.ACTIVE: 3},
        "reserved": 0,
        "opened": 9,
        "refused": {},
        "http_refused": {},
        "ended": {},
        "durations": (),
        "in_flight": 0,
        "listens": 0,
        "subscribers": 0,
        "events_missed": 0,
        "hook_failures": 0,
        "draining": False,
    }
    return ManagerStatistics(**values | changes)


@pytest.mark.parametrize(
    "changes, line",
    [
        ({}, "3 open · 9 opened so far"),
        (
            {
                "ended": {
                    TerminationReason.IDLE: 2,
                    TerminationReason.CRASHED: 2,
                    TerminationReason.EVICTED: 3,
                }
            },
            "3 open · 9 opened so far · ended: 3 evicted, 2 crashed, 2 idle",
        ),
        (
            {"tasks": {"working": 2, "completed": 3, "input_required": 2}},
            "3 open · 9 opened so far · tasks: 3 completed, 2 input required, 2 working",
        ),
        (
            {"refused": {"SessionLimitReached": 2, "ShuttingDown": 1}, "draining": True},
            "3 open · 9 opened so far · 3 refused · draining",
        ),
    ],
)
def test_totals(changes: Mapping[str, Any], line: str) -> None:
    assert render_totals(statistics(**changes), 80, PLAIN) == line
    assert render_totals(statistics(**changes), 80, Style(unicode=False)) == line.replace("·", "|")
    assert render_totals(statistics(**changes), 10, PLAIN) == line[:9] + "…"
