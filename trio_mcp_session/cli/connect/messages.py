"""What the bridge has to know of a message to carry it over HTTP.

Only these members are decoded: the rest of a message takes no memory but its bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import attrs
import msgspec
from msgspec import UNSET, UnsetType

from ...protocol.envelope import PROTOCOL_VERSION
from ...protocol.header_mirroring import named_parameter
from ...protocol.jsonrpc import is_object

Id: TypeAlias = int | float | str
"""The id of a request, in its exact type."""


class _Message(msgspec.Struct):
    id: Id | UnsetType | None = UNSET
    method: str | UnsetType = UNSET
    params: msgspec.Raw | UnsetType = UNSET


class _Params(msgspec.Struct):
    meta: msgspec.Raw | UnsetType = msgspec.field(name="_meta", default=UNSET)
    name: Any = None
    uri: Any = None
    task_id: Any = msgspec.field(name="taskId", default=None)
    request_id: Id | None = msgspec.field(name="requestId", default=None)
    arguments: msgspec.Raw | UnsetType = UNSET


class _Meta(msgspec.Struct):
    version: str | UnsetType = msgspec.field(name=PROTOCOL_VERSION, default=UNSET)


class _Initialized(msgspec.Struct):
    protocol_version: str = msgspec.field(name="protocolVersion")


class _Answer(msgspec.Struct):
    result: msgspec.Raw | UnsetType = UNSET
    error: Any = UNSET


class _Tool(msgspec.Struct):
    name: str
    schema: Any = msgspec.field(name="inputSchema", default=None)


class _Tools(msgspec.Struct):
    tools: list[_Tool]
    cursor: str | None = msgspec.field(name="nextCursor", default=None)


BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"

_MESSAGE: Final = msgspec.json.Decoder(_Message)
_BATCH: Final = msgspec.json.Decoder(list[_Message])
_PARAMS: Final = msgspec.json.Decoder(_Params)
_META: Final = msgspec.json.Decoder(_Meta)
_ANSWER: Final = msgspec.json.Decoder(_Answer)
_INITIALIZED: Final = msgspec.json.Decoder(_Initialized)
_TOOLS: Final = msgspec.json.Decoder(_Tools)


class NotAMessage(ValueError):
    """A frame is not a message of JSON-RPC."""


@attrs.frozen(kw_only=True)
class HostMessage:
    """A message of the host, or a batch of them."""

    frame: bytes = attrs.field(repr=False)
    """The message as the host sent it."""

    ids: tuple[Id, ...] = ()
    """The ids under which answers are expected; none for notifications and answers."""

    method: str = ""
    """The method of a request or notification."""

    version: str | None = None
    """The protocol version that the message itself names (2026-07-28); None for older ones."""

    name: object = None
    """What the header ``Mcp-Name`` repeats."""

    cancels: Id | None = None
    """The id of the request that it cancels."""

    meta: bytes = b""
    """The envelope of a request of 2026-07-28."""

    arguments: bytes = attrs.field(default=b"", repr=False)
    """The arguments of a tool."""


def read_host_message(frame: bytes) -> HostMessage:
    """Read what the bridge has to know of a message of the host.

    Raises:
        NotAMessage: It is not a message.
    """
    frame = frame.removeprefix(BYTE_ORDER_MARK)
    try:
        if frame.lstrip()[:1] == b"[":
            batch = _BATCH.decode(frame)
            return HostMessage(frame=frame, ids=tuple(i for one in batch for i in _ids(one)))
        message = _MESSAGE.decode(frame)
        method = "" if message.method is UNSET else message.method
        try:
            params = _Params() if message.params is UNSET else _PARAMS.decode(message.params)
            meta = _Meta() if params.meta is UNSET else _META.decode(params.meta)
        except msgspec.ValidationError:
            params, meta = _Params(), _Meta()  # The server finds out what is wrong with them.
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NotAMessage(str(error)) from error
    version = None if meta.version is UNSET else meta.version
    return HostMessage(
        frame=frame,
        ids=_ids(message),
        method=method,
        version=version,
        name={"name": params.name, "uri": params.uri, "taskId": params.task_id}.get(
            named_parameter(method) or ""
        ),
        cancels=params.request_id if method == "notifications/cancelled" else None,
        meta=b"" if params.meta is UNSET else bytes(params.meta),
        arguments=b"" if params.arguments is UNSET else bytes(params.arguments),
    )


def _ids(message: _Message) -> tuple[Id, ...]:
    if message.method is UNSET or message.id is UNSET or message.id is None:
        return ()
    return (message.id,)


def answered_ids(frame: bytes) -> Sequence[Id | None]:
    """Return the ids of the answers in a message of the server, which may be a batch.

    None stands for an answer without an id: its request could not be read.

    Raises:
        NotAMessage: It is not a message.
    """
    try:
        whole = _BATCH.decode(frame) if frame.lstrip()[:1] == b"[" else [_MESSAGE.decode(frame)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NotAMessage(str(error)) from error
    return [None if one.id is UNSET else one.id for one in whole if one.method is UNSET]


def one_line(frame: bytes) -> bytes:
    """Return a message without newlines: in JSON they are only between tokens."""
    return frame.replace(b"\r", b" ").replace(b"\n", b" ")


def error_of(frame: bytes) -> dict[str, Any] | None:
    """Return the error of an answer; None if it is not an answer with an error."""
    try:
        error = _ANSWER.decode(frame).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return error if is_object(error) and isinstance(error.get("code"), int) else None


def protocol_version_of(frame: bytes) -> str | None:
    """Return the protocol version in the answer to ``initialize``; None if it has none."""
    try:
        result = _ANSWER.decode(frame).result
        return None if result is UNSET else _INITIALIZED.decode(result).protocol_version
    except msgspec.DecodeError:
        return None


def tools_of(frame: bytes) -> tuple[dict[str, Any], str | None]:
    """Return the schemas of tools in an answer, by name, and the cursor of the next page."""
    try:
        result = _ANSWER.decode(frame).result
        tools = _Tools([]) if result is UNSET else _TOOLS.decode(result)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        tools = _Tools([])
    return {tool.name: tool.schema for tool in tools.tools}, tools.cursor
