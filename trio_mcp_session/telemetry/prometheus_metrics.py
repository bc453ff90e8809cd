"""`PrometheusMetrics`: counts calls of tools, requests and durations, for ``GET /metrics``."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, final

import trio

from ..core.ids import SessionKind
from ..core.instrumentation import (
    Instrumentation,
    RequestDetails,
    RequestObserver,
    RequestOutcome,
    SessionDetails,
    SessionFinished,
    TaskDetails,
    TaskObserver,
    TaskOutcome,
)
from ..core.metrics import DURATION_BUCKETS, ManagerStatistics
from ..core.task_info import TaskStatus
from .exposition import Histogram, Metric
from .names import OPERATION_BUCKETS, OTHER
from .readings import FAMILIES, read_all

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_NAMES: Final = 1_000
"""Names of tools, and of methods, that are counted by name; the others are counted together.

Each has some lines in every answer to ``GET /metrics``, and a program may register tools with ever
new names."""


@final
class PrometheusMetrics(Instrumentation):
    """Counts what the statistics of a manager do not tell: calls of tools, requests, durations.

    ::

        open_session_manager(router, instrumentation=PrometheusMetrics())

    `serve_admin` finds it in the manager, and writes what it counts besides the statistics. Calls
    of tools are counted by the tool's name and by their outcome: ``ok``, ``tool_error`` (a result
    with ``isError``), ``error`` (a JSON-RPC error), ``cancelled`` and ``input_required``. A call
    that becomes a task is counted when the task has ended.
    """

    def __init__(self) -> None:
        self._requests: Final = Counter[tuple[str, ...]]()
        self._calls: Final = Counter[tuple[str, ...]]()
        self._durations: Final[dict[tuple[str, ...], Histogram]] = {}
        self._sessions: Final[dict[tuple[str, ...], Histogram]] = {}
        self._methods: Final = _Names()
        self._tools: Final = _Names()

    def request_begun(self, details: RequestDetails) -> RequestObserver:
        """Begin to measure a request. Not a checkpoint."""
        return _Request(self, details)

    def session_begun(self, details: SessionDetails) -> SessionFinished:
        """Begin to measure a session. Not a checkpoint."""
        began = trio.current_time()
        return lambda _: self._session_ended(details.kind, trio.current_time() - began)

    def _session_ended(self, kind: SessionKind, seconds: float) -> None:
        key = (kind.value,)
        if key not in self._sessions:
            self._sessions[key] = Histogram(DURATION_BUCKETS)
        self._sessions[key].observe(seconds)

    def _served(self, details: RequestDetails, outcome: str) -> None:
        method = self._methods.known(details.method) if details.is_known else OTHER
        self._requests[method, outcome] += 1

    def _called(self, tool: str, outcome: str, seconds: float) -> None:
        name = self._tools.known(tool)
        self._calls[name, outcome] += 1
        if (name,) not in self._durations:
            self._durations[name,] = Histogram(OPERATION_BUCKETS)
        self._durations[name,].observe(seconds)

    def metrics(self) -> Iterable[Metric]:
        """Return what was counted. Not a checkpoint."""
        return (
            Metric(
                name="mcp_requests",
                kind="counter",
                help="Requests and notifications that have ended, by method and outcome.",
                labels=("method", "outcome"),
                values=self._requests,
            ),
            Metric(
                name="mcp_tool_calls",
                kind="counter",
                help="Calls of tools that have ended, by tool and outcome.",
                labels=("tool", "outcome"),
                values=self._calls,
            ),
            Metric(
                name="mcp_tool_duration_seconds",
                kind="histogram",
                help="Time from the receipt of a call to its answer, or to the end of its task.",
                labels=("tool",),
                values=self._durations,
            ),
            Metric(
                name="mcp_session_duration_seconds",
                kind="histogram",
                help="Time from the opening of a session to its end, by kind.",
                labels=("kind",),
                values=self._sessions,
            ),
        )


@final
class _Names:
    """The names that are counted by themselves: the first ones, up to a limit."""

    def __init__(self) -> None:
        self._names: Final = set[str]()

    def known(self, name: str) -> str:
        """Return the name, or what stands for all others."""
        if name not in self._names:
            if len(self._names) >= MAX_NAMES:
                return OTHER
            self._names.add(name)
        return name


@final
class _Request(RequestObserver):
    """One request, and the task that it becomes."""

    def __init__(self, metrics: PrometheusMetrics, details: RequestDetails) -> None:
        self._metrics: Final = metrics
        self._details: Final = details
        self._began: Final = trio.current_time()
        self._is_task = False

    def task_begun(self, details: TaskDetails) -> TaskObserver:  # noqa: ARG002  # as declared
        self._is_task = True
        return _Task(self)

    def finished(self, outcome: RequestOutcome) -> None:
        told = _outcome(
            outcome.error_code,
            is_tool_error=outcome.is_tool_error,
            cancelled=outcome.cancelled,
            needs_input=outcome.needs_input,
        )
        self._metrics._served(self._details, told)
        if not self._is_task:
            self.count_call(told)

    def count_call(self, outcome: str) -> None:
        """Count a call of a tool that has ended."""
        tool = self._details.target
        if tool is not None and self._details.method == "tools/call":
            self._metrics._called(tool, outcome, trio.current_time() - self._began)


@final
class _Task(TaskObserver):
    def __init__(self, request: _Request) -> None:
        self._request: Final = request

    def finished(self, outcome: TaskOutcome) -> None:
        self._request.count_call(
            _outcome(
                outcome.error_code,
                is_tool_error=outcome.is_tool_error,
                cancelled=outcome.status is TaskStatus.CANCELLED,
            )
        )


def _outcome(
    error_code: int | None,
    *,
    is_tool_error: bool,
    cancelled: bool,
    needs_input: bool = False,
) -> str:
    if error_code is not None:
        return "error"
    if is_tool_error:
        return "tool_error"
    if cancelled:
        return "cancelled"
    return "input_required" if needs_input else "ok"


def metrics_of(statistics: ManagerStatistics) -> Iterable[Metric]:
    """Return the statistics of a manager as metrics. Not a checkpoint."""
    for family, readings in zip(FAMILIES, read_all(statistics), strict=True):
        yield Metric(
            name=family.prometheus,
            kind=family.kind,
            help=family.help,
            labels=family.labels,
            values=readings,
        )
