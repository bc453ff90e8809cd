"""The application of a server, and the fields that the server adds to its results."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, final

import attrs

from ..protocol.results import NO_CACHE, complete_result
from .era_notices import EraNotices

if TYPE_CHECKING:
    from .application import Application


@final
@attrs.define(eq=False)
class ServedApplication:
    """The application, if there is one."""

    application: Application | None
    notices: EraNotices = attrs.field(init=False)
    own_methods: Collection[str] = attrs.field(init=False)
    """The methods that it answers and that the library answers for other applications."""

    def __attrs_post_init__(self) -> None:
        self.notices = EraNotices(self.application)
        self.own_methods = getattr(self.application, "own_methods", ())

    def get(self) -> Application:
        """Return the application.

        Raises:
            RuntimeError: The manager was opened without an application.
        """
        if self.application is None:
            raise RuntimeError("the session manager was opened without an application to serve")
        return self.application

    def complete_result(self, method: str, result: object, *, keepable: bool) -> Mapping[str, Any]:
        """Complete the result of a stateless request with the fields that the protocol adds."""
        application = self.get()
        hint = application.cache_hint(method) if keepable else NO_CACHE
        return complete_result(method, result, application.server_info, hint)
