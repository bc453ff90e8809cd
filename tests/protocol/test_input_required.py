"""Results that ask, and the retries that answer (2026-07-28, *MRTR*)."""

from __future__ import annotations

from itertools import product
from typing import Any

import msgspec
import pytest
from hypothesis import given

from tests import strategies
from trio_mcp_session import McpError
from trio_mcp_session.protocol.input_required import (
    AskedFor,
    check_answer,
    input_required,
    is_answer,
    read_responses,
)
from trio_mcp_session.protocol.methods import MAY_ASK

ELICIT, SAMPLE, ROOTS = "elicitation/create", "sampling/createMessage", "roots/list"


def test_methods_that_may_ask() -> None:
    assert {"tools/call", "prompts/get", "resources/read"} == MAY_ASK


def test_a_question_is_a_request_without_an_id() -> None:
    asked = AskedFor(ELICIT, {"message": "Who?"})
    assert msgspec.json.decode(asked.encode()) == {"method": ELICIT, "params": {"message": "Who?"}}
    assert msgspec.json.decode(AskedFor(ROOTS, None).encode()) == {"method": ROOTS}
    assert msgspec.json.decode(AskedFor(ROOTS, {}).encode()) == {"method": ROOTS, "params": {}}


def test_question_that_does_not_encode_raises() -> None:
    with pytest.raises(TypeError, match="object"):
        AskedFor(ELICIT, {"message": object()}).encode()


def test_input_required_result_members() -> None:
    question = AskedFor(ROOTS, None).encode()
    both = input_required({"a": question}, "state")
    assert msgspec.json.decode(msgspec.json.encode(both)) == {
        "resultType": "input_required",
        "inputRequests": {"a": {"method": ROOTS}},
        "requestState": "state",
    }
    assert input_required({}, "state").keys() == {"resultType", "requestState"}
    assert input_required({"a": question}, None).keys() == {"resultType", "inputRequests"}


@given(responses=strategies.json_objects)
def test_responses_are_read_as_they_came(responses: dict[str, Any]) -> None:
    params = {"inputResponses": dict(responses)}
    read = read_responses(params)
    assert read == responses
    read.clear()  # Code that takes an answer changes no parameters.
    assert params == {"inputResponses": responses}


def test_request_without_input_responses() -> None:
    assert read_responses({}) == {}
    assert read_responses({"inputResponses": None}) == {}


@pytest.mark.parametrize("wrong", [[], "text", 0, True])
def test_input_responses_must_be_an_object(wrong: object) -> None:
    with pytest.raises(McpError, match="must be an object") as caught:
        read_responses({"inputResponses": wrong})
    assert caught.value.code == -32602


ANSWERS: list[tuple[str, Any]] = [
    (ELICIT, {"action": "accept", "content": {"name": "Ada"}}),
    (ELICIT, {"action": "accept"}),
    (ELICIT, {"action": "decline"}),
    (ELICIT, {"action": "cancel", "_meta": {}}),
    (SAMPLE, {}),
    (SAMPLE, {"role": "assistant", "content": [], "model": "m"}),
    (ROOTS, {"roots": []}),
    (ROOTS, {"roots": [{"uri": "file:///"}, {}]}),
]
NO_ANSWERS: list[tuple[str, Any]] = [
    *product((ELICIT, SAMPLE, ROOTS), (None, [], "text", 1, True)),
    (ELICIT, {}),
    (ELICIT, {"action": None}),
    (ELICIT, {"action": "Accept"}),
    (ELICIT, {"action": ["accept"]}),
    (ELICIT, {"action": {}}),
    (ELICIT, {"content": {}}),
    (ROOTS, {}),
    (ROOTS, {"roots": None}),
    (ROOTS, {"roots": {}}),
    (ROOTS, {"roots": [{}, "file:///"]}),
    (ROOTS, {"roots": [None]}),
]


@pytest.mark.parametrize("method, answer", ANSWERS)
def test_valid_answers(method: str, answer: object) -> None:
    assert is_answer(method, answer)
    check_answer("key", method, answer)


@pytest.mark.parametrize("method, answer", NO_ANSWERS)
def test_invalid_answer_is_invalid_params(method: str, answer: object) -> None:
    assert not is_answer(method, answer)
    with pytest.raises(McpError) as caught:
        check_answer("key", method, answer)
    assert caught.value.code == -32602
    assert caught.value.message == f"inputResponses['key'] is not a valid answer to {method}"
