"""A session manager as one ``async with`` block: the nursery of sessions, and its end.

::

    the caller's task                         the body runs here
     └ outside                  a nursery
        ├ sentinel              unshielded: on a cancellation from outside, it ends every session
        └ lifespans             of the server, if there are any (see `ServerLifespans`)
           └ sessions nursery   shielded: a cancellation cannot interrupt the end of a session
              ├ watcher         every clock
              └ sessions        a task each

The task that holds the sessions nursery ends the sessions, and then leaves; lifespans last. Every
way out of the block makes one call that cannot fail (`_leave`) to start this: neither a
cancellation nor an interrupt of the caller's task can prevent it. Interrupts that come meanwhile
are raised at the end.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from math import inf
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NoReturn, final

import trio

from ..core.config import SessionConfig
from ..core.instrumentation import Instrumentation
from ..core.reasons import TerminationReason
from . import drain
from .cleanup import run_cleanup
from .error_log import write_log
from .failures import first_of, is_cancellation, without_cancellations
from .hooks import SessionHooks
from .instruments import Instruments
from .interrupts import wait_for
from .loop_watch import LoopWatch
from .manager import ServerLifespan, SessionManager
from .require_trio import require_trio
from .server_lifespans import ServerLifespans

if TYPE_CHECKING:
    from .manager_server import ManagerServer


@final
class ManagerBlock(AbstractAsyncContextManager[SessionManager]):
    """Opens a manager for the length of a block; see `open_session_manager`.

    Args:
        make_server: Makes the server for requests and subscriptions that belong to no session.
        config: Limits and clocks.
        hooks: Called when sessions open, change and end.
        instrumentation: Called when requests and sessions begin and end.
        lifespans: The lifespans of the server, in the order in which they are entered.
    """

    def __init__(
        self,
        make_server: Callable[[SessionManager], ManagerServer],
        *,
        config: SessionConfig | None = None,
        hooks: SessionHooks | Iterable[SessionHooks] = (),
        instrumentation: Instrumentation | Iterable[Instrumentation] = (),
        lifespans: Sequence[ServerLifespan[Any]] = (),
    ) -> None:
        self._make_server: Final = make_server
        self._config: Final = SessionConfig() if config is None else config
        self._hooks: Final = (hooks,) if isinstance(hooks, SessionHooks) else tuple(hooks)
        instruments = (
            (instrumentation,)
            if isinstance(instrumentation, Instrumentation)
            else tuple(instrumentation)
        )
        self._instruments: Final = Instruments(instruments)
        self._lifespans: Final = ServerLifespans(lifespans)
        self._manager: SessionManager | None = None
        self._reason: TerminationReason | None = None
        self._entered = False
        self._from_tasks: list[BaseException] = []
        self._ready: Final = trio.Event()
        self._leaving: Final = trio.Event()
        self._gone: Final = trio.Event()

    async def __aenter__(self) -> SessionManager:
        """Open the manager. A checkpoint."""
        if self._entered:
            raise RuntimeError(
                "a session manager can be opened only once: call open_session_manager() again"
            )
        require_trio("open_session_manager()")
        self._entered = True
        self._opening = trio.open_nursery()
        self._outside = await self._opening.__aenter__()
        self._outside.start_soon(self._hold, name="sessions")
        interrupts = await wait_for(self._ready, self._cancel_opening)
        assert self._manager is not None
        if self._manager._opened:
            self._outside.start_soon(self._watch_outside, name="sentinel of sessions")
        if interrupts:
            raise _one_of(await self._end(interrupts[0]))
        if not self._manager._opened:
            await self._give_up_opening()
        return self._manager

    def _cancel_opening(self, _: KeyboardInterrupt) -> None:
        """Cancel the lifespans that are being entered. The sessions shield themselves."""
        self._outside.cancel_scope.cancel(reason="interrupted")

    async def _give_up_opening(self) -> NoReturn:
        """Raise why the lifespans of the server could not be entered. A checkpoint."""
        error: BaseException | None = None
        if not self._from_tasks:
            try:
                await trio.lowlevel.checkpoint_if_cancelled()
            except trio.Cancelled as cancelled:
                error = cancelled  # The nursery raises it again.
        raise _one_of(await self._end(error))

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        """Drain or end all sessions, and wait until they are gone. A checkpoint."""
        if error is None:
            try:
                assert self._manager is not None
                await self._manager.drain()
            except BaseException as interrupted:  # noqa: BLE001  # raised again below
                error = interrupted
        found = await self._end(error)
        if not found:
            return True
        if len(found) > 1:
            raise _one_of(found) from None
        if found[0] is error and kind is not None:
            return False
        raise found[0]

    async def _end(self, error: BaseException | None) -> list[BaseException]:
        """End all sessions and tasks, and return what has to be raised then."""
        cancelled = is_cancellation(error)
        self._leave(TerminationReason.CANCELLED if cancelled else TerminationReason.SHUTDOWN)
        interrupts = await wait_for(self._gone)
        found: list[BaseException] = []
        # A cancellation, also one in a group, may belong to the nursery, which has to receive it.
        # The sentinel's own cancellation must not replace any other error.
        own = error if cancelled else None
        if error is not None and not cancelled:
            found.append(error)
        self._outside.cancel_scope.shield = not cancelled
        self._outside.cancel_scope.cancel(reason="session manager is left")
        try:
            await self._opening.__aexit__(
                None if own is None else type(own), own, None if own is None else own.__traceback__
            )
        except BaseExceptionGroup as group:
            found += group.exceptions  # Only the nursery's own group is unwrapped.
        found += self._from_tasks
        if interrupts and not any(isinstance(one, KeyboardInterrupt) for one in found):
            found.append(interrupts[0])
        return found

    def _leave(self, reason: TerminationReason) -> None:
        """Make all sessions end; the first reason stays. Not a checkpoint."""
        assert self._manager is not None
        self._manager._draining = True
        if self._reason is None:
            self._reason = reason
        self._leaving.set()

    async def _watch_outside(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            # Also when the manager is left: then this ends nothing, as all sessions have ended.
            self._leave(TerminationReason.CANCELLED)

    async def _hold(self) -> None:
        """Hold everything of the manager: its lifespans, and within them its sessions."""
        try:
            self._manager = manager = SessionManager._create(
                self._config,
                hooks=self._hooks,
                instruments=self._instruments,
                lifespans=self._lifespans,
            )
            manager._server = self._make_server(manager)
            await self._lifespans.hold(
                manager, self._hold_sessions, partial(self._leave, TerminationReason.CANCELLED)
            )
        except BaseException as error:  # raised again, or raised by the block
            # From a lifespan: an interrupt in it, or a cancellation of its opening.
            lasting = without_cancellations(error)
            if lasting is None:
                raise
            self._from_tasks.append(first_of(lasting))
        finally:
            self._from_tasks += self._lifespans.failures
            self._end_body()
            assert self._manager is not None
            self._manager._event_streams.finish()
            self._ready.set()
            self._gone.set()

    async def _hold_sessions(self) -> None:
        """Hold the sessions until all of them have ended. It shields itself, and does not raise."""
        assert self._manager is not None
        manager = self._manager
        watch: LoopWatch | None = None
        try:
            with trio.CancelScope(shield=True):
                async with trio.open_nursery() as nursery:
                    # Before it opens: what does not want to be called is not known to it.
                    for run in self._instruments.opened(manager.statistics):
                        nursery.start_soon(run, name="instrumentation")
                    manager._open_in(nursery)
                    watch = self._watch_loop(manager)
                    nursery.start_soon(run_cleanup, manager.store)  # noqa: ASYNC113  # not waited for
                    self._ready.set()
                    await self._leaving.wait()
                    await self._end_all(manager)
                    nursery.cancel_scope.cancel(reason="session manager is left")
        except BaseExceptionGroup as group:
            # From tasks: an interrupt in user code, for example. The body is cancelled because of
            # it, and the block raises it.
            interrupts, others = group.split(KeyboardInterrupt)
            self._from_tasks += [] if interrupts is None else [first_of(interrupts)]
            self._from_tasks += [] if others is None else others.exceptions
        finally:
            if watch is not None:
                watch.stop()
            self._end_body()

    def _end_body(self) -> None:
        """End the body of the block, and the servers in it: the sessions have ended."""
        self._leave(TerminationReason.CANCELLED)
        assert self._manager is not None
        self._manager._drained.set()
        self._outside.cancel_scope.cancel(reason="session manager is left")

    @staticmethod
    def _watch_loop(manager: SessionManager) -> LoopWatch | None:
        """Begin to report code that blocks the event loop, if that is configured."""
        limit = manager.config.cleanup.loop_blocked_after
        if limit is None or limit == inf:
            return None
        watch = LoopWatch(limit, manager._emit)
        watch.start()
        return watch

    async def _end_all(self, manager: SessionManager) -> None:
        """End every session and wait for all, without a limit; log which ones take long."""
        manager._begin_shutdown()
        reason = self._reason or TerminationReason.SHUTDOWN
        await manager._server.end()
        await manager._server.end_subscriptions()
        sessions = manager.sessions()
        await drain.end(sessions, reason)
        with trio.move_on_after(drain.ending_budget(manager.config.cleanup)):
            await drain.wait_for(sessions)
        for number, session in enumerate(sessions, 1):
            if number % drain.REPORTED == 0:
                await trio.lowlevel.checkpoint()
            if not session._finished:
                tasks = ", ".join(session._running_tasks())
                write_log(logging.WARNING, "still waiting for %s: %s", repr(session), tasks)
        await drain.wait_for(sessions)


def _one_of(found: list[BaseException]) -> BaseException:
    """Return the error, or all errors in a group."""
    if len(found) == 1:
        return found[0]
    return BaseExceptionGroup("several errors ended the session manager", found)
