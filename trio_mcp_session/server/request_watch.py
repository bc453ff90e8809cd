"""Reports requests to the instrumentation, and runs their handlers in its context.

Only where there is instrumentation: without it, nothing of this is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import attrs
from msgspec import UNSET

from ..core.instrumentation import RequestDetails
from ..protocol.methods import RESERVED
from ..sessions.failures import FAILURES
from .request_source import source_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from ..sessions.instruments import Instruments
    from .application import Application
    from .request import InFlightRequest


@final
@attrs.frozen(eq=False)
class RequestWatch:
    """Watches requests for an application. It handles them as the application does."""

    _instruments: Instruments
    _application: Application

    def begin(self, request: InFlightRequest) -> None:
        """Report that a request has begun. Not a checkpoint."""
        session = request.session
        revision = request.revision
        source = source_of(request.sink)
        is_known, target = self._look_up(request)
        request.observe(
            self._instruments,
            RequestDetails(
                method=request.method,
                request_id=None if request.id is UNSET else request.id,
                params=request.params,
                protocol_version=None if revision is None else revision.version,
                session_id=None if session is None else session.session_id,
                transport=(
                    None if request.owner.session is None else request.owner.session.transport
                ),
                principal=request.principal,
                is_known=is_known,
                target=target,
                asgi_scope=None if source is None else source.asgi_scope,
            ),
        )

    def _look_up(self, request: InFlightRequest) -> tuple[bool, str | None]:
        """Return whether the method of a request is served, and what it is for by name."""
        method = request.method
        try:
            # A notification without a handler is not admitted.
            is_known = (
                request.id is UNSET
                or method in RESERVED
                or self._application.handles_request(method)
            )
            target_of: Callable[[str, Mapping[str, Any]], str | None] | None = getattr(
                self._application, "target_of", None
            )
            return is_known, None if target_of is None else target_of(method, request.params)
        except FAILURES:  # the application is asked what it serves, and is asked again later
            return False, None

    async def handle(self, request: InFlightRequest) -> object:
        """Handle a request as the application does, in the context of the instrumentation."""
        if request.observed is not None:
            request.observed.enter_handler()
        return await self._application.handle(request)
