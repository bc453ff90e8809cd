"""`OpenTelemetry`: spans and metrics, on the API of OpenTelemetry alone.

Importing this module imports nothing of OpenTelemetry: that is done when an `OpenTelemetry` is
made. `otel_spans` and `otel_metrics` use the API.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, final

import trio

from ..core.ids import SessionKind
from ..core.instrumentation import (
    Instrumentation,
    QuestionDetails,
    QuestionFinished,
    QuestionOutcome,
    RequestDetails,
    RequestObserver,
    RequestOutcome,
    SessionDetails,
    SessionFinished,
    SessionOutcome,
    TaskDetails,
    TaskObserver,
)
from ..core.metrics import ManagerStatistics
from ..transports.extras import needs_extra

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from .otel_metrics import Meters
    from .otel_spans import RequestSpan, Spans

OF_CLIENTS: Final = (SessionKind.CONNECTION, SessionKind.HEADER)
"""Kinds of sessions that MCP knows, up to 2025-11-25."""


@final
class OpenTelemetry(Instrumentation):
    """Spans and metrics for OpenTelemetry, by the semantic conventions for MCP.

    ::

        open_session_manager(router, instrumentation=OpenTelemetry())

    It needs the extra ``otel``, which is the API of OpenTelemetry only. Configure an SDK with its
    exporters before the manager opens: if there is neither a tracer provider nor a meter provider
    then, the manager does not call it at all. Use one object for all managers of a process: each
    object makes its own instruments. See the page about observability.

    Args:
        tracer_provider: Makes the tracer; the global one by default.
        meter_provider: Makes the meter; the global one by default.
        capture_content: Whether spans have the arguments and results of tools, as JSON. They may
            hold secrets and personal data.
        refresh_interval: Seconds after which the statistics of a manager are read again, for
            exporters, which run in threads.

    Raises:
        ModuleNotFoundError: The extra is not installed.
        ValueError: ``refresh_interval`` is not positive.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        capture_content: bool = False,
        refresh_interval: float = 1.0,
    ) -> None:
        if not refresh_interval > 0:
            raise ValueError(
                f"refresh_interval must be more than 0 seconds, not {refresh_interval!r}"
            )
        with needs_extra("otel", "opentelemetry", "OpenTelemetry"):
            from . import otel_providers  # noqa: PLC0415  # an extra
        self._tracer_provider: Final = tracer_provider
        self._meter_provider: Final = meter_provider
        self._capture_content: Final = capture_content
        self._refresh_interval: Final = refresh_interval
        self._providers: Final = otel_providers
        self._spans: Spans | None = None
        self._meters: Meters | None = None

    def is_active(self) -> bool:
        """Return whether there is a provider that records something. Not a checkpoint."""
        return (
            self._providers.tracer_provider(self._tracer_provider) is not None
            or self._providers.meter_provider(self._meter_provider) is not None
        )

    def opened(
        self, statistics: Callable[[], ManagerStatistics]
    ) -> Callable[[], Awaitable[object]] | None:
        """Make the tracer and the instruments, on first use. Not a checkpoint."""
        tracers = self._providers.tracer_provider(self._tracer_provider)
        if tracers is not None and self._spans is None:
            from .otel_spans import Spans  # noqa: PLC0415  # an extra

            self._spans = Spans.of(tracers, capture_content=self._capture_content)
        meters = self._providers.meter_provider(self._meter_provider)
        if meters is not None and self._meters is None:
            from .otel_metrics import Meters  # noqa: PLC0415  # an extra

            self._meters = Meters.of(meters, self._refresh_interval)
        return None if self._meters is None else partial(self._meters.snapshots.follow, statistics)

    def request_begun(self, details: RequestDetails) -> RequestObserver:
        """Begin the span of a request. Not a checkpoint."""
        span = None if self._spans is None else self._spans.of_request(details)
        return _Request(details, span, self._meters)

    def question_begun(
        self, details: QuestionDetails, meta: dict[str, Any]
    ) -> QuestionFinished | None:
        """Begin the span of a request to a client. Not a checkpoint."""
        span = None if self._spans is None else self._spans.of_question(details, meta)
        began = trio.current_time()

        def finished(outcome: QuestionOutcome) -> None:
            if span is not None:
                span.finished(outcome)
            if self._meters is not None:
                self._meters.asked(details, outcome, trio.current_time() - began)

        return finished

    def notification_sent(self, method: str, meta: dict[str, Any]) -> None:  # noqa: ARG002  # as declared
        """Add the current span to a notification. Not a checkpoint."""
        if self._spans is not None:
            self._spans.inject(meta)

    def session_begun(self, details: SessionDetails) -> SessionFinished | None:
        """Begin to measure a session of a client. Not a checkpoint."""
        meters = self._meters
        if meters is None or details.kind not in OF_CLIENTS:
            return None
        began = trio.current_time()

        def finished(outcome: SessionOutcome) -> None:
            meters.session_ended(details, outcome, trio.current_time() - began)

        return finished


@final
class _Request(RequestObserver):
    """One request: its span and its duration."""

    def __init__(
        self, details: RequestDetails, span: RequestSpan | None, meters: Meters | None
    ) -> None:
        self._details: Final = details
        self._began: Final = trio.current_time()
        self._span: Final = span
        self._meters: Final = meters

    def enter_handler(self) -> None:
        if self._span is not None:
            self._span.enter()

    def continues(self, first: RequestObserver) -> None:
        assert isinstance(first, _Request)
        if self._span is not None and first._span is not None:
            self._span.link(first._span)

    def task_begun(self, details: TaskDetails) -> TaskObserver | None:
        return None if self._span is None else self._span.of_task(details)

    def finished(self, outcome: RequestOutcome) -> None:
        if self._span is not None:
            self._span.finished(outcome)
        if self._meters is not None:
            self._meters.served(self._details, outcome, trio.current_time() - self._began)
