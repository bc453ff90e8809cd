"""A server in the comparison over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from http_load import Target
from http_server import HttpServer
from http_wire import Malformed
from load import ServerFailed, Tally


@dataclass
class Contender:
    """A server and its figures, one entry per round."""

    name: str
    command: Sequence[str]
    ends_with: int = 0
    """The exit status that SIGTERM leads to."""
    tallies: dict[str, Tally] = field(default_factory=dict)
    """By the era's name."""
    failure: str = ""
    server: HttpServer | None = None
    targets: dict[str, Target] = field(default_factory=dict)
    """That server, as the clients of an era see it; by the era's name."""
    figures: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        self.figures.setdefault(name, []).append(value)

    def attempt(self, work: Callable[[Contender], None]) -> None:
        """Run a slice; a server that fails is left out of all further slices."""
        if self.failure:
            return
        try:
            work(self)
        except (ServerFailed, Malformed, OSError) as error:
            complaints = self.server.complaints() if self.server else ""
            self.failure = f"{error}\n{complaints}".strip()

    def finish(self) -> None:
        """End the server of the slices of load."""
        if self.server is not None:
            self.attempt(Contender._leave)
            self.close(self.server, *self.targets.values())

    def _leave(self) -> None:
        """Delete the sessions that the targets have opened."""
        for target in self.targets.values():
            target.close()

    def close(self, server: HttpServer, *targets: Target) -> None:
        for target in targets:
            self.tallies.setdefault(target.era.name, Tally()).add(target.tally)
        status = server.close()
        if status != self.ends_with and not self.failure:
            self.failure = f"exit status {status} after SIGTERM"
