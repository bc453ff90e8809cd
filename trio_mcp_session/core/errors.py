"""Every error that the library raises on purpose.

Subclasses of `SessionError` report something about a session to the application. The others are
sent to a client as a JSON-RPC error, or came from a client. None of them wraps `trio.Cancelled`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from .scopes import checked_scopes

if TYPE_CHECKING:
    from .ids import SessionKind
    from .lifecycle_states import SessionState
    from .reasons import TerminationReason


_INVALID_REQUEST: Final = -32600
"""JSON-RPC's number for a request that is not allowed here."""

MAX_SHOWN: Final = 64
"""The most characters of a peer's text that an error repeats."""


def shown(text: str) -> str:
    """Return text of a peer in the form that errors show: quoted, escaped, and shortened."""
    return repr(text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}...")


class SessionError(Exception):
    """Base class of the errors about sessions. Not raised itself."""


class SessionTerminated(SessionError):
    """A method was called on a session that has ended, or that ended while the call waited.

    `Session.terminate` and `Session.wait_terminated` do not raise it.
    """

    def __init__(self, reason: TerminationReason) -> None:
        super().__init__(f"session has ended: {reason.value}")
        self.reason = reason
        """Why the session ended."""


class NoSession(SessionError):
    """`RequestContext.session` was read in a request that has no session.

    Requests of 2026-07-28 are stateless, and so are all requests over HTTP where sessions are not
    served (`HttpOptions.stateless`): use a handle to keep state between them.
    """


class InvalidTransition(SessionError):
    """`TRANSITIONS` does not allow the move; the state has not changed."""

    def __init__(self, old: SessionState, new: SessionState) -> None:
        super().__init__(f"a session cannot move from {old.value} to {new.value}")
        self.old = old
        """The state of the session."""
        self.new = new
        """The state that was requested."""


class SessionRejected(SessionError):
    """A session was not opened, and the attempt has been undone. Base class."""


class SessionLimitReached(SessionRejected):
    """A limit on sessions was reached, and the admission policy made no room."""

    def __init__(
        self,
        kind: SessionKind,
        limit: int,
        *,
        per_principal: bool = False,
        prefix: str | None = None,
    ) -> None:
        what = f"{kind.value} sessions" if prefix is None else f"{prefix!r} handles"
        whose = " for this user" if per_principal else ""
        super().__init__(f"too many {what}{whose} (limit: {limit})")
        self.kind = kind
        """The kind of session that was requested."""
        self.limit = limit
        """The limit that was reached."""
        self.per_principal = per_principal
        """Whether it is the limit for each principal."""
        self.prefix = prefix
        """`HandleKind.prefix`, if it is a limit of that kind of handles; None otherwise."""


class OpeningRateExceeded(SessionRejected):
    """A principal or an address opens sessions too often (`SessionLimits.opening_rate`)."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"too many sessions in a short time: try again in {retry_after:.3g} s")
        self.retry_after = retry_after
        """Seconds after which a session may be opened."""


class ShuttingDown(SessionRejected):
    """The manager retires, drains or is closed: it does not open sessions."""

    def __init__(self) -> None:
        super().__init__("server is shutting down")


class SessionVetoed(SessionRejected):
    """An ``on_session_created`` hook refused the session; its error is the cause."""

    def __init__(self) -> None:
        super().__init__("session refused by the application")


class AccessRevoked(SessionRejected):
    """`SessionManager.revoke` was called for this principal while its session was being opened.

    Also raised if a request of the principal shields itself, and then opens a handle.
    """

    def __init__(self) -> None:
        super().__init__("access was revoked")


class TaskCrashed(SessionError):
    """A task of a session raised an error, which is the cause: the session ends."""

    def __init__(self, task: str) -> None:
        super().__init__(f"task {task!r} of a session crashed")
        self.task = task
        """Name of the task."""


class HandlerCrashed(SessionError):
    """A request's handler raised an unexpected error: only that request failed.

    The error is the cause. If it was `SystemExit`, the cause is an `ExitRequested`.
    """

    def __init__(self, method: str, name: str | None = None) -> None:
        super().__init__(f"{name or f'handler of {shown(method)}'} crashed")
        self.method = method
        """The request's method."""
        self.name = name
        """The name of what crashed, such as ``tool 'add'``; None for the handler of the method."""


class LifespanFailed(SessionError):
    """A session's lifespan, or the opener of its handle, failed while it was entered or in use.

    Its error is the cause. If it fails while it is left, that is `CleanupFailed`.
    """

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} failed")
        self.what = what
        """Its name, for example ``lifespan notebook``."""


class ServerLifespanFailed(SessionError):
    """The server's lifespan failed while it was entered, or while clients were served.

    Its error is the cause. `open_session_manager` raises it: the program ends. If the lifespan
    fails while it is left, that is logged as `CleanupFailed`.
    """

    def __init__(self, what: str, *, opening: bool) -> None:
        super().__init__(f"{what} failed {'to open' if opening else 'while clients were served'}")
        self.what = what
        """Its name, for example ``server lifespan pool``."""
        self.opening = opening
        """Whether it failed while it was entered. Then no client was accepted."""


class HeldContextEnded(SessionError):
    """A context that a session holds ended before the session: the session ends too.

    The error that the context raised, if any, is the cause.
    """

    def __init__(self, context: str) -> None:
        super().__init__(f"held context {context} ended before its session")
        self.context = context
        """Name of the function that made the context, or of its class."""


class CleanupFailed(SessionError):
    """Leaving a lifespan or a held context failed. Its error is the cause."""

    def __init__(self, what: str) -> None:
        super().__init__(f"clean-up failed: {what}")
        self.what = what
        """The name of what was left, for example ``lifespan notebook``."""


class HookFailed(SessionError):
    """A hook raised, or ran over `CleanupConfig.hook_budget`. Its error, if any, is the cause."""

    def __init__(self, hook: str, *, overran: bool = False, function: str | None = None) -> None:
        which = hook if function is None else f"{hook} ({function})"
        super().__init__(f"hook {which} {'ran over its budget' if overran else 'failed'}")
        self.hook = hook
        """Name of the hook."""
        self.function = function
        """Name of the function that was called as the hook."""
        self.overran = overran
        """Whether it ran over `CleanupConfig.hook_budget`, and was cancelled."""


class EventStoreFailed(SessionError):
    """The event store raised, or was too slow: a stream of the session can no longer be resumed.

    The session and the stream stay open. Reported once for a session, also if other streams follow.
    The store's error is the cause.
    """

    def __init__(self) -> None:
        super().__init__("the event store failed; a stream of this session cannot be resumed")


class TaskResultLost(SessionError):
    """The result of a task could not be kept: the task has failed."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"{name}: {why}")
        self.name = name
        """What ran in the task, such as ``tool 'build'``."""


class ExitRequested(SessionError):
    """Code of a session raised `SystemExit`, as ``sys.exit`` and argument parsers do.

    It was treated as a failure of that code: the process also serves other clients. The
    `SystemExit`, or the group that contains it, is the cause.
    """

    def __init__(self, exit: BaseException) -> None:  # noqa: A002  # its name in Python
        status = f" with status {exit.code!r}" if isinstance(exit, SystemExit) else ""
        super().__init__(f"SystemExit was raised{status}; the server keeps running")


class SendFailed(SessionError):
    """A transport raised an error, which is the cause, when it was given a message.

    Only that message is lost.
    """

    def __init__(self) -> None:
        super().__init__("sending to the client failed")


class PeerViolation(SessionError):
    """A peer violated the protocol: its message was counted, and answered if it could be."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what
        """What was wrong, without any text of the peer."""


class HandleError(SessionError):
    """A handle cannot be used in the requested way. Base class.

    If a tool does not catch it, the result has ``isError`` and its text, so that the model can
    correct itself.
    """


class UnknownHandle(HandleError):
    """The id names no handle of the caller: it is unknown, has ended, or has another owner or kind.

    For `CleanupConfig.ended_handle_time` after the end of a handle, the error tells its owner the
    reason.
    """

    def __init__(self, handle_id: str, reason: TerminationReason | None = None) -> None:
        # The id is repeated, because a model may have sent several.
        super().__init__(
            f"no handle {shown(handle_id)}: it is unknown, or has expired; open another one"
            if reason is None
            else f"handle {shown(handle_id)} has ended ({reason.value}); open another one"
        )
        self.handle_id = handle_id
        """The handle's id, as it was sent."""
        self.reason = reason
        """Why the handle ends or has ended; None if that is unknown, or if the caller is not its
        owner."""


class NoPrincipal(HandleError):
    """Handles cannot be listed without authentication: their ids are the only protection."""

    def __init__(self) -> None:
        super().__init__("handles can be listed for authenticated clients only")


class InvalidSession(SessionError):
    """`validate_sessions` found a session with inconsistent records.

    It is a bug of the library: please report it.
    """


class McpError(Exception):
    """A JSON-RPC error: raised in a handler, it is the answer; a client's error is raised as one.

    Args:
        code: JSON-RPC error number. Use -32602 for bad parameters, and numbers outside
            -32768...-32000 for errors of your own.
        message: One sentence for the peer.
        data: Anything that encodes to JSON, or None to leave ``data`` out.
    """

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data

    def __str__(self) -> str:
        return f"{self.message} ({self.code})"


class InsufficientScope(McpError):
    """The principal of a request lacks scopes that a tool or method needs.

    The library raises it for ``scopes=`` of `Router.tool` and `Router.request`. Handlers raise it
    where the scopes depend on the arguments. Over HTTP the answer has status 403 and a challenge
    with ``error="insufficient_scope"``, unless a stream was opened for it before.

    Args:
        scopes: All scopes that the request needs. Text is split at spaces.
    """

    def __init__(self, scopes: str | Iterable[str]) -> None:
        self.scopes: tuple[str, ...] = checked_scopes(scopes)
        """All scopes that the request needs."""
        needed = " ".join(self.scopes)
        super().__init__(
            _INVALID_REQUEST,
            f"This request needs a token with the scopes: {needed}",
            {"requiredScopes": list(self.scopes)},
        )


class ToolError(Exception):
    """Raise it in a tool to return its text to the model, with ``isError: true``."""


class QuestionError(Exception):
    """A request to the client (`elicit`, `sample`, `list_roots`, ping) failed. Base class."""


class CapabilityMissing(QuestionError):
    """The client did not declare the capability; nothing was sent.

    If a handler does not catch it, its client gets the text: up to 2025-11-25 the result of a tool
    has ``isError``, so that the model can do without the answer; from 2026-07-28 on the error
    -32021 names the capability.
    """

    def __init__(self, capability: str) -> None:
        super().__init__(
            f"the client cannot be asked: it did not declare the capability {capability}"
        )
        self.capability = capability
        """The capability that is needed, such as ``elicitation`` or ``elicitation.url``."""


class QuestionTimeout(QuestionError):
    """The client did not answer in time; the question was taken back.

    Not a subclass of `trio.TooSlowError`, so that it cannot be mistaken for the timeout of a
    ``fail_after`` around the question.
    """

    def __init__(self, method: str, seconds: float) -> None:
        super().__init__(f"no answer to {method} within {seconds:g} s")
        self.method = method
        """The question's method."""
        self.seconds = seconds
        """The timeout, in seconds."""


class NoChannel(QuestionError):
    """There is no connection to the client, or no open stream on which to send to it."""

    def __init__(self, why: str = "the session has no channel to its client") -> None:
        super().__init__(why)


class TooManyQuestions(QuestionError):
    """`SessionLimits.max_questions` to this client are open already."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} questions to the client are open already")
        self.limit = limit
        """The limit that was reached."""
