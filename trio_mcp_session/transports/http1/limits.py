"""The limits and clocks of the built-in HTTP server."""

from __future__ import annotations

import attrs

from ...core.config import at_least_one, finite_seconds, positive_seconds


@attrs.frozen(kw_only=True)
class HttpServerLimits:
    """The limits and clocks of the built-in HTTP server.

    Clocks are in seconds, and expire up to one second late. `math.inf` turns a clock off, except
    ``linger_timeout``.
    """

    max_header_size: int = attrs.field(default=32_768, validator=at_least_one)
    """Bytes of a request line with its headers; also of trailers, and of chunk extensions."""

    max_headers: int = attrs.field(default=100, validator=at_least_one)
    """Headers of one request, and as many trailers."""

    max_body_size: int = attrs.field(default=16 * 2**20, validator=at_least_one)
    """Bytes of the body of one request. The application can have a lower limit."""

    # A chunk of one byte costs as much time as one of a kilobyte. Clients that write JSON piece by
    # piece send chunks of about ten bytes: 40 KiB of those fit.
    max_chunks: int = attrs.field(default=4096, validator=at_least_one)
    """Chunks of the body of one request, and one more for every 256 bytes of it."""

    max_connections: int = attrs.field(default=10_000, validator=at_least_one)
    """Connections that are served at the same time; more wait to be accepted."""

    max_ahead: int = attrs.field(default=65_536, validator=at_least_one)
    """Bytes that are read while a request runs: the limit on pipelined requests."""

    header_timeout: float = attrs.field(default=10.0, validator=positive_seconds)
    """Time for the head of a request, from its first byte; for the first request, from the
    connection."""

    body_timeout: float = attrs.field(default=30.0, validator=positive_seconds)
    """Time for the next byte of a body, while the application waits for it."""

    min_body_rate: int = attrs.field(default=500, validator=at_least_one)
    """Bytes per second that a body must have after ``body_timeout`` seconds of waiting in all."""

    keep_alive_timeout: float = attrs.field(default=75.0, validator=positive_seconds)
    """Time without a request after which a connection is closed."""

    write_timeout: float = attrs.field(default=30.0, validator=positive_seconds)
    """Time without reading after which the client's connection is closed."""

    linger_timeout: float = attrs.field(default=1.0, validator=finite_seconds)
    """Time that a rejected client can continue to send, so that it receives the answer."""
