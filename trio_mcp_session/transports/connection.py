"""A connection: one channel, one session, and the reader between them."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio
from msgspec import UNSET

from ..core.errors import SessionRejected
from ..core.identity import Principal, Transport
from ..core.reasons import TerminationReason
from ..protocol import jsonrpc
from ..protocol.eras import Eras, ServedEras, served_eras
from ..protocol.error_codes import INTERNAL_ERROR
from ..protocol.framing import BadFrame
from ..sessions.attached import cancelled_with
from ..sessions.dialogue import receive, refuse_frame
from ..sessions.drain import drain
from .channel import BatchChannel, as_batch_channel
from .outbox import Outbox

if TYPE_CHECKING:
    from ..core.config import SessionConfig
    from ..sessions.manager import SessionManager
    from ..sessions.session import Session

FAIR_SHARE: Final = 64
"""Frames of one client that are taken before other tasks get a turn."""


async def serve_channel(
    manager: SessionManager,
    channel: trio.abc.Channel[bytes],
    *,
    principal: Principal | None = None,
    transport: Transport = Transport("channel"),  # noqa: B008  # a frozen value
    eras: Eras | None = None,
) -> TerminationReason:
    """Serve one client over a channel of messages, until its session has ended.

    A checkpoint. When cancelled, the session ends as *cancelled*, with all of its clean-up,
    before the call raises. The channel is closed in any case.

    Args:
        manager: Where the session lives.
        channel: Carries one JSON-RPC message a frame, without framing. Any
            `trio.abc.Channel` will do; a `BatchChannel` does it faster.
        principal: On whose behalf the client speaks, where that is known.
        transport: What to call the connection.
        eras: Which revisions are served on it; what the application says by default.

    Returns:
        Why the session ended.

    Raises:
        SessionRejected: There is no place for another session; the client was told.
        ValueError: ``eras`` is none of them.
    """
    # What it holds while its client is idle is counted in bytes, so no local says twice the same.
    batches = as_batch_channel(channel)
    outbox = Outbox(
        channel=batches,
        limit=manager.config.limits.max_output,
        timeout=manager.config.cleanup.send_timeout,
    )
    try:
        served_eras(manager.application, eras)  # An error in it opens no session.
        try:
            session = await manager.accept(outbox, transport=transport, principal=principal)
        except SessionRejected as refusal:
            with trio.move_on_after(manager.config.cleanup.flush_budget):
                await _turn_away(batches, str(refusal))  # noqa: ASYNC120  # a cancellation goes first
            raise
        return await _converse(session, served_eras(manager.application, eras), batches, outbox)
    finally:
        with trio.move_on_after(manager.config.cleanup.flush_budget, shield=True):
            await batches.aclose()


async def _converse(
    session: Session, eras: ServedEras, channel: BatchChannel, outbox: Outbox
) -> TerminationReason:
    """Read until the session has ended; its last words are written before this returns."""
    async with trio.open_nursery() as nursery:
        outbox.open(nursery, session.terminate)
        with cancelled_with(session, nursery.cancel_scope):
            try:
                await _read(session, eras, channel, outbox)
            except trio.Cancelled:
                session.terminate(TerminationReason.CANCELLED)
                raise
            except BaseException:
                # A channel that fails in a way of its own: its maker hears of it.
                session.terminate(TerminationReason.TRANSPORT_FAILED)
                raise
            finally:
                with trio.CancelScope(shield=True):
                    await session.wait_terminated()
                outbox.close()
    return session._reason_to_end()


async def _read(session: Session, eras: ServedEras, channel: BatchChannel, outbox: Outbox) -> None:
    """Hand over what the client says, until there is no more or nobody to hear it."""
    try:
        while True:
            frames = await channel.receive_batch()
            if len(frames) > 1:
                outbox.gather()
            for number, frame in enumerate(frames, 1):
                if isinstance(frame, bytes):
                    receive(session, frame, outbox, eras)
                else:
                    refuse_frame(session, _complaint(frame, session._manager.config), outbox)
                if number % FAIR_SHARE == 0:
                    await trio.lowlevel.checkpoint()
            if outbox.full:
                await outbox.wait_writable()
    except trio.EndOfChannel:
        # Half of a conversation may be over: answers on the way still find their reader.
        clocks = session._manager.config.cleanup
        await drain([session], clocks.eof_grace, clocks, TerminationReason.CLIENT_CLOSED)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        session.terminate(TerminationReason.TRANSPORT_FAILED)


def _complaint(frame: BadFrame, config: SessionConfig) -> str:
    if frame is BadFrame.TOO_LONG:
        return f"message is larger than {config.limits.max_message_size} bytes"
    return "the stream ended in the middle of a message"


async def _turn_away(channel: BatchChannel, why: str) -> None:
    """Answer the first request of a client that gets no session, so that it hears why."""
    with suppress(trio.EndOfChannel, trio.BrokenResourceError, trio.ClosedResourceError):
        first, *_ = await channel.receive_batch()
        message = jsonrpc.decode(first) if isinstance(first, bytes) else None
        request_id = message.id if isinstance(message, jsonrpc.Request) else UNSET
        await channel.send_batch([jsonrpc.encode_error(request_id, INTERNAL_ERROR, why)])
