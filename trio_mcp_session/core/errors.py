"""Every error that the library raises on purpose, sorted by whose fault it is.

Session errors tell the application about a session. Request errors travel to a client as a
JSON-RPC error, or came from one. Neither ever wraps `trio.Cancelled`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from .ids import SessionKind
    from .reasons import TerminationReason
    from .state import SessionState


MAX_SHOWN: Final = 64
"""Characters of a peer's text that an error repeats, at most."""


def shown(text: str) -> str:
    """Return text of a peer as an error shows it: quoted, escaped, and cut where it is long."""
    return repr(text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}...")


class SessionError(Exception):
    """Base of the errors about sessions. Not raised itself."""


class SessionTerminated(SessionError):
    """You used a session that has ended, or that ended while you waited.

    You do *not* get it from `Session.terminate` and `Session.wait_terminated`, which are fine on
    an ended session.
    """

    def __init__(self, reason: TerminationReason) -> None:
        super().__init__(f"session has ended: {reason.value}")
        self.reason = reason
        """Why the session ended."""


class NoSession(SessionError):
    """`RequestContext.session` was asked of a request that belongs to no session.

    Requests of 2026-07-28 are stateless: keep what has to live on in a handle instead.
    """


class InvalidTransition(SessionError):
    """The move is not in the transition table; the state is as it was."""

    def __init__(self, old: SessionState, new: SessionState) -> None:
        super().__init__(f"a session cannot move from {old.value} to {new.value}")
        self.old = old
        """The state that the session is in."""
        self.new = new
        """The state that was asked for."""


class SessionRejected(SessionError):
    """A session was not opened, and nothing is left of the attempt. Base class."""


class SessionLimitReached(SessionRejected):
    """A limit on sessions was reached and the admission policy found no place."""

    def __init__(
        self,
        kind: SessionKind,
        limit: int,
        *,
        per_principal: bool = False,
        prefix: str | None = None,
    ) -> None:
        what = f"{kind.value} sessions" if prefix is None else f"{prefix!r} handles"
        whose = " of one principal" if per_principal else ""
        super().__init__(f"limit of {limit} {what}{whose} reached")
        self.kind = kind
        """The kind of session that was asked for."""
        self.limit = limit
        """The limit that was reached."""
        self.per_principal = per_principal
        """Whether it was the principal's own limit."""
        self.prefix = prefix
        """`HandleKind.prefix`, where it was the limit of one kind of handles; None otherwise."""


class ShuttingDown(SessionRejected):
    """The manager retires, drains or is closed: it opens no sessions any more."""

    def __init__(self) -> None:
        super().__init__("server is shutting down")


class SessionVetoed(SessionRejected):
    """An ``on_session_created`` hook refused the session; its error is the cause."""

    def __init__(self) -> None:
        super().__init__("session refused by the application")


class AccessRevoked(SessionRejected):
    """`SessionManager.revoke` was called for this principal while its session was being opened.

    Likewise for a request that runs on after that, shielded, and opens a handle.
    """

    def __init__(self) -> None:
        super().__init__("access was revoked")


class TaskCrashed(SessionError):
    """A task of a session raised: the session ends. The task's error is the cause."""

    def __init__(self, task: str) -> None:
        super().__init__(f"task {task!r} of a session crashed")
        self.task = task
        """Name of the task."""


class HandlerCrashed(SessionError):
    """A request's handler raised something unexpected: that request failed, nothing else.

    `SystemExit` counts as well; the cause is an `ExitRequested` then.
    """

    def __init__(self, method: str, name: str | None = None) -> None:
        super().__init__(f"{name or f'handler of {shown(method)}'} crashed")
        self.method = method
        """The request's method."""
        self.name = name
        """What crashed, such as ``tool 'add'``; None for the handler of the method."""


class LifespanFailed(SessionError):
    """A session's lifespan, or the opener of its handle, failed while it was entered or in use.

    Its error is the cause. Failing when it is left is `CleanupFailed`.
    """

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} failed")
        self.what = what
        """Which one: ``lifespan notebook``, for example."""


class HeldContextEnded(SessionError):
    """A context that a session holds ended before the session: the session ends, too.

    Its error, if it raised one, is the cause.
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
        """What was being cleaned up."""


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
        """Whether its time was over (it was cancelled then)."""


class EventStoreFailed(SessionError):
    """The event store raised, or was too slow: a stream of the session cannot be resumed any more.

    The session and the stream go on. Reported once for a session, also if other streams follow.
    The store's error is the cause.
    """

    def __init__(self) -> None:
        super().__init__("the event store failed; a stream of this session cannot be resumed")


class ExitRequested(SessionError):
    """Code of a session raised `SystemExit`, as ``sys.exit`` and argument parsers do.

    It ended only what raised it: the program belongs to other clients as well. The `SystemExit`,
    or the group that contains it, is the cause.
    """

    def __init__(self, exit: BaseException) -> None:  # noqa: A002  # what it is called
        status = f" with status {exit.code!r}" if isinstance(exit, SystemExit) else ""
        super().__init__(f"SystemExit was raised{status}; the server goes on")


class SendFailed(SessionError):
    """A transport raised when it was given a message: the message is lost, and nothing else.

    The transport's error is the cause.
    """

    def __init__(self) -> None:
        super().__init__("sending to the client failed")


class PeerViolation(SessionError):
    """A peer sent what the protocol forbids; it was answered and counted, nothing else ended."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what
        """What was wrong, in words of this library only: no text of the peer."""


class HandleError(SessionError):
    """A handle cannot be used as it was asked for. Base class.

    Uncaught in a tool it is a result with ``isError``, for the model to correct itself.
    """


class UnknownHandle(HandleError):
    """There is no such handle for whoever asks: it never was, has ended, or is somebody else's."""

    def __init__(self, handle_id: str) -> None:
        # Models choose what they send; it is repeated so that they know which one is meant.
        super().__init__(
            f"no handle {shown(handle_id)}: it is unknown, or has expired; open another one"
        )
        self.handle_id = handle_id
        """The handle, as it was given."""


class NoPrincipal(HandleError):
    """Handles cannot be listed where nobody is authenticated: there they are secrets."""

    def __init__(self) -> None:
        super().__init__("handles are listed for authenticated clients only")


class InvalidSession(SessionError):
    """`validate_sessions` found a session whose books do not agree. Please report it."""


class McpError(Exception):
    """A JSON-RPC error: raise it in a handler to answer with it, or catch a client's answer.

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


class ToolError(Exception):
    """Raise it in a tool: the model sees the text as a result with ``isError: true``."""


class QuestionError(Exception):
    """A question to the client (`elicit`, `sample`, `list_roots`, ping) got no answer. Base."""


class CapabilityMissing(QuestionError):
    """The client did not declare the capability; nothing was sent."""

    def __init__(self, capability: str) -> None:
        super().__init__(f"the client does not offer {capability}")
        self.capability = capability
        """The capability that the question needs, such as ``elicitation``."""


class QuestionTimeout(QuestionError):
    """The client did not answer in time; it was told that the question is off.

    It is no `trio.TooSlowError`, so that a timeout of your own around the question stays apart.
    """

    def __init__(self, method: str, seconds: float) -> None:
        super().__init__(f"no answer to {method} within {seconds:g} s")
        self.method = method
        """The question's method."""
        self.seconds = seconds
        """How long it was waited for, in seconds."""


class NoChannel(QuestionError):
    """There is no way to ask this client anything (no connection, or no stream open)."""

    def __init__(self, why: str = "the session has no channel to its client") -> None:
        super().__init__(why)


class TooManyQuestions(QuestionError):
    """`SessionLimits.max_questions` are waiting for this client's answers already."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} questions to the client are open already")
        self.limit = limit
        """The limit that was reached."""
