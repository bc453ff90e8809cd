"""Results that ask the client, which then sends the request again (2026-07-28, *MRTR*)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

import attrs
import msgspec

from ..core.errors import McpError
from .error_codes import INVALID_PARAMS
from .jsonrpc import Params, encode_json, is_object

_ACTIONS: Final = ("accept", "decline", "cancel")


@attrs.frozen
class AskedFor:
    """One question: a request to the client, without an id."""

    method: str
    params: Mapping[str, Any] | None

    def encode(self) -> msgspec.Raw:
        """Encode it as JSON.

        Raises:
            TypeError: The parameters do not encode to JSON.
        """
        members: dict[str, Any] = {"method": self.method}
        if self.params is not None:
            members["params"] = self.params
        return msgspec.Raw(encode_json(members))


def input_required(
    questions: Mapping[str, msgspec.Raw], request_state: str | None
) -> dict[str, Any]:
    """Build the result that asks the client."""
    result: dict[str, Any] = {"resultType": "input_required"}
    if questions:
        result["inputRequests"] = questions
    if request_state is not None:
        result["requestState"] = request_state
    return result


def read_questions(result: Mapping[str, Any]) -> dict[str, tuple[str, Mapping[str, Any] | None]]:
    """Return the method and the parameters of each question in such a result, by key.

    Raises:
        TypeError: They are malformed.
    """
    questions: object = result.get("inputRequests") or {}
    if not is_object(questions):
        raise TypeError("inputRequests must be an object")
    found: dict[str, tuple[str, Mapping[str, Any] | None]] = {}
    for key, one in questions.items():
        method = one.get("method") if is_object(one) else None
        if not is_object(one) or not isinstance(method, str):
            raise TypeError(f"inputRequests[{key!r}] must have a method")
        found[key] = method, one.get("params")
    return found


def read_responses(params: Params) -> dict[str, Any]:
    """Return the answers in a request, by the keys of the questions.

    Raises:
        McpError: -32602, ``inputResponses`` is not an object.
    """
    responses = params.get("inputResponses")
    if responses is None:
        return {}
    if not is_object(responses):
        raise McpError(INVALID_PARAMS, "inputResponses must be an object")
    return dict(responses)


def is_answer(method: str, answer: object) -> bool:
    """Return whether this has the shape of a result of that method."""
    if not is_object(answer):
        return False
    if method == "elicitation/create":
        return answer.get("action") in _ACTIONS
    if method == "roots/list":
        roots: Any = answer.get("roots")
        return isinstance(roots, list) and all(map(is_object, cast("list[object]", roots)))
    return True


def check_answer(key: str, method: str, answer: object) -> None:
    """Check the shape of an answer in a request.

    Raises:
        McpError: -32602, it is not a result of that method.
    """
    if not is_answer(method, answer):
        raise McpError(INVALID_PARAMS, f"inputResponses[{key!r}] is not a valid answer to {method}")
