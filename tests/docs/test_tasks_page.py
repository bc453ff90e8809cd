"""The page about tasks names the defaults that the code has."""

from __future__ import annotations

import re
from pathlib import Path

from trio_mcp_session import CleanupConfig, SessionKind, SessionLimits
from trio_mcp_session.application.task_support import PROMOTE_AFTER

PAGE = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8")
LIMITS, CLOCKS = SessionLimits(), CleanupConfig()
DEFAULTS = {
    "promote_after=": f"{PROMOTE_AFTER:g} s",
    "CleanupConfig.task_timeout": f"{CLOCKS.task_timeout / 3600:g} hours",
    "CleanupConfig.task_retention": f"{CLOCKS.task_retention / 3600:g} hour after the end",
    "SessionLimits.max_tasks_per_principal": f"{LIMITS.max_tasks_per_principal}",
    "SessionLimits.max_sessions_of": f"{LIMITS.sessions_of(SessionKind.TASK):,}",
    "SessionLimits.max_task_result": f"{LIMITS.max_task_result // 2**20} MiB",
    "SessionLimits.max_questions": f"{LIMITS.max_questions}",
    "CleanupConfig.task_poll_interval": f"{CLOCKS.task_poll_interval:g} s",
}


def test_the_table_of_defaults_has_those_of_the_code() -> None:
    section = PAGE.partition("\n## Defaults\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| [^|]+ \| ([^|]+) \| `([\w.=]+)`", section, re.MULTILINE)
    assert {setting: default for default, setting in rows} == DEFAULTS
