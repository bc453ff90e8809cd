"""How much the HTTP server takes from one client, and for how long it waits for it."""

from __future__ import annotations

import attrs

from ...core.config import at_least_one, finite_seconds, positive_seconds


@attrs.frozen(kw_only=True)
class HttpServerLimits:
    """Every limit and every clock of the HTTP server.

    Clocks are in seconds, and strike up to one second late. `math.inf` turns off those that may be
    off.
    """

    max_header_size: int = attrs.field(default=32_768, validator=at_least_one)
    """Bytes of a request line with its headers; also of trailers, and of chunk extensions."""

    max_headers: int = attrs.field(default=100, validator=at_least_one)
    """Headers of one request, and as many trailers."""

    max_body_size: int = attrs.field(default=16 * 2**20, validator=at_least_one)
    """Bytes of one request's body. The application may well refuse smaller ones."""

    max_connections: int = attrs.field(default=10_000, validator=at_least_one)
    """Connections that are served at the same time; more wait to be accepted."""

    max_ahead: int = attrs.field(default=65_536, validator=at_least_one)
    """Bytes that are read ahead of the running request: what a client may pipeline."""

    header_timeout: float = attrs.field(default=10.0, validator=positive_seconds)
    """From the first byte of a request (the first time: from the connection) to its whole head."""

    body_timeout: float = attrs.field(default=30.0, validator=positive_seconds)
    """How long the application waits for the next byte of a body."""

    min_body_rate: int = attrs.field(default=500, validator=at_least_one)
    """Bytes a second that a body must come with once ``body_timeout`` was spent on waiting."""

    keep_alive_timeout: float = attrs.field(default=75.0, validator=positive_seconds)
    """Quiet time between two requests after which a connection is closed."""

    write_timeout: float = attrs.field(default=30.0, validator=positive_seconds)
    """How long a client may refuse to read before it is cut off."""

    linger_timeout: float = attrs.field(default=1.0, validator=finite_seconds)
    """How long a refused client may go on sending, so that the answer reaches it."""
