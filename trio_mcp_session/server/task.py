"""Tasks: handlers whose request has been answered with a task (2026-07-28, tasks extension).

A task is a detached call with a session of kind *task*. Its client asks for its status with
``tasks/get``, answers its questions with ``tasks/update`` and cancels it with ``tasks/cancel``; the
id of the session is the id of the task. When the handler has ended, the session keeps the outcome
for `CleanupConfig.task_retention`, and then ends.

All changes go through `_change`, which tells the subscriptions to the task. What they get and what
``tasks/get`` answers are made by one function, `ServerTask.snapshot`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple, final

import attrs
import msgspec
import trio

from ..core import events
from ..core.errors import McpError, NoChannel, ShuttingDown, TaskResultLost, TooManyQuestions
from ..core.ids import SessionKind, beginning_of, short_hash
from ..core.instrumentation import TaskDetails, TaskOutcome
from ..core.reasons import EndingReason, TerminationReason
from ..core.task_info import TaskInfo, TaskStatus
from ..protocol.error_codes import INTERNAL_ERROR
from ..protocol.input_required import check_answer
from ..protocol.jsonrpc import encode_json
from ..protocol.results import translate_code
from ..protocol.tasks_extension import TaskSnapshot, encode_error
from ..sessions.state_keys import StateKey
from .busy import NO_MEMORY
from .pending_questions import PendingQuestions

if TYPE_CHECKING:
    from datetime import datetime

    from ..core.identity import Principal
    from ..protocol.input_required import AskedFor
    from ..sessions.instruments import ObservedTask
    from ..sessions.manager import SessionManager
    from ..sessions.manager_server import RunningRequests
    from ..sessions.session import Session
    from .detached import DetachedCall

CANCELLED: Final = "cancelled by the client"

_NUMBERED: Final = re.compile("(.*)-([1-9][0-9]{0,8})", re.DOTALL)
"""A key with a number behind its name, such as ``elicitation-2``. Other keys count as number 1."""
_MAX_NUMBER: Final = 999_999_999


MAX_MESSAGE: Final = 1_024
"""Characters of a status message. It is one sentence for people, and each poll gets it again. Tools
may put what their client has sent into it, and it is not counted in the byte budgets."""


def _shortened(message: str | None) -> str | None:
    if message is None or len(message) <= MAX_MESSAGE:
        return message
    return f"{message[: MAX_MESSAGE - 1]}…"


class _OpenQuestion(NamedTuple):
    """A question that clients can answer."""

    pending: PendingQuestions
    """The questions that it was asked together with."""
    key: str
    """Its key among these; clients know it by a key that no other question of the task has."""
    method: str
    encoded: msgspec.Raw
    """What clients get: always the same bytes, because they compare them."""


@final
@attrs.define(eq=False, repr=False)
class ServerTask:
    """One task, from the answer to its request until it is removed.

    Only `ask` is a checkpoint.
    """

    session: Session
    """Its session, which ends with it."""
    name: str
    """What runs in it, such as ``tool 'build'``."""
    _on_change: Callable[[ServerTask], None]
    """Called with every change: tells those that subscribed to it."""
    _call: DetachedCall | None
    """Its handler; None when that has ended: a task that only keeps its outcome is small."""
    _message: str | None = attrs.field(converter=_shortened)
    """The status message."""
    status: TaskStatus = attrs.field(default=TaskStatus.WORKING, init=False)
    _result: msgspec.Raw | None = attrs.field(default=None, init=False)
    _error: msgspec.Raw | None = attrs.field(default=None, init=False)
    _created: datetime = attrs.field(init=False)
    """Read once from the wall clock, which may be set back."""
    _began: float = attrs.field(factory=trio.current_time, init=False)
    _changed: float = attrs.field(init=False)
    _lasts: float = attrs.field(init=False)
    """Seconds from its beginning to its removal."""
    _open: dict[str, _OpenQuestion] = attrs.field(factory=dict[str, _OpenQuestion], init=False)
    _numbers: dict[str, int] = attrs.field(factory=dict[str, int], init=False)
    """The highest number behind each name in the keys that were used: no key is used again."""
    _unanswered: list[PendingQuestions] = attrs.field(factory=list[PendingQuestions], init=False)
    """Questions that were open when it got its final status."""
    _connection: Session | None = attrs.field(default=None, init=False)
    """The session of its client's connection, which stays open until the task is over."""
    _ends_as: tuple[TaskStatus, str] | None = attrs.field(default=None, init=False)
    """Its final status and message without an outcome of its handler, if it was stopped."""
    _observed: ObservedTask | None = attrs.field(default=None, init=False)
    """Reports it to the instrumentation; None without any that observes it."""
    _counted_as: TaskStatus | None = attrs.field(default=None, init=False)
    """The status under which the manager counts it: None before it begins, and when removed."""

    def __attrs_post_init__(self) -> None:
        config = self.session._manager.config
        self._created = config.wall_clock().astimezone(UTC)
        self._changed = self._began
        self._lasts = config.cleanup.task_timeout + config.cleanup.task_retention

    def __repr__(self) -> str:
        return f"<ServerTask {beginning_of(self.session.session_id)}… {self.status.value}>"

    # Its beginning.

    def begin(self) -> None:
        """Answer the request with the task. From now on the session owns the handler."""
        call, session = self._call, self.session
        assert call is not None
        request = call.request
        session.set_state(_TASK, self)
        self._count(self.status)
        call.holder = self
        call.set_owner(session)
        assert request.scope is not None
        request.scope.deadline = self._began + session._manager.config.cleanup.task_timeout
        session.renew(self._lasts)  # Opening it may have taken a while.
        connection = request.owner.session
        if connection is not None and connection.principal is None:
            # On a pipe without authentication, only this connection can ask for the task,
            # which ends with it.
            self._connection = connection
            connection._begin_work()
        if request.observed is not None:
            self._observed = request.observe_task(
                TaskDetails(task_id=self.task_id, name=self.name, principal=session.principal)
            )
        try:
            request.answer(self.snapshot().creation())
        finally:
            call.detach()

    @property
    def drains_with(self) -> Session:
        """The session whose drain ends it: its client's connection, if that has to outlive it."""
        return self.session if self._connection is None else self._connection

    # What clients and programs see.

    @property
    def task_id(self) -> str:
        """Its id, and the id of its session."""
        return self.session.session_id

    def snapshot(self) -> TaskSnapshot:
        """Return its present state."""
        return TaskSnapshot(
            task_id=self.session.session_id,
            status=self.status,
            message=self._message,
            created=self._created,
            # Not read from the wall clock: it may have been set back.
            changed=self._created + timedelta(seconds=self._changed - self._began),
            time_to_live=self._lasts,
            poll_interval=self.session._manager.config.cleanup.task_poll_interval,
            questions={key: one.encoded for key, one in self._open.items()},
            result=self._result,
            error=self._error,
        )

    def info(self) -> TaskInfo:
        """Return its description for programs."""
        age = trio.current_time() - self._began
        return TaskInfo(
            task_id=self.session.session_id,
            name=self.name,
            status=self.status,
            status_message=self._message,
            principal=self.session.principal,
            created=self._created,
            age=age,
            time_left=self.session.time_left,
            questions=tuple(self._open),
        )

    def running_handler(self) -> RunningRequests:
        """Return the Trio task of its handler, as long as that runs, with what it is for.

        Safe in any thread.
        """
        call = self._call
        if call is None:
            return {}
        what = f"task {short_hash(self.session.session_id)}, {self.name}"
        return {call.worker.task: (what, self._began)}

    def report_progress(self, text: str) -> None:
        """Set the status message."""
        if not self.status.is_final and self._ends_as is None:
            self._message = text
            self._change()

    def was_told(self) -> None:
        """Called when its client is told the status. After the final one, it can make room."""
        if self.status.is_final:
            self.session._makes_room = True

    # Questions of its handler.

    async def ask(self, questions: Mapping[str, AskedFor]) -> Mapping[str, Any]:
        """Ask the client, and wait until ``tasks/update`` has brought all answers.

        A checkpoint, unless it raises before it asks. When cancelled, the questions are withdrawn.

        Returns:
            The answers, by key.

        Raises:
            NoChannel: The handler was cancelled, or has ended.
            SessionTerminated: The task has ended.
            TooManyQuestions: Too many questions are open.
            TypeError: A question does not encode to JSON.
        """
        if self._ends_as is not None:
            await trio.lowlevel.checkpoint()  # The handler is cancelled: raise that first.
        self._check_asking()
        pending = PendingQuestions(questions)
        keys: list[str] = []
        try:
            self._register(pending, keys)
            await pending.answered.wait()
            if len(pending.answers) < len(questions):
                self._check_asking()  # It was woken without the answers: raise the reason.
            return pending.answers
        finally:
            self.session._byte_budget().release(pending.held)
            self._withdraw(keys)

    def _check_asking(self) -> None:
        self.session._check_live()
        if self._ends_as is not None or self._call is None:
            raise NoChannel("the task was cancelled, or has ended")

    def _register(self, pending: PendingQuestions, keys: list[str]) -> None:
        """Open questions; add the keys by which clients know them to ``keys``."""
        limit = self.session._manager.config.limits.max_questions
        if len(self._open) + len(pending.questions) > limit:
            raise TooManyQuestions(limit)
        encoded = {key: question.encode() for key, question in pending.questions.items()}
        for own_key, question in pending.questions.items():
            key = self._unused_key(own_key)
            keys.append(key)
            self._open[key] = _OpenQuestion(pending, own_key, question.method, encoded[own_key])
        self._change()

    def _unused_key(self, wanted: str) -> str:
        """Return the key that was wanted, or else that with a higher number than all so far."""
        found = _NUMBERED.fullmatch(wanted)
        name, number = (wanted, 1) if found is None else (found[1], int(found[2]))
        last = self._numbers.get(name, 0)
        if number <= last:
            if last == _MAX_NUMBER:
                return self._unused_key(f"{wanted}-1")
            number = last + 1
            wanted = f"{name}-{number}"
        self._numbers[name] = number
        return wanted

    def _withdraw(self, keys: list[str]) -> None:
        left = [key for key in keys if self._open.pop(key, None) is not None]
        if left:
            self._change()

    def take_answers(self, answers: Mapping[str, Any], size: int) -> None:
        """Take the answers of a client to open questions; those to others are ignored.

        Args:
            answers: The answers, by key.
            size: Bytes that they take in memory, by estimate.

        Raises:
            McpError: -32602, one of them is malformed; -32603, there is no room for them. Nothing
                has changed.
        """
        given = [key for key in self._open if key in answers]
        for key in given:
            check_answer(key, self._open[key].method, answers[key])
        if not given:
            return
        # Each of them may keep its part of the message for long, and knows nothing of the others.
        takers = {self._open[key].pending for key in given}
        if not self.session._byte_budget().claim(size * len(takers)):
            raise McpError(INTERNAL_ERROR, NO_MEMORY)
        for pending in takers:
            pending.held += size
        for key in given:
            question = self._open.pop(key)
            pending = question.pending
            pending.answers[question.key] = answers[key]
            if len(pending.answers) == len(pending.questions):
                pending.answered.set()
        self._change()

    # Its end.

    def cancel(self, why: str = CANCELLED) -> None:
        """Cancel its handler. It may complete all the same, if it ignores the cancellation."""
        if self._call is None or self._ends_as is not None or self.status.is_final:
            return
        self._ends_as = TaskStatus.CANCELLED, why
        self._call.request.end_soon(EndingReason.CANCELLED)
        self._call.worker.scope.cancel(reason=why)

    def fail(self, why: str) -> None:
        """End it as failed, because its session ends next: that cancels its handler."""
        if self._call is not None and not self.status.is_final:
            self._ends_as = TaskStatus.FAILED, why
            self._settle_without_outcome()

    def _settle_without_outcome(self) -> None:
        status, why = self._ends_as or (TaskStatus.FAILED, "the handler was cancelled")
        if status is TaskStatus.FAILED:
            self._settle_as_failed(why)
        else:
            self._settle(status, why)

    def _settle_as_failed(self, why: str) -> None:
        """Settle with an error of the library, which is kept also where there is no room."""
        error = encode_error(INTERNAL_ERROR, why, None)
        self.session._byte_budget().add(len(bytes(error)))
        self._settle(TaskStatus.FAILED, why, error=error, error_code=INTERNAL_ERROR)

    def _settle(
        self,
        status: TaskStatus,
        message: str | None = None,
        *,
        result: msgspec.Raw | None = None,
        error: msgspec.Raw | None = None,
        error_code: int | None = None,
        is_tool_error: bool = False,
    ) -> None:
        """Set the final status. Only this method does."""
        self._result, self._error, self._message = result, error, message
        self._unanswered, self._open = [one.pending for one in self._open.values()], {}
        retention = self.session._manager.config.cleanup.task_retention
        self._lasts = trio.current_time() - self._began + retention
        connection, self._connection = self._connection, None
        try:
            self._change(status)
        finally:
            if connection is not None:
                connection._end_work()
            observed, self._observed = self._observed, None
            if observed is not None:
                observed.finished(
                    TaskOutcome(
                        status=status,
                        error_code=error_code,
                        error_message=message,
                        is_tool_error=is_tool_error,
                    )
                )

    def _wake_all(self) -> None:
        """Wake what waits for answers. Cancel the handler first: it must not just continue."""
        for pending in self._unanswered:
            pending.answered.set()
        self._unanswered = []

    # The interface for its call.

    @property
    def was_stopped(self) -> bool:
        """See `CallHolder.was_stopped`."""
        return self._ends_as is not None

    def keep_result(self, result: object) -> None:
        """See `CallHolder.keep_result`: it is encoded as the answer to the request would be."""
        if self.status.is_final:
            return
        assert self._call is not None
        request = self._call.request
        completed = request.owner.complete_result(request.method, result, keepable=False)
        if self._ends_as is not None and completed.get("isError") is True:
            return  # It has failed because it was cancelled.
        encoded = encode_json(completed)
        if self._has_room_for(len(encoded)):
            failed = completed.get("isError") is True
            kept = msgspec.Raw(encoded)
            self._settle(TaskStatus.COMPLETED, result=kept, is_tool_error=failed)

    def keep_error(self, code: int, message: str, data: Any) -> None:
        """See `CallHolder.keep_error`."""
        if self.status.is_final or self._ends_as is not None:
            return
        code = translate_code(code)
        encoded = encode_error(code, message, data)
        if self._has_room_for(len(bytes(encoded))):
            self._settle(TaskStatus.FAILED, message, error=encoded, error_code=code)

    def _has_room_for(self, size: int) -> bool:
        """Count the bytes of the outcome; fail if it cannot be kept, and say so in the log, too."""
        limit = self.session._manager.config.limits.max_task_result
        if size <= limit and self.session._byte_budget().claim(size):
            return True
        why = (
            f"the result is too large to keep: {size} bytes (limit: {limit})"
            if size > limit
            else f"the result cannot be kept ({size} bytes): {NO_MEMORY}"
        )
        self.session._report(TaskResultLost(self.name, why))
        self._settle_as_failed(why)
        return False

    def handler_ended(self) -> None:
        """See `CallHolder.handler_ended`."""
        call, self._call = self._call, None
        assert call is not None
        try:
            if not self.status.is_final:
                self._settle_without_outcome()
        finally:
            self._wake_all()
            # Nothing refers to the parameters of the request any longer.
            self.session._byte_budget().release(call.request.memory)

    def after_handler(self) -> None:
        """See `CallHolder.after_handler`: the outcome is kept for a while."""
        session = self.session
        if session.termination_reason is None:
            session.renew(session._manager.config.cleanup.task_retention)

    def session_ends(self, why: str) -> None:  # noqa: ARG002  # clients are told in other words
        """See `CallHolder.session_ends`."""
        self._fail_with_session()
        self._wake_all()

    def _fail_with_session(self) -> None:
        """End it as failed, because its session has a reason to end."""
        reason = self.session._reason_to_end()
        if reason is TerminationReason.SHUTDOWN:
            self.fail(str(ShuttingDown()))
        elif reason is TerminationReason.LIFETIME:
            self.fail("the task took too long")
        else:
            self.fail(f"the server ended the task: {reason.value}")

    # Changes.

    def _change(self, status: TaskStatus | None = None) -> None:
        """Note a change, and tell those that subscribed to it."""
        self._changed = trio.current_time()
        old = self.status
        if status is None:
            status = TaskStatus.INPUT_REQUIRED if self._open else TaskStatus.WORKING
        self.status = status
        if status is not old:
            self._count(None if self._counted_as is None else status)
            if status is TaskStatus.INPUT_REQUIRED and self._observed is not None:
                self._observed.waits_for_input()
            if self.session._has_listeners():
                self.session._emit(events.TaskChanged(**self.session._stamp(), status=status))
        self._on_change(self)

    def _count(self, status: TaskStatus | None) -> None:
        """Count it under another status, or no longer. Only this method counts tasks."""
        counted = self.session._manager._counters.tasks
        if self._counted_as is not None:
            counted[self._counted_as.value] -= 1
        if status is not None:
            counted[status.value] += 1
        self._counted_as = status


_TASK: Final = StateKey[ServerTask]("task")


def task_of(session: Session) -> ServerTask | None:
    """Return the task that a session of kind *task* is for; None if it has none yet."""
    return session.get_state(_TASK, None)


def all_tasks(manager: SessionManager) -> Iterator[ServerTask]:
    """Iterate over a snapshot of all tasks of a manager, also those whose session is ending."""
    sessions = list(manager.store.of_kind(SessionKind.TASK))
    return (task for one in sessions if (task := task_of(one)) is not None)


def tasks_of(manager: SessionManager, principal: Principal) -> list[ServerTask]:
    """Return the tasks of a principal."""
    sessions = manager.store.of_principal(principal)
    return [task for one in sessions if (task := task_of(one)) is not None]


def count_no_longer(session: Session) -> None:
    """Called when the session of a task has left the table."""
    task = task_of(session)
    if task is not None:
        task._count(None)


def forget_task(session: Session) -> None:
    """Let a session that has ended, and a task that is over, forget each other."""
    task = task_of(session)
    if task is not None and task._call is None and not task._open:
        session.delete_state(_TASK)
