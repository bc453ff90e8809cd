"""Lone surrogates become U+FFFD, in both directions."""

from __future__ import annotations

import json
from typing import Any

import attrs
import msgspec
import pytest
from hypothesis import example, given, strategies as st

from trio_mcp_session.protocol.jsonrpc import encode_json
from trio_mcp_session.protocol.lone_surrogates import replace_in_json


def replaced(text: str) -> str:
    """The same, by UTF-16."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


pieces = st.sampled_from(
    [
        "\ud83d",
        "\ude00",
        "\U0001f600",
        "\\",
        '"',
        "u",
        "d83d",
        "\\ud83d",
        "a",
        "\n",
        "\x00",
        "\ufffd",
    ]
)


@given(st.lists(pieces).map("".join))
@example("\\\ud83d")
@example("\\\\ud83d\ude00")
@example("\ud83d\ud83d\ude00\ude00")
def test_each_lone_surrogate_of_a_json_text_is_replaced(text: str) -> None:
    frame = json.dumps({text: [text]}).encode()
    fixed = replace_in_json(frame)
    if fixed is None:
        assert replaced(text) == text.encode("utf-16", "surrogatepass").decode("utf-16")
        fixed = frame
    assert msgspec.json.decode(fixed) == {replaced(text): [replaced(text)]}
    assert replace_in_json(fixed) is None


@given(st.lists(pieces).map("".join))
def test_each_lone_surrogate_of_a_value_is_replaced(text: str) -> None:
    assert msgspec.json.decode(encode_json({text: (text, [text])})) == {
        replaced(text): [replaced(text), [replaced(text)]]
    }


@attrs.frozen
class Point:
    name: str
    more: object = None


class Named(msgspec.Struct, rename="camel"):
    file_name: str
    raw: msgspec.Raw = msgspec.Raw(b'{"a":1}')


@pytest.mark.parametrize(
    "value, expected",
    [
        (
            Point("\udcff", {"a": Point("b")}),
            {"name": "\ufffd", "more": {"a": {"name": "b", "more": None}}},
        ),
        (Named("\udcff"), {"fileName": "\ufffd", "raw": {"a": 1}}),
        (
            [Named("\udcff"), Point("c")],
            [{"fileName": "\ufffd", "raw": {"a": 1}}, {"name": "c", "more": None}],
        ),
        ({"a": "\udcff", "raw": msgspec.Raw(b"[1]")}, {"a": "\ufffd", "raw": [1]}),
        (
            {"a": "\udcff", 1: {2.5, None} - {None}, "c": b"d", "e": True},
            {"a": "\ufffd", "1": [2.5], "c": "ZA==", "e": True},
        ),
        (
            Point("\udcff", {"x": type("Other", (dict,), {})(a="\udcff")}),
            {"name": "\ufffd", "more": {"x": {"a": "\ufffd"}}},
        ),
    ],
)
def test_all_values_that_encode_to_json_can_have_lone_surrogates(value: Any, expected: Any) -> None:
    assert msgspec.json.decode(encode_json(value)) == expected


def test_a_value_that_does_not_encode_is_refused() -> None:
    with pytest.raises(TypeError, match="cannot encode object as JSON"):
        encode_json(["\udcff", object()])
    loop: list[Any] = ["\udcff"]
    loop.append(loop)
    with pytest.raises(RecursionError):
        encode_json(loop)
