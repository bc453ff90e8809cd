"""The byte budgets of one manager: of its sessions, of the parties, and of all together."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, final
from weakref import WeakValueDictionary

import attrs

from ..core.byte_budget import ByteBudget
from ..core.identity import Principal
from ..core.peer import Party, party_of
from .seldom_log import SeldomLog

if TYPE_CHECKING:
    from ..core.config import SessionLimits
    from ..core.identity import Transport

KEPT_BUDGETS: Final = 1_024
"""Budgets of parties that are kept although they may count nothing: about 200 KiB."""

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

    The budget of a party exists while a session or a request of the party refers to it. Up to
    `KEPT_BUDGETS` are kept beyond that, because most clients send their next request soon.
    """

    _limits: SessionLimits
    manager: ByteBudget = attrs.field(init=False)
    """The budget of everything together."""
    refused: Counter[str] = attrs.field(factory=Counter[str], init=False)
    """How often there was no room, by level."""
    _parties: WeakValueDictionary[Party, ByteBudget] = attrs.field(
        factory=WeakValueDictionary[Party, ByteBudget], init=False
    )
    _recent: dict[Party, ByteBudget] = attrs.field(factory=dict["Party", ByteBudget], init=False)
    """Some of them, which are found faster."""
    _log: SeldomLog = attrs.field(factory=SeldomLog, init=False)

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
        budget = self._recent.get(party)
        if budget is not None:
            return budget
        budget = self._parties.get(party)
        if budget is None:
            level = "principal" if isinstance(party, Principal) else "address"
            budget = ByteBudget(level, self._limits.max_party_bytes, self.manager)
            self._parties[party] = budget
        if len(self._recent) >= KEPT_BUDGETS:
            self._recent.clear()  # Those in use stay in the other table.
        self._recent[party] = budget
        return budget

    def of_session(self, principal: Principal | None, transport: Transport) -> ByteBudget:
        """Make the budget of a session."""
        return self.below(self.of_party(principal, transport))

    def below(self, budget: ByteBudget) -> ByteBudget:
        """Make the budget of a session of the same party as another budget."""
        party = budget if budget.level != "session" else budget.parent
        return ByteBudget("session", self._limits.max_session_bytes, party)

    def _count_refusal(self, full: ByteBudget) -> None:
        level = full.level
        self.refused[level] += 1
        self._log.write(
            level,
            "a message was refused: its %s holds %d bytes of at most %d; new messages are "
            "refused until bytes are released (SessionLimits.%s)",
            level,
            full.held,
            full.limit,
            SETTINGS[level],
        )
