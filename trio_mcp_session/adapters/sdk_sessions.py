"""A connection of the official SDK in a session of this library (2024-11-05 to 2025-11-25)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, final

import attrs
import trio

from ..core.ids import SessionKind
from ..server.client_connection import client_of
from ..server.request_source import source_of
from .sdk_channels import SessionChannel
from .sdk_names import CONNECTION_MEMBERS

if TYPE_CHECKING:
    from ..protocol.jsonrpc import RequestId
    from ..sessions.session import Session
    from .sdk_errors import Errors
    from .sdk_server import SdkServer
    from .sdk_transports import TransportFacts


@final
@attrs.define(eq=False, weakref_slot=False)
class SdkSession:
    """Their connection of one session."""

    runner: Any
    """Runs their handlers for requests of the connection."""
    _result: Mapping[str, Any] | None

    def take_result(self) -> Mapping[str, Any]:
        """Return what their middleware answered to ``initialize``, and forget it."""
        result, self._result = self._result, None
        assert result is not None  # It is answered once.
        return result


@final
@attrs.define(eq=False)
class InitializeChannel:
    """The channel of ``initialize``: the client gets nothing before the answer."""

    request_id: RequestId
    message_metadata: Any
    _sdk_server: SdkServer
    cancel_requested: Any = attrs.field(init=False)
    can_send_request: Final = False

    def __attrs_post_init__(self) -> None:
        self.cancel_requested = self._sdk_server.sdk.event()

    @property
    def transport(self) -> Any:
        """Their description of the transport."""
        return self._sdk_server.sdk.transport(
            kind="stdio" if self.message_metadata is None else "streamable-http",
            can_send_request=False,
        )

    async def send_raw_request(self, method: str, params: Any, opts: Any = None) -> Any:
        """Refuse to ask the client. A checkpoint.

        Raises:
            Exception: Their ``NoBackChannelError``.
        """
        del params, opts
        await trio.lowlevel.checkpoint()
        raise self._sdk_server.sdk.no_channel(method)

    async def notify(self, method: str, params: Any, opts: Any = None) -> None:
        """Send nothing. A checkpoint."""
        del method, params, opts
        await trio.lowlevel.checkpoint()

    async def progress(
        self, progress: float, total: float | None = None, message: str | None = None
    ) -> None:
        """Send nothing. A checkpoint."""
        del progress, total, message
        await trio.lowlevel.checkpoint()


@asynccontextmanager
async def open_sdk_session(
    server: SdkServer, state: Any, session: Session, errors: Errors, facts: TransportFacts
) -> AsyncIterator[SdkSession | None]:
    """Open their connection for a session that opens, and close it at the end of the block.

    Entering runs their middleware of ``initialize``. If that refuses the client, ``initialize`` is
    answered with its error, the session ends, and the value is None.
    """
    client = client_of(session)
    pending = client.pending
    assert pending is not None  # Only `initialize` opens a session of a client.
    assert client.revision is not None
    sdk = server.sdk
    is_named = session.kind is SessionKind.HEADER
    connection = sdk.connection.for_loop(
        SessionChannel(session, errors), session_id=session.session_id if is_named else None
    )
    sdk.check_object(connection, CONNECTION_MEMBERS)
    runner = sdk.runner(server.server, connection, state)
    opened: SdkSession | None = None
    try:
        params = _initialize_params(session, client.revision.version)
        source = source_of(pending.sink)
        with facts.told(source, session.principal) as metadata:
            channel = InitializeChannel(pending.request_id, metadata, server)
            try:
                result = await runner.on_request(channel, "initialize", params)
            except Exception as error:
                refusal = errors.for_client(error)
                if refusal is None:
                    raise
                client.refuse_initialize(refusal)
            else:
                opened = SdkSession(runner, result)
        connection.protocol_version = client.revision.version
        yield opened
    finally:
        # Within the clean-up budget of the session.
        await connection.exit_stack.aclose()  # noqa: ASYNC102  # bounded by the session


def _initialize_params(session: Session, version: str) -> dict[str, Any]:
    """Return the parameters of ``initialize``, as far as the session keeps them."""
    client = session.client
    assert client is not None
    described = {"name": client.client_id, "version": client.client_version, **client.metadata}
    return {
        "protocolVersion": version,
        "capabilities": dict(client.capabilities),
        "clientInfo": described,
    }
