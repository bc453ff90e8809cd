"""The byte budgets of one manager: of its sessions, of the parties, and of all together."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Final, final
from weakref import WeakValueDictionary

import attrs
import trio

from ..core.byte_budget import ByteBudget
from ..core.identity import Principal
from ..core.peer import Party, party_of
from .error_log import write_log

if TYPE_CHECKING:
    from ..core.config import SessionLimits
    from ..core.identity import Transport

REPORT_EVERY: Final = 60.0
"""Seconds for which no other refusal of the same level is logged."""

SHARED: Final = frozenset(("http", "unix"))
"""Transports whose clients without an address are one party. Connections of other transports were
made by the program itself: each counts for itself.
"""

SETTINGS: Final = {
    "session": "max_session_bytes",
    "principal": "max_party_bytes",
    "address": "max_party_bytes",
    "manager": "max_bytes",
}
"""The setting of `SessionLimits` for each level."""


@final
@attrs.define(eq=False, repr=False)
class ByteBudgets:
    """Makes the budgets when they are first used. No method is a checkpoint.

    The budget of a party exists while a session or a request of the party refers to it.
    """

    _limits: SessionLimits
    manager: ByteBudget = attrs.field(init=False)
    """The budget of everything together."""
    refused: Counter[str] = attrs.field(factory=Counter[str], init=False)
    """How often there was no room, by level."""
    _parties: WeakValueDictionary[Party, ByteBudget] = attrs.field(
        factory=WeakValueDictionary[Party, ByteBudget], init=False
    )
    _quiet_until: dict[str, float] = attrs.field(factory=dict[str, float], init=False)

    def __attrs_post_init__(self) -> None:
        self.manager = ByteBudget("manager", self._limits.max_bytes, None, self._count_refusal)

    def of_party(self, principal: Principal | None, transport: Transport) -> ByteBudget:
        """Return the budget of a principal, or of the address of an unknown client.

        The budget of the manager, if neither is known.
        """
        return self.of(party_of(principal, transport.peer), transport.name)

    def of(self, party: Party | None, transport_name: str) -> ByteBudget:
        """Return the budget of a party; see `of_party` for clients without one."""
        if party is None:
            if transport_name not in SHARED:
                return self.manager
            party = transport_name
        budget = self._parties.get(party)
        if budget is None:
            level = "principal" if isinstance(party, Principal) else "address"
            budget = ByteBudget(level, self._limits.max_party_bytes, self.manager)
            self._parties[party] = budget
        return budget

    def of_session(self, principal: Principal | None, transport: Transport) -> ByteBudget:
        """Make the budget of a session."""
        party = self.of_party(principal, transport)
        return ByteBudget("session", self._limits.max_session_bytes, party)

    def _count_refusal(self, full: ByteBudget) -> None:
        level = full.level
        self.refused[level] += 1
        now = trio.current_time()
        if now >= self._quiet_until.get(level, now):
            self._quiet_until[level] = now + REPORT_EVERY
            write_log(
                logging.WARNING,
                "a message was refused: its %s holds %d bytes of at most %d; new messages are "
                "refused until bytes are released (SessionLimits.%s)",
                level,
                full.held,
                full.limit,
                SETTINGS[level],
            )
