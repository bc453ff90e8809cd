"""What differs between the eras of the protocol for a test client: `LegacyEra`, `ModernEra`.

The calls of a client are the same. An era connects it, prepares its requests, recognizes the
questions in answers, sets the log level and subscribes to changes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Protocol, final

import attrs
import trio

from ..protocol.envelope import (
    CLIENT_CAPABILITIES,
    CLIENT_INFO,
    LOG_LEVEL,
    PROTOCOL_VERSION,
)
from ..protocol.methods import DISCOVER
from ..protocol.revisions import V2026_07_28
from ..protocol.subscription_messages import LISTS
from ..protocol.tasks_extension import TASKS

if TYPE_CHECKING:
    from ..core.log_level import LogLevel
    from .client import Client


_CAPABILITIES: Final[Mapping[str, str]] = {
    "elicitation/create": "elicitation",
    "sampling/createMessage": "sampling",
    "roots/list": "roots",
}
"""The capability of a client that answers a method."""


def capabilities_of(answerers: Iterable[str], *, tasks: bool = False) -> dict[str, dict[str, Any]]:
    """Return the capabilities of a client that answers these methods.

    Args:
        answerers: The methods.
        tasks: Whether it knows tasks (2026-07-28).
    """
    found: dict[str, dict[str, Any]] = {
        _CAPABILITIES[method]: {} for method in answerers if method in _CAPABILITIES
    }
    return {**found, "extensions": {TASKS: {}}} if tasks else found


def with_envelope(
    params: Mapping[str, Any] | None,
    capabilities: Mapping[str, Any],
    members: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """Return the parameters of a stateless request. What ``_meta`` has already is kept.

    Args:
        params: The parameters of the method.
        capabilities: The capabilities of the client.
        members: The other members of the envelope.
    """
    params = {} if params is None else params
    meta = {
        PROTOCOL_VERSION: V2026_07_28.version,
        CLIENT_CAPABILITIES: dict(capabilities),
        **members,
        **params.get("_meta", {}),
    }
    return {**params, "_meta": meta}


class ClientEra(Protocol):
    """What differs between the eras, for a client."""

    async def connect(self, client: Client[Any], name: str) -> None:
        """Make the handshake, or ask for what the server offers. A checkpoint."""
        ...

    def prepare(self, params: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """Return the parameters of a request or notification as they are sent."""
        ...

    def questions(self, answer: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Return the result if it asks the client something; None for any other answer."""
        ...

    async def set_log_level(self, client: Client[Any], level: LogLevel) -> None:
        """Choose the least severity of log messages. A checkpoint."""
        ...

    def subscribe(
        self, client: Client[Any], uris: Sequence[str], lists: Sequence[str]
    ) -> AbstractAsyncContextManager[None]:
        """Subscribe to changes for the length of a block."""
        ...


def check_offered(
    capabilities: Mapping[str, Any], uris: Sequence[str], lists: Sequence[str]
) -> None:
    """Check that a server notifies of these changes.

    Raises:
        ValueError: The protocol does not have such a list.
        LookupError: The server did not declare the capability.
    """
    for feature in lists:
        if feature not in LISTS:
            raise ValueError(f"lists are {', '.join(LISTS)}, not {feature!r}")
        if not capabilities.get(feature, {}).get("listChanged"):
            raise LookupError(
                f"the server does not notify of changes of the list of {feature}: "
                f"its capabilities are {dict(capabilities)}"
            )
    if uris and not capabilities.get("resources", {}).get("subscribe"):
        raise LookupError(
            f"the server does not notify of changes of resources, such as {uris[0]!r}: "
            f"its capabilities are {dict(capabilities)}; for a Router, resource_subscriptions=True"
        )


@final
@attrs.frozen(kw_only=True)
class LegacyEra:
    """Up to 2025-11-25: a handshake, then requests of both sides."""

    version: str | None
    """The revision to ask for; None to leave the handshake to the test."""

    capabilities: Mapping[str, Any] | None
    """The capabilities to declare; None for those with an answering function."""

    async def connect(self, client: Client[Any], name: str) -> None:
        """See `ClientEra.connect`."""
        if self.version is not None:
            await client.initialize(self.version, name=name, capabilities=self.capabilities)

    def prepare(self, params: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """See `ClientEra.prepare`: unchanged."""
        return params

    def questions(self, answer: Mapping[str, Any]) -> Mapping[str, Any] | None:  # noqa: ARG002
        """See `ClientEra.questions`: the server sends requests instead."""
        return None

    async def set_log_level(self, client: Client[Any], level: LogLevel) -> None:
        """See `ClientEra.set_log_level`: a request."""
        await client.request("logging/setLevel", {"level": level})

    @asynccontextmanager
    async def subscribe(
        self, client: Client[Any], uris: Sequence[str], lists: Sequence[str]
    ) -> AsyncIterator[None]:
        """See `ClientEra.subscribe`: a request for each resource; changed lists come unasked."""
        check_offered(client.server_capabilities, uris, lists)
        await trio.lowlevel.checkpoint()
        for uri in uris:
            await client.request("resources/subscribe", {"uri": uri})
        yield
        for uri in uris:
            await client.request("resources/unsubscribe", {"uri": uri})


@final
@attrs.define(kw_only=True)
class ModernEra:
    """2026-07-28: each request has an envelope, and retries answer questions."""

    capabilities: Mapping[str, Any] | None
    """The capabilities to declare; None for those with an answering function, and tasks."""

    tasks: bool
    """Whether to declare the tasks extension, if ``capabilities`` are None."""

    _info: Mapping[str, Any] = attrs.field(factory=dict[str, Any], init=False)
    _declared: Mapping[str, Any] = attrs.field(factory=dict[str, Any], init=False)
    _log_level: LogLevel | None = attrs.field(default=None, init=False)

    async def connect(self, client: Client[Any], name: str) -> None:
        """See `ClientEra.connect`: ``server/discover``."""
        self._info = {"name": name, "version": "1"}
        declared = self.capabilities
        if declared is None:
            declared = capabilities_of(client._answerers, tasks=self.tasks)
        self._declared = declared
        client._note_discover(await client.request(DISCOVER))

    def prepare(self, params: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """See `ClientEra.prepare`: with the envelope."""
        level = {} if self._log_level is None else {LOG_LEVEL: self._log_level}
        return with_envelope(params, self._declared, {CLIENT_INFO: self._info, **level})

    def questions(self, answer: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """See `ClientEra.questions`."""
        result: dict[str, Any] = answer.get("result", {})
        return result if result.get("resultType") == "input_required" else None

    async def set_log_level(self, client: Client[Any], level: LogLevel) -> None:  # noqa: ARG002
        """See `ClientEra.set_log_level`: each request names it from now on."""
        self._log_level = level
        await trio.lowlevel.checkpoint()

    @asynccontextmanager
    async def subscribe(
        self, client: Client[Any], uris: Sequence[str], lists: Sequence[str]
    ) -> AsyncIterator[None]:
        """See `ClientEra.subscribe`: one request, which is open for as long as the block."""
        check_offered(client.server_capabilities, uris, lists)
        wanted: dict[str, Any] = {LISTS[feature]: True for feature in lists}
        if uris:
            wanted["resourceSubscriptions"] = list(uris)
        async with client._listen(wanted):
            yield
