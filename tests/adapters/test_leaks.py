"""The leak proof with an application of the official SDK behind it.

The machines, their models and their single steps come from `tests/leaks`; what they serve is an
``MCPServer`` with the same tools.
"""

from __future__ import annotations

import pytest
from hypothesis import settings

from tests.adapters.leaks import SdkLeakServer, SdkModernServer
from tests.leaks.test_http_machine import (
    HttpLeakMachine,
    test_calls_and_resumptions_beyond_the_stream_limit_leave_nothing,
    test_each_disturbance_of_open_exchanges_leaves_nothing,
    test_each_rule_of_the_http_machine_leaves_nothing,
    test_each_way_to_end_an_http_session_leaves_nothing,
    test_each_way_to_open_an_http_session_leaves_nothing,
)
from tests.leaks.test_machine import (
    LeakMachine,
    test_each_flavour_of_session_leaves_nothing,
    test_each_way_to_end_a_session_leaves_nothing,
)
from tests.leaks.test_modern_machine import (
    ModernLeakMachine,
    test_each_flavour_of_handle_leaves_nothing,
    test_each_handler_with_something_special,
    test_each_kind_of_retry_leaves_nothing,
    test_each_way_to_end_parked_handlers_and_handles_leaves_nothing,
    test_subscriptions_leave_nothing_when_they_end,
)

__all__ = [
    "test_calls_and_resumptions_beyond_the_stream_limit_leave_nothing",
    "test_each_disturbance_of_open_exchanges_leaves_nothing",
    "test_each_flavour_of_handle_leaves_nothing",
    "test_each_flavour_of_session_leaves_nothing",
    "test_each_handler_with_something_special",
    "test_each_kind_of_retry_leaves_nothing",
    "test_each_rule_of_the_http_machine_leaves_nothing",
    "test_each_way_to_end_a_session_leaves_nothing",
    "test_each_way_to_end_an_http_session_leaves_nothing",
    "test_each_way_to_end_parked_handlers_and_handles_leaves_nothing",
    "test_each_way_to_open_an_http_session_leaves_nothing",
    "test_subscriptions_leave_nothing_when_they_end",
]


@pytest.fixture(autouse=True)
def served_by_the_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the machines of single steps serve the application, too."""
    monkeypatch.setattr(LeakMachine, "new_server", lambda machine: SdkLeakServer())
    monkeypatch.setattr(ModernLeakMachine, "new_server", lambda machine: SdkModernServer())


class SdkLeakMachine(LeakMachine):
    def new_server(self) -> SdkLeakServer:
        return SdkLeakServer()


class SdkHttpLeakMachine(HttpLeakMachine):
    def new_server(self) -> SdkLeakServer:
        return SdkLeakServer()


class SdkModernLeakMachine(ModernLeakMachine):
    def new_server(self) -> SdkModernServer:
        return SdkModernServer()


EXAMPLES = settings(max_examples=40, stateful_step_count=50)

TestSdkLeakMachine = SdkLeakMachine.TestCase
TestSdkLeakMachine.settings = EXAMPLES
TestSdkHttpLeakMachine = SdkHttpLeakMachine.TestCase
TestSdkHttpLeakMachine.settings = EXAMPLES
TestSdkModernLeakMachine = SdkModernLeakMachine.TestCase
TestSdkModernLeakMachine.settings = EXAMPLES
