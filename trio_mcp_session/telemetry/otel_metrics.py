"""Metrics: durations of operations and sessions, and the statistics of the managers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, final

import attrs
from opentelemetry.metrics import CallbackOptions, Histogram, Observation

from . import names
from .error_types import OF_ANSWERS, error_type_of_question, error_type_of_session, fault_of
from .network import network_of
from .otel_spans import version
from .readings import FAMILIES, Family
from .snapshots import Snapshots

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter, MeterProvider

    from ..core.instrumentation import (
        QuestionDetails,
        QuestionOutcome,
        RequestDetails,
        RequestOutcome,
        SessionDetails,
        SessionOutcome,
    )


@final
@attrs.frozen(eq=False)
class Meters:
    """The instruments. No method is a checkpoint."""

    snapshots: Snapshots
    _operations: Histogram
    _sessions: Histogram
    _questions: Histogram

    @classmethod
    def of(cls, provider: MeterProvider, refresh_interval: float) -> Meters:
        """Make them with a meter of this provider."""
        meter = provider.get_meter(names.SCOPE, version() or "")
        snapshots = Snapshots(refresh_interval)
        for number, family in enumerate(FAMILIES):
            _observe(meter, family, _callback(snapshots, number, family))
        return cls(
            snapshots,
            _histogram(
                meter,
                names.SERVER_OPERATION,
                "Time from the receipt of a request to its answer.",
                names.OPERATION_BUCKETS,
            ),
            _histogram(
                meter,
                names.SERVER_SESSION,
                "Time from the opening of a session of a client to its end.",
                names.SESSION_BUCKETS,
            ),
            _histogram(
                meter,
                names.CLIENT_OPERATION,
                "Time from a request to a client to its answer.",
                names.OPERATION_BUCKETS,
            ),
        )

    def served(self, details: RequestDetails, outcome: RequestOutcome, seconds: float) -> None:
        """Record a request that has ended."""
        method = details.method
        if method in names.NO_OPERATIONS:
            return
        attributes: dict[str, str] = {
            **network_of(details.transport, details.asgi_scope),
            names.METHOD: method if details.is_known else names.OTHER,
        }
        if details.protocol_version is not None:
            attributes[names.PROTOCOL_VERSION] = details.protocol_version
        if details.target is not None and method in names.TARGETS:
            attributes[names.TARGETS[method]] = details.target
        if method == "tools/call":
            attributes[names.OPERATION] = names.EXECUTE_TOOL
        fault = fault_of(outcome.error_code, is_tool_error=outcome.is_tool_error)
        if fault is not None:
            attributes[names.ERROR_TYPE] = fault.type
        if outcome.error_code is not None:
            attributes[names.STATUS_CODE] = str(outcome.error_code)
        self._operations.record(seconds, attributes)

    def asked(self, details: QuestionDetails, outcome: QuestionOutcome, seconds: float) -> None:
        """Record a request to a client that has ended."""
        attributes: dict[str, str] = {
            **network_of(details.transport),
            names.METHOD: details.method,
        }
        if details.protocol_version is not None:
            attributes[names.PROTOCOL_VERSION] = details.protocol_version
        if (error_type := error_type_of_question(outcome)) is not None:
            attributes[names.ERROR_TYPE] = error_type
        if outcome.error_code in OF_ANSWERS:
            attributes[names.STATUS_CODE] = str(outcome.error_code)
        self._questions.record(seconds, attributes)

    def session_ended(
        self, details: SessionDetails, outcome: SessionOutcome, seconds: float
    ) -> None:
        """Record a session that has ended."""
        attributes = {**network_of(details.transport)}
        if outcome.protocol_version is not None:
            attributes[names.PROTOCOL_VERSION] = outcome.protocol_version
        if (error_type := error_type_of_session(outcome.reason)) is not None:
            attributes[names.ERROR_TYPE] = error_type
        self._sessions.record(seconds, attributes)


def _histogram(meter: Meter, name: str, text: str, bounds: Iterable[float]) -> Histogram:
    return meter.create_histogram(
        name, unit="s", description=text, explicit_bucket_boundaries_advisory=list(bounds)
    )


Callback: TypeAlias = Callable[[CallbackOptions], Iterable[Observation]]


def _observe(meter: Meter, family: Family, callback: Callback) -> None:
    create: Any = (
        meter.create_observable_counter
        if family.kind == "counter"
        else meter.create_observable_up_down_counter
    )
    create(f"{names.SCOPE}.{family.name}", [callback], unit=family.unit, description=family.help)


def _callback(snapshots: Snapshots, number: int, family: Family) -> Callback:
    """Return what the thread of an exporter calls: it looks at the last snapshot only."""

    def observe(_: CallbackOptions) -> list[Observation]:
        return [
            Observation(value, _named(family.attributes, labels))
            for labels, value in snapshots.shown[number].items()
        ]

    return observe


def _named(keys: tuple[str, ...], values: tuple[str, ...]) -> Mapping[str, str]:
    return dict(zip(keys, values, strict=True))
