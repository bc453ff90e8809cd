"""For the tests of servers: a client in memory, faults to inject, a check for leaks.

All of it runs on Trio's clock, so a test under `trio.testing.MockClock` (the ``autojump_clock``
of pytest-trio) takes hours of virtual time in no time. Let no clock jump by itself beside real
pipes, sockets or threads: it would strike every timeout at once.
"""

from __future__ import annotations

from .calls import (
    ConnectionEnded as ConnectionEnded,
    PendingRequest as PendingRequest,
    ToolResult as ToolResult,
)
from .client import Client as Client
from .connecting import connect_client as connect_client
from .conversation import Answerer as Answerer
from .faults import (
    FaultyChannel as FaultyChannel,
    FaultyContext as FaultyContext,
    crash as crash,
    cut_short as cut_short,
    hang as hang,
    refuse_cancellation as refuse_cancellation,
)
from .leaks import (
    LeakError as LeakError,
    assert_no_leaks as assert_no_leaks,
    check_leaks as check_leaks,
    find_leaks as find_leaks,
)
