"""Fair turns: parties that share a queue of requests take turns, each with limits of its own.

A party is a principal, or the address of a client without one. Requests of a party run in the order
in which they came. Parties with requests that may run stand in a circle: the next request comes
from the party whose last turn was longest ago. So a party with a thousand requests delays a party
with one
by one request, not by a thousand.

Requests without a party, such as those of transports of the application, share one turn; the limits
for one party do not hold for them.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final, final

import attrs

from ..core.ranking import Ranking

if TYPE_CHECKING:
    from ..core.peer import Party

Line = OrderedDict[object, None]
"""The keys of the waiting requests of one party, in the order of their arrival."""


AT_ONCE: Final = 1
"""Requests of a crowd that may start in one turn of the event loop, beside other parties.

All tasks that can run get one step in each turn, and a request takes three steps: it is read, its
handler runs, its answer is written. So every client waits for three turns, and the length of a turn
grows with the number of requests that are started in it. One is the least. The turns themselves
cost little: a crowd that starts two in each turn is served 3 % faster, and the others wait twice as
long. This holds only where a party has a crowd of requests, and others have requests at the same
time.
"""

CROWD: Final = 16
"""From this many open requests of one party on, they are a crowd."""

_NONE_YET: Final = object()

REMEMBERED: Final = 1_000
"""Requests of one party in a row after which it counts as alone: about a tenth of a second."""


@final
@attrs.define(eq=False)
class Turns:
    """The requests of each party that run and wait. A party takes memory only while it has some.

    None of its methods is a checkpoint, and their cost does not depend on how many requests wait.
    """

    _max_all: int
    """Requests of all parties that may run."""
    _max_running: int
    """Requests of one party that may run."""
    _max_waiting: int
    """Requests of one party that may wait in addition."""
    _max_of_one: int = attrs.field(init=False)
    _running: dict[Party | None, int] = attrs.field(factory=dict["Party | None", int], init=False)
    _circle: OrderedDict[Party | None, Line] = attrs.field(
        factory=OrderedDict["Party | None", Line], init=False
    )
    """The parties with a request that may run, in the order of their turns."""
    _held_back: dict[Party | None, Line] = attrs.field(
        factory=dict["Party | None", Line], init=False
    )
    """The parties that are at their limit, and have requests that wait."""
    _waiting: Ranking[Party | None] = attrs.field(factory=Ranking["Party | None"], init=False)
    starting: int = attrs.field(default=0, init=False)
    """Requests that were given to a worker that has not run since."""
    _last: object = attrs.field(default=_NONE_YET, init=False)
    """The party of the last request that came."""
    _remembered: int = attrs.field(default=0, init=False)
    """How many requests may come until the last party counts as alone; 0 if it is."""

    def __attrs_post_init__(self) -> None:
        self._max_of_one = min(self._max_all, self._max_running)

    def may_run(self, party: Party | None) -> bool:
        """Return whether another request of a party may run, if no request waits."""
        return self._running.get(party, 0) < self._limit_of(party)

    def may_start(self, party: Party | None) -> bool:
        """Return whether a request that has just come may start now. Call `started` then."""
        if party != self._last:
            # The very first party is alone.
            self._remembered = 0 if self._last is _NONE_YET else REMEMBERED
            self._last = party
        elif self._remembered:
            self._remembered -= 1
        running = self._running.get(party, 0)
        if running >= (self._max_all if party is None else self._max_of_one):
            return False
        if self._circle or self._held_back:
            return not self._waiting[party] and not self._is_crowd(party)
        return self.starting < AT_ONCE or not self._remembered or running <= CROWD

    def has_room_for(self, party: Party | None) -> bool:
        """Return whether another request of a party is accepted, to run or to wait."""
        there = self._running.get(party, 0)
        if self._circle or self._held_back:
            there += self._waiting[party]
        return there < self._limit_of(party) + self._max_waiting

    def started(self, party: Party | None) -> None:
        """Count a request that runs."""
        self._running[party] = self._running.get(party, 0) + 1
        if self._circle or self._held_back:
            self._sort_in(party)

    def ended(self, party: Party | None) -> None:
        """Called when a request that ran has ended."""
        running = self._running[party] - 1
        if running:
            self._running[party] = running
        else:
            del self._running[party]
        if self._circle or self._held_back:
            self._sort_in(party)

    def wait(self, party: Party | None, key: object) -> None:
        """Let a request wait: it is the last one of its party."""
        self._waiting.add(party)
        lines = self._circle if self.may_run(party) else self._held_back
        lines.setdefault(party, Line())[key] = None

    def leave(self, party: Party | None, key: object) -> None:
        """Remove a request that waits."""
        lines = self._circle if party in self._circle else self._held_back
        del lines[party][key]
        self._waiting.remove(party)
        if not lines[party]:
            del lines[party]

    def take(self) -> object | None:
        """Take the key of the next request; None if none may start. Call `started` for it."""
        if not self._circle:
            return None
        party, line = next(iter(self._circle.items()))
        if self._is_crowd(party):
            return None
        key = next(iter(line))
        self.leave(party, key)
        if party in self._circle:
            self._circle.move_to_end(party)
        return key

    def displaced_by(self, party: Party | None) -> object | None:
        """Return the key of the request that makes room for one of this party to wait.

        It is the last one of the party that has the most, if that is more than this party would
        then have.
        """
        if self._waiting.most <= self._waiting[party] + 1:
            return None
        longest = next(iter(self._waiting.leaders))
        line = self._circle.get(longest) or self._held_back[longest]
        return next(reversed(line))

    def _is_crowd(self, party: Party | None) -> bool:
        """Return whether no other request of a party may start in this turn of the event loop."""
        return (
            self.starting >= AT_ONCE
            and self._remembered > 0
            and self._running.get(party, 0) + self._waiting[party] > CROWD
        )

    def _limit_of(self, party: Party | None) -> int:
        return self._max_all if party is None else self._max_of_one

    def _sort_in(self, party: Party | None) -> None:
        """Move the line of a party to where it belongs, after its number of requests changed."""
        if not self._waiting[party]:
            return
        if self.may_run(party):
            if party in self._held_back:
                self._circle[party] = self._held_back.pop(party)
        else:
            line = self._circle.pop(party, Line())
            self._held_back[party] = line or self._held_back[party]
