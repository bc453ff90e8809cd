"""The scenes of the demo: which client connects when, and what happens to its session."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol, final

import attrs
import trio

from ...core import events
from ...core.config import AdmissionPolicy, CleanupConfig, SessionConfig, SessionLimits
from ...core.errors import SessionRejected, SessionTerminated
from ...core.identity import Transport
from ...core.ids import SessionKind
from ...core.lifecycle_states import SessionState
from ...core.reasons import TerminationReason
from ...transports.stream import serve_stream
from ..failure import CommandFailed
from ..screen import Screen
from ..text import clip, visible, wrap
from ..watch import Watch
from .server import DOING, tell

if TYPE_CHECKING:
    from ...sessions.drain import DrainReport
    from ...sessions.manager import SessionManager
    from ...sessions.session import Session

PLACES: Final = 5
GRACE: Final = 2.0

PATIENCE: Final = 60.0
"""Seconds that the demo waits for a client, on a slow machine."""

CONFIG: Final = SessionConfig(
    limits=SessionLimits(
        max_sessions_of={SessionKind.CONNECTION: PLACES}, admission=AdmissionPolicy.EVICT_IDLE
    ),
    cleanup=CleanupConfig(
        idle_after=1.0,
        # Clients may start slowly: without this, the idle clock would run before the handshake.
        connection_handshake_timeout=PATIENCE,
        connection_idle_time=4.0,
        cleanup_interval=0.05,
        drain_grace=GRACE,
    ),
)
"""Short clocks and low limits, so that sessions end while a user watches."""

GLANCE: Final = 0.02
"""Seconds between two checks of a condition that the demo waits for."""

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
"""The reason for which the session of each client ends."""


class DemoClient(Protocol):
    """A client: a process, or an object in memory in tests."""

    @property
    def stream(self) -> trio.abc.Stream:
        """Its connection."""
        ...

    @property
    def peer(self) -> str:
        """Its address, shown until the client has sent its name."""
        ...

    def kill(self) -> None:
        """Kill it: it cannot close its connection itself."""
        ...

    async def wait_gone(self) -> str | None:
        """Wait until it has ended; return an error message if it failed, else None."""
        ...


Launch = Callable[[str], Awaitable[DemoClient]]
"""Starts a client by name."""


@final
@attrs.define(eq=False)
class DemoRun:
    """One run of the demo: its clients, and their sessions."""

    screen: Screen
    launch: Launch
    sessions: dict[str, Session] = attrs.field(factory=dict[str, "Session"], init=False)
    """The session of each client, ended ones too."""
    gone: list[str] = attrs.field(factory=list[str], init=False)
    """Clients that have ended."""
    clients: dict[str, DemoClient] = attrs.field(factory=dict[str, DemoClient], init=False)
    """Clients that were started."""
    report: DrainReport | None = attrs.field(default=None, init=False)
    manager: SessionManager = attrs.field(init=False)
    _nursery: trio.Nursery = attrs.field(init=False)
    _began: float = attrs.field(init=False)

    async def run(self, manager: SessionManager) -> None:
        """Run all scenes, and show the table of sessions below the text."""
        self.manager = manager
        self._began = trio.current_time()
        with manager.subscribe() as subscription:
            async with trio.open_nursery() as background:
                watch = Watch(manager, note_of=doing)
                background.start_soon(watch.run, self.screen)
                background.start_soon(self._tell, subscription)
                async with trio.open_nursery() as self._nursery:
                    await run_scenes(self)
                await trio.sleep(1.0)
                background.cancel_scope.cancel(reason="the demo is over")

    # For the scenes.

    def say(self, text: str) -> None:
        """Print what happens next."""
        width, _ = self.screen.size()
        sign = "▸ " if self.screen.style.unicode else "> "
        lines = wrap(sign + text, min(width, 100), indent="  ")
        self.screen.print("", *(self.screen.style.paint(line, "bold") for line in lines))

    async def connect(self, *names: str) -> None:
        """Start clients, and serve them."""
        for name in names:
            self.clients[name] = await self.launch(name)
            self._nursery.start_soon(self._serve, name)

    async def instruct(self, text: str, *names: str) -> None:
        """Send an instruction to clients."""
        for name in names:
            # After Ctrl-C the sessions end before the scenes do.
            with suppress(SessionTerminated):
                await tell(self.sessions[name], text)

    def kill(self, name: str) -> None:
        """Kill a client."""
        self.clients[name].kill()

    async def until(self, condition: Callable[[Session], bool], *names: str) -> None:
        """Wait until a condition is true for the sessions of all these clients."""
        deadline = trio.current_time() + PATIENCE
        while not all(name in self.sessions and condition(self.sessions[name]) for name in names):
            if trio.current_time() > deadline:
                raise CommandFailed(
                    f"timed out after {PATIENCE:g} s: waited for {' and '.join(names)}"
                )
            await trio.sleep(GLANCE)
            for session in self.manager.sessions():
                if session.client is not None and session.state is not SessionState.INITIALIZING:
                    self.sessions.setdefault(session.client.client_id, session)

    # Background tasks.

    async def _serve(self, name: str) -> None:
        client = self.clients[name]
        transport = Transport("pipe", client.peer)
        failure = None
        try:
            with suppress(SessionRejected):
                await serve_stream(self.manager, client.stream, transport=transport)
        finally:
            with trio.CancelScope(shield=True):
                failure = await client.wait_gone()
            self.gone.append(name)
        if failure is not None:
            raise CommandFailed(failure)

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
    """Return what a session is working on."""
    return session.get_state(DOING, "")


def is_active(session: Session) -> bool:
    """Return whether a session is established."""
    return session.state is SessionState.ACTIVE


def is_idle(session: Session) -> bool:
    """Return whether a session is idle."""
    return session.state is SessionState.IDLE


def is_over(session: Session) -> bool:
    """Return whether a session has ended."""
    return session.state is SessionState.TERMINATED


def is_called(session: Session) -> bool:
    """Return whether the long call runs."""
    return doing(session).startswith("call")


def is_done(session: Session) -> bool:
    """Return whether the background work is done."""
    return not doing(session)


async def run_scenes(demo_run: DemoRun) -> None:
    """Run the demo, scene by scene."""
    demo_run.say(
        f"One server and {len(EXPECTED)} clients: processes with the official MCP SDK, connected "
        "by pipes. Watch their sessions; Ctrl-C drains."
    )
    demo_run.say(
        f"{PLACES} clients connect. Each gets a session: its own Trio nursery, and a workspace on "
        "disk that the session's lifespan creates and removes."
    )
    await demo_run.connect("ada", "ben", "cleo", "dave", "eve")
    await demo_run.until(is_active, "ada", "ben", "cleo", "dave", "eve")
    await trio.sleep(1.0)

    demo_run.say(
        "cleo starts background work and sends nothing more: the work keeps her session active. "
        "eve sends nothing more either, and has no work running."
    )
    await demo_run.instruct("index", "cleo")
    await demo_run.instruct("silence", "eve")
    await demo_run.until(is_idle, "eve")
    await trio.sleep(0.5)

    demo_run.say(
        f"fay connects, but the limit of {PLACES} sessions is reached. The session that was quiet "
        "for longest and has no work running is evicted."
    )
    await demo_run.connect("fay")
    await demo_run.until(is_over, "eve")
    await demo_run.until(is_active, "fay")
    await trio.sleep(1.0)

    demo_run.say("A background task of dave's session crashes. Only his session ends.")
    await demo_run.instruct("sabotage", "dave")
    await demo_run.until(is_over, "dave")
    await trio.sleep(1.0)

    demo_run.say("ben sends nothing more: after 4 seconds his session ends. gus and hal connect.")
    await demo_run.instruct("silence", "ben")
    await demo_run.connect("gus")
    await demo_run.until(is_over, "ben")
    await demo_run.connect("hal")
    await demo_run.until(is_active, "gus", "hal")

    demo_run.say("fay makes a long call, and her process is killed during the call.")
    await demo_run.instruct("last call", "fay")
    await demo_run.until(is_called, "fay")
    await trio.sleep(1.0)
    demo_run.kill("fay")
    await demo_run.until(is_over, "fay")
    await trio.sleep(1.0)

    demo_run.say("cleo's background work is done, and she disconnects.")
    await demo_run.until(is_done, "cleo")
    await demo_run.instruct("leave", "cleo")
    await demo_run.until(is_over, "cleo")
    await trio.sleep(1.0)

    demo_run.say(
        f"The server drains: no new session is opened, and running work has {GRACE:g} seconds to "
        "finish. ada's call takes less, gus's takes more, and hal has nothing running."
    )
    await demo_run.instruct("last call", "ada", "gus")
    await demo_run.until(is_called, "ada", "gus")
    demo_run.report = await demo_run.manager.drain()
