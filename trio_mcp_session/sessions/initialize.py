"""``initialize``: how a session of the years before 2026-07-28 begins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, final

import attrs
import trio

from ..core.errors import McpError
from ..protocol import jsonrpc
from ..protocol.error_codes import INVALID_REQUEST
from ..protocol.handshake import Handshake, initialize_result, read_initialize
from ..protocol.jsonrpc import Notification, Request, RequestId
from .failures import FAILURES, contain
from .outlet import Outlet

if TYPE_CHECKING:
    from .owner import RequestOwner
    from .session import Session


@final
@attrs.define(eq=False)
class Opening:
    """An ``initialize`` that is being answered, and what the client sent behind it.

    It counts as work: a drain, or a client that has nothing more to say, waits for its answer.
    """

    request_id: RequestId
    outlet: Outlet
    handshake: Handshake
    owner: RequestOwner
    since: float = attrs.field(factory=trio.current_time, init=False)
    held: list[tuple[Request | Notification, Outlet]] = attrs.field(
        factory=list[tuple[Request | Notification, Outlet]], init=False
    )

    def uses(self, request_id: RequestId) -> bool:
        """Tell whether an answer to a request of this id is owed here."""
        return request_id == self.request_id or any(
            isinstance(message, Request) and message.id == request_id for message, _ in self.held
        )

    def answer(self, session: Session) -> bool:
        """Tell the client what was agreed on; tell whether that was possible."""
        try:
            frame = jsonrpc.encode_result(self.request_id, self._result(session))
        except FAILURES as error:  # the application may say anything of itself
            failure = contain(error)
            # The answer is the session's end, which fails what is open.
            session._crashed(failure)
            session._report(failure)
            return False
        session._send_result(self.outlet, frame)
        return True

    def _result(self, session: Session) -> Mapping[str, Any]:
        application = session._manager._served()
        revision = self.handshake.revision
        return initialize_result(
            revision,
            application.server_info,
            application.capabilities(revision),
            application.instructions,
        )

    def cancel(self, request_id: object) -> bool:
        """Strike out a request that waits; ``initialize`` itself cannot be cancelled.

        Returns:
            Whether there was such a request.
        """
        known_id = jsonrpc.read_id(request_id)
        for number, (message, outlet) in enumerate(self.held):
            if isinstance(message, Request) and message.id == known_id:
                del self.held[number]
                self.owner._send_no_result(outlet)
                return True
        return False

    def fail(self, session: Session, code: int, text: str) -> None:
        """Answer everything with an error."""
        error = McpError(code, text)
        waiting = [(m.id, outlet) for m, outlet in self.held if isinstance(m, Request)]
        try:
            session._for_each(
                [(self.request_id, self.outlet), *waiting],
                lambda one: session._refuse(*one, error),
            )
        finally:
            session._end_work()


def initialize(session: Session, request: Request, outlet: Outlet) -> None:
    """Begin to open the session, or refuse to. Not a checkpoint."""
    if session._revision is not None:
        session._violation("a second initialize")
        session._refuse(
            request.id, outlet, McpError(INVALID_REQUEST, "Session is already initialized")
        )
        return
    try:
        handshake = read_initialize(request.params)
    except McpError as error:
        session._violation("initialize with bad parameters")
        session._refuse(request.id, outlet, error)
        return
    session._revision = handshake.revision
    session.client = handshake.client
    session._opening = Opening(request.id, outlet, handshake, session)
    session._may_open = True
    session._begin_work()
    session._touch()
    session._manager._store._watcher.watch(session)
    session._wake()
