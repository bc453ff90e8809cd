from __future__ import annotations

from typing import Any, get_args

import attrs
import pytest

from trio_mcp_session import (
    ClientInfo,
    Connected,
    Disconnected,
    Error,
    Event,
    EventLoopBlocked,
    Lagged,
    LifetimeExpiring,
    RequestFailed,
    SessionEvent,
    SessionId,
    SessionKind,
    SessionState,
    StateChanged,
    TaskChanged,
    TaskStatus,
    TerminationReason,
)

STAMP: dict[str, Any] = {
    "session_id": SessionId("s"),
    "kind": SessionKind.CONNECTION,
    "time": 1.5,
}
EVENTS = [
    Connected(**STAMP, client=ClientInfo(client_id="c")),
    Disconnected(**STAMP, reason=TerminationReason.IDLE),
    StateChanged(**STAMP, old=SessionState.ACTIVE, new=SessionState.IDLE),
    Error(**STAMP, error=ValueError("no")),
    LifetimeExpiring(**STAMP, seconds_left=60.0),
    TaskChanged(**STAMP, status=TaskStatus.COMPLETED),
]


def test_a_subscription_yields_every_kind_of_event() -> None:
    assert set(get_args(Event)) == {
        *SessionEvent.__subclasses__(),
        EventLoopBlocked,
        RequestFailed,
        Lagged,
    }
    assert {type(event) for event in EVENTS} == set(SessionEvent.__subclasses__())


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_event_has_session_id_kind_and_time(event: SessionEvent) -> None:
    assert (event.session_id, event.kind, event.time) == ("s", SessionKind.CONNECTION, 1.5)
    for field in attrs.fields(type(event)):
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(event, field.name, None)
        # Without its session it can be understood and kept: it must not hold one.
        assert "Session" not in str(field.type).replace("SessionId", "").replace(
            "SessionKind", ""
        ).replace("SessionState", "")


@pytest.mark.parametrize("missing", STAMP)
def test_event_needs_session_id_kind_and_time(missing: str) -> None:
    stamp = {name: value for name, value in STAMP.items() if name != missing}
    with pytest.raises(TypeError, match=missing):
        LifetimeExpiring(**stamp, seconds_left=1.0)


def test_disconnected_without_failure_has_no_error() -> None:
    assert Disconnected(**STAMP, reason=TerminationReason.IDLE).error is None
    assert StateChanged(**STAMP, old=SessionState.ACTIVE, new=SessionState.IDLE).reason is None


def test_request_failed_has_no_session() -> None:
    error = ValueError("no")
    failed = RequestFailed(time=1.5, error=error)
    assert not isinstance(failed, SessionEvent)
    assert (failed.time, failed.error) == (1.5, error)
    assert {field.name for field in attrs.fields(RequestFailed)} == {"time", "error"}
    whole: dict[str, Any] = {"time": 1.5, "error": error}
    for name, value in whole.items():
        with pytest.raises(TypeError, match="missing"):
            RequestFailed(**{name: value})
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        failed.time = 2  # type: ignore[misc]  # that is the point


def test_a_blocked_event_loop_may_have_no_session() -> None:
    blocked = EventLoopBlocked(time=1.5, seconds=2.0, task="busy", where="f (x.py:1)")
    assert not isinstance(blocked, SessionEvent)
    assert blocked.session_id is None
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        blocked.time = 2  # type: ignore[misc]  # that is the point


def test_events_are_values() -> None:
    assert LifetimeExpiring(**STAMP, seconds_left=1.0) == LifetimeExpiring(
        **STAMP, seconds_left=1.0
    )
    assert Lagged(3) == Lagged(missed=3) != Lagged(4)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Lagged(3).missed = 4  # type: ignore[misc]  # that is the point
