from __future__ import annotations

import inspect
from typing import Any

import pytest
import trio

import trio_mcp_session
from trio_mcp_session import (
    AccessRevoked,
    CapabilityMissing,
    CleanupFailed,
    EventStoreFailed,
    ExitRequested,
    HandleError,
    HandlerCrashed,
    HeldContextEnded,
    HookFailed,
    InsufficientScope,
    InvalidSession,
    InvalidTransition,
    LifespanFailed,
    McpError,
    NoChannel,
    NoPrincipal,
    NoSession,
    OpeningRateExceeded,
    PeerViolation,
    QuestionError,
    QuestionTimeout,
    SendFailed,
    ServerLifespanFailed,
    SessionError,
    SessionKind,
    SessionLimitReached,
    SessionRejected,
    SessionState,
    SessionTerminated,
    SessionVetoed,
    ShuttingDown,
    TaskCrashed,
    TaskResultLost,
    TerminationReason,
    ToolError,
    TooManyQuestions,
    UnknownHandle,
)
from trio_mcp_session.core import errors

CASES: list[tuple[Exception, type[Exception], str, dict[str, Any]]] = [
    (
        SessionTerminated(TerminationReason.HANDSHAKE_TIMEOUT),
        SessionError,
        "session has ended: handshake timeout",
        {"reason": TerminationReason.HANDSHAKE_TIMEOUT},
    ),
    (
        UnknownHandle("brw_1"),
        HandleError,
        "no handle 'brw_1': it is unknown, or has expired; open another one",
        {"handle_id": "brw_1", "reason": None},
    ),
    (
        UnknownHandle("brw_1", TerminationReason.IDLE),
        HandleError,
        "handle 'brw_1' has ended (idle); open another one",
        {"handle_id": "brw_1", "reason": TerminationReason.IDLE},
    ),
    # Whatever a model sends, the answer stays short and on one line.
    (
        UnknownHandle("a" * 8 + "\n" + "a" * 90),
        HandleError,
        rf"no handle 'aaaaaaaa\n{'a' * 55}...': it is unknown, or has expired; open another one",
        {"handle_id": "a" * 8 + "\n" + "a" * 90, "reason": None},
    ),
    (NoPrincipal(), HandleError, "handles can be listed for authenticated clients only", {}),
    # The id is a secret, and the message may reach a peer.
    (NoSession("use a handle"), SessionError, "use a handle", {}),
    (
        InvalidTransition(SessionState.TERMINATED, SessionState.ACTIVE),
        SessionError,
        "a session cannot move from terminated to active",
        {"old": SessionState.TERMINATED, "new": SessionState.ACTIVE},
    ),
    (
        SessionLimitReached(SessionKind.HANDLE, 3),
        SessionRejected,
        "too many handle sessions (limit: 3)",
        {"kind": SessionKind.HANDLE, "limit": 3, "per_principal": False, "prefix": None},
    ),
    (
        SessionLimitReached(SessionKind.HANDLE, 2, per_principal=True, prefix="brw"),
        SessionRejected,
        "too many 'brw' handles for this user (limit: 2)",
        {"kind": SessionKind.HANDLE, "limit": 2, "per_principal": True, "prefix": "brw"},
    ),
    (
        SessionLimitReached(SessionKind.TASK, 1, per_principal=True),
        SessionRejected,
        "too many task sessions for this user (limit: 1)",
        {"kind": SessionKind.TASK, "limit": 1, "per_principal": True, "prefix": None},
    ),
    (
        OpeningRateExceeded(2.5),
        SessionRejected,
        "too many sessions in a short time: try again in 2.5 s",
        {"retry_after": 2.5},
    ),
    (ShuttingDown(), SessionRejected, "server is shutting down", {}),
    (SessionVetoed(), SessionRejected, "session refused by the application", {}),
    (TaskCrashed("worker"), SessionError, "task 'worker' of a session crashed", {"task": "worker"}),
    (
        TaskResultLost("tool 'build'", "the result is too large"),
        SessionError,
        "tool 'build': the result is too large",
        {"name": "tool 'build'"},
    ),
    (AccessRevoked(), SessionRejected, "access was revoked", {}),
    (
        HandlerCrashed("a/b"),
        SessionError,
        "handler of 'a/b' crashed",
        {"method": "a/b", "name": None},
    ),
    (
        HandlerCrashed("tools/call", "tool 'add'"),
        SessionError,
        "tool 'add' crashed",
        {"method": "tools/call", "name": "tool 'add'"},
    ),
    # A method may be a peer's text, and is cut.
    (
        HandlerCrashed("m" * 100),
        SessionError,
        f"handler of '{'m' * 64}...' crashed",
        {"method": "m" * 100, "name": None},
    ),
    (SendFailed(), SessionError, "sending to the client failed", {}),
    (
        ExitRequested(SystemExit(2)),
        SessionError,
        "SystemExit was raised with status 2; the server keeps running",
        {},
    ),
    # A method comes from a peer: it must not write lines of its own into a log.
    (
        HandlerCrashed("a\nb"),
        SessionError,
        "handler of 'a\\nb' crashed",
        {"method": "a\nb", "name": None},
    ),
    (CleanupFailed("lifespan"), SessionError, "clean-up failed: lifespan", {"what": "lifespan"}),
    (
        HookFailed("on_error"),
        SessionError,
        "hook on_error failed",
        {"hook": "on_error", "overran": False, "function": None},
    ),
    (
        HookFailed("on_error", function="tell"),
        SessionError,
        "hook on_error (tell) failed",
        {"hook": "on_error", "overran": False, "function": "tell"},
    ),
    (
        HookFailed("on_error", overran=True),
        SessionError,
        "hook on_error ran over its budget",
        {"hook": "on_error", "overran": True, "function": None},
    ),
    (
        LifespanFailed("lifespan notebook"),
        SessionError,
        "lifespan notebook failed",
        {"what": "lifespan notebook"},
    ),
    (
        ServerLifespanFailed("server lifespan pool", opening=True),
        SessionError,
        "server lifespan pool failed to open",
        {"what": "server lifespan pool", "opening": True},
    ),
    (
        ServerLifespanFailed("server lifespan pool", opening=False),
        SessionError,
        "server lifespan pool failed while clients were served",
        {"what": "server lifespan pool", "opening": False},
    ),
    (
        HeldContextEnded("Browser"),
        SessionError,
        "held context Browser ended before its session",
        {"context": "Browser"},
    ),
    (
        EventStoreFailed(),
        SessionError,
        "the event store failed; a stream of this session cannot be resumed",
        {},
    ),
    (
        ExitRequested(SystemExit(3)),
        SessionError,
        "SystemExit was raised with status 3; the server keeps running",
        {},
    ),
    (
        ExitRequested(BaseExceptionGroup("", [SystemExit(3)])),
        SessionError,
        "SystemExit was raised; the server keeps running",
        {},
    ),
    (PeerViolation("no id"), SessionError, "no id", {"what": "no id"}),
    (InvalidSession("twice in the table"), SessionError, "twice in the table", {}),
    (
        McpError(-32602, "no such tool"),
        Exception,
        "no such tool (-32602)",
        {"code": -32602, "message": "no such tool", "data": None},
    ),
    (
        McpError(5, "full", {"left": 0}),
        Exception,
        "full (5)",
        {"code": 5, "message": "full", "data": {"left": 0}},
    ),
    (
        InsufficientScope("a b"),
        McpError,
        "This request needs a token with the scopes: a b (-32600)",
        {
            "code": -32600,
            "message": "This request needs a token with the scopes: a b",
            "data": {"requiredScopes": ["a", "b"]},
            "scopes": ("a", "b"),
        },
    ),
    (ToolError("try another city"), Exception, "try another city", {}),
    (
        CapabilityMissing("sampling"),
        QuestionError,
        "the client cannot be asked: it did not declare the capability sampling",
        {"capability": "sampling"},
    ),
    (
        QuestionTimeout("roots/list", 2.5),
        QuestionError,
        "no answer to roots/list within 2.5 s",
        {"method": "roots/list", "seconds": 2.5},
    ),
    (NoChannel(), QuestionError, "the session has no channel to its client", {}),
    (
        TooManyQuestions(64),
        QuestionError,
        "64 questions to the client are open already",
        {"limit": 64},
    ),
]
BASES = {SessionError, SessionRejected, QuestionError, HandleError}
ALL = {
    one
    for _, one in inspect.getmembers(errors, inspect.isclass)
    if one.__module__ == errors.__name__
}


@pytest.mark.parametrize("error, base, text, data", CASES)
def test_an_error_says_what_happened_and_carries_it(
    error: Exception, base: type[Exception], text: str, data: dict[str, Any]
) -> None:
    assert type(error).__bases__ == (base,)
    assert str(error) == text
    assert vars(error) == data
    with pytest.raises(type(error)) as caught:
        raise error
    assert caught.value is error


def test_every_error_has_a_case_and_is_public() -> None:
    assert {type(error) for error, *_ in CASES} | BASES == ALL
    # Code that may meet an error can name it.
    assert {one for one in ALL if not hasattr(trio_mcp_session, one.__name__)} == set()


def test_no_error_is_a_subclass_of_a_trio_error() -> None:
    # Code around a call catches its own timeout and its own cancellation, not ours.
    for one in ALL:
        assert issubclass(one, Exception)
        assert not issubclass(one, (trio.TooSlowError, trio.BrokenResourceError, LookupError))
