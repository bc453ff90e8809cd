from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from math import inf, nan
from typing import Any

import attrs
import pytest
from hypothesis import given

from tests import strategies
from trio_mcp_session import (
    AdmissionPolicy,
    CleanupConfig,
    RateLimit,
    SessionConfig,
    SessionKind,
    SessionLimits,
)
from trio_mcp_session.core.config import utc_now, with_loop_watch, with_shutdown_timeout
from trio_mcp_session.core.log_level import SEVERITY
from trio_mcp_session.sessions.drain import ending_budget

AT_LEAST_ONE = {
    "max_sessions",
    "max_sessions_per_principal",
    "max_tasks_per_principal",
    "max_task_result",
    "max_in_flight",
    "max_stateless_requests",
    "max_stateless_per_principal",
    "max_questions",
    "max_values",
    "max_initialize_size",
    "max_session_bytes",
    "max_party_bytes",
    "max_bytes",
    "max_message_size",
    "max_nesting",
    "max_batch",
    "max_output",
    "max_waiting_hooks",
    "ping_strikes",
}
MAY_BE_NONE_AT_ALL = {
    "max_ended_handles",
    "max_queued",
    "max_stateless_queued",
    "max_subscriptions",
    "max_listens",
    "max_listens_per_principal",
}
# A clock that may be off, and one that expires at once makes no sense.
TIMEOUTS = {
    "handshake_timeout",
    "idle_after",
    "max_idle_time",
    "connection_handshake_timeout",
    "connection_idle_time",
    "max_session_time",
    "request_timeout",
    "question_timeout",
    "send_timeout",
    "hook_budget",
    "ping_interval",
    "ping_timeout",
    "shutdown_timeout",
    "loop_blocked_after",
}
# Time that others wait for: none is fine, for ever is not.
BUDGETS = {
    "ended_handle_time",
    "lifetime_notice",
    "ending_notice",
    "cleanup_interval",
    "eof_grace",
    "flush_budget",
    "cleanup_budget",
    "admission_budget",
    "drain_grace",
}
# An entry may never complete: the clock has to expire some time.
ALWAYS_ON = {"request_state_timeout", "task_timeout", "task_retention", "task_poll_interval"}
# No time is fine, and so is for ever.
GRACES_OR_OFF = {"retire_grace"}
RATES = {"opening_rate", "request_rate"}
ELSEWHERE = {"max_sessions_of", "admission", "method_rates"}

NO_WHOLE_NUMBER: list[Any] = [True, False, 1.0, 1.5, inf, nan, "1", None, [1]]
NO_SECONDS: list[Any] = [True, False, nan, "1", None, 1j, timedelta(seconds=1), 10**400]


def maker(name: str) -> Callable[[Any], Any]:
    """Return what makes a configuration with one field set, and reads that field."""
    cls = CleanupConfig if name in attrs.fields_dict(CleanupConfig) else SessionLimits

    def make(value: object) -> Any:
        return getattr(cls(**{name: value}), name)  # type: ignore[arg-type]  # wrong on purpose

    return make


def assert_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # what it says comes next
        maker(name)(value)
    assert str(caught.value).startswith(f"{name} must ")
    assert str(caught.value).endswith(f"not {value!r}")


def test_every_field_is_tested() -> None:
    tested = AT_LEAST_ONE | MAY_BE_NONE_AT_ALL | TIMEOUTS | BUDGETS | ALWAYS_ON
    tested |= GRACES_OR_OFF | RATES | ELSEWHERE
    fields = attrs.fields_dict(SessionLimits).keys() | attrs.fields_dict(CleanupConfig).keys()
    assert tested == fields


@pytest.mark.parametrize("name", sorted(AT_LEAST_ONE))
def test_limits_of_at_least_one(name: str) -> None:
    for value in (1, 2, 10**30):
        assert maker(name)(value) == value
    for value in (0, -1, *NO_WHOLE_NUMBER):
        assert_refused(name, value)


@pytest.mark.parametrize("name", sorted(MAY_BE_NONE_AT_ALL))
def test_limits_that_may_be_zero(name: str) -> None:
    for value in (0, 1, 10**30):
        assert maker(name)(value) == value
    for value in (-1, *NO_WHOLE_NUMBER):
        assert_refused(name, value)


@pytest.mark.parametrize("name", sorted(TIMEOUTS))
def test_timeouts_are_positive_and_may_be_off(name: str) -> None:
    may_be_none = getattr(CleanupConfig(), name) is None
    for value in (5e-324, 1, 1.5, inf, *((None,) if may_be_none else ())):
        assert maker(name)(value) == value
    no_seconds = [wrong for wrong in NO_SECONDS if wrong is not None or not may_be_none]
    for wrong in (0, 0.0, -0.0, -1, -inf, *no_seconds):
        assert_refused(name, wrong)


@pytest.mark.parametrize("name", sorted(BUDGETS))
def test_budgets_are_finite_and_may_be_zero(name: str) -> None:
    for value in (0, 0.0, 5e-324, 1, 1e308):
        assert maker(name)(value) == value
    for wrong in (-5e-324, -1, inf, -inf, *NO_SECONDS):
        assert_refused(name, wrong)


@pytest.mark.parametrize("name", sorted(GRACES_OR_OFF))
def test_graces_may_be_zero_or_infinite(name: str) -> None:
    for value in (0, 0.0, 5e-324, 1, inf):
        assert maker(name)(value) == value
    for wrong in (-5e-324, -1, -inf, *NO_SECONDS):
        assert_refused(name, wrong)


def test_the_default_budgets_of_a_shutdown_end_before_docker_kills() -> None:
    """The sum of one of each, as the documentation says it."""
    clocks = CleanupConfig()
    assert clocks.drain_grace + ending_budget(clocks) < 10
    assert clocks.eof_grace < 2, "the official clients send SIGTERM then"


@pytest.mark.parametrize("clocks", [CleanupConfig(), attrs.evolve(CleanupConfig(), eof_grace=0)])
def test_a_program_has_a_deadline_for_its_shutdown_unless_another_is_set(
    clocks: CleanupConfig,
) -> None:
    assert clocks.shutdown_timeout is None
    assert with_shutdown_timeout(clocks) == attrs.evolve(clocks, shutdown_timeout=9)


@pytest.mark.parametrize("seconds", [3.0, 60, inf])
def test_a_deadline_that_is_set_is_kept(seconds: float) -> None:
    clocks = CleanupConfig(shutdown_timeout=seconds)
    assert with_shutdown_timeout(clocks) is clocks


@pytest.mark.parametrize("set_to, then", [(None, 1.0), (0.5, 0.5), (inf, inf)])
def test_a_program_watches_its_event_loop_unless_it_says_otherwise(
    set_to: float | None, then: float
) -> None:
    clocks = CleanupConfig(loop_blocked_after=set_to)
    assert with_loop_watch(clocks) == attrs.evolve(clocks, loop_blocked_after=then)


@pytest.mark.parametrize("name", sorted(ALWAYS_ON))
def test_some_clocks_are_always_on(name: str) -> None:
    for value in (5e-324, 1, 1.5, 1e308):
        assert maker(name)(value) == value
    for wrong in (0, 0.0, -1, inf, -inf, *NO_SECONDS):
        assert_refused(name, wrong)


@pytest.mark.parametrize("name", sorted(RATES))
def test_a_rate_is_a_rate_limit_or_off(name: str) -> None:
    for value in (RateLimit(inf), RateLimit(0.5, burst=2)):
        assert maker(name)(value) is value
    wrong: Any
    for wrong in (1, "1/s", (1, 1), None):
        with pytest.raises(TypeError, match=f"'{name}' must be .*RateLimit"):
            maker(name)(wrong)


@pytest.mark.parametrize(
    "value", [5, None, [RateLimit(1, 1)], {"tools/call": 5}, {1: RateLimit(1, 1)}]
)
def test_rates_of_methods_are_a_mapping_of_methods(value: Any) -> None:
    assert_refused("method_rates", value)
    rates = {"tools/call": RateLimit(1, 1)}
    assert SessionLimits(method_rates=rates).method_rates == rates


def test_limit_of_one_kind_overrides_max_sessions() -> None:
    limits = SessionLimits(max_sessions=5, max_sessions_of={SessionKind.HANDLE: 9})
    assert {kind: limits.sessions_of(kind) for kind in SessionKind} == {
        SessionKind.CONNECTION: 5,
        SessionKind.HEADER: 5,
        SessionKind.HANDLE: 9,
        SessionKind.PARKED: 5,
        SessionKind.TASK: 5,
    }
    assert SessionLimits().max_sessions_of == {}


@pytest.mark.parametrize("value", [5, None, [SessionKind.HANDLE], {"handle": 5}, {None: 5}])
def test_limits_of_kinds_are_a_mapping_of_kinds(value: Any) -> None:
    assert_refused("max_sessions_of", value)


@pytest.mark.parametrize("value", [0, -1, *NO_WHOLE_NUMBER])
def test_limits_of_kinds_are_limits(value: Any) -> None:
    with pytest.raises(ValueError, match="max_sessions_of must be a whole number") as caught:
        SessionLimits(max_sessions_of={SessionKind.TASK: 1, SessionKind.HANDLE: value})
    assert str(caught.value).endswith(f"not {value!r}")


@pytest.mark.parametrize("value", ["reject", None, 1])
def test_admission_must_be_a_policy(value: Any) -> None:
    for policy in AdmissionPolicy:
        assert SessionLimits(admission=policy).admission is policy
    with pytest.raises(
        TypeError, match="'admission' must be .*AdmissionPolicy.*got " + repr(value)
    ):
        SessionLimits(admission=value)


def test_the_defaults_are_as_designed() -> None:
    assert attrs.asdict(SessionLimits()) == {
        "max_sessions": 10_000,
        "max_sessions_of": {},
        "max_sessions_per_principal": 1_000,
        "max_tasks_per_principal": 100,
        "max_task_result": 4 * 2**20,
        "admission": AdmissionPolicy.FAIR,
        "opening_rate": {"per_second": 200, "burst": 1_000},
        "max_in_flight": 64,
        "max_queued": 256,
        "max_stateless_requests": 1_000,
        "max_stateless_per_principal": 100,
        "max_stateless_queued": 1_000,
        "request_rate": {"per_second": inf, "burst": 1},
        "method_rates": {},
        "max_questions": 64,
        "max_values": 100_000,
        "max_initialize_size": 64 * 1024,
        "max_session_bytes": 16 * 1024 * 1024,
        "max_party_bytes": 64 * 1024 * 1024,
        "max_bytes": 512 * 1024 * 1024,
        "max_message_size": 4 * 1024 * 1024,
        "max_nesting": 64,
        "max_batch": 100,
        "max_subscriptions": 1_000,
        "max_listens": 10_000,
        "max_listens_per_principal": 100,
        "max_output": 1024 * 1024,
        "max_ended_handles": 1_000,
        "max_waiting_hooks": 64,
    }
    assert attrs.asdict(CleanupConfig()) == {
        "handshake_timeout": 60,
        "idle_after": 60,
        "max_idle_time": 30 * 60,
        "connection_handshake_timeout": None,
        "connection_idle_time": inf,
        "max_session_time": inf,
        "lifetime_notice": 60,
        "cleanup_interval": 5,
        "request_timeout": inf,
        "ending_notice": 1,
        "question_timeout": 300,
        "ended_handle_time": 60 * 60,
        "request_state_timeout": 30 * 60,
        "task_timeout": 24 * 60 * 60,
        "task_retention": 60 * 60,
        "task_poll_interval": 1,
        "send_timeout": 30,
        "eof_grace": 1.5,
        "flush_budget": 1,
        "cleanup_budget": 3,
        "hook_budget": 1.25,
        "admission_budget": 5,
        "retire_grace": 0,
        "drain_grace": 3,
        "shutdown_timeout": None,
        "loop_blocked_after": None,
        "ping_interval": inf,
        "ping_timeout": 10,
        "ping_strikes": 3,
    }


def test_parts_of_the_configuration_are_type_checked() -> None:
    config = SessionConfig()
    assert (config.limits, config.cleanup) == (SessionLimits(), CleanupConfig())
    wrong: dict[str, Any] = {"limits": CleanupConfig(), "cleanup": None, "wall_clock": 5}
    for name, value in wrong.items():
        with pytest.raises(TypeError) as caught:
            SessionConfig(**{name: value})
        assert f"'{name}' must be " in str(caught.value)
        assert f"got {value!r}" in str(caught.value)


def test_the_default_log_level_is_a_level_of_the_protocol_or_none() -> None:
    assert SessionConfig().default_log_level == "info"
    for level in (*SEVERITY, None):
        assert SessionConfig(default_log_level=level).default_log_level == level  # type: ignore[arg-type]
    values: list[Any] = ["INFO", "warn", "", 1, []]
    for wrong in values:
        with pytest.raises(ValueError, match="default_log_level must be one of debug, info,"):
            SessionConfig(default_log_level=wrong)


def test_the_wall_clock_tells_utc() -> None:
    assert SessionConfig().wall_clock is utc_now
    assert utc_now().tzinfo is UTC
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    assert SessionConfig(wall_clock=lambda: noon).wall_clock() == noon


@given(strategies.session_configs)
def test_configurations_are_values(config: SessionConfig) -> None:
    assert attrs.evolve(config) == config
    assert attrs.evolve(config, limits=attrs.evolve(config.limits)) == config
    for part in (config, config.limits, config.cleanup):
        for field in attrs.fields(type(part)):
            with pytest.raises(attrs.exceptions.FrozenInstanceError):
                setattr(part, field.name, 1)


def test_a_changed_copy_is_checked_too() -> None:
    with pytest.raises(ValueError, match="max_queued must be a whole number of at least 0, not -1"):
        attrs.evolve(SessionLimits(), max_queued=-1)


@pytest.mark.parametrize("one", [SessionLimits, CleanupConfig, SessionConfig])
def test_settings_are_keyword_only(one: type) -> None:
    with pytest.raises(TypeError):
        one(1)


@pytest.mark.parametrize("settings", [SessionLimits, CleanupConfig, SessionConfig])
def test_each_default_has_its_reason_beside_it(settings: type) -> None:
    lines = inspect.getsource(settings).splitlines()
    for field in attrs.fields(settings):
        (number,) = [n for n, line in enumerate(lines) if line.startswith(f"    {field.name}: ")]
        assert lines[number - 1].startswith("    # "), field.name
