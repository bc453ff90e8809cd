"""The settings of Streamable HTTP."""

from __future__ import annotations

import enum
import re
from collections.abc import Collection
from typing import Any, Final, Literal

import attrs

from ...core.config import at_least_one, finite_seconds, positive_seconds
from .event_store import EventStore
from .memory_event_store import MemoryEventStore
from .trusted_proxies import read_proxies


class SlowReader(enum.Enum):
    """What happens when a client reads a stream too slowly.

    That is: when the buffer of the stream (`SessionLimits.max_output`) is full. Other streams are
    not delayed. Changes for a subscription of 2026-07-28 are neither waited for nor dropped: each
    one is kept once until there is room, unless the policy ends the stream.
    """

    BLOCK = "block"
    """Calls that send on the stream wait. If the client reads nothing for
    `CleanupConfig.send_timeout`, its session ends as *unresponsive*."""

    DROP = "drop"
    """Messages are dropped and counted; results are kept."""

    END_STREAM = "end stream"
    """The connection is closed. The client can resume the stream, and gets the events that are
    still kept."""


def _answers(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value not in ("auto", "sse"):
        raise ValueError(f"{attribute.name} must be 'auto' or 'sse', not {value!r}")


def _event_store(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is not None and not callable(getattr(value, "open_log", None)):
        # For example one of the official SDK or FastMCP, which have other methods.
        raise TypeError(
            f"{attribute.name} must be None or have the methods of EventStore, as a "
            f"MemoryEventStore has; not {type(value).__name__}"
        )


_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE: Final = re.compile(r"[\x21-\x7e]+( [\x21-\x7e]+)*")


def _header(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    match value:
        case None:
            return
        case (str(name), str(text)) if _TOKEN.fullmatch(name) and _VALUE.fullmatch(text):
            if "{node}" in text:
                return
        case _:
            pass
    raise ValueError(
        f"{attribute.name} must be the name and the value of a header, with {{node}} in the value, "
        f"not {value!r}"
    )


def _proxies(_: object, __: attrs.Attribute[Any], value: Collection[str]) -> None:
    read_proxies(value)


@attrs.frozen(kw_only=True)
class HttpOptions:
    """How sessions are served over Streamable HTTP. Times are in seconds."""

    answers: Literal["auto", "sse"] = attrs.field(default="auto", validator=_answers)
    """``auto``: as JSON if nothing is sent before the result, and the result comes soon;
    ``sse``: always as a stream. It does not apply to requests of 2026-07-28, which are answered as
    JSON whenever possible, because their errors have statuses."""

    # Sessions are what clients of these revisions expect, and what the library is for.
    stateless: bool = attrs.field(default=False, validator=attrs.validators.instance_of(bool))
    """Whether clients up to 2025-11-25 are served without sessions: each POST for itself, so that
    any process can answer it. What needs a session is refused."""

    stream_after: float = attrs.field(default=2.0, validator=positive_seconds)
    """Seconds until a stream is opened for an answer that is not ready. The client of a session can
    resume it."""

    keep_alive: float = attrs.field(default=15.0, validator=positive_seconds)
    """Seconds of silence after which a stream sends a comment, so that proxies keep it open."""

    retry: float = attrs.field(default=3.0, validator=finite_seconds)
    """Seconds after which clients should resume a stream that was closed."""

    wrong_node_header: tuple[str, str] | None = attrs.field(default=None, validator=_header)
    """The name and the value of a header for requests that name another node (421, see
    `SessionConfig.node`): by it, a proxy sends the request there. ``{node}`` in the value stands
    for the label: ``("X-Accel-Redirect", "@{node}")`` for nginx, ``("fly-replay",
    "instance={node}")`` for Fly.io. None adds no header."""

    retry_after: int = attrs.field(default=5, validator=at_least_one)
    """Seconds after which clients should retry if a limit was reached (``Retry-After``)."""

    authenticate_timeout: float = attrs.field(default=10.0, validator=positive_seconds)
    """Seconds that ``authenticate`` may take for one request; then it is answered with 503.

    10 by default: longer than an identity provider needs, and shorter than the 30 or 60 seconds
    after which clients give up."""

    body_timeout: float = attrs.field(default=30.0, validator=positive_seconds)
    """Seconds within which the whole body of a request must arrive."""

    max_streams: int = attrs.field(default=128, validator=at_least_one)
    """Streams of one session that can be open with GET at the same time."""

    slow_reader: SlowReader = attrs.field(
        default=SlowReader.BLOCK, validator=attrs.validators.instance_of(SlowReader)
    )
    """What happens when a client reads too slowly."""

    event_store: EventStore | None = attrs.field(factory=MemoryEventStore, validator=_event_store)
    """The store that keeps events for clients that reconnect; None keeps no events."""

    event_store_timeout: float = attrs.field(
        default=5.0, validator=[positive_seconds, finite_seconds]
    )
    """Seconds that one awaited call of the event store may take. Afterwards the stream can no
    longer be resumed; the stream and the session stay open.

    Connected clients do not wait for the store. 5 by default: longer than a database is usually
    busy, and short, because what waits for the store takes memory."""

    trusted_proxies: Collection[str] = attrs.field(default=(), validator=_proxies)
    """Addresses and networks of proxies that name their clients in ``X-Forwarded-For`` or
    ``Forwarded``; ``unix`` for all clients of a Unix socket. Limits by address then hold for
    these clients. None is trusted by default: all clients of a proxy count as one address.

    A host in ``X-Forwarded-Host`` or ``Forwarded`` counts instead of ``Host``; so the proxies must
    set or remove all of these headers."""
