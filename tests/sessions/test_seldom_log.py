"""Records of what clients can cause at any rate."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from trio_mcp_session.sessions.seldom_log import SeldomLog


async def test_one_record_of_a_kind_within_a_minute(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    log = SeldomLog()
    for number in range(5):
        log.write("a", "a happened at %d", number)
    log.write("b", "b happened")
    assert caplog.messages == ["a happened at 0", "b happened"]
    caplog.clear()
    await trio.sleep(59)
    log.write("a", "a happened at %d", 59)
    assert not caplog.messages
    await trio.sleep(1)
    log.write("a", "a happened at %d", 60)
    assert caplog.messages == ["a happened at 60 (and 5 times since the last record)"]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    caplog.clear()
    await trio.sleep(60)
    log.write("a", "a happened at %d", 120)
    assert caplog.messages == ["a happened at 120"]
