"""The bridge to HTTP: each message of the host is a POST, each answer and event a line.

::

    background nursery      subscriptions, the GET stream, the host's hang-up; cancelled in the end
     └ nursery of requests  one task for each request of the host; joined after the end of its input

The requests are sent one after the other, each after the one before was written; their answers come
in any order. Notifications and answers of the host are sent in order, each after the server took
the one before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Final, final

import attrs
import trio
from msgspec import UNSET

from ...core.byte_budget import ByteBudget
from ...protocol.error_codes import HEADER_MISMATCH, INVALID_REQUEST
from ...protocol.event_decoder import EventDecoder
from ...protocol.framing import BadFrame, Frame, Loss
from ...protocol.jsonrpc import Invalid, decode, encode_error, encode_json, unread
from ...protocol.unread_messages import SCANNED
from ...transports.framed_io import PairedChannel
from ..failure import CommandFailed
from .carried_request import Exchange, RequestFailed, SessionOver
from .endpoint_client import EVENTS, JSON, Answer, ConnectionLost, NotReached
from .host_ending import HostEnding
from .http_session import HttpSession
from .messages import (
    HostMessage,
    NotAMessage,
    answered_ids,
    one_line,
    protocol_version_of,
    read_host_message,
    tools_of,
)
from .tool_headers import ToolHeaders

SERVER_LEFT: Final = 4
"""The exit status if the server has ended the session or the connection."""

MAX_REQUESTS: Final = 256
"""Most requests of the host that are open at the same time; one more is answered "busy"."""

ANSWER_TIMEOUT: Final = 30.0
"""Seconds that the server has to take a notification, or to list its tools."""

MAX_RETRY: Final = 30.0
"""The longest time before a stream is opened again, in seconds."""

MAX_ATTEMPTS: Final = 5
"""How often the rest of an answer is asked for in vain."""

FLUSH_TIMEOUT: Final = 1.0
"""Seconds for the last output."""

GONE: Final = (HTTPStatus.BAD_REQUEST, HTTPStatus.GONE)
"""Events that a stream could be resumed after are no longer known."""

MAX_PAGES: Final = 100
"""Most pages of tools that are read to find the headers of a call."""

BUFFERED_MESSAGES: Final = 4
"""How many of the largest messages may be held at the same time."""


@final
@attrs.frozen(kw_only=True)
class BridgeSettings:
    """Limits and clocks of a bridge to HTTP."""

    max_message_size: int
    """Bytes of one message, in either direction."""

    grace: float
    """Seconds that the server has to answer after the host has closed standard input."""

    retry: float = 1.0
    """Seconds before a stream is opened again, where the server does not say; doubled each time."""


@final
@attrs.define(eq=False)
class HttpBridge:
    """Carries the messages of one host to one endpoint.

    Args:
        host: Standard input and output.
        session: The endpoint.
        settings: Limits and clocks.
        say: Prints a line on standard error.
    """

    _host: PairedChannel
    _session: HttpSession
    _settings: BridgeSettings
    _say: Callable[[str], object]
    _ending: HostEnding = attrs.field(factory=HostEnding, init=False)
    _budget: ByteBudget = attrs.field(init=False)
    _exchanges: list[Exchange] = attrs.field(factory=list[Exchange], init=False)
    _writing: trio.Lock = attrs.field(factory=trio.Lock, init=False)
    _tools: ToolHeaders = attrs.field(factory=ToolHeaders, init=False)
    _session_over: SessionOver | None = attrs.field(default=None, init=False)
    _listening: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._budget = ByteBudget("bridge", BUFFERED_MESSAGES * self._settings.max_message_size)

    async def run(self) -> HostEnding:
        """Carry messages until the host has left; then end its session. A checkpoint.

        Returns:
            How the host ended.

        Raises:
            CommandFailed: The server has ended the session. Open requests were answered.
        """
        with self._ending.scope:
            async with trio.open_nursery() as background:
                background.start_soon(self._ending.wait_gone, self._host)
                async with trio.open_nursery() as requests:
                    sending, receiving = trio.open_memory_channel[list[Frame]](0)
                    requests.start_soon(self._read, sending)
                    async with receiving:
                        async for frames in receiving:
                            for frame in frames:
                                await self._take(frame, requests, background)
                background.cancel_scope.cancel(reason="the host has left, and has its answers")
        await self._finish()
        if self._session_over is not None and not self._ending.host_left:
            raise CommandFailed(str(self._session_over), status=SERVER_LEFT)
        return self._ending

    # What comes from the host.

    async def _read(self, sending: trio.MemorySendChannel[list[Frame]]) -> None:
        """Read one batch ahead, so that the end is noticed while a message waits."""
        async with sending:
            try:
                while True:
                    await sending.send(await self._host.receive_batch())
            except (trio.EndOfChannel, trio.BrokenResourceError):
                self._ending.leave(self._settings.grace)

    async def _take(self, frame: Frame, requests: trio.Nursery, background: trio.Nursery) -> None:
        if isinstance(frame, BadFrame):
            await self._refuse_lost(frame)
            return
        try:
            message = read_host_message(frame)
        except NotAMessage:
            invalid = decode(frame)
            if not isinstance(invalid, Invalid):  # Its id is not Unicode, for example.
                invalid = unread(
                    "message is not valid JSON-RPC", frame[:SCANNED], code=INVALID_REQUEST
                )
            await self._refuse(invalid)
            return
        if self._cancels(message):
            return
        if not message.ids:
            await self._notify(message)
            if (
                message.method == "notifications/initialized"
                and self._session.session_id is not None
            ):
                self._listen(background)
            return
        exchange = Exchange(message)
        if self._is_full() or not self._budget.claim(len(frame)):
            busy = RequestFailed("the bridge is busy: too many requests are open; try again later")
            await self._write(*exchange.fail(busy))
            return
        self._exchanges.append(exchange)
        nursery = requests if exchange.is_finite else background
        await nursery.start(self._exchange, exchange, name=f"request {message.method}")
        if message.method == "initialize":
            await exchange.done.wait()  # The next message needs the session.

    def _is_full(self) -> bool:
        """Return whether too many requests are open; those that are answered do not count."""
        if len(self._exchanges) < MAX_REQUESTS:
            return False
        return sum(bool(exchange.open_ids) for exchange in self._exchanges) >= MAX_REQUESTS

    def _cancels(self, message: HostMessage) -> bool:
        """Cancel a request of 2026-07-28, if a message does that; return whether it did."""
        if message.cancels is None:
            return False
        for exchange in reversed(self._exchanges):
            if message.cancels in exchange.open_ids and exchange.message.version is not None:
                exchange.open_ids.clear()
                exchange.scope.cancel(reason="cancelled by the host")
                return True
        return False

    async def _refuse_lost(self, frame: BadFrame) -> None:
        if frame.loss is Loss.TRUNCATED:
            self._say("standard input ended in the middle of a message")
            return
        what = f"message is larger than {self._settings.max_message_size} bytes"
        await self._refuse(
            unread(f"{what} (--max-message-size)", frame.head, frame.tail, INVALID_REQUEST)
        )

    async def _refuse(self, invalid: Invalid) -> None:
        """Answer a message that cannot be carried; if it is an answer, the server gets an error."""
        if invalid.answers is not UNSET:
            answer = encode_error(invalid.answers, INVALID_REQUEST, invalid.what)
            await self._notify(HostMessage(frame=answer))
        elif invalid.answer:
            await self._write(encode_error(invalid.id, invalid.code, invalid.what))
        else:
            self._say(f"a notification of the host was dropped: {invalid.what}")

    async def _notify(self, message: HostMessage) -> None:
        """Send a notification or an answer, and wait until the server has taken it."""
        what = message.method or "an answer"
        try:
            with trio.fail_after(ANSWER_TIMEOUT):
                async with self._session.post(message):
                    pass
        except SessionOver as over:
            self._end_session(over)
        except (RequestFailed, ConnectionLost) as failed:
            self._say(f"{what} was not delivered: {failed}")
        except trio.TooSlowError:
            self._say(f"{what} was not taken by the server within {ANSWER_TIMEOUT:g} s")

    def _end_session(self, over: SessionOver) -> None:
        self._session_over = self._session_over or over
        self._ending.scope.cancel(reason="the session has ended")

    # One request.

    async def _exchange(  # noqa: ASYNC114  # of this class only
        self, exchange: Exchange, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        is_sent = False

        def sent() -> None:
            nonlocal is_sent
            if not is_sent:
                is_sent = True
                task_status.started()

        try:
            with exchange.scope:
                failed = await self._ask_and_note(exchange, sent)
                await self._write(*exchange.fail(failed))
                if isinstance(failed, SessionOver):
                    self._end_session(failed)
        finally:
            self._budget.release(len(exchange.message.frame))
            exchange.done.set()
            if not exchange.open_ids:  # The others are answered in the end.
                self._exchanges.remove(exchange)
            sent()

    async def _ask_and_note(self, exchange: Exchange, sent: Callable[[], object]) -> RequestFailed:
        """Let the server answer a request; return what the host is told if it has not."""
        try:
            await self._ask(exchange, sent)
        except RequestFailed as failed:
            return failed
        except ConnectionLost as lost:
            return RequestFailed(f"the connection to the server was lost: {lost}")
        return RequestFailed("the server has not answered this request")

    async def _ask(self, exchange: Exchange, sent: Callable[[], object]) -> None:
        """Send a request, and write what comes of it."""
        message = exchange.message
        headers = self._tools.of_call(message.name, message.arguments)
        refused: RequestFailed | None = None
        resume_after: tuple[str, float] | None = None
        try:
            resume_after = await self._ask_once(exchange, headers, sent)
        except RequestFailed as failed:
            if failed.code != HEADER_MISMATCH or message.method != "tools/call":
                raise
            refused = failed
        if refused is not None:
            # The host has not asked for the list of tools, or it has changed.
            sent()
            await self._list_tools(message)
            repeated = self._tools.of_call(message.name, message.arguments)
            if repeated == headers:
                raise refused
            resume_after = await self._ask_once(exchange, repeated, sent)
        if resume_after is not None and exchange.open_ids:
            await self._resume(exchange, *resume_after)

    async def _ask_once(
        self, exchange: Exchange, headers: Mapping[str, str], sent: Callable[[], object]
    ) -> tuple[str, float] | None:
        """Send a request. If its stream breaks, return after which event and when to resume."""
        message = exchange.message
        async with self._session.post(message, headers, sent) as answer:
            sent()
            if message.method == "initialize" and message.version is None:
                self._session.open(answer.headers.get("mcp-session-id"))
            return await self._take_answer(answer, exchange)

    async def _take_answer(self, answer: Answer, exchange: Exchange) -> tuple[str, float] | None:
        """Write the messages of an answer; as for `_ask_once`."""
        if answer.media_type == JSON:
            with self._held() as count:
                body = bytearray()
                while piece := await answer.next_piece():
                    count(len(piece))
                    body += piece
                    if len(body) > self._settings.max_message_size:
                        raise self._too_large()
                await self._deliver(bytes(body), exchange)
        elif answer.media_type == EVENTS:
            decoder = EventDecoder(self._settings.max_message_size)
            try:
                await self._take_events(answer, decoder, exchange)
            except ConnectionLost:
                if decoder.last_event_id is None:
                    raise
            if decoder.last_event_id is not None:
                return decoder.last_event_id, decoder.retry or 0.0
        return None

    async def _take_events(
        self, answer: Answer, decoder: EventDecoder, exchange: Exchange | None
    ) -> None:
        """Write the messages of a stream, until it ends or the request is answered."""
        waits_for_answer = exchange is not None
        with self._held() as count:
            while True:
                if waits_for_answer and not (exchange and exchange.open_ids):
                    # Its end is read, too, so that the connection can be used again.
                    with trio.move_on_after(1):
                        await answer.next_piece()
                    return
                piece = await answer.next_piece()
                if not piece:
                    return
                before = decoder.held
                events = decoder.feed(piece)
                count(decoder.held - before)
                for event in events:
                    try:
                        if event.too_long:
                            raise self._too_large()
                        if event.data:
                            await self._deliver(event.data, exchange)
                    except RequestFailed as failed:
                        if exchange is not None:
                            raise
                        self._say(str(failed))

    def _too_large(self) -> RequestFailed:
        return RequestFailed(
            f"a message of the server is larger than {self._settings.max_message_size} bytes "
            "(--max-message-size)"
        )

    @contextmanager
    def _held(self) -> Iterator[Callable[[int], None]]:
        """Count the bytes of what the server sends, for the length of a block.

        Yields:
            What counts further bytes, or with a negative number fewer. It raises `RequestFailed`
            if there is no room.
        """
        held = 0

        def count(change: int) -> None:
            nonlocal held
            if change > 0 and not self._budget.claim(change):
                raise RequestFailed("the bridge is busy: the answers of the server are too large")
            if change < 0:
                self._budget.release(-change)
            held += change

        try:
            yield count
        finally:
            self._budget.release(held)

    async def _deliver(self, message: bytes, exchange: Exchange | None) -> None:
        """Write a message of the server, and note what it answers."""
        line = one_line(message)
        try:
            ids = answered_ids(line)
        except NotAMessage as error:
            raise RequestFailed("the server has sent something that is not JSON-RPC") from error
        if exchange is not None:
            method = exchange.message.method
            if ids and method == "initialize" and exchange.message.version is None:
                self._session.negotiated(protocol_version_of(line))
            if ids and method == "tools/list":
                self._tools.learn(tools_of(line)[0])
            for answer_id in ids:
                exchange.answered(answer_id)
            if exchange.kept is not None:
                exchange.kept.append(line)
                return
        await self._write(line)

    async def _write(self, *lines: bytes) -> None:
        """Write lines to the host, in one piece."""
        async with self._writing:
            await self._ending.write(self._host.send_batch, lines)

    async def _resume(self, exchange: Exchange, last_event_id: str, retry: float) -> None:
        """Ask for the rest of an answer whose stream has ended early."""
        attempts = 0
        while exchange.open_ids:
            if attempts == MAX_ATTEMPTS:
                raise RequestFailed("the connection to the server was lost, and the answer with it")
            attempts += 1
            await trio.sleep(self._delay(retry, attempts - 1))
            try:
                async with self._session.get(last_event_id) as answer:
                    if answer.status == HTTPStatus.NO_CONTENT:
                        raise RequestFailed("the server has ended the stream of this request")
                    resume_after = await self._take_answer(answer, exchange)
            except (NotReached, ConnectionLost):
                continue
            if resume_after is not None and resume_after[0] != last_event_id:
                attempts = 0
                last_event_id = resume_after[0]
                retry = resume_after[1] or retry

    def _delay(self, told: float | None, failures: int) -> float:
        """Return the seconds before a stream is opened again."""
        return min(told or self._settings.retry * 2.0 ** min(failures, MAX_ATTEMPTS), MAX_RETRY)

    async def _list_tools(self, message: HostMessage) -> None:
        """Ask for the tools of the server, to know which headers a call needs."""
        cursor: str | None = None
        for page in range(MAX_PAGES):
            params = b'"_meta":' + message.meta
            if cursor is not None:
                params += b',"cursor":' + encode_json(cursor)
            frame = b'{"jsonrpc":"2.0","id":%d,"method":"tools/list","params":{%b}}' % (
                page,
                params,
            )
            asking = Exchange(
                HostMessage(frame=frame, ids=(page,), method="tools/list", version=message.version),
                kept=[],
            )
            with trio.move_on_after(ANSWER_TIMEOUT):
                async with self._session.post(asking.message) as answer:
                    await self._take_answer(answer, asking)
            if not asking.kept:
                return
            cursor = tools_of(asking.kept[-1])[1]
            if cursor is None:
                return

    # The stream of the session, and the end.

    def _listen(self, background: trio.Nursery) -> None:
        if not self._listening:
            self._listening = True
            background.start_soon(self._carry_stream, name="stream of the session")

    async def _carry_stream(self) -> None:
        """Carry what the server sends on its own, if it offers a stream for that."""
        last_event_id: str | None = None
        failures = 0
        while True:
            decoder = EventDecoder(self._settings.max_message_size)
            try:
                async with self._session.get(last_event_id) as answer:
                    if answer.media_type != EVENTS:
                        return  # 204: the server has nothing to send.
                    failures = 0
                    await self._take_events(answer, decoder, None)
            except SessionOver as over:
                self._end_session(over)
                return
            except (NotReached, ConnectionLost):
                failures += 1
            except RequestFailed as failed:
                failures += 1
                if failed.status == HTTPStatus.METHOD_NOT_ALLOWED:
                    return
                if failed.status in GONE and last_event_id is not None:
                    self._say(f"messages of the server were lost: {failed}")
                    last_event_id = None
                    continue
                self._say(f"the stream of the session: {failed}")
            last_event_id = decoder.last_event_id or last_event_id
            await trio.sleep(self._delay(decoder.retry, failures))

    def stop(self) -> None:
        """End the bridge: a signal has come. Not a checkpoint."""
        self._ending.scope.cancel(reason="asked to stop by a signal")

    async def _finish(self) -> None:
        """Answer what is open, and end the session."""
        why = self._session_over or RequestFailed("the bridge has ended before the answer came")
        lines = [line for exchange in self._exchanges for line in exchange.fail(why)]
        with trio.move_on_after(FLUSH_TIMEOUT):
            await self._write(*lines)
        if self._session_over is None:
            await self._session.delete()
