"""One session manager as a part of a larger Trio program.

The program has work of its own: it counts. Clients watch it: the client that started the program,
over standard input and output, and any number of clients over TCP. The program prints the events of
their sessions on standard error. It stops when the client on standard input leaves, or at SIGTERM
or SIGINT. Then all running requests can finish, and every session ends before the program does.
"""

from __future__ import annotations

import argparse
import signal
import sys

import trio

from trio_mcp_session import (
    Connected,
    Disconnected,
    Router,
    SessionManager,
    open_session_manager,
    serve_stdio,
    serve_tcp,
)

COUNT = "counter:count"
GRACE = 2.0
"""Seconds that running requests have to finish when the program stops."""


class Counter:
    """The work of this program. It does not know about clients."""

    def __init__(self) -> None:
        self.count = 0
        self.step = 1
        self.changed = trio.Event()

    async def run(self, interval: float) -> None:
        while True:
            await trio.sleep(interval)
            self.count += self.step
            self.changed.set()
            self.changed = trio.Event()


def make_router(counter: Counter) -> Router:
    """Return the tools and resources of the counter."""
    router = Router("counter", "1.0", resource_subscriptions=True)

    @router.tool()
    async def set_step(step: int) -> dict[str, int]:
        """Count faster, slower or backwards. Returns the step so far."""
        old, counter.step = counter.step, step
        return {"old": old}

    @router.resource(COUNT)
    async def count() -> str:
        """The count so far."""
        return str(counter.count)

    return router


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


async def tell_subscribers(manager: SessionManager, counter: Counter) -> None:
    """Notify the clients of each change. A slow client delays neither this nor the others."""
    while True:
        await counter.changed.wait()
        manager.notify_resource_updated(COUNT)


async def tell_events(  # noqa: ASYNC114  # it is started in one place, below
    manager: SessionManager, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Print events. Returns when the manager's block is left, because then the events end."""
    with manager.subscribe() as events:
        task_status.started()
        async for event in events:
            match event:
                case Connected():
                    say(f"{event.client.client_id} is connected")
                case Disconnected():
                    say(f"a session has ended: {event.reason.value}")
                case _:
                    pass
    say("all sessions have ended")


async def stop_at_signal(manager: SessionManager) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            # Also ends the session of `serve_stdio`, and with it the program.
            await manager.drain(grace=GRACE)


async def main(port: int, interval: float) -> None:
    counter = Counter()
    # The outer nursery is for a task that outlives the manager, to see the last sessions end.
    async with trio.open_nursery() as watchers:
        async with (
            open_session_manager(make_router(counter)) as manager,
            trio.open_nursery() as nursery,
        ):
            await watchers.start(tell_events, manager)  # noqa: ASYNC111  # it ends by itself
            nursery.start_soon(counter.run, interval)
            nursery.start_soon(tell_subscribers, manager, counter)
            nursery.start_soon(stop_at_signal, manager)
            listeners = await nursery.start(serve_tcp, manager, port)
            say(f"listening on port {listeners[0].socket.getsockname()[1]}")
            await serve_stdio(manager)
            # The client has left, or a signal came. Requests of the others can finish.
            await manager.drain(grace=GRACE)
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="TCP port; 0 lets the system choose")
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between two counts")
    options = parser.parse_args()
    trio.run(main, options.port, options.interval)
