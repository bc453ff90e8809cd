"""A call of the soak, its messages so far, and the ledger of all calls."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import partial
from itertools import count
from typing import Any, Final

import attrs
from eras import LEGACY
from http_wire import Event
from load import FIRST, Tally

NOTES: Final = 20
Message = dict[str, Any]


class Strange(Exception):
    """An answer is not the expected one."""

    def __init__(self, kind: str, what: str) -> None:
        super().__init__(f"{kind}: {what}")
        self.kind = kind


@attrs.define(eq=False)
class Ledger:
    """The actions and their results."""

    tally: Tally = attrs.field(factory=Tally)
    done: Counter[str] = attrs.field(factory=Counter)
    seconds: defaultdict[str, float] = attrs.field(factory=partial(defaultdict, float))
    """How long all of that took."""
    notes: list[str] = attrs.field(factory=list)
    numbers: Iterator[int] = attrs.field(factory=partial(count, FIRST))

    def fault(self, kind: str, action: str, what: object) -> None:
        setattr(self.tally, kind, getattr(self.tally, kind) + 1)
        if len(self.notes) < NOTES:
            self.notes.append(f"{kind} in {action}: {what}"[:400])


@attrs.define(eq=False)
class Call:
    """One call of a tool, and its messages so far."""

    number: int
    message: Message
    text: str
    steps: int = 0
    """So many messages of progress belong to it."""
    progress: list[Any] = attrs.field(factory=list)
    results: list[Message] = attrs.field(factory=list)
    last_id: bytes = b""
    retry: float = 0

    def take(self, message: Message) -> None:
        """Add a message for this call."""
        match message:
            case {"method": "notifications/progress", "params": {"progressToken": token, **rest}}:
                if token != self.number:
                    raise Strange("crossed", f"progress of {token} for {self.number}")
                self.progress.append(rest["progress"])
                if self.results:
                    raise Strange("wrong", f"progress after the result of {self.number}")
                if self.progress != sorted(set(self.progress)):
                    raise Strange("doubled", f"progress {self.progress}")
            case {"method": str(method)}:
                raise Strange("wrong", f"{method} on the stream of {self.number}")
            case _:
                self.results.append(message)

    def take_event(self, event: Event) -> None:
        self.last_id = event.id or self.last_id
        if event.retry:
            self.retry = int(event.retry) / 1000
        if event.data:
            self.take(json.loads(event.data))

    @property
    def error(self) -> Message | None:
        """The error, if that is the only answer."""
        if len(self.results) == 1 and self.results[0].get("id") == self.number:
            error: Message | None = self.results[0].get("error")
            return error
        return None

    def check(self) -> None:
        """Check that each expected message came exactly once."""
        if not self.results:
            raise Strange("missing", f"the stream of {self.number} ended without an answer")
        if len(self.results) > 1:
            raise Strange("doubled", f"{self.results}")
        [result] = self.results
        text = LEGACY.echoed(result)
        if result.get("id") != self.number or text != self.text:
            known = text is not None and text[:-14] == self.text[:-14]
            raise Strange("crossed" if known else "wrong", f"{result} for {self.number}")
        if self.progress != list(range(1, self.steps + 1)):
            raise Strange("missing", f"{len(self.progress)} of {self.steps} messages of progress")
