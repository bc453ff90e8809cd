"""What a session is made of."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any, cast

import attrs
import trio

from ..core import events
from ..core.construction import NoPublicConstructor
from ..core.metrics import SessionCounters
from ..core.reasons import TerminationReason
from ..core.state import SessionState

if TYPE_CHECKING:
    from ..core.config import CleanupConfig
    from ..core.identity import ClientInfo, Principal, Transport
    from ..core.ids import SessionId, SessionKind
    from ..protocol.revisions import Revision
    from .application import Lifespan
    from .gate import RequestGate
    from .guests import Guests
    from .handle_kinds import HandleKind
    from .handles import Handle
    from .holders import Holders
    from .hooks import HookQueue, SessionHooks
    from .initialize import Opening
    from .manager import SessionManager
    from .outlet import SessionOutlet
    from .questions import Questions
    from .session import Session
    from .state_keys import StateKey
    from .subscriptions import Subscribers


@attrs.define(eq=False, repr=False)
class SessionFields(metaclass=NoPublicConstructor):
    """The fields of a session. Those with an underscore are for this package only."""

    session_id: SessionId
    """Its name, unguessable. Treat it as a secret where there is no authentication."""

    kind: SessionKind
    """How it is reached."""

    transport: Transport
    """By what its client is connected."""

    principal: Principal | None
    """On whose behalf it was opened; None where nobody was authenticated."""

    client: ClientInfo | None
    """What its client said of itself; None before the handshake."""

    _manager: SessionManager = attrs.field(alias="manager")
    _clocks: CleanupConfig = attrs.field(alias="clocks")
    _lifespan: Lifespan | None = attrs.field(alias="lifespan")
    _outlet: SessionOutlet | None = attrs.field(alias="outlet")
    _hooks: tuple[SessionHooks, ...] = attrs.field(alias="hooks")
    _may_open: bool = attrs.field(alias="may_open")

    # What it is, where it is a handle.
    _handle: Handle[Any] | None = attrs.field(default=None, init=False)

    # Its life.
    _state: SessionState = attrs.field(default=SessionState.INITIALIZING, init=False)
    _reason: TerminationReason | None = attrs.field(default=None, init=False)
    _drain_reason: TerminationReason | None = attrs.field(default=None, init=False)
    _errors: list[Exception] | None = attrs.field(default=None, init=False)
    _created: bool = attrs.field(default=False, init=False)
    _cut: bool = attrs.field(default=False, init=False)
    _over: bool = attrs.field(default=False, init=False)
    _farewell: events.Disconnected | None = attrs.field(default=None, init=False)
    _task: trio.lowlevel.Task | None = attrs.field(default=None, init=False)
    _asleep: bool = attrs.field(default=False, init=False)
    _entering: trio.CancelScope | None = attrs.field(default=None, init=False)
    _body: trio.CancelScope | None = attrs.field(default=None, init=False)
    _nursery: trio.Nursery | None = attrs.field(default=None, init=False)
    _early_nursery: trio.Nursery | None = attrs.field(default=None, init=False)
    _early_holders: list[Callable[[], None]] | None = attrs.field(default=None, init=False)
    _children: int = attrs.field(default=0, init=False)
    _closing: bool = attrs.field(default=False, init=False)
    _cleanup_until: float | None = attrs.field(default=None, init=False)
    _settled: trio.Event | None = attrs.field(default=None, init=False)
    _ended: trio.Event | None = attrs.field(default=None, init=False)

    # Its clocks.
    _opened_at: float = attrs.field(factory=trio.current_time, init=False)
    _last_active: float = attrs.field(init=False)
    _expires_at: float = attrs.field(init=False)
    _expiry_announced: bool = attrs.field(default=False, init=False)
    _next_check: float = attrs.field(default=inf, init=False)
    _last_ping: float = attrs.field(default=-inf, init=False)
    _strikes: int = attrs.field(default=0, init=False)
    _busy: int = attrs.field(default=0, init=False)
    _quietest_first: OrderedDict[SessionId, Session] = attrs.field(init=False)

    # What it agreed on with its client.
    _revision: Revision | None = attrs.field(default=None, init=False)
    _opening: Opening | None = attrs.field(default=None, init=False)
    _log_severity: int | None = attrs.field(default=None, init=False)
    _resources: set[str] | None = attrs.field(default=None, init=False)

    # Made on first use: an idle session is little more than its task.
    _counters: SessionCounters = attrs.field(factory=SessionCounters, init=False)
    _gate: RequestGate | None = attrs.field(default=None, init=False)
    _stateless_gate: RequestGate | None = attrs.field(default=None, init=False)
    _questions: Questions | None = attrs.field(default=None, init=False)
    _holders: Holders | None = attrs.field(default=None, init=False)
    _guests: Guests | None = attrs.field(default=None, init=False)
    _early: list[Callable[[], None]] | None = attrs.field(default=None, init=False)
    _hook_calls: HookQueue | None = attrs.field(default=None, init=False)
    _subscribers: Subscribers | None = attrs.field(default=None, init=False)
    _values: dict[StateKey[Any], Any] | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self._last_active = self._opened_at
        self._expires_at = self._opened_at + self._clocks.max_session_time

    def __repr__(self) -> str:
        # Part of the id only: where nobody is authenticated the id is a key, and logs are read.
        why = f" ({self._reason.value})" if self._reason is not None else ""
        return f"<Session {self.session_id[:6]}… {self.kind.value} {self._state.value}{why}>"

    @property
    def _handle_kind(self) -> HandleKind[Any] | None:
        return None if self._handle is None else self._handle.kind

    @property
    def _face(self) -> Session:
        return cast("Session", self)
