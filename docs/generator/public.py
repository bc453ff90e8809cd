"""The public names of the library, and the pages of the reference on which they stand."""

from __future__ import annotations

from types import ModuleType
from typing import Any, Final, NamedTuple

import trio_mcp_session
import trio_mcp_session.testing

MODULES: Final = (trio_mcp_session, trio_mcp_session.testing)


def exported(module: ModuleType) -> dict[str, Any]:
    """Return the public names of a module, and what they stand for."""
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_") and name != "annotations" and not isinstance(value, ModuleType)
    }


PUBLIC: Final = {
    name: f"{module.__name__}.{name}" for module in reversed(MODULES) for name in exported(module)
}
"""The full name of each public name."""


class Area(NamedTuple):
    """One page of the reference."""

    file: str
    title: str
    names: str
    module: ModuleType = trio_mcp_session


AREAS: Final = (
    Area(
        "server",
        "Serving an application",
        """
        Router RequestContext TaskMode current_request run_stdio run_http
        Ending EndingReason OnDisconnect
        Tool Resource Prompt Skill SkillFiles SkillLimits Depends Middleware CallNext Component
        CacheHint Eras LogLevel Lifespan ServerLifespan paginate Page
        Application InFlightRequest Revision
        """,
    ),
    Area(
        "contents",
        "Contents and descriptions",
        """
        Content TextContent ImageContent AudioContent EmbeddedResource ResourceLink
        ResourceContents ToolResult PromptMessage PromptResult Completion
        Annotations ToolAnnotations Icon Role
        """,
    ),
    Area(
        "questions",
        "Questions to the client",
        """
        Question Elicitation Form UrlElicitation ElicitResult Sampling Roots
        InputRequired UrlElicitationRequired notify_elicitation_complete RequestStateKeys
        """,
    ),
    Area(
        "manager",
        "The session manager",
        """
        open_session_manager SessionManager SessionStore
        BroadcastReport DrainReport ManagerStatistics DURATION_BUCKETS TaskInfo TaskStatus
        """,
    ),
    Area(
        "session",
        "Sessions",
        """
        Session current_session StateKey ABSENT Absent SessionMetrics SessionState TRANSITIONS
        TerminationReason SessionId SessionKind ClientInfo ServerInfo Principal Transport
        monitor_session update_session_state check_session_health SessionHealth
        run_cleanup cleanup_session cleanup_resources validate_sessions
        """,
    ),
    Area("handles", "State handles", "HandleKind Handle"),
    Area(
        "sdk_apps",
        "Applications of the official SDK and FastMCP",
        "sdk_application ForeignApplication CannotServe UnsupportedVersion",
    ),
    Area(
        "settings",
        "Settings",
        "SessionConfig SessionLimits AdmissionPolicy RateLimit CleanupConfig",
    ),
    Area(
        "events",
        "Events and hooks",
        """
        Event SessionEvent Connected Disconnected StateChanged Error LifetimeExpiring
        TaskChanged RequestFailed EventLoopBlocked Lagged EventStream SessionHooks
        Instrumentation RequestDetails RequestOutcome RequestFinished RequestObserver
        QuestionDetails QuestionOutcome QuestionFinished
        TaskDetails TaskOutcome TaskObserver
        SessionDetails SessionOutcome SessionFinished
        OpenTelemetry PrometheusMetrics serve_admin
        """,
    ),
    Area(
        "process",
        "Logs and standard error",
        "bounded_stderr LogContextFilter JsonLogFormatter",
    ),
    Area(
        "transports",
        "Transports",
        """
        serve_stdio serve_tcp serve_unix serve_listeners serve_stream serve_channel
        connect_memory MemoryChannel BatchChannel
        accept receive MessageSink SessionSink RequestSource unix_peer
        """,
    ),
    Area(
        "http",
        "HTTP",
        """
        serve_http http_app with_health_pages BoundAddress HttpOptions SlowReader HttpServerLimits
        Authenticate AuthenticationFailed BearerAuth VerifyToken JwtVerifier
        authenticate_unix_peer
        EventStore EventLog MemoryEventStore UnknownEvent EventsPurged ASGIApplication
        """,
    ),
    Area(
        "errors",
        "Errors",
        """
        SessionError SessionTerminated NoSession InvalidTransition
        SessionRejected SessionLimitReached OpeningRateExceeded
        ShuttingDown SessionVetoed AccessRevoked
        HandleError UnknownHandle NoPrincipal
        TaskCrashed HandlerCrashed LifespanFailed ServerLifespanFailed HeldContextEnded
        CleanupFailed HookFailed TaskResultLost
        EventStoreFailed ExitRequested SendFailed PeerViolation InvalidSession
        McpError InsufficientScope ToolError
        QuestionError CapabilityMissing FormInvalid QuestionTimeout NoChannel TooManyQuestions
        """,
    ),
    Area(
        "testing",
        "Testing",
        """
        connect_client connect_http_client ClientEraName Client PendingRequest
        ToolAnswer ResourceAnswer PromptAnswer CompletionAnswer Answerer ConnectionEnded
        ClientTask TaskUpdates TaskAnswer TaskCancelled
        HttpConnection HttpResponse HttpRefused
        modern call_and_answer http_request open_http_session HttpAnswer
        check_leaks FailureCheck ReportedFailure UnexpectedFailures
        assert_no_leaks find_leaks LeakError
        FaultyChannel FaultyContext crash hang refuse_cancellation cut_short
        """,
        trio_mcp_session.testing,
    ),
)
"""A public name belongs to one of these; the generator refuses to run while one has no page."""

NOT_CALLED: Final = {
    *("Ending", "MemoryChannel", "RequestContext", "SessionStore", "EventStream"),
}
"""Classes whose objects only the library makes: their constructors are not shown."""

ONLY: Final = {
    "InFlightRequest": {
        *("id", "method", "params", "client", "principal"),
        *("revision", "answered", "ask", "ask_all", "answer", "fail"),
    },
}
"""Classes of which only some members are public."""


def check_areas() -> None:
    """Raise if a public name is on no page of the reference, or on two, or if one is unknown.

    Raises:
        LookupError: The message names the names and this file.
    """
    for module in MODULES:
        listed = [name for area in AREAS if area.module is module for name in area.names.split()]
        wrong = set(exported(module)) ^ set(listed)
        wrong |= {name for name in listed if listed.count(name) > 1}
        if wrong:
            raise LookupError(
                f"each public name of {module.__name__} must stand once in AREAS in "
                f"docs/generator/public.py: {', '.join(sorted(wrong))}"
            )
