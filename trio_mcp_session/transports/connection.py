"""Serves one client: one channel, one session, and the reader between them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Final

import trio
from msgspec import UNSET

from ..core.errors import SessionRejected
from ..core.identity import Principal, Transport
from ..core.reasons import TerminationReason
from ..protocol import jsonrpc
from ..protocol.eras import Eras
from ..protocol.error_codes import INTERNAL_ERROR, PARSE_ERROR
from ..protocol.framing import BadFrame, Frame, Loss
from ..server.accept import accept
from ..server.busy import NO_MEMORY
from ..server.client_connection import client_of
from ..server.dispatch import receive_frame, refuse_frame
from ..server.request_source import source_of_connection
from ..sessions.drain import drain
from ..sessions.interrupts import raise_with
from ..sessions.session import cancelled_with
from .channel import BatchChannel, as_batch_channel
from .framed_io import PairedChannel
from .writer import ConnectionWriter

if TYPE_CHECKING:
    from ..core.config import SessionConfig
    from ..server.client_connection import ClientConnection
    from ..sessions.manager import SessionManager
    from ..sessions.session import Session

FAIR_SHARE: Final = 64
"""How many frames of one client are processed before other tasks may run."""


def _do_nothing() -> None:
    """Do nothing: the default callback."""


async def serve_channel(
    manager: SessionManager,
    channel: trio.abc.Channel[bytes],
    *,
    principal: Principal | None = None,
    transport: Transport = Transport("channel"),  # noqa: B008  # a frozen value
    handshake_timeout: float = inf,
    eras: Eras | None = None,
) -> TerminationReason:
    """Serve one client over a channel of messages, until its session has ended.

    A checkpoint. When cancelled, the session ends as *cancelled*, with all of its clean-up,
    before the call raises. The channel is closed in any case.

    Args:
        manager: The manager that opens the session.
        channel: Carries one JSON-RPC message a frame, without framing. Any
            `trio.abc.Channel` will do; a `BatchChannel` does it faster.
        principal: The principal of the client, if known.
        transport: The description of the connection.
        handshake_timeout: Seconds in which the client has to finish its handshake, where
            `CleanupConfig.connection_handshake_timeout` does not say. Off by default: only the
            caller knows what is behind a channel. Set one if unknown clients can connect.
        eras: The revisions that are served on it; by default as the application says.

    Returns:
        Why the session ended.

    Raises:
        SessionRejected: A limit does not admit the session; the client got the error.
        ValueError: ``eras`` is not a value of `Eras`.
    """
    return await serve_client(
        manager,
        channel,
        principal=principal,
        transport=transport,
        handshake_timeout=handshake_timeout,
        eras=eras,
    )


async def serve_client(
    manager: SessionManager,
    channel: trio.abc.Channel[bytes],
    *,
    principal: Principal | None,
    transport: Transport,
    handshake_timeout: float = inf,
    eras: Eras | None = None,
    on_ending: Callable[[], object] = _do_nothing,
) -> TerminationReason:
    """Serve one client as `serve_channel` does.

    Args:
        manager: As for `serve_channel`; so are the next five.
        channel: What carries the messages.
        principal: The principal of the client.
        transport: The description of the connection.
        handshake_timeout: Seconds for the handshake.
        eras: The revisions that are served.
        on_ending: Called, perhaps twice, when the client has closed its sending side, and when
            the session begins to end. It must not raise.
    """
    # Idle connections should take little memory, so there are no redundant locals.
    batches = as_batch_channel(channel)
    writer = ConnectionWriter(
        channel=batches,
        limit=manager.config.limits.max_output,
        timeout=manager.config.cleanup.send_timeout,
        source=source_of_connection(principal),
    )
    try:
        try:
            session = await accept(
                manager,
                writer,
                transport=transport,
                principal=principal,
                handshake_timeout=handshake_timeout,
                eras=eras,
            )
        except SessionRejected as refusal:
            with trio.move_on_after(manager.config.cleanup.flush_budget):
                await _reject_client(batches, str(refusal))  # noqa: ASYNC120  # a cancellation has priority
            raise
        return await _converse(session, batches, writer, on_ending)
    finally:
        with trio.move_on_after(manager.config.cleanup.flush_budget, shield=True):
            await batches.aclose()


async def _converse(
    session: Session,
    channel: BatchChannel,
    writer: ConnectionWriter,
    on_ending: Callable[[], object],
) -> TerminationReason:
    """Read until the session has ended and its last messages are written."""
    async with trio.open_nursery() as nursery:
        writer.open(nursery, session.terminate, session)
        if isinstance(channel, PairedChannel):
            channel.count_for(session)
            if channel.wait_not_read is not None:
                nursery.start_soon(_end_after, channel.wait_not_read, session, name="reader watch")
        with cancelled_with(session, nursery.cancel_scope):
            try:
                await _read(session, channel, writer, nursery, on_ending)
            except BaseException as error:  # noqa: BLE001  # raised again below
                # An error of the channel that is not in its interface: `serve_channel` raises it.
                failed = isinstance(error, Exception)
                session.terminate(
                    TerminationReason.TRANSPORT_FAILED if failed else TerminationReason.CANCELLED
                )
                on_ending()
                raise_with(error, await session._wait_finished())
            else:
                on_ending()
                interrupts = await session._wait_finished()
                if interrupts:
                    raise interrupts[0]
            finally:
                writer.close()
    return session._reason_to_end()


async def _end_after(wait_not_read: Callable[[], Awaitable[None]], session: Session) -> None:
    """End the session when its client can no longer read, also after end of file."""
    await wait_not_read()
    session.terminate(TerminationReason.CLIENT_CLOSED)


async def _read(
    session: Session,
    channel: BatchChannel,
    writer: ConnectionWriter,
    nursery: trio.Nursery,
    on_ending: Callable[[], object],
) -> None:
    """Process the client's messages until the channel or the session has ended."""
    client = client_of(session)
    try:
        while True:
            frames = await channel.receive_batch()
            if len(frames) > 1:
                writer.gather()
            frame: Frame = b""
            for number, frame in enumerate(frames, 1):  # bound before it
                if number > 1 and writer.full:
                    # An answer can be 10,000 times larger than its request. The first one, which
                    # may be a cancellation, is always processed.
                    await writer.wait_writable()
                _process(client, frame, writer)
                if number % FAIR_SHARE == 0:
                    await trio.lowlevel.checkpoint()
            # Otherwise an idle connection would keep its last messages.
            del frames, frame
            if writer.full:
                await writer.wait_writable()
    except trio.EndOfChannel:
        on_ending()
        # The client may have closed one direction only, and still read answers.
        if isinstance(channel, PairedChannel) and channel.wait_gone is not None:
            nursery.start_soon(_end_after, channel.wait_gone, session, name="hang-up watch")
        clocks = session._manager.config.cleanup
        await drain([session], clocks.eof_grace, clocks, TerminationReason.CLIENT_CLOSED)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        session.terminate(TerminationReason.TRANSPORT_FAILED)


def _process(client: ClientConnection, frame: Frame, writer: ConnectionWriter) -> None:
    """Process one message of the client, or refuse one that could not be read."""
    if isinstance(frame, bytes):
        receive_frame(client, frame, writer)
        return
    what = _complaint(frame, client.manager.config)
    code = INTERNAL_ERROR if frame.loss is Loss.NO_ROOM else PARSE_ERROR
    refuse_frame(client, jsonrpc.unread(what, frame.head, frame.tail, code), writer)


def _complaint(frame: BadFrame, config: SessionConfig) -> str:
    if frame.loss is Loss.NO_ROOM:
        return NO_MEMORY
    if frame.loss is Loss.TOO_LONG:
        return f"message is larger than {config.limits.max_message_size} bytes"
    return "the stream ended in the middle of a message"


async def _reject_client(channel: BatchChannel, why: str) -> None:
    """Answer the first request of a client that gets no session with the error."""
    with suppress(trio.EndOfChannel, trio.BrokenResourceError, trio.ClosedResourceError):
        first, *_ = await channel.receive_batch()
        message = (
            jsonrpc.decode(first)
            if isinstance(first, bytes)
            else jsonrpc.unread("message was lost", first.head, first.tail)
        )
        request_id = (
            message.id if isinstance(message, (jsonrpc.Request, jsonrpc.Invalid)) else UNSET
        )
        await channel.send_batch([jsonrpc.encode_error(request_id, INTERNAL_ERROR, why)])
