"""A server that takes part in the comparison over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from http_load import Target
from http_server import HttpServer
from http_wire import Malformed
from load import ServerFailed, Tally


@dataclass
class Contender:
    """A server and what was measured of it, one entry per round."""

    name: str
    command: Sequence[str]
    ends_with: int = 0
    """The exit status that SIGTERM leads to."""
    tally: Tally = field(default_factory=Tally)
    failure: str = ""
    server: HttpServer | None = None
    target: Target | None = None
    figures: dict[str, list[float]] = field(default_factory=dict)
    busy: list[float] = field(default_factory=list)
    """How busy the load generator was, meanwhile."""
    calls: int = 0
    used: float = 0
    """Processor time of the server for those calls."""

    def add(self, name: str, value: float) -> None:
        self.figures.setdefault(name, []).append(value)

    def attempt(self, work: Callable[[Contender], None]) -> None:
        """Do a slice of work; a server that fails takes no further part."""
        if self.failure:
            return
        try:
            work(self)
        except (ServerFailed, Malformed, OSError) as error:
            complaints = self.server.complaints() if self.server else ""
            self.failure = f"{error}\n{complaints}".strip()

    def finish(self) -> None:
        """End the server that took the slices of load."""
        if self.server is not None and self.target is not None:
            self.attempt(lambda it: it.target.close() if it.target else None)
            self.close(self.server, self.target)

    def close(self, server: HttpServer, target: Target) -> None:
        self.tally.add(target.tally)
        status = server.close()
        if status != self.ends_with and not self.failure:
            self.failure = f"exit status {status} after SIGTERM"
