"""``requestState``: what a client carries from one request to the next (2026-07-28, *MRTR*).

A client may send anything. What is opened here was sealed here, for the same principal, the same
method and the same parameters, and not too long ago. It is signed, and not encrypted.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import attrs
import msgspec

from ..core.errors import McpError
from .error_codes import INVALID_PARAMS
from .jsonrpc import encode_json

if TYPE_CHECKING:
    from ..core.identity import Principal
    from ..core.keys import RequestStateKeys

NOT_BOUND: Final = frozenset({"_meta", "inputResponses", "requestState"})
"""Parameters in which a request that comes again differs from the one before."""

_PARKED: Final = "p"
_CARRIED: Final = "c"


@attrs.frozen(kw_only=True)
class ParkedState:
    """Names a handler that waits in this process, and the round that its client may answer."""

    session_id: str
    round_number: int


@attrs.frozen(kw_only=True)
class CarriedState:
    """All that a handler needs to go on, in whatever process."""

    value: Any


def binding_of(principal: Principal | None, method: str, params: Mapping[str, Any]) -> bytes:
    """Return what a ``requestState`` is good for: who asks, and for what."""
    who = None if principal is None else [principal.subject, principal.issuer]
    what = {name: value for name, value in params.items() if name not in NOT_BOUND}
    return msgspec.json.encode([who, method, what], order="sorted")


def seal(
    keys: RequestStateKeys, state: ParkedState | CarriedState, binding: bytes, expires: float
) -> str:
    """Return a text that only `open_sealed` understands.

    Args:
        keys: What to sign it with.
        state: What to carry.
        binding: What it is good for.
        expires: Until when it is good, in seconds of a clock of one's own.

    Raises:
        TypeError: The carried value does not encode to JSON.
    """
    body = (
        [_PARKED, expires, state.session_id, state.round_number]
        if isinstance(state, ParkedState)
        else [_CARRIED, expires, state.value]
    )
    payload = urlsafe_b64encode(encode_json(body))
    signature = urlsafe_b64encode(keys.sign(_signed(payload, binding)))
    return f"{payload.decode()}.{signature.decode()}"


def open_sealed(
    keys: RequestStateKeys, text: object, binding: bytes, now: float
) -> ParkedState | CarriedState:
    """Return what was sealed.

    Args:
        keys: What it may have been signed with.
        text: What the client sent.
        binding: As for `seal`.
        now: The time, of the same clock.

    Raises:
        McpError: -32602, it was not sealed by one of the keys and for this, or is too old.
    """
    if not isinstance(text, str):
        raise _none_of_ours()
    payload, _, signature = text.encode("utf-8", "replace").partition(b".")
    if not keys.recognise(_decode(signature), _signed(payload, binding)):
        raise _none_of_ours()
    kind, expires, *rest = msgspec.json.decode(urlsafe_b64decode(payload))
    if now >= expires:
        raise McpError(INVALID_PARAMS, "requestState has expired: send the request without it")
    if kind == _PARKED:
        return ParkedState(session_id=rest[0], round_number=rest[1])
    return CarriedState(value=rest[0])


def _signed(payload: bytes, binding: bytes) -> bytes:
    # There is no line break in base64: nothing can move from one part to the other.
    return payload + b"\n" + binding


def _decode(signature: bytes) -> bytes:
    try:
        decoded = urlsafe_b64decode(signature)
    except ValueError:
        return b""
    # What is not base64 is skipped in there: there has to be one way only to write a signature.
    return decoded if urlsafe_b64encode(decoded) == signature else b""


def _none_of_ours() -> McpError:
    return McpError(INVALID_PARAMS, "requestState is none of this request")
