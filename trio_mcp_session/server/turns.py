"""Fair turns: parties that share a queue of requests take turns, each with limits of its own.

A party is a principal, or the address of a client without one. Requests of a party run in the order
in which they came. Parties with requests that may run stand in a circle: the next request comes
from the party whose last turn was longest ago. So a party with a thousand requests delays a party
with one by one request, not by a thousand.

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
class Line:
    """The open requests of one party.

    Parties are compared by functions of `Principal`, lines are not. So each method of `Turns` looks
    a line up once, and the tables of the parties that wait are tables of lines.
    """

    party: Party | None
    max_running: int
    running: int = attrs.field(default=0, init=False)
    waiting: OrderedDict[object, None] = attrs.field(factory=OrderedDict[object, None], init=False)
    """The keys of its requests that wait, in the order of their arrival."""


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
    _lines: dict[Party | None, Line] = attrs.field(factory=dict["Party | None", Line], init=False)
    """The parties with a request that runs or waits."""
    _circle: OrderedDict[Line, None] = attrs.field(factory=OrderedDict[Line, None], init=False)
    """Those with a request that waits and may run, in the order of their turns."""
    _waiting: Ranking[Line] = attrs.field(factory=Ranking[Line], init=False)
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
        line = self._lines.get(party)
        return line is None or line.running < line.max_running

    def may_start(self, party: Party | None) -> bool:
        """Return whether a request that has just come may start now. Call `started` then."""
        if party != self._last:
            # The very first party is alone.
            self._remembered = 0 if self._last is _NONE_YET else REMEMBERED
            self._last = party
        elif self._remembered:
            self._remembered -= 1
        line = self._lines.get(party)
        return line is None or (
            line.running < line.max_running and not line.waiting and not self._is_crowd(line)
        )

    def has_room_for(self, party: Party | None) -> bool:
        """Return whether another request of a party is accepted, to run or to wait."""
        line = self._lines.get(party)
        return line is None or (
            line.running + len(line.waiting) < line.max_running + self._max_waiting
        )

    def started(self, party: Party | None) -> None:
        """Count a request that runs."""
        line = self._lines.get(party) or self._add(party)
        line.running += 1
        if line.waiting:
            self._sort_in(line)

    def ended(self, party: Party | None) -> None:
        """Called when a request that ran has ended."""
        line = self._lines[party]
        line.running -= 1
        if line.waiting:
            self._sort_in(line)
        elif not line.running:
            del self._lines[party]

    def wait(self, party: Party | None, key: object) -> None:
        """Let a request wait: it is the last one of its party."""
        line = self._lines.get(party) or self._add(party)
        line.waiting[key] = None
        self._waiting.add(line)
        self._sort_in(line)

    def leave(self, party: Party | None, key: object) -> None:
        """Remove a request that waits."""
        self._leave(self._lines[party], key)

    def take(self) -> object | None:
        """Take the key of the next request; None if none may start. Call `started` for it."""
        if not self._circle:
            return None
        line = next(iter(self._circle))
        if self._is_crowd(line):
            return None
        key = next(iter(line.waiting))
        self._circle.move_to_end(line)
        self._leave(line, key)
        return key

    def displaced_by(self, party: Party | None) -> object | None:
        """Return the key of the request that makes room for one of this party to wait.

        It is the last one of the party that has the most, if that is more than this party would
        then have.
        """
        line = self._lines.get(party)
        if self._waiting.most <= (0 if line is None else len(line.waiting)) + 1:
            return None
        longest = next(iter(self._waiting.leaders))
        return next(reversed(longest.waiting))

    def _is_crowd(self, line: Line) -> bool:
        """Return whether no other request of a party may start in this turn of the event loop."""
        return (
            self.starting >= AT_ONCE
            and self._remembered > 0
            and line.running + len(line.waiting) > CROWD
        )

    def _add(self, party: Party | None) -> Line:
        line = Line(party, self._max_all if party is None else self._max_of_one)
        self._lines[party] = line
        return line

    def _leave(self, line: Line, key: object) -> None:
        del line.waiting[key]
        self._waiting.remove(line)
        if not line.waiting:
            self._circle.pop(line, None)
            if not line.running:
                del self._lines[line.party]

    def _sort_in(self, line: Line) -> None:
        """Put a party with waiting requests in the circle, or hold it back at its limit."""
        if line.running < line.max_running:
            self._circle.setdefault(line)
        else:
            self._circle.pop(line, None)
