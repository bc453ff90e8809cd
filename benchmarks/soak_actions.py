"""The actions of the soak's clients in a session."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import trio
from http_load import HELLO
from soak_call import Strange
from soak_client import Connection, Refused, SoakSession
from soak_worker import CAPABILITIES, TooLate, Worker

THINKING: Final = 0.03  # seconds at most between two things that a client does
LARGE: Final = 8_192  # bytes of a message to a slow reader


async def open_session(worker: Worker) -> None:
    worker.session = SoakSession(worker.port)
    worker.said = worker.heard = 0
    worker.stream_id = b""
    worker.loud = worker.deaf = worker.deleted = False
    number = next(worker.ledger.numbers)
    params = HELLO | {"capabilities": CAPABILITIES}
    hello = {"jsonrpc": "2.0", "id": number, "method": "initialize", "params": params}
    head, body = await worker.session.ask("POST", hello, [200])
    if json.loads(body)["id"] != number or not head.session:
        raise Strange("wrong", f"answer to initialize {body!r}")
    worker.session.session_id = head.session
    initialized = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    await worker.session.ask("POST", initialized, [202])


async def delete(worker: Worker) -> None:
    worker.deleted = True
    await worker.session.ask("DELETE", None, [200, 202, 204])
    await expect_gone(worker)


async def expect_gone(worker: Worker) -> None:
    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    await worker.session.ask("POST", ping, [404])


async def delete_busy(worker: Worker) -> None:
    """Delete the session during calls: each call gets an answer, or its stream ends."""
    calls = [worker.call("nap", seconds=5), worker.call("climb", steps=99, seconds=0.1, size=10)]
    connections = [await worker.begin(call) for call in calls]
    try:
        await trio.sleep(worker.random.uniform(0, 0.3))
        await delete(worker)
        for call, connection in zip(calls, connections, strict=True):
            await worker.read(connection, call)
            if call.results and call.error is None:
                raise Strange("wrong", f"{call.results} after the session was deleted")
    finally:
        for connection in connections:
            connection.cut()


async def abandon(worker: Worker) -> None:
    """Stop using the session: its idle clock ends it."""


async def echo(worker: Worker) -> None:
    for _ in range(worker.random.randint(1, 8)):
        await worker.simple(worker.call("echo"))


async def burst(worker: Worker) -> None:
    calls = [worker.call("echo") for _ in range(worker.random.randint(2, 12))]
    async with trio.open_nursery() as nursery:
        for call in calls:
            nursery.start_soon(worker.guarded, "call of a burst", partial(worker.simple, call))


async def climb(worker: Worker) -> None:
    steps = worker.random.randint(1, 20)
    pause = worker.random.choice([0, 0, 0.01])
    await worker.simple(worker.call("climb", steps=steps, seconds=pause, size=20))


async def ask(worker: Worker) -> None:
    await worker.simple(worker.call("ask"))


async def vanish(worker: Worker) -> None:
    """Disconnect at a random point of a call, and continue in the same session."""
    connection = await Connection.open(worker.port)
    call = worker.random.choice(
        [
            worker.call("nap", seconds=worker.random.uniform(0, 0.2)),
            worker.call("climb", steps=50, seconds=0.005, size=100),
        ]
    )
    request = worker.session.request("POST", call.message)
    part = worker.random.choice([len(request), len(request), worker.random.randrange(len(request))])
    if part:
        await connection.send(request[:part])
    if part == len(request):
        with trio.move_on_after(worker.random.uniform(0, 0.2)):
            await worker.read(connection, call)
    connection.cut(reset=worker.random.random() < 0.5)
    await worker.simple(worker.call("echo"))


async def come_back_later(worker: Worker) -> None:
    """Disconnect during a stream, also several times, and resume it without a gap."""
    steps = worker.random.randint(5, 30)
    call = worker.call("climb", steps=steps, seconds=0.01, size=50)
    connection = await worker.begin(call)
    try:
        over = await worker.read(connection, call, most=worker.random.randint(1, 5))
    finally:
        connection.cut(reset=worker.random.random() < 0.5)
    while not over:
        await trio.sleep(worker.random.uniform(0, 0.1))
        most = worker.random.choice([worker.random.randint(1, 10), 1 << 30])
        try:
            over = await worker.come_back(call, most=most)
        except TooLate:
            worker.ledger.done["told that it came back too late"] += 1
            return
    worker.accept(call)


async def poll(worker: Worker) -> None:
    """Resume a stream that the server has closed."""
    call = worker.call("poll", seconds=worker.random.uniform(0, 0.4))
    connection = await worker.begin(call)
    try:
        await worker.read(connection, call)
    except BaseException:
        connection.cut()
        raise
    worker.session.give_back(connection)
    while not call.results:
        await trio.sleep(call.retry)
        try:
            await worker.come_back(call)
        except TooLate:
            worker.ledger.done["told that it came back too late"] += 1
            return
    worker.accept(call)


async def cancel(worker: Worker) -> None:
    """Cancel a call: it gets its result, an error, or its stream ends."""
    call = worker.random.choice(
        [
            worker.call("nap", seconds=worker.random.uniform(0, 1)),
            worker.call("climb", steps=50, seconds=0.01, size=10),
        ]
    )
    connection = await worker.begin(call)
    try:
        await trio.sleep(worker.random.uniform(0, 0.3))
        params = {"requestId": call.number, "reason": "soak"}
        cancelled = {
            "jsonrpc": "2.0",
            "method": "notifications/cancelled",
            "params": params,
        }
        await worker.session.ask("POST", cancelled, [202])
        await worker.read(connection, call)
    except BaseException:
        connection.cut()
        raise
    worker.session.give_back(connection)
    if not call.results or call.error is not None:
        worker.ledger.done["cancelled in time"] += 1
        worker.ledger.tally.answers += 1
    else:
        worker.accept(call)


async def read_slowly(worker: Worker) -> None:
    """Read a large answer late or never; other calls are not delayed."""
    steps = worker.random.randint(50, 600)
    worker.loud = True
    call = worker.call("climb", steps=steps, seconds=0, size=LARGE)
    connection = await worker.begin(call, small=True)
    try:
        await trio.sleep(worker.random.uniform(0, 1))
        with trio.fail_after(5):
            await worker.simple(worker.call("echo"))
        if worker.random.random() < 0.7:
            await worker.read(connection, call)
            worker.accept(call)
    finally:
        connection.cut(reset=worker.random.random() < 0.5)


async def listen(worker: Worker) -> None:
    """Open the GET stream, disconnect, resume: each notification comes once, in order."""
    for _ in range(0 if worker.deaf else worker.random.randint(1, 3)):
        headers = {"Last_Event_ID": worker.stream_id.decode()} if worker.stream_id else {}
        connection = await Connection.open(worker.port)
        try:
            await connection.send(worker.session.request("GET", None, **headers))
            head = await connection.receive_head()
            if head.status == 410 and worker.loud:
                worker.deaf = True
                worker.ledger.done["told that it came back too late"] += 1
                return
            if head.status != 200 or not head.events:
                raise Refused(f"GET: {head}")
            if not worker.stream_id:
                # The beginning of the stream: without its event id the stream cannot be resumed.
                event = await connection.next_event()
                worker.stream_id = event.id or b"" if event else b""
                if not worker.stream_id or (event and event.data):
                    raise Strange("wrong", f"the GET stream begins with {event}")
            await announce_and_listen(worker, connection)
        finally:
            connection.cut(reset=worker.random.random() < 0.5)


async def announce_and_listen(worker: Worker, connection: Connection) -> None:
    amount = worker.random.randint(1, 10)
    await worker.simple(worker.call("announce", first=worker.said, count=amount))
    worker.said += amount
    # Some may remain, for the next time.
    wanted = worker.random.choice([worker.said, worker.random.randint(worker.heard, worker.said)])
    while worker.heard < wanted:
        event = await connection.next_event()
        if event is None:
            raise Strange("missing", "the GET stream has ended")
        worker.stream_id = event.id or worker.stream_id
        if not event.data:
            continue
        match json.loads(event.data):
            case {"method": "notifications/announced", "params": {"number": int(number)}}:
                if number != worker.heard:
                    kind = "doubled" if number < worker.heard else "missing"
                    raise Strange(kind, f"announcement {number} for {worker.heard}")
                worker.heard += 1
            case message:
                raise Strange("crossed", f"{message} on the GET stream")


async def nonsense(worker: Worker) -> None:
    """Send an invalid request: it is rejected, without further effect."""
    session = worker.session
    stranger = SoakSession(worker.port, b"f" * 32)
    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    try:
        await stranger.ask("POST", ping, [404])
        await session.ask("PUT", ping, [405])
        await session.ask("POST", {"jsonrpc": "1.0"}, [400])
        await session.ask("POST", ping, [403], Origin="http://elsewhere.example")
        connection = await Connection.open(worker.port)
        await connection.send(b"NONSENSE\r\n\r\n")
        await connection.receive_head()
        connection.cut()
    finally:
        stranger.close()
    await worker.simple(worker.call("echo"))


ACTIONS: Final[list[tuple[str, Callable[[Worker], Awaitable[None]]]]] = [
    ("echo", echo),
    ("burst", burst),
    ("climb", climb),
    ("ask", ask),
    ("vanish", vanish),
    ("come back", come_back_later),
    ("poll", poll),
    ("cancel", cancel),
    ("read slowly", read_slowly),
    ("listen", listen),
    ("nonsense", nonsense),
]
WEIGHTS: Final = [20, 10, 10, 6, 12, 10, 4, 10, 2, 8, 2]
ENDINGS: Final = [
    ("delete", delete),
    ("delete busy", delete_busy),
    ("abandon", abandon),
]


async def live(worker: Worker, until: float) -> None:
    while trio.current_time() < until:
        if not await worker.guarded("open", partial(open_session, worker)):
            await trio.sleep(1)
            continue
        for _ in range(worker.random.randint(3, 30)):
            [(name, action)] = worker.random.choices(ACTIONS, WEIGHTS)
            if not await worker.guarded(name, partial(action, worker)):
                break  # and abandon this session
            await trio.sleep(worker.random.uniform(0, THINKING))
            if trio.current_time() >= until:
                break
        else:
            [(name, ending)] = worker.random.choices(ENDINGS, [6, 3, 1])
            await worker.guarded(name, partial(ending, worker))
        worker.session.close()
