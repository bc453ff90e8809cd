"""The lifespan of an application: what it does before the first request and after the last."""

from __future__ import annotations

import logging
from typing import Any, Final, final

import attrs
import trio

from ...sessions.error_log import write_log
from ...sessions.interrupts import run_user_code
from ..asgi import ASGIApplication, Message

_logger: Final = logging.getLogger("trio_mcp_session.http")


@final
@attrs.define(eq=False, repr=False)
class Lifespan:
    """Runs an application's lifespan, if it has one, in a task of its own.

    Args:
        application: The application.
    """

    _application: ASGIApplication = attrs.field(alias="application")
    state: dict[str, Any] = attrs.field(factory=dict[str, Any], init=False)
    """What the application leaves for its requests."""
    failure: str | None = attrs.field(default=None, init=False)
    """Why the application does not start, in its own words."""
    _asked: bool = attrs.field(default=False, init=False)
    _started: trio.Event = attrs.field(factory=trio.Event, init=False)
    _stopping: trio.Event = attrs.field(factory=trio.Event, init=False)

    async def run(self) -> None:
        """Run the application's lifespan to its end."""
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self.state,
        }
        try:
            await run_user_code(self._application, scope, self._receive, self._send)
        except Exception as error:  # noqa: BLE001  # it is logged
            if self._started.is_set():
                level, text = logging.ERROR, "The application's lifespan failed"
            else:
                # That is how applications say that they have none.
                level, text = logging.DEBUG, "The application has no lifespan"
            write_log(level, text, error=error, log=_logger)
        finally:
            self._started.set()

    async def start(self) -> bool:
        """Wait until the application is ready; returns whether it is."""
        await self._started.wait()
        return self.failure is None

    def stop(self) -> None:
        """Send the application its shutdown message; `run` ends when it is done."""
        self._stopping.set()

    async def _receive(self) -> Message:
        await trio.lowlevel.checkpoint()
        if not self._asked:
            self._asked = True
            return {"type": "lifespan.startup"}
        await self._stopping.wait()
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Message) -> None:
        await trio.lowlevel.checkpoint()
        kind = message["type"]
        if kind == "lifespan.startup.complete":
            self._started.set()
        elif kind == "lifespan.startup.failed":
            self.failure = message.get("message", "")
            self._started.set()
        elif kind == "lifespan.shutdown.failed":
            why = message.get("message", "")
            write_log(logging.ERROR, "The application failed to shut down: %s", why, log=_logger)
        elif kind != "lifespan.shutdown.complete":
            raise RuntimeError(f"{kind!r} has no place in a lifespan")
