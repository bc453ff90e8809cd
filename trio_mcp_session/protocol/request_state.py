"""``requestState``: state that a client sends back with its next request (2026-07-28, *MRTR*).

A client may send any text. It is accepted only if it was sealed here, for the same principal, the
same method and the same parameters, and has not expired. It is signed, but not encrypted.
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
    from ..core.signing_keys import RequestStateKeys

NOT_BOUND: Final = frozenset({"_meta", "inputResponses", "requestState"})
"""Parameters that may change when a request is sent again."""

_PARKED: Final = "p"
_CARRIED: Final = "c"


@attrs.frozen(kw_only=True)
class ParkedState:
    """Identifies a parked handler of this process, and the round that its client may answer."""

    session_id: str
    round_number: int


@attrs.frozen(kw_only=True)
class CarriedState:
    """The state of a handler that is called again, in any process."""

    value: Any


def binding_of(principal: Principal | None, method: str, params: Mapping[str, Any]) -> bytes:
    """Return what a ``requestState`` is valid for: the principal, the method and the parameters."""
    who = None if principal is None else [principal.subject, principal.issuer]
    what = {name: value for name, value in params.items() if name not in NOT_BOUND}
    return msgspec.json.encode([who, method, what], order="sorted")


def seal(
    keys: RequestStateKeys,
    state: ParkedState | CarriedState,
    binding: bytes,
    expires: float,
    node: str | None = None,
) -> str:
    """Return a state as signed text, which `open_sealed` reads.

    Args:
        keys: The keys to sign it with.
        state: The state.
        binding: What it is valid for: see `binding_of`.
        expires: When it expires, in seconds of the caller's clock.
        node: The label of the process that has the handler: the text begins with it, and it is
            signed as well. None for a state that any process can continue with.

    Raises:
        TypeError: The value of the state does not encode to JSON.
    """
    body = (
        [_PARKED, expires, state.session_id, state.round_number]
        if isinstance(state, ParkedState)
        else [_CARRIED, expires, state.value]
    )
    signed = urlsafe_b64encode(encode_json(body))
    if node is not None:
        signed = b"%b.%b" % (node.encode(), signed)
    signature = urlsafe_b64encode(keys.sign(_bound(signed, binding)))
    return f"{signed.decode()}.{signature.decode()}"


def open_sealed(
    keys: RequestStateKeys, text: object, binding: bytes, now: float
) -> ParkedState | CarriedState:
    """Return the state in a text of `seal`.

    Args:
        keys: The keys that may have signed it.
        text: The value that the client sent.
        binding: As for `seal`.
        now: The time of the same clock.

    Raises:
        McpError: -32602, it was not signed with one of the keys and this binding, or has expired.
    """
    if not isinstance(text, str):
        raise _no_match()
    signed, _, signature = text.encode("utf-8", "replace").rpartition(b".")
    if not keys.recognise(_decode(signature), _bound(signed, binding)):
        raise _no_match()
    payload = signed.rpartition(b".")[2]  # Behind the node, if there is one.
    kind, expires, *rest = msgspec.json.decode(urlsafe_b64decode(payload))
    if now >= expires:
        raise McpError(INVALID_PARAMS, "requestState has expired: send the request without it")
    if kind == _PARKED:
        return ParkedState(session_id=rest[0], round_number=rest[1])
    return CarriedState(value=rest[0])


def _bound(signed: bytes, binding: bytes) -> bytes:
    # Neither Base64 nor a label has a line break, so the two parts cannot be split in another way.
    return signed + b"\n" + binding


def _decode(signature: bytes) -> bytes:
    try:
        decoded = urlsafe_b64decode(signature)
    except ValueError:
        return b""
    # The decoder skips other characters. Only one spelling of a signature is accepted.
    return decoded if urlsafe_b64encode(decoded) == signature else b""


def _no_match() -> McpError:
    return McpError(INVALID_PARAMS, "requestState does not match this request")
