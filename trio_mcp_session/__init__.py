"""Session management for MCP servers as structured concurrency, on Trio.

Each session runs inside its own nursery; cancel scopes end it, memory channels carry its events,
and when the nursery has exited nothing of the session is left.
"""

from __future__ import annotations

from .adapters.cannot_serve import (
    CannotServe as CannotServe,
    UnsupportedVersion as UnsupportedVersion,
)
from .adapters.open_session_manager import open_session_manager as open_session_manager
from .adapters.recognise import ForeignApplication as ForeignApplication
from .adapters.sdk_block import sdk_application as sdk_application
from .admin.serve_admin import serve_admin as serve_admin
from .application.completions import Completion as Completion
from .application.content import (
    AudioContent as AudioContent,
    Content as Content,
    EmbeddedResource as EmbeddedResource,
    ImageContent as ImageContent,
    ResourceContents as ResourceContents,
    ResourceLink as ResourceLink,
    TextContent as TextContent,
    ToolResult as ToolResult,
)
from .application.context import (
    RequestContext as RequestContext,
    current_request as current_request,
)
from .application.dependencies import Depends as Depends
from .application.forms import Form as Form, FormInvalid as FormInvalid
from .application.log_context import LogContextFilter as LogContextFilter
from .application.metadata import (
    Annotations as Annotations,
    Role as Role,
    ToolAnnotations as ToolAnnotations,
)
from .application.middleware import CallNext as CallNext, Middleware as Middleware
from .application.pagination import Page as Page, paginate as paginate
from .application.prompts import (
    Prompt as Prompt,
    PromptMessage as PromptMessage,
    PromptResult as PromptResult,
)
from .application.question_types import (
    Elicitation as Elicitation,
    ElicitResult as ElicitResult,
    InputRequired as InputRequired,
    Question as Question,
    Roots as Roots,
    Sampling as Sampling,
)
from .application.resources import Resource as Resource
from .application.router import Router as Router
from .application.skills import Skill as Skill, SkillFiles as SkillFiles
from .application.task_support import TaskMode as TaskMode
from .application.tools import Tool as Tool
from .application.url_elicitation import (
    UrlElicitation as UrlElicitation,
    UrlElicitationRequired as UrlElicitationRequired,
    notify_elicitation_complete as notify_elicitation_complete,
)
from .application.visibility import Component as Component
from .cli.log_format import JsonLogFormatter as JsonLogFormatter
from .cli.run import run_http as run_http, run_stdio as run_stdio
from .core.config import (
    AdmissionPolicy as AdmissionPolicy,
    CleanupConfig as CleanupConfig,
    SessionConfig as SessionConfig,
    SessionLimits as SessionLimits,
)
from .core.errors import (
    AccessRevoked as AccessRevoked,
    CapabilityMissing as CapabilityMissing,
    CleanupFailed as CleanupFailed,
    EventStoreFailed as EventStoreFailed,
    ExitRequested as ExitRequested,
    HandleError as HandleError,
    HandlerCrashed as HandlerCrashed,
    HeldContextEnded as HeldContextEnded,
    HookFailed as HookFailed,
    InsufficientScope as InsufficientScope,
    InvalidSession as InvalidSession,
    InvalidTransition as InvalidTransition,
    LifespanFailed as LifespanFailed,
    McpError as McpError,
    NoChannel as NoChannel,
    NoPrincipal as NoPrincipal,
    NoSession as NoSession,
    OpeningRateExceeded as OpeningRateExceeded,
    PeerViolation as PeerViolation,
    QuestionError as QuestionError,
    QuestionTimeout as QuestionTimeout,
    SendFailed as SendFailed,
    ServerLifespanFailed as ServerLifespanFailed,
    SessionError as SessionError,
    SessionLimitReached as SessionLimitReached,
    SessionRejected as SessionRejected,
    SessionTerminated as SessionTerminated,
    SessionVetoed as SessionVetoed,
    ShuttingDown as ShuttingDown,
    TaskCrashed as TaskCrashed,
    TaskResultLost as TaskResultLost,
    ToolError as ToolError,
    TooManyQuestions as TooManyQuestions,
    UnknownHandle as UnknownHandle,
)
from .core.events import (
    Connected as Connected,
    Disconnected as Disconnected,
    Error as Error,
    Event as Event,
    EventLoopBlocked as EventLoopBlocked,
    Lagged as Lagged,
    LifetimeExpiring as LifetimeExpiring,
    RequestFailed as RequestFailed,
    SessionEvent as SessionEvent,
    StateChanged as StateChanged,
    TaskChanged as TaskChanged,
)
from .core.handle_kind import HandleKind as HandleKind
from .core.icon import Icon as Icon
from .core.identity import (
    ClientInfo as ClientInfo,
    Principal as Principal,
    ServerInfo as ServerInfo,
    Transport as Transport,
)
from .core.ids import SessionId as SessionId, SessionKind as SessionKind
from .core.instrumentation import (
    Instrumentation as Instrumentation,
    QuestionDetails as QuestionDetails,
    QuestionFinished as QuestionFinished,
    QuestionOutcome as QuestionOutcome,
    RequestDetails as RequestDetails,
    RequestFinished as RequestFinished,
    RequestObserver as RequestObserver,
    RequestOutcome as RequestOutcome,
    SessionDetails as SessionDetails,
    SessionFinished as SessionFinished,
    SessionOutcome as SessionOutcome,
    TaskDetails as TaskDetails,
    TaskObserver as TaskObserver,
    TaskOutcome as TaskOutcome,
)
from .core.lifecycle_states import TRANSITIONS as TRANSITIONS, SessionState as SessionState
from .core.log_level import LogLevel as LogLevel
from .core.metrics import (
    DURATION_BUCKETS as DURATION_BUCKETS,
    BroadcastReport as BroadcastReport,
    ManagerStatistics as ManagerStatistics,
    SessionMetrics as SessionMetrics,
)
from .core.rate_limit import RateLimit as RateLimit
from .core.reasons import (
    EndingReason as EndingReason,
    TerminationReason as TerminationReason,
)
from .core.signing_keys import RequestStateKeys as RequestStateKeys
from .core.task_info import TaskInfo as TaskInfo, TaskStatus as TaskStatus
from .core.version import __version__ as __version__
from .protocol.eras import Eras as Eras
from .protocol.results import CacheHint as CacheHint
from .protocol.revisions import Revision as Revision
from .protocol.skill_format import SkillLimits as SkillLimits
from .server.accept import accept as accept
from .server.application import Application as Application
from .server.dispatch import receive as receive
from .server.ending import Ending as Ending, OnDisconnect as OnDisconnect
from .server.request import InFlightRequest as InFlightRequest
from .server.request_source import RequestSource as RequestSource
from .server.sink import MessageSink as MessageSink, SessionSink as SessionSink
from .sessions.cleanup import (
    cleanup_resources as cleanup_resources,
    cleanup_session as cleanup_session,
    run_cleanup as run_cleanup,
)
from .sessions.consistency import validate_sessions as validate_sessions
from .sessions.current import current_session as current_session
from .sessions.drain import DrainReport as DrainReport
from .sessions.event_stream import EventStream as EventStream
from .sessions.handle import Handle as Handle
from .sessions.health import (
    SessionHealth as SessionHealth,
    check_session_health as check_session_health,
    monitor_session as monitor_session,
    update_session_state as update_session_state,
)
from .sessions.hooks import SessionHooks as SessionHooks
from .sessions.interrupts import protect_modules as _protect_modules
from .sessions.manager import ServerLifespan as ServerLifespan, SessionManager as SessionManager
from .sessions.session import Lifespan as Lifespan, Session as Session
from .sessions.state_keys import ABSENT as ABSENT, Absent as Absent, StateKey as StateKey
from .sessions.store import SessionStore as SessionStore
from .telemetry.open_telemetry import OpenTelemetry as OpenTelemetry
from .telemetry.prometheus_metrics import PrometheusMetrics as PrometheusMetrics
from .transports.asgi import ASGIApplication as ASGIApplication
from .transports.bounded_stderr import bounded_stderr as bounded_stderr
from .transports.channel import BatchChannel as BatchChannel
from .transports.connection import serve_channel as serve_channel
from .transports.http.authentication import (
    Authenticate as Authenticate,
    AuthenticationFailed as AuthenticationFailed,
)
from .transports.http.bearer_auth import BearerAuth as BearerAuth, VerifyToken as VerifyToken
from .transports.http.event_store import (
    EventLog as EventLog,
    EventsPurged as EventsPurged,
    EventStore as EventStore,
    UnknownEvent as UnknownEvent,
)
from .transports.http.health_pages import with_health_pages as with_health_pages
from .transports.http.http_app import http_app as http_app
from .transports.http.http_options import HttpOptions as HttpOptions, SlowReader as SlowReader
from .transports.http.jwt_verifier import JwtVerifier as JwtVerifier
from .transports.http.memory_event_store import MemoryEventStore as MemoryEventStore
from .transports.http.serve_http import serve_http as serve_http
from .transports.http.unix_authentication import authenticate_unix_peer as authenticate_unix_peer
from .transports.http1.limits import HttpServerLimits as HttpServerLimits
from .transports.http1.listeners import BoundAddress as BoundAddress
from .transports.memory import MemoryChannel as MemoryChannel, connect_memory as connect_memory
from .transports.stdio import serve_stdio as serve_stdio
from .transports.stream import (
    serve_listeners as serve_listeners,
    serve_stream as serve_stream,
    serve_tcp as serve_tcp,
    serve_unix as serve_unix,
)
from .transports.unix_sockets import unix_peer as unix_peer

# Last, when all modules are there: see `sessions.interrupts`.
for _room in ("sessions", "server", "handles", "telemetry", "admin"):
    _protect_modules(f"{__name__}.{_room}")
_protect_modules(f"{__name__}.transports")
