"""Rates of requests: token buckets for each party, and for each party and method."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Final, final

import attrs
import trio

from ..core.errors import McpError
from ..core.peer import party_of
from ..core.rate_limit import TokenBuckets, whole_seconds
from ..protocol.error_codes import INTERNAL_ERROR
from ..sessions.seldom_log import SeldomLog

if TYPE_CHECKING:
    from ..core.config import SessionLimits
    from ..sessions.session import Session

TOO_OFTEN: Final = "Too many requests in a short time: try again in {} s"


@final
@attrs.define(eq=False)
class RequestRates:
    """How often each party may send requests. No method is a checkpoint."""

    _all: TokenBuckets | None
    """The buckets for requests of any method; None without a limit."""
    _by_method: Mapping[str, TokenBuckets]
    _log: SeldomLog = attrs.field(factory=SeldomLog, init=False)

    @classmethod
    def of(cls, limits: SessionLimits) -> RequestRates | None:
        """Return the rates that are configured; None without any."""
        buckets = {method: rate.buckets() for method, rate in limits.method_rates.items()}
        by_method = {method: one for method, one in buckets.items() if one is not None}
        everything = limits.request_rate.buckets()
        return None if everything is None and not by_method else cls(everything, by_method)

    def take(self, party: Hashable, method: str) -> float:
        """Count a request.

        Returns:
            0 if it may be served; otherwise the seconds until it may be sent again.
        """
        now = trio.current_time()
        for buckets in (self._by_method.get(method), self._all):
            wait = 0.0 if buckets is None else buckets.take(party, now)
            if wait:
                name = "request_rate" if buckets is self._all else "method_rates"
                self._log.write(
                    name, "%r is sent too often by %s: it is refused (%s)", method, party, name
                )
                return wait
        return 0.0

    def refusal(self, session: Session, method: str) -> McpError | None:
        """Count a request of a session's client, or of its connection.

        Returns:
            None if it may be served. Otherwise -32603: its data says when to try again.
        """
        # A client without principal and address, such as one on stdio, is counted by its session.
        party = party_of(session.principal, session.transport.peer) or session
        wait = self.take(party, method)
        if not wait:
            return None
        seconds = whole_seconds(wait)
        return McpError(INTERNAL_ERROR, TOO_OFTEN.format(seconds), {"retryAfter": seconds})
