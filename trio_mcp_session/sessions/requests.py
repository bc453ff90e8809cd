"""A request from its admission to its answer.

Each request is an object that carries the slot its answer goes to. Nothing is ever answered by
looking an id up: real clients use one id twice at the same time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast, final

import attrs
import trio
from msgspec import UNSET, UnsetType

from ..core.errors import (
    CapabilityMissing,
    HandleError,
    HandlerCrashed,
    McpError,
    SessionRejected,
)
from ..protocol import jsonrpc
from ..protocol.dressing import translate_code
from ..protocol.error_codes import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    MISSING_CLIENT_CAPABILITY,
)

if TYPE_CHECKING:
    from ..core.identity import ClientInfo, Principal
    from ..protocol.envelope import Envelope
    from ..protocol.revisions import Revision
    from .application import Application
    from .gate import RequestGate, Worker
    from .outlet import Outlet
    from .owner import RequestOwner
    from .session import Session


@final
@attrs.define(eq=False, repr=False)
class InFlightRequest:
    """A request (or a notification that the application handles) from admission to its end."""

    owner: RequestOwner
    """What it belongs to."""
    id: jsonrpc.RequestId | UnsetType
    method: str
    params: jsonrpc.Params
    outlet: Outlet
    answered: bool = False
    """Its answer is out, or there will be none."""
    envelope: Envelope | None = None
    """What a modern request says of itself; None where a session knows."""
    _principal: Principal | None = attrs.field(default=None, alias="principal")
    error_code: int | None = attrs.field(default=None, init=False)
    """The error that it was answered with; None for a result, or no answer yet."""
    gate: RequestGate | None = attrs.field(default=None, init=False)
    """What it is counted in now."""
    worker: Worker | None = attrs.field(default=None, init=False)
    """What runs its handler; None while it waits in the queue."""

    @classmethod
    def of(
        cls,
        owner: RequestOwner,
        message: jsonrpc.Request,
        outlet: Outlet,
        envelope: Envelope | None = None,
        principal: Principal | None = None,
    ) -> InFlightRequest:
        """Make one of a message."""
        return cls(
            owner,
            message.id,
            message.method,
            message.params,
            outlet,
            envelope=envelope,
            principal=principal,
        )

    def __repr__(self) -> str:
        return f"<InFlightRequest {self.method!r} id={self.id!r}>"

    @property
    def session(self) -> Session | None:
        """The session that it belongs to; None for one that stands for itself."""
        # Whoever has no envelope has a session.
        return None if self.envelope is not None else cast("Session", self.owner)

    @property
    def principal(self) -> Principal | None:
        """On whose behalf it is made; None where that is nobody in particular."""
        return self._principal or self.owner._acts_for

    @property
    def scope(self) -> trio.CancelScope | None:
        """What stops its handler; None while it waits in the queue."""
        return None if self.worker is None else self.worker.scope

    @property
    def client(self) -> ClientInfo | None:
        """What its client said of itself."""
        session = self.session
        return session.client if session is not None else self._envelope.client

    @property
    def revision(self) -> Revision | None:
        """The revision that its client speaks; None before a session's handshake."""
        session = self.session
        return session._revision if session is not None else self._envelope.revision

    @property
    def log_severity(self) -> int | None:
        """The least severe log messages that its client wants to hear; None for none."""
        session = self.session
        return session._log_severity if session is not None else self._envelope.log_severity

    @property
    def _envelope(self) -> Envelope:
        assert self.envelope is not None
        return self.envelope

    def leave(self) -> None:
        """Be in flight no more. Not a checkpoint, and nothing where it was not."""
        if self.gate is not None:
            gate, self.gate = self.gate, None
            gate.strike_out(self)

    def answer(self, result: object) -> None:
        """Send the result, unless the request has been answered or cancelled."""
        if self.answered or self.id is UNSET:
            return
        try:
            if self.envelope is not None:
                result = self.owner._dress(self.method, result)
            frame = jsonrpc.encode_result(self.id, result)
        except Exception as error:  # noqa: BLE001  # what the application returned may do anything
            self.crash(error)
        else:
            self.answered = True
            self.owner._send_result(self.outlet, frame)

    def fail(self, code: int, message: str, data: Any = None) -> None:
        """Send an error, unless the request has been answered or cancelled."""
        if self.answered:
            return
        if self.envelope is not None:
            code = translate_code(code)
        try:
            frame = jsonrpc.encode_error(self.id, code, message, data)
        except Exception as error:  # noqa: BLE001  # ``data`` is the application's
            self.crash(error)
        else:
            self.answered = True
            self.error_code = code
            self.owner._counters.errors += 1
            self.owner._send_result(self.outlet, frame)

    async def run(self, application: Application) -> None:
        """Let the application handle it, and answer. A checkpoint if the handler is one.

        Nothing but a cancellation comes out of it.
        """
        try:
            result = await application.handle(self)
        except McpError as error:
            self.fail(error.code, error.message, error.data)
        except CapabilityMissing as error:
            self._lack(error)
        except HandleError as error:
            self.fail(INVALID_PARAMS, str(error))
        except SessionRejected as error:
            # Refused sessions are counted where they are refused, and are nobody's mistake.
            self.fail(INTERNAL_ERROR, str(error))
        except Exception as error:  # noqa: BLE001  # a failing handler fails its request only
            self.crash(error)
        except BaseExceptionGroup as group:
            # Cancelled, and beside it what failed on the way out of the handler's own nursery.
            failure, rest = group.split(Exception)
            if failure is not None:
                self.crash(failure)
            assert rest is not None
            raise rest from None
        else:
            self.answer(result)

    def _lack(self, error: CapabilityMissing) -> None:
        """Tell a client what it would have to be able to do."""
        if self.envelope is None:
            self.crash(error)
        else:
            needed: dict[str, Any] = {"requiredCapabilities": {error.capability: {}}}
            self.fail(MISSING_CLIENT_CAPABILITY, str(error), needed)

    def crash(self, error: Exception) -> None:
        """Report what the handler raised; the client learns no details."""
        report = HandlerCrashed(self.method)
        report.__cause__ = error
        self.owner._report(report)
        self.fail(INTERNAL_ERROR, "Internal error")
