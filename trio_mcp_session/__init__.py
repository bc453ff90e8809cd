"""Session management for MCP servers as structured concurrency, on Trio.

Each session runs inside its own nursery; cancel scopes end it, memory channels tell of its life,
and when the nursery has exited nothing of the session is left.
"""

from __future__ import annotations

from .application.context import (
    RequestContext as RequestContext,
    current_request as current_request,
)
from .application.pagination import Page as Page, paginate as paginate
from .application.questions import (
    Elicitation as Elicitation,
    ElicitResult as ElicitResult,
    InputRequired as InputRequired,
    Question as Question,
    Roots as Roots,
    Sampling as Sampling,
)
from .application.router import Router as Router
from .application.tools import Tool as Tool
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
    InvalidSession as InvalidSession,
    InvalidTransition as InvalidTransition,
    LifespanFailed as LifespanFailed,
    McpError as McpError,
    NoChannel as NoChannel,
    NoPrincipal as NoPrincipal,
    NoSession as NoSession,
    PeerViolation as PeerViolation,
    QuestionError as QuestionError,
    QuestionTimeout as QuestionTimeout,
    SendFailed as SendFailed,
    SessionError as SessionError,
    SessionLimitReached as SessionLimitReached,
    SessionRejected as SessionRejected,
    SessionTerminated as SessionTerminated,
    SessionVetoed as SessionVetoed,
    ShuttingDown as ShuttingDown,
    TaskCrashed as TaskCrashed,
    ToolError as ToolError,
    TooManyQuestions as TooManyQuestions,
    UnknownHandle as UnknownHandle,
)
from .core.events import (
    Connected as Connected,
    Disconnected as Disconnected,
    Error as Error,
    Event as Event,
    Lagged as Lagged,
    LifetimeExpiring as LifetimeExpiring,
    RequestFailed as RequestFailed,
    SessionEvent as SessionEvent,
    StateChanged as StateChanged,
)
from .core.identity import (
    ClientInfo as ClientInfo,
    Principal as Principal,
    ServerInfo as ServerInfo,
    Transport as Transport,
)
from .core.ids import SessionId as SessionId, SessionKind as SessionKind
from .core.keys import RequestStateKeys as RequestStateKeys
from .core.metrics import (
    DURATION_BUCKETS as DURATION_BUCKETS,
    ManagerStatistics as ManagerStatistics,
    SessionMetrics as SessionMetrics,
)
from .core.reasons import TerminationReason as TerminationReason
from .core.state import TRANSITIONS as TRANSITIONS, SessionState as SessionState
from .protocol.dressing import CacheHint as CacheHint
from .protocol.eras import Eras as Eras
from .protocol.logging import LogLevel as LogLevel
from .protocol.revisions import Revision as Revision
from .sessions.application import Application as Application, Lifespan as Lifespan
from .sessions.broadcast import BroadcastReport as BroadcastReport
from .sessions.cleanup import (
    cleanup_resources as cleanup_resources,
    cleanup_session as cleanup_session,
    run_cleanup as run_cleanup,
    validate_sessions as validate_sessions,
)
from .sessions.current import current_session as current_session
from .sessions.drain import DrainReport as DrainReport
from .sessions.handle_kinds import HandleKind as HandleKind
from .sessions.handles import Handle as Handle
from .sessions.health import (
    SessionHealth as SessionHealth,
    check_session_health as check_session_health,
    monitor_session as monitor_session,
    update_session_state as update_session_state,
)
from .sessions.hooks import SessionHooks as SessionHooks
from .sessions.interrupts import protect_modules as _protect_modules
from .sessions.manager import SessionManager as SessionManager
from .sessions.opening import open_session_manager as open_session_manager
from .sessions.requests import InFlightRequest as InFlightRequest
from .sessions.session import Session as Session
from .sessions.state_keys import StateKey as StateKey
from .sessions.store import SessionStore as SessionStore
from .sessions.subscriptions import Subscription as Subscription
from .transports.asgi import ASGIApplication as ASGIApplication
from .transports.channel import BatchChannel as BatchChannel
from .transports.connection import serve_channel as serve_channel
from .transports.http.authentication import (
    Authenticate as Authenticate,
    AuthenticationFailed as AuthenticationFailed,
)
from .transports.http.event_store import (
    EventLog as EventLog,
    EventsPurged as EventsPurged,
    EventStore as EventStore,
    UnknownEvent as UnknownEvent,
)
from .transports.http.http_app import http_app as http_app
from .transports.http.http_options import HttpOptions as HttpOptions, SlowReader as SlowReader
from .transports.http.memory_event_store import MemoryEventStore as MemoryEventStore
from .transports.http.serve_http import serve_http as serve_http
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

# Last, when all modules are there: see `sessions.interrupts`.
_protect_modules(f"{__name__}.sessions")
_protect_modules(f"{__name__}.transports")
