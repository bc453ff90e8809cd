"""The server: listeners and an application."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import trio

from ...sessions.interrupts import protect_modules
from ..asgi import ASGIApplication
from .accepting import accept_clients
from .lifespan import Lifespan
from .limits import HttpServerLimits
from .listeners import bound_address
from .service import Service

_DEFAULTS: Final = HttpServerLimits()


async def serve_asgi(  # noqa: ASYNC128  # handed on
    app: ASGIApplication,
    listeners: Sequence[trio.SocketListener],
    *,
    limits: HttpServerLimits = _DEFAULTS,
    stop: trio.Event | None = None,
    stop_budget: float = 1.0,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve an ASGI 3 application over HTTP/1.1, until stopped or cancelled.

    Startable; a checkpoint. The listeners are closed in any case, and so are all connections. When
    cancelled, connections are cut at once.

    Args:
        app: The application. It is used for the scopes *http* and, if it knows it, *lifespan*.
        listeners: Where clients connect.
        limits: How much one client gets.
        stop: When set, no further requests are taken; responses that have begun may end.
        stop_budget: How many seconds they may take for that.
        task_status: Told when the application is ready and clients may connect.

    Raises:
        RuntimeError: The application says that it can't start.
    """
    lifespan = Lifespan(app)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lifespan.run, name="lifespan")
            if await lifespan.start():
                service = Service(app, limits, lifespan.state)
                await _serve(service, listeners, stop, stop_budget, task_status.started)
                lifespan.stop()
    finally:
        for listener in listeners:
            listener.socket.close()
    if lifespan.failure is not None:
        raise RuntimeError(f"the application does not start: {lifespan.failure}")


async def _serve(
    service: Service,
    listeners: Sequence[trio.SocketListener],
    stop: trio.Event | None,
    stop_budget: float,
    started: Callable[[], None],
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(service.sweeper.run, name="sweeper")
        for listener in listeners:
            nursery.start_soon(accept_clients, listener, bound_address(listener), service, nursery)
        started()
        if stop is None:
            await trio.sleep_forever()
        else:
            await stop.wait()
        for listener in listeners:
            listener.socket.close()
        service.stop()
        with trio.move_on_after(stop_budget):  # noqa: ASYNC912  # or there is nothing to wait for
            while service.count:
                await service.wait_until_fewer()
        nursery.cancel_scope.cancel(reason="the time to stop is over")


# These modules are imported later than the rest, or never: see `sessions.interrupts`.
protect_modules(f"{__package__}")
