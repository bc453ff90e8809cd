"""What may be asked, and how answers are read."""

from __future__ import annotations

from typing import Any

import pytest

from trio_mcp_session import (
    Elicitation,
    ElicitResult,
    InputRequired,
    Question,
    Roots,
    Sampling,
)
from trio_mcp_session.protocol.revisions import V2025_11_25

SCHEMA: dict[str, Any] = {"type": "object", "properties": {}}
FORM = Elicitation("Who?", SCHEMA, key="who")


@pytest.mark.parametrize(
    "question, method, params",
    [
        (FORM, "elicitation/create", {"message": "Who?", "requestedSchema": SCHEMA}),
        (
            Sampling([{"role": "user"}], max_tokens=5, params={"temperature": 0, "maxTokens": 6}),
            "sampling/createMessage",
            {"messages": [{"role": "user"}], "maxTokens": 6, "temperature": 0},
        ),
        (Roots(), "roots/list", None),
    ],
)
def test_method_and_params_of_each_question(
    question: Question[Any], method: str, params: object
) -> None:
    assert (question._method, question._params(V2025_11_25)) == (method, params)


@pytest.mark.parametrize("question", [Elicitation("", {}), Sampling([], max_tokens=1), Roots()])
def test_question_has_no_key_by_default(question: Question[Any]) -> None:
    assert question.key is None


def test_answers_are_converted_to_their_types() -> None:
    content = {"name": "Ada"}
    assert FORM._read({"action": "accept", "content": content}) == ElicitResult(
        action="accept", content=content
    )
    assert FORM._read({"action": "decline", "content": content}).content is None
    assert FORM._read({"action": "accept", "content": []}).content is None
    assert Sampling([], max_tokens=1)._read({"model": "m"}) == {"model": "m"}
    assert Roots()._read({"roots": [{"uri": "file:///"}]}) == [{"uri": "file:///"}]


def test_question_is_a_base_class() -> None:
    base: Question[object] = Question()
    with pytest.raises(NotImplementedError):
        base._params(V2025_11_25)
    with pytest.raises(NotImplementedError):
        base._read({})


def test_input_required_has_questions_and_state() -> None:
    roots = Roots(key="roots")
    asked = InputRequired(FORM, roots, state=[1])
    assert asked.questions == {"who": FORM, "roots": roots}
    assert asked.state == [1]
    assert repr(asked) == "<InputRequired: who, roots>"
    assert InputRequired(roots).state is None
    assert repr(InputRequired(state=False)) == "<InputRequired: no question>"


def test_input_required_without_question_and_state_is_refused() -> None:
    with pytest.raises(ValueError, match="a question, or a state"):
        InputRequired()


def test_input_required_needs_keys() -> None:
    with pytest.raises(ValueError, match="each question of InputRequired needs a key"):
        InputRequired(FORM, Roots())
    with pytest.raises(ValueError, match="two questions have the key 'who'"):
        InputRequired(FORM, Roots(key="who"))
