"""A client of the soak: makes calls, and reads their messages."""

from __future__ import annotations

import json
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final

import attrs
import trio
from eras import TEXT
from http_wire import Event, Malformed
from soak_call import Call, Ledger, Strange
from soak_client import PATIENCE, Connection, Cut, Refused, SoakSession

CAPABILITIES: Final[dict[str, Any]] = {"elicitation": {}}


class TooLate(Exception):
    """The server no longer keeps the missed events, and says so (410)."""


@attrs.define(eq=False)
class Worker:
    """A client: one session at a time, and its actions."""

    port: int
    ledger: Ledger
    random: random.Random
    session: SoakSession = attrs.field(init=False)
    said: int = 0
    """So many announcements were made in this session."""
    heard: int = 0
    """So many of them were read."""
    stream_id: bytes = b""
    """The last event of this session's GET stream that was read."""
    loud: bool = False
    """Whether so much was said in this session that the server may have discarded old events."""
    deleted: bool = False
    """Whether it was deleted."""
    deaf: bool = False
    """Whether it has, and the GET stream can't be continued."""

    async def guarded(self, name: str, action: Callable[[], Awaitable[None]]) -> bool:
        """Run an action, and count any error.

        Returns:
            whether it succeeded.
        """
        began = trio.current_time()
        try:
            with trio.fail_after(PATIENCE * 2):
                await action()
        except Strange as strange:
            self.ledger.fault(strange.kind, name, strange)
        except (Cut, trio.TooSlowError, OSError, trio.BrokenResourceError) as error:
            self.ledger.fault("missing", name, repr(error))
        except (Refused, Malformed, ValueError) as error:
            self.ledger.fault("wrong", name, repr(error))
        else:
            self.ledger.done[name] += 1
            self.ledger.seconds[name] += trio.current_time() - began
            return True
        self.session.close()
        return False

    # Calls

    def call(self, tool: str, *, steps: int = 0, **arguments: Any) -> Call:
        number = next(self.ledger.numbers)
        text = (TEXT % number).decode()
        if tool == "climb":
            arguments["steps"] = steps
        params = {
            "name": tool,
            "arguments": {"text": text, **arguments},
            "_meta": {"progressToken": number},
        }
        message = {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}
        return Call(number, message, text, steps)

    async def begin(self, call: Call, *, small: bool = False) -> Connection:
        connection = await self.session.connection(small=small)
        await connection.send(self.session.request("POST", call.message))
        return connection

    async def read(self, connection: Connection, call: Call, *, most: int = 1 << 30) -> bool:
        """Read the messages of a call: all, or that many events.

        Returns:
            whether that was all.
        """
        head = await connection.receive_head()
        if head.status == 410 and self.loud:
            raise TooLate
        if head.status == 204 and call.last_id:
            return True  # That was all, although its end was not seen.
        if head.status == 404 and self.deleted:
            return True  # It came later than the end of its session.
        if head.status != 200:
            body = await connection.receive_body()
            raise Refused(f"call {call.number}: {head.status} {body[:200]!r}")
        if not head.events:
            call.take(json.loads(await connection.receive_body()))
            return True
        for _ in range(most):
            event = await connection.next_event()
            if event is None:
                return True
            await self.take_event(call, event)
        return False

    async def take_event(self, call: Call, event: Event) -> None:
        """Process an event of a call; answer a question of the server."""
        message = json.loads(event.data) if event.data else {}
        if message.get("method") != "elicitation/create":
            call.take_event(event)
            return
        call.last_id = event.id or call.last_id
        if message["params"]["message"] != call.text:
            raise Strange("crossed", f"question {message} for {call.number}")
        result = {"action": "accept", "content": {"text": call.text}}
        answer = {"jsonrpc": "2.0", "id": message["id"], "result": result}
        await self.session.ask("POST", answer, [202])

    async def come_back(self, call: Call, *, most: int = 1 << 30) -> bool:
        """Resume the stream after a disconnect."""
        if not call.last_id:
            raise Strange("missing", f"no event to come back to for {call.number}")
        connection = await self.session.connection()
        try:
            get = self.session.request("GET", None, Last_Event_ID=call.last_id.decode())
            await connection.send(get)
            over = await self.read(connection, call, most=most)
        except BaseException:
            connection.cut()
            raise
        if over:
            self.session.give_back(connection)
        else:
            connection.cut(reset=self.random.random() < 0.5)
        return over

    async def finish(self, connection: Connection, call: Call) -> None:
        """Read all messages of a call, and check them."""
        try:
            await self.read(connection, call)
        except BaseException:
            connection.cut()
            raise
        surplus = connection.surplus
        self.session.give_back(connection)
        if surplus:
            raise Strange("doubled", f"more than the answer to {call.number}")
        self.accept(call)

    def accept(self, call: Call) -> None:
        call.check()
        self.ledger.tally.answers += 1

    async def simple(self, call: Call) -> None:
        await self.finish(await self.begin(call), call)
