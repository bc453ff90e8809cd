"""The statistics of a manager as metrics: one table, for OpenTelemetry and for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, Literal, TypeAlias

import attrs

from ..core.metrics import ManagerStatistics
from .error_types import label_of

Labels: TypeAlias = tuple[str, ...]
"""The values of the labels of one reading, in the order of `Family.labels`."""

Readings: TypeAlias = Mapping[Labels, int]
"""What one metric says, by its labels."""


@attrs.frozen(kw_only=True)
class Family:
    """One metric that is read from the statistics of a manager."""

    name: str
    """Its name in OpenTelemetry, behind ``trio_mcp_session.``."""

    prometheus: str
    """Its name in Prometheus, without ``_total``."""

    kind: Literal["counter", "gauge"]
    """Whether it only grows."""

    help: str
    """What it counts."""

    unit: str
    """Its unit in OpenTelemetry."""

    labels: tuple[str, ...] = ()
    """The names of its labels."""

    attributes: tuple[str, ...] = ()
    """Their names in OpenTelemetry."""

    read: Callable[[ManagerStatistics], Readings]
    """Reads it. Not a checkpoint."""


def _family(
    name: str,
    prometheus: str,
    text: str,
    unit: str,
    read: Callable[[ManagerStatistics], Readings],
    *,
    counts: bool = False,
    labels: tuple[str, ...] = (),
    attributes: tuple[str, ...] | None = None,
) -> Family:
    return Family(
        name=name,
        prometheus=prometheus,
        kind="counter" if counts else "gauge",
        help=text,
        unit=unit,
        labels=labels,
        attributes=labels if attributes is None else attributes,
        read=read,
    )


FAMILIES: Final = (
    _family(
        *("sessions.active", "mcp_active_sessions"),
        *("Sessions that have not ended, by kind and state.", "{session}"),
        lambda now: {
            (kind.value, state.value.lower()): count
            for (kind, state), count in now.active_by_state.items()
        },
        labels=("kind", "state"),
    ),
    _family(
        *("sessions.opened", "mcp_sessions_opened"),
        *("Sessions opened.", "{session}"),
        lambda now: {(): now.opened},
        counts=True,
    ),
    _family(
        *("sessions.refused", "mcp_sessions_refused"),
        *("Sessions refused, by reason.", "{session}"),
        lambda now: {(reason,): count for reason, count in now.refused.items()},
        counts=True,
        labels=("reason",),
    ),
    _family(
        *("sessions.ended", "mcp_sessions_ended"),
        *("Sessions ended, by reason and kind.", "{session}"),
        lambda now: {
            (label_of(reason.value), kind.value): count
            for (kind, reason), count in now.ended_by_kind.items()
        },
        counts=True,
        labels=("reason", "kind"),
    ),
    _family(
        *("requests.active", "mcp_requests_in_flight"),
        *("Requests that run.", "{request}"),
        lambda now: {(): now.in_flight},
    ),
    _family(
        *("requests.queued", "mcp_requests_queued"),
        *("Requests that wait until another one has ended.", "{request}"),
        lambda now: {(): now.queued},
    ),
    _family(
        *("listens.active", "mcp_listens_active"),
        *("Open subscriptions of clients (2026-07-28).", "{subscription}"),
        lambda now: {(): now.listens},
    ),
    _family(
        *("tasks.active", "mcp_tasks"),
        *("Tasks, those whose outcome is kept included, by status (2026-07-28).", "{task}"),
        lambda now: {(status,): count for status, count in now.tasks.items()},
        labels=("status",),
    ),
    _family(
        *("events.missed", "mcp_events_missed"),
        *("Events that a subscriber of the manager was too slow for.", "{event}"),
        lambda now: {(): now.events_missed},
        counts=True,
    ),
    _family(
        *("hooks.failed", "mcp_hooks_failed"),
        *("Calls of hooks that failed, took too long or were dropped.", "{call}"),
        lambda now: {(): now.hook_failures},
        counts=True,
    ),
    _family(
        *("http.refused", "mcp_http_refused"),
        *("HTTP requests refused before they reached a session, by status.", "{request}"),
        lambda now: {(str(status),): count for status, count in now.http_refused.items()},
        counts=True,
        labels=("status",),
        attributes=("http.response.status_code",),
    ),
    _family(
        *("bytes.held", "mcp_bytes_held"),
        *("Bytes that clients make the process hold, as the budgets count them.", "By"),
        lambda now: {(): now.bytes_held},
    ),
    _family(
        *("bytes.refused", "mcp_bytes_refused"),
        *("Times that a byte budget had no room, by level.", "{refusal}"),
        lambda now: {(level,): count for level, count in now.bytes_refused.items()},
        counts=True,
        labels=("level",),
    ),
    _family(
        *("draining", "mcp_draining"),
        *("Whether the manager drains: 1 or 0.", "1"),
        lambda now: {(): int(now.draining)},
    ),
)
"""All of them."""


def read_all(statistics: ManagerStatistics) -> tuple[Readings, ...]:
    """Return what each of `FAMILIES` reads. Not a checkpoint."""
    return tuple(family.read(statistics) for family in FAMILIES)


def total(all_readings: Iterable[tuple[Readings, ...]]) -> tuple[Readings, ...]:
    """Return the sums of the readings of several managers."""
    sums: tuple[dict[Labels, int], ...] = tuple({} for _ in FAMILIES)
    for readings in all_readings:
        for one, found in zip(sums, readings, strict=True):
            for labels, value in found.items():
                one[labels] = one.get(labels, 0) + value
    return sums
