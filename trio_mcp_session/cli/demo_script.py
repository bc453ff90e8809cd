"""The demo's play: who comes when, what happens to them, and what is told of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol, final

import attrs
import trio

from ..core import events
from ..core.config import AdmissionPolicy, CleanupConfig, SessionConfig, SessionLimits
from ..core.errors import SessionRejected, SessionTerminated
from ..core.identity import Transport
from ..core.ids import SessionKind
from ..core.reasons import TerminationReason
from ..core.state import SessionState
from ..transports.stream import serve_stream
from .demo_server import DOING, tell
from .failure import CommandFailed
from .screen import Screen
from .text import clip, visible, wrap
from .watch import Watch

if TYPE_CHECKING:
    from ..sessions.drain import DrainReport
    from ..sessions.manager import SessionManager
    from ..sessions.session import Session

PLACES: Final = 5
GRACE: Final = 2.0

CONFIG: Final = SessionConfig(
    limits=SessionLimits(
        max_sessions_of={SessionKind.CONNECTION: PLACES}, admission=AdmissionPolicy.EVICT_IDLE
    ),
    cleanup=CleanupConfig(
        idle_after=1.0, connection_idle_time=4.0, cleanup_interval=0.05, drain_grace=GRACE
    ),
)
"""Short clocks and few places, so that there is something to see."""

PATIENCE: Final = 60.0
"""Seconds for which the play waits for its players, on a slow machine."""

GLANCE: Final = 0.02
"""Seconds between two looks at what the play waits for."""

EXPECTED: Final = {
    "ada": TerminationReason.SHUTDOWN,
    "ben": TerminationReason.IDLE,
    "cleo": TerminationReason.CLIENT_CLOSED,
    "dave": TerminationReason.CRASHED,
    "eve": TerminationReason.EVICTED,
    "fay": TerminationReason.CLIENT_CLOSED,
    "gus": TerminationReason.SHUTDOWN,
    "hal": TerminationReason.SHUTDOWN,
}
"""How the play goes."""


class Actor(Protocol):
    """A client: a process, or in tests a stand-in."""

    @property
    def stream(self) -> trio.abc.Stream:
        """Its connection."""
        ...

    @property
    def peer(self) -> str:
        """What to call it before it tells its name."""
        ...

    def kill(self) -> None:
        """Kill it, without a chance to say goodbye."""
        ...

    async def wait_gone(self) -> str | None:
        """Wait until nothing of it is left; return what was wrong with it, if anything was."""
        ...


Launch = Callable[[str], Awaitable[Actor]]
"""Starts a client by name."""


@final
@attrs.define(eq=False)
class Stage:
    """What the play needs: a screen, and a way to bring clients in."""

    screen: Screen
    launch: Launch
    cast: dict[str, Session] = attrs.field(factory=dict[str, "Session"], init=False)
    """Every client's session, ended ones too."""
    gone: list[str] = attrs.field(factory=list[str], init=False)
    """Clients of which nothing is left."""
    actors: dict[str, Actor] = attrs.field(factory=dict[str, Actor], init=False)
    """Clients that came."""
    report: DrainReport | None = attrs.field(default=None, init=False)
    manager: SessionManager = attrs.field(init=False)
    _nursery: trio.Nursery = attrs.field(init=False)
    _began: float = attrs.field(init=False)

    async def perform(self, manager: SessionManager) -> None:
        """Perform the whole play, with the table of sessions under it."""
        self.manager = manager
        self._began = trio.current_time()
        with manager.subscribe() as subscription:
            async with trio.open_nursery() as backstage:
                watch = Watch(manager, note_of=doing)
                backstage.start_soon(watch.run, self.screen)
                backstage.start_soon(self._tell, subscription)
                async with trio.open_nursery() as self._nursery:
                    await play(self)
                await trio.sleep(1.0)
                backstage.cancel_scope.cancel(reason="the play is over")

    # For the script.

    def say(self, text: str) -> None:
        """Tell the audience what is going to happen."""
        width, _ = self.screen.size()
        sign = "▸ " if self.screen.style.unicode else "> "
        lines = wrap(sign + text, min(width, 100), indent="  ")
        self.screen.print("", *(self.screen.style.paint(line, "bold") for line in lines))

    async def enter(self, *names: str) -> None:
        """Bring clients in."""
        for name in names:
            self.actors[name] = await self.launch(name)
            self._nursery.start_soon(self._serve, name)

    async def cue(self, text: str, *names: str) -> None:
        """Tell clients that their moment has come."""
        for name in names:
            # Not there any more: ^C ends the sessions before it ends the play.
            with suppress(SessionTerminated):
                await tell(self.cast[name], text)

    def kill(self, name: str) -> None:
        """Kill a client."""
        self.actors[name].kill()

    async def until(self, condition: Callable[[Session], bool], *names: str) -> None:
        """Wait until something is true of the sessions of all these clients."""
        deadline = trio.current_time() + PATIENCE
        while not all(name in self.cast and condition(self.cast[name]) for name in names):
            if trio.current_time() > deadline:
                raise CommandFailed(f"the demo waited for {' and '.join(names)} in vain")
            await trio.sleep(GLANCE)
            for session in self.manager.sessions():
                if session.client is not None and session.state is not SessionState.INITIALIZING:
                    self.cast.setdefault(session.client.client_id, session)

    # Behind it.

    async def _serve(self, name: str) -> None:
        actor = self.actors[name]
        transport = Transport("pipe", actor.peer)
        complaint = None
        try:
            with suppress(SessionRejected):
                await serve_stream(self.manager, actor.stream, transport=transport)
        finally:
            with trio.CancelScope(shield=True):
                complaint = await actor.wait_gone()
            self.gone.append(name)
        if complaint is not None:
            raise CommandFailed(complaint)

    async def _tell(self, subscription: trio.abc.ReceiveChannel[events.Event]) -> None:
        names: dict[str, str] = {}
        async for event in subscription:
            match event:
                case events.Connected(client=client):
                    names[event.session_id] = client.client_id
                    self._note(event.time, client.client_id, "connected", "green")
                case events.StateChanged(new=SessionState.IDLE):
                    self._note(event.time, names[event.session_id], "idle", "blue")
                case events.Disconnected(reason=reason, error=error):
                    why = "" if error is None else f": {error}"
                    looks = "red" if error is not None else "yellow"
                    name = names.get(event.session_id, "?")
                    self._note(event.time, name, f"ended, {reason.value}{why}", looks)
                case _:
                    pass

    def _note(self, time: float, name: str, what: str, looks: str) -> None:
        width, _ = self.screen.size()
        style = self.screen.style
        told = f"  {time - self._began:5.1f}s  {visible(name):<5}  {visible(what)}"
        line = clip(style.encodable(told), width, style.ellipsis)
        self.screen.print(style.paint(line, looks))


def doing(session: Session) -> str:
    """Tell what a session is working on."""
    return session.get_state(DOING, "")


def is_active(session: Session) -> bool:
    """Tell whether a session is established."""
    return session.state is SessionState.ACTIVE


def is_idle(session: Session) -> bool:
    """Tell whether a session is idle."""
    return session.state is SessionState.IDLE


def is_over(session: Session) -> bool:
    """Tell whether a session has ended."""
    return session.state is SessionState.TERMINATED


def is_called(session: Session) -> bool:
    """Tell whether the long call runs."""
    return doing(session).startswith("call")


def is_done(session: Session) -> bool:
    """Tell whether the background work is done."""
    return not doing(session)


async def play(stage: Stage) -> None:
    """Play the demo, scene by scene."""
    stage.say(
        f"One server, and {len(EXPECTED)} clients: processes with the official MCP SDK, on real "
        "pipes. Watch their sessions; ^C drains."
    )
    stage.say(
        f"{PLACES} clients connect. Each gets a session: a Trio nursery of its own, and a "
        "workspace on disk that the session's lifespan makes and removes."
    )
    await stage.enter("ada", "ben", "cleo", "dave", "eve")
    await stage.until(is_active, "ada", "ben", "cleo", "dave", "eve")
    await trio.sleep(1.0)

    stage.say(
        "cleo starts background work and says no more: work keeps her session active. "
        "eve falls silent too, with nothing running."
    )
    await stage.cue("index", "cleo")
    await stage.cue("silence", "eve")
    await stage.until(is_idle, "eve")
    await trio.sleep(0.5)

    stage.say(
        f"fay connects, but all {PLACES} places are taken. The session that was quiet for longest, "
        "with nothing running, makes room."
    )
    await stage.enter("fay")
    await stage.until(is_over, "eve")
    await stage.until(is_active, "fay")
    await trio.sleep(1.0)

    stage.say("A background task of dave's session crashes. That ends his session, and no other.")
    await stage.cue("sabotage", "dave")
    await stage.until(is_over, "dave")
    await trio.sleep(1.0)

    stage.say("ben falls silent: after 4 seconds his session idles out. gus and hal join.")
    await stage.cue("silence", "ben")
    await stage.enter("gus")
    await stage.until(is_over, "ben")
    await stage.enter("hal")
    await stage.until(is_active, "gus", "hal")

    stage.say("fay makes a long call, and her process is killed in the middle of it.")
    await stage.cue("last call", "fay")
    await stage.until(is_called, "fay")
    await trio.sleep(1.0)
    stage.kill("fay")
    await stage.until(is_over, "fay")
    await trio.sleep(1.0)

    stage.say("cleo's background work is done, and she hangs up.")
    await stage.until(is_done, "cleo")
    await stage.cue("leave", "cleo")
    await stage.until(is_over, "cleo")
    await trio.sleep(1.0)

    stage.say(
        f"The server drains: nobody new is admitted, running work has {GRACE:g} seconds to finish. "
        "ada's call takes less, gus's takes more, and hal has nothing to finish."
    )
    await stage.cue("last call", "ada", "gus")
    await stage.until(is_called, "ada", "gus")
    stage.report = await stage.manager.drain()
