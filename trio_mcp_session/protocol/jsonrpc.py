"""JSON-RPC 2.0 messages: frames of bytes to values, and back.

Decoding never raises. Every frame becomes one of the message types below; `Invalid` says what is
wrong, and whether to answer it. A request's id keeps its exact type (``1`` is not ``"1"``, and
``true`` is not an id).

A well-formed message takes one pass through a typed decoder. Only a message that this decoder
refuses is decoded again, more slowly, to find out what is wrong with it.

Texts are Unicode: a lone surrogate becomes U+FFFD, in what is decoded and in what is encoded. A
byte order mark is skipped. A member that a message need not have may also be null.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, Literal, TypeAlias, TypeGuard

import msgspec
from msgspec import UNSET, UnsetType

from .error_codes import INVALID_REQUEST, PARSE_ERROR
from .lone_surrogates import on_replaced, replace_in_json, replace_in_value
from .message_size import CONTAINER, MEASURED_FROM, MEMBER, count_values, measure, nesting
from .unread_messages import NOTIFICATIONS, SCANNED, scan

RequestId: TypeAlias = int | str
"""A request's id. MCP forbids null; numbers with a fraction are refused.

``1.0`` is accepted: some languages write the number 1 like this.
"""

Params: TypeAlias = dict[str, Any]
"""A request's or notification's parameters: always an object in MCP."""


class Request(msgspec.Struct, frozen=True, gc=False, eq=False):  # noqa: PLW1641  # dicts have no hash
    """A message that must be answered. Two are equal if the first three fields are."""

    id: RequestId
    method: str
    params: Params

    frame: bytes = b""
    """The frame that it was decoded from; empty if it was not decoded."""

    cost: int = 0
    """Bytes that it takes in memory, by estimate."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Request) and (
            (self.id, self.method, self.params) == (other.id, other.method, other.params)
        )


class Notification(msgspec.Struct, frozen=True, gc=False, eq=False):  # noqa: PLW1641  # dicts have no hash
    """A message that must not be answered. Two are equal if the first two fields are."""

    id: ClassVar[UnsetType] = UNSET
    """It has none."""

    method: str
    params: Params

    frame: bytes = b""
    """As for `Request`."""

    cost: int = 0
    """As for `Request`."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Notification) and (
            (self.method, self.params) == (other.method, other.params)
        )


class Response(msgspec.Struct, frozen=True, gc=False):
    """An answer to a request of the server."""

    id: RequestId
    result: Any = UNSET
    error: Any = UNSET


class Invalid(msgspec.Struct, frozen=True, gc=False):
    """A frame, or a part of a batch, that is not a valid message."""

    what: str
    """What is wrong, without any text of the peer."""

    code: int = INVALID_REQUEST
    """The JSON-RPC error code for it."""

    id: RequestId | UnsetType = UNSET
    """The request's id, if it could be read."""

    answer: bool = True
    """Whether to answer it: not if it looks like a response or a notification."""

    answers: RequestId | UnsetType = UNSET
    """The id of the server's request that it answers, if it is a response that was not read."""

    setting: str = ""
    """The setting of `SessionLimits` that refuses it: ``max_values``, or nothing."""


Message: TypeAlias = Request | Notification | Response | Invalid


class Batch(msgspec.Struct, frozen=True, gc=False):
    """Messages in one array (2025-03-26 only: the caller has to check the revision)."""

    messages: list[Message]


class _Envelope(msgspec.Struct, gc=False):
    jsonrpc: Literal["2.0"]
    id: int | float | str | UnsetType = UNSET
    method: str | UnsetType | None = UNSET
    params: Params | UnsetType | None = UNSET
    result: Any = UNSET
    error: Any = UNSET


_decode_envelope: Final = msgspec.json.Decoder(_Envelope).decode
_decode_any: Final = msgspec.json.Decoder().decode
_decode_elements: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode

_MAX_EXACT: Final = 2**53
"""From here on, several whole numbers can have the same float."""

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


class _Head(msgspec.Struct, gc=False):
    """The members that identify a message. The others are skipped, so they take no memory."""

    id: int | float | str | UnsetType | None = UNSET
    method: str | UnsetType | None = UNSET


_decode_head: Final = msgspec.json.Decoder(_Head).decode


def decode_again(frame: bytes) -> Params:
    """Return the parameters of a message that was decoded before, from its frame."""
    size = len(frame)  # No limit is reached: they were checked.
    message = decode(frame, max_nesting=size, max_values=size)
    assert isinstance(message, (Request, Notification))
    return message.params


def decode(
    frame: bytes,
    *,
    max_nesting: int = 64,
    max_batch: int = 100,
    max_values: int = 100_000,
) -> Message | Batch:
    """Decode one frame.

    Args:
        frame: One message, or one array of messages, without framing.
        max_nesting: The most arrays and objects inside each other.
        max_batch: The most messages in one array.
        max_values: The most values in the frame: see `count_values`.

    Returns:
        The message, or a `Batch` for a non-empty array.
    """
    frame = frame.removeprefix(_BYTE_ORDER_MARK)
    # Counting is very fast. The depth is at most the number of opening brackets.
    brackets = frame.count(b"{") + frame.count(b"[")
    commas = frame.count(b",")
    # First: the next check takes long for so many brackets.
    if commas + brackets >= max_values and count_values(frame) > max_values:
        refused = _refuse_undecoded(frame, f"message has more than {max_values} values")
        return msgspec.structs.replace(refused, setting="max_values")
    if brackets > max_nesting and nesting(frame) > max_nesting:
        return _explain(frame, f"message is nested more than {max_nesting} deep")
    if not frame.startswith(b"{") and frame.lstrip(b" \t\r\n").startswith(b"["):
        return _decode_batch(frame, max_batch)
    return _decode_message(frame, commas, brackets)


def _decode_message(frame: bytes, commas: int, brackets: int) -> Message:
    try:
        message = _decode_envelope(frame)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        replaced = replace_in_json(frame)
        return _explain(frame) if replaced is None else _decode_element(replaced)
    request_id, method, params = message.id, message.method, message.params
    if isinstance(request_id, float):
        whole = read_id(request_id)
        if whole is None:
            return _explain(frame)
        request_id = whole
    if not isinstance(method, str):
        return _decode_response(message, request_id)
    has_result = message.result is not UNSET and message.result is not None
    if has_result or (message.error is not UNSET and message.error is not None):
        what = "message is a request and a response at once"
        return Invalid(what, id=request_id, answer=request_id is not UNSET)
    if not isinstance(params, dict):
        params = {}
    cost = len(frame) + MEMBER * commas + CONTAINER * brackets
    if cost >= MEASURED_FROM:
        cost = measure(request_id, method, params)
    if isinstance(request_id, UnsetType):
        return Notification(method, params, frame, cost)
    return Request(request_id, method, params, frame, cost)


def _decode_response(message: _Envelope, request_id: RequestId | UnsetType) -> Response | Invalid:
    """Read a message without a method. Some programs write null for the member that is absent."""
    result, error = message.result, message.error
    if error is None and result is not UNSET:
        error = UNSET
    elif result is None and error is not UNSET:
        result = UNSET
    if (result is UNSET) == (error is UNSET):
        is_empty = message.result in (UNSET, None) and message.error is UNSET
        if request_id is UNSET or not is_empty:
            return Invalid("message is neither request nor response", answer=False)
        return Invalid("request has no method", id=request_id)
    if isinstance(request_id, UnsetType):
        return Invalid("response has no id", answer=False)
    return Response(request_id, result, error)


def read_id(value: object) -> RequestId | None:
    """Return a decoded JSON value as an id, in its exact type; None if it is not a valid id."""
    if isinstance(value, float) and value.is_integer() and abs(value) < _MAX_EXACT:
        return int(value)
    if isinstance(value, (int, str)) and not isinstance(value, bool):
        return value
    return None


def _decode_batch(frame: bytes, max_batch: int) -> Batch | Invalid:
    try:
        elements = _decode_elements(frame)
    except RecursionError:
        return Invalid("message is nested too deeply")
    except (msgspec.DecodeError, UnicodeDecodeError):
        replaced = replace_in_json(frame)
        if replaced is not None:
            return _decode_batch(replaced, max_batch)
        return Invalid("message is not JSON", PARSE_ERROR)
    if not elements:
        return Invalid("batch is empty")
    if len(elements) > max_batch:
        return Invalid(f"batch holds more than {max_batch} messages")
    return Batch([_decode_element(bytes(element)) for element in elements])


def _decode_element(frame: bytes) -> Message:
    brackets = frame.count(b"{") + frame.count(b"[")
    return _decode_message(frame, frame.count(b","), brackets)


def unread(what: str, head: bytes, tail: bytes = b"", code: int = PARSE_ERROR) -> Invalid:
    """Return what stands for a message that was not decoded.

    Args:
        what: Why it was not decoded.
        head: The first bytes of the message.
        tail: The last bytes; empty if its end did not come.
        code: The error code.
    """
    found = scan(head, tail)
    request_id = read_id(found.request_id)
    answers = read_id(found.answers)
    return Invalid(
        what,
        code,
        id=UNSET if request_id is None else request_id,
        answer=found.answers is UNSET and not found.is_notification,
        answers=UNSET if answers is None else answers,
    )


def _refuse_undecoded(frame: bytes, what: str) -> Invalid:
    """Return what is wrong with a frame that would take too much memory, with its id if it has one.

    Its parameters are skipped.
    """
    try:
        head = _decode_head(frame)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        replaced = replace_in_json(frame)
        if replaced is not None:
            return _refuse_undecoded(replaced, what)
        return unread(what, frame[:SCANNED], frame[-SCANNED:], INVALID_REQUEST)
    message_id = read_id(head.id)
    known_id = UNSET if message_id is None else message_id
    if not isinstance(head.method, str):
        return Invalid(what, answer=False, answers=known_id)
    is_notification = head.id is UNSET or (
        head.id is None and head.method.startswith(NOTIFICATIONS)
    )
    return Invalid(what, id=known_id, answer=not is_notification)


def _explain(frame: bytes, what: str | None = None) -> Message:
    """Return what is wrong with a frame that is not a well-formed message.

    Args:
        frame: The frame.
        what: What is wrong with it if it is JSON, if that is known already.
    """
    try:
        value = _decode_any(frame)
    except RecursionError:
        what = what or "message is nested too deeply"
        return unread(what, frame[:SCANNED], frame[-SCANNED:], INVALID_REQUEST)
    except (msgspec.DecodeError, UnicodeDecodeError):
        replaced = None if what is None else replace_in_json(frame)
        if replaced is not None:
            return _explain(replaced, what)
        return unread("message is not JSON", frame[:SCANNED], frame[-SCANNED:])
    if not is_object(value):
        return Invalid(what or "message is not an object")
    return _explain_object(value, what)


def _explain_object(value: dict[str, Any], what: str | None) -> Message:
    """Return what is wrong with an object that is not a well-formed message."""
    method = value.get("method")
    message_id = read_id(value.get("id"))
    if method is None and ("result" in value or "error" in value):
        # A response that is refused for its size or depth ends the question that it answers.
        answers = UNSET if message_id is None or what is None else message_id
        return Invalid(what or "response is malformed", answer=False, answers=answers)
    if "id" not in value:
        return Invalid(what or "notification is malformed", answer=False)
    if message_id is None:
        if value["id"] is None and isinstance(method, str) and method.startswith(NOTIFICATIONS):
            del value["id"]  # Some programs write null for the member that is absent.
            return _decode_element(_encode(value)) if what is None else Invalid(what, answer=False)
        return Invalid("id must be a string or a whole number")
    if value.get("jsonrpc") != "2.0":
        what = 'jsonrpc must be "2.0"'
    elif not isinstance(method, str):
        what = "method must be a string"
    return Invalid(what or "params must be an object", id=message_id)


def is_object(value: object) -> TypeGuard[dict[str, Any]]:
    """Return whether a decoded JSON value is an object."""
    return isinstance(value, dict)


def _is_mapping(value: object) -> TypeGuard[Mapping[Any, Any]]:
    return isinstance(value, Mapping)


def _encode_other(value: object) -> object:
    if _is_mapping(value):
        return dict(value)
    raise TypeError(f"cannot encode {type(value).__name__} as JSON")


_encode: Final = msgspec.json.Encoder(enc_hook=_encode_other).encode

decode_json: Final = _decode_any
"""Decode JSON."""


def encode_json(value: object) -> bytes:
    """Encode mappings, sequences, attrs classes and msgspec structs as JSON.

    Lone surrogates in texts, such as those in names of files that are not UTF-8, become U+FFFD.
    """
    try:
        return _encode(value)
    except UnicodeEncodeError:
        encoded = _encode(replace_in_value(value, _encode_other))
        on_replaced.get()()
        return encoded


def encode_result(request_id: RequestId, result: object) -> bytes:
    """Encode the answer to a request.

    Args:
        request_id: The request's id, in its exact type.
        result: A mapping, an attrs object or a msgspec struct; None for ``{}``.

    Raises:
        TypeError: ``result`` does not encode to a JSON object.
        ValueError: ``result`` contains raw JSON with newlines.
        RecursionError: ``result`` contains itself, or is nested about a thousand deep.
    """
    body = b"{}" if result is None else encode_json(result)
    if not body.startswith(b"{"):
        raise TypeError(f"a result must be an object, not {type(result).__name__}")
    if b"\n" in body:
        raise ValueError("raw JSON in a result must not contain newlines: they separate messages")
    return b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (_encode(request_id), body)


def encode_error(
    request_id: RequestId | UnsetType, code: int, message: str, data: Any = None
) -> bytes:
    """Encode an error answer; without an id if the request's could not be read."""
    error: dict[str, Any] = {"code": code, "message": message}
    if data is not None:
        error["data"] = data
    if request_id is UNSET:
        return b'{"jsonrpc":"2.0","error":%b}' % encode_json(error)
    return b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (_encode(request_id), encode_json(error))


def encode_notification(method: str, params: Mapping[str, Any] | None = None) -> bytes:
    """Encode a notification."""
    message: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
    if params is not None:
        message["params"] = params
    return encode_json(message)


def encode_request(
    request_id: RequestId, method: str, params: Mapping[str, Any] | None = None
) -> bytes:
    """Encode a request."""
    message: dict[str, Any] = {"jsonrpc": "2.0", "id": request_id, "method": method}
    if params is not None:
        message["params"] = params
    return encode_json(message)


def encode_batch(frames: Sequence[bytes]) -> bytes:
    """Encode the answers to a batch as one array (2025-03-26)."""
    return b"[%b]" % b",".join(frames)
