from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import example, given, strategies as st

from tests import strategies
from trio_mcp_session import McpError
from trio_mcp_session.protocol.header_agreement import (
    NAME_OF,
    check_agreement,
    check_parameters,
    decode_value,
    mismatch,
)
from trio_mcp_session.protocol.jsonrpc import Request

LATEST = "2026-07-28"


def wrapped(text: str) -> str:
    """Return what a client makes of text that no header can carry as it is."""
    return f"=?base64?{base64.b64encode(text.encode()).decode()}?="


def as_header(value: object) -> str:
    """Return the header that a client sends for a value (*Value Encoding*)."""
    if not isinstance(value, str):
        return json.dumps(value)
    plain = value.isascii() and value.isprintable() and value == value.strip(" ")
    looks_wrapped = value.startswith("=?base64?") and value.endswith("?=")
    return value if plain and not looks_wrapped else wrapped(value)


def disagrees(**arguments: Any) -> str | None:
    """Return the header that does not agree, or None."""
    request = Request(
        1, arguments.pop("method", "tools/call"), arguments.pop("params", {"name": "t"})
    )
    headers = {
        "header_version": LATEST,
        "header_method": request.method,
        "header_name": "t",
        **arguments,
    }
    try:
        check_agreement(request, LATEST, **headers)
    except McpError as error:
        return header_of(error)
    return None


def header_of(error: McpError) -> str:
    """Return the header that an error names: it says no more than that."""
    assert (error.code, error.data) == (-32020, None)
    before, _, after = error.message.partition(" does not agree with ")
    assert before.startswith("Header mismatch: ")
    assert after == "the message"
    return before.removeprefix("Header mismatch: ")


def test_mismatch_error_names_the_header() -> None:
    error = mismatch("Mcp-Name")
    assert error.code == -32020
    assert error.message == "Header mismatch: Mcp-Name does not agree with the message"


# The headers of every request.


def test_headers_that_agree_are_accepted() -> None:
    assert disagrees() is None


@pytest.mark.parametrize("version", [None, "", "2025-11-25", "2026-07-28, 2026-07-28", "2026"])
def test_protocol_version_header_must_agree(version: str | None) -> None:
    assert disagrees(header_version=version) == "MCP-Protocol-Version"


@pytest.mark.parametrize(
    "method",
    [None, "", "TOOLS/CALL", "Tools/Call", "prompts/get", "tools/call, tools/call", "tools/call "],
)
def test_method_header_must_agree(method: str | None) -> None:
    assert disagrees(header_method=method) == "Mcp-Method"


def test_version_and_method_headers_are_not_base64() -> None:
    assert disagrees(header_version=wrapped(LATEST)) == "MCP-Protocol-Version"
    assert disagrees(header_method=wrapped("tools/call")) == "Mcp-Method"


@pytest.mark.parametrize("name", [None, "", "T", "u", "t, t", "=?base64?dQ==?=", "=?base64?t?="])
def test_name_header_must_agree(name: str | None) -> None:
    assert disagrees(header_name=name) == "Mcp-Name"


def test_first_mismatch_is_reported() -> None:
    """Of several that disagree, the one that decides most."""
    wrong: dict[str, Any] = {"header_version": None, "header_method": None, "header_name": None}
    found = []
    while (header := disagrees(**wrong)) is not None:
        found.append(header)
        del wrong[next(iter(wrong))]
    assert found == ["MCP-Protocol-Version", "Mcp-Method", "Mcp-Name"]


def test_methods_with_a_name_header() -> None:
    assert NAME_OF == {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}


@pytest.mark.parametrize("method, parameter", list(NAME_OF.items()))
def test_each_name_is_in_its_place(method: str, parameter: str) -> None:
    both = {"name": "n", "uri": "n"}
    assert disagrees(method=method, params=both, header_name="n") is None
    both[parameter] = "m"
    assert disagrees(method=method, params=both, header_name="n") == "Mcp-Name"
    assert disagrees(method=method, params=both, header_name=None) == "Mcp-Name"


@pytest.mark.parametrize("name", [None, "anything", "é", "=?base64?!?="])
def test_methods_without_a_name_do_not_need_the_header(name: str | None) -> None:
    params = {"name": "t", "uri": "t"}
    for method in ("tools/list", "server/discover", "completion/complete", "x/y"):
        assert disagrees(method=method, params=params, header_name=name) is None


@pytest.mark.parametrize("params", [{}, {"name": None}, {"name": 7}, {"name": ["t"]}])
def test_message_without_name_is_not_a_header_mismatch(params: dict[str, Any]) -> None:
    """It is refused for what it is, later: no header could agree with it."""
    for name in (None, "t", "=?base64?!?="):
        assert disagrees(params=params, header_name=name) is None


@pytest.mark.parametrize(
    "name",
    [
        "my-tool-name",
        "my_tool_name",
        "file:///path/to/file%20name.txt",
        "https://example.com/resource?id=123",
        "with inner spaces",
        "日本語",
        " padded ",
        "line1\r\nline2",
        "=?base64?literal?=",
        "",
    ],
)
def test_any_name_agrees_if_encoded(name: str) -> None:
    params = {"name": name}
    assert disagrees(params=params, header_name=as_header(name)) is None
    # Wrapping what needs none is fine, too.
    assert disagrees(params=params, header_name=wrapped(name)) is None


# Base64 between its markers.


@pytest.mark.parametrize(
    "header, text",
    [
        # The examples of the specification.
        ("us-west1", "us-west1"),
        ("=?base64?SGVsbG8sIOS4lueVjA==?=", "Hello, 世界"),
        ("=?base64?IHBhZGRlZCA=?=", " padded "),
        ("=?base64?bGluZTEKbGluZTI=?=", "line1\nline2"),
        ("=?base64?bGluZTENCmxpbmUy?=", "line1\r\nline2"),
        ("=?base64?CWluZGVudGVk?=", "\tindented"),
        ("=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?=", "=?base64?literal?="),
        ("=?base64?5pel5pys6Kqe?=", "日本語"),
        ("=?base64?SGVsbG8=?=", "Hello"),
        # All of the alphabet, and nothing at all.
        ("=?base64?fn5+Pz8/?=", "~~~???"),
        ("=?base64??=", ""),
        # One marker, or markers of another kind, are text.
        ("SGVsbG8=", "SGVsbG8="),
        ("=?base64?SGVsbG8=", "=?base64?SGVsbG8="),
        ("SGVsbG8=?=", "SGVsbG8=?="),
        ("=?BASE64?SGVsbG8=?=", "=?BASE64?SGVsbG8=?="),
        ("=?Base64?SGVsbG8=?=", "=?Base64?SGVsbG8=?="),
        ("=?base64!SGVsbG8=?=", "=?base64!SGVsbG8=?="),
        ("=?utf-8?B?SGVsbG8=?=", "=?utf-8?B?SGVsbG8=?="),
        ("=?base64?SGVsbG8=?= ", "=?base64?SGVsbG8=?= "),
        (" =?base64?SGVsbG8=?=", " =?base64?SGVsbG8=?="),
        ("=?base64?", "=?base64?"),
        ("?=", "?="),
        ("", ""),
        # What a header may have in it besides.
        ("in \t between ~!", "in \t between ~!"),
    ],
)
def test_decode_header_value(header: str, text: str) -> None:
    assert decode_value("Mcp-Name", header) == text


@pytest.mark.parametrize(
    "encoded",
    [
        # The examples of the specification.
        "SGVsbG8",
        "SGVs!!!bG8=",
        # Padding: too little, too much, in front, in the middle, or alone.
        "YQ",
        "YQ=",
        "YQ===",
        "YWJj=",
        "YWJj====",
        "=YQ=",
        "YQ==YQ==",
        "Y=Q=",
        "=",
        "====",
        # One digit is not a byte.
        "Y",
        "YWJjY",
        # Another alphabet, and white space in it.
        "fn5-Pz8_",
        "YQ ==",
        " YQ==",
        "YQ== ",
        "Y\tQ==",
        # The bits that padding leaves over are not zeros: some would decode it, and some not.
        "YR==",
        "YWJ=",
        # It stands for no text.
        "/w==",
        "gA==",
        "7aCA",
        "wIA=",
        # Markers within markers.
        "=?base64?YQ==?=",
    ],
)
def test_invalid_base64_is_a_mismatch(encoded: str) -> None:
    with pytest.raises(McpError) as caught:
        decode_value("Mcp-Param-Region", f"=?base64?{encoded}?=")
    assert header_of(caught.value) == "Mcp-Param-Region"
    # What the decoder says holds what it was given.
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_overlapping_base64_markers_are_a_mismatch() -> None:
    with pytest.raises(McpError):
        decode_value("Mcp-Name", "=?base64?=")


@pytest.mark.parametrize(
    "character", ["é", "\xa0", "\x00", "\x1f", "\x7f", "\r", "\n", "\x85", "日"]
)
def test_invalid_header_characters_are_a_mismatch(character: str) -> None:
    for header in (character, f"a{character}b", f"=?base64?YQ==?={character}"):
        with pytest.raises(McpError) as caught:
            decode_value("Mcp-Name", header)
        assert header_of(caught.value) == "Mcp-Name"
    # Also where the message says the very same: it was to be wrapped.
    assert disagrees(params={"name": f"a{character}"}, header_name=f"a{character}") == "Mcp-Name"


@given(strategies.texts)
@example("=?base64?=")
@example("=?base64?YQ==?=")
def test_encoded_value_is_decoded(text: str) -> None:
    assert decode_value("Mcp-Name", as_header(text)) == text
    assert decode_value("Mcp-Name", wrapped(text)) == text


_nearly_base64 = st.text(alphabet="YWJj+/=-_?! \n", max_size=12)


@given(_nearly_base64)
@example("YQ==")
@example("YQ=")
def test_decoding_accepts_one_encoding_only(encoded: str) -> None:
    """Nothing is dropped, and nothing is made up."""
    try:
        text = decode_value("Mcp-Name", f"=?base64?{encoded}?=")
    except McpError:
        return
    assert base64.b64encode(text.encode()).decode() == encoded


@given(st.text(max_size=20))
@example("")
@example("!")
def test_any_header_value_is_decoded_or_a_mismatch(value: str) -> None:
    for header in (value, f"=?base64?{value}?="):
        try:
            decode_value("Mcp-Name", header)
        except McpError as error:
            assert error.code == -32020  # noqa: PT017  # either is fine


# The headers that tools want.

DECLARED = {"Region": ("region",), "Tenant-Id": ("who", "tenant"), "Count": ("count",)}


def disagreeing(arguments: dict[str, Any], headers: dict[str, str]) -> str | None:
    """Return the parameter that does not agree, or None."""
    try:
        check_parameters(DECLARED, arguments, headers)
    except McpError as error:
        return header_of(error)
    return None


def test_param_headers_that_agree_are_accepted() -> None:
    arguments = {"region": "us-west1", "who": {"tenant": True, "name": "x"}, "other": 1}
    headers = {"region": "us-west1", "tenant-id": "true", "unknown": "é", "name": "x"}
    assert disagreeing(arguments, headers) is None
    assert disagreeing({}, {}) is None


@pytest.mark.parametrize(
    "arguments, headers, wrong",
    [
        ({"region": "a"}, {}, "Region"),
        ({"region": ""}, {}, "Region"),
        ({"region": "a"}, {"region": "b"}, "Region"),
        ({"region": "a"}, {"region": "A"}, "Region"),
        ({"region": "a"}, {"region": ""}, "Region"),
        ({"region": "a"}, {"region": "a, a"}, "Region"),
        # A header for what is not there, or is null.
        ({}, {"region": "a"}, "Region"),
        ({}, {"region": ""}, "Region"),
        ({"region": None}, {"region": "null"}, "Region"),
        ({"region": None}, {"region": ""}, "Region"),
        ({"region": None}, {}, None),
        # The empty text is a value.
        ({"region": ""}, {"region": ""}, None),
        ({"region": ""}, {"region": "=?base64??="}, None),
        # Base64, decoded before it is compared.
        ({"region": "日本語"}, {"region": "=?base64?5pel5pys6Kqe?="}, None),
        ({"region": "=?base64?5pel5pys6Kqe?="}, {"region": "=?base64?5pel5pys6Kqe?="}, "Region"),
        ({"region": "a"}, {"region": "=?base64?YQ?="}, "Region"),
        # In an object.
        ({"who": {"tenant": "t"}}, {"tenant-id": "t"}, None),
        ({"who": {"tenant": "t"}}, {"tenant-id": "u"}, "Tenant-Id"),
        ({"who": {"tenant": "t"}}, {}, "Tenant-Id"),
        ({"who": {"tenant": None}}, {}, None),
        ({"who": {}}, {"tenant-id": "t"}, "Tenant-Id"),
        ({"tenant": "t"}, {}, None),
        # A value on the way to it is not an object: the tool will say so.
        ({"who": None}, {}, None),
        ({"who": "tenant"}, {}, None),
        ({"who": ["tenant"]}, {}, None),
        ({"who": ["tenant"]}, {"tenant-id": "tenant"}, "Tenant-Id"),
        # No header could agree with these.
        ({"region": ["a"]}, {"region": "a"}, "Region"),
        ({"region": {}}, {"region": "{}"}, "Region"),
        ({"region": []}, {}, "Region"),
    ],
)
def test_param_headers_must_agree(
    arguments: dict[str, Any], headers: dict[str, str], wrong: str | None
) -> None:
    assert disagreeing(arguments, headers) == (wrong and f"Mcp-Param-{wrong}")


SAME = [
    (True, "true"),
    (False, "false"),
    (42, "42"),
    (42, "42.0"),
    (42.0, "42"),
    (42, "42.000"),
    (42, "4.2e1"),
    (42, "420E-1"),
    (-7, "-7"),
    (0, "0"),
    (0, "-0"),
    (0, "0.0"),
    (-0.0, "0"),
    (2**53 - 1, "9007199254740991"),
    (2**53 + 1, "9007199254740993"),
    (2**64, "18446744073709551616"),
    (10**21, "1e+21"),
    (1e21, "1e+21"),
    (1e21, "1000000000000000000000"),
    (1e23, "1e23"),
    (3.14159, "3.14159"),
    (0.1, "0.1"),
    ("42", "42"),
    ("true", "true"),
]
DIFFERENT = [
    (True, "True"),
    (True, "1"),
    (True, "1.0"),
    (1, "true"),
    (False, "0"),
    (False, ""),
    (0, "false"),
    (0, ""),
    (42, "43"),
    (42, "-42"),
    (42, "42.1"),
    (42, " 42"),
    (42, "42 "),
    (42, "+42"),
    (42, "042"),
    (42, "42."),
    (42, "4_2"),
    (42, "0x2a"),
    (42, "42e"),
    (42, "42,42"),
    (42, "fourty-two"),
    (0, ".0"),
    (0, "--0"),
    # Too close for floats to tell.
    (2**53, "9007199254740993"),
    (2**53 + 1, "9007199254740992"),
    (2**64, "18446744073709551617"),
    # Far out.
    (1, "1e999999999"),
    (1, "1e99999999999999999999999"),
    (1, "-1e-99999999999999999999999"),
    (1.5, "1e999"),
    (1.7e308, "inf"),
    (1.5, "nan"),
    (1, "NaN"),
    ("42", "42.0"),
    ("true", "True"),
]


@pytest.mark.parametrize("value, header", SAME, ids=repr)
def test_equal_param_values(value: object, header: str) -> None:
    assert disagreeing({"count": value}, {"count": header}) is None
    assert disagreeing({"count": value}, {"count": wrapped(header)}) is None


@pytest.mark.parametrize("value, header", DIFFERENT, ids=repr)
def test_different_param_values(value: object, header: str) -> None:
    assert disagreeing({"count": value}, {"count": header}) == "Mcp-Param-Count"
    assert disagreeing({"count": value}, {"count": wrapped(header)}) == "Mcp-Param-Count"


@pytest.mark.parametrize("digits", ["\u0664\u0662", "\uff14\uff12", "4\u00a02", "42\n", "\u200b42"])
def test_numbers_have_plain_digits(digits: str) -> None:
    assert disagreeing({"count": 42}, {"count": wrapped(digits)}) == "Mcp-Param-Count"


_plain = st.one_of(st.booleans(), strategies.whole_numbers, strategies.texts)


@given(_plain)
@example("=?base64?=")
def test_param_header_of_a_client_agrees(value: object) -> None:
    header = as_header(value)
    assert disagreeing({"count": value}, {"count": header}) is None
    assert disagreeing({"count": value}, {"count": wrapped(header)}) is None or isinstance(
        value, str
    )
    assert disagreeing({"count": value}, {}) == "Mcp-Param-Count"
    assert disagreeing({}, {"count": header}) == "Mcp-Param-Count"


@given(_plain, _plain)
@example(2**53, 2**53 + 1)
@example(True, 1)
@example("1", "1.0")
def test_param_header_with_another_value_is_a_mismatch(value: object, other: object) -> None:
    agrees = disagreeing({"count": value}, {"count": as_header(other)}) is None
    assert agrees == (as_header(value) == as_header(other))


@given(strategies.json_objects, st.dictionaries(st.sampled_from(["region", "count"]), st.text()))
@example({"region": 1}, {"region": "1"})
def test_any_arguments_and_headers_agree_or_not(
    arguments: dict[str, Any], headers: dict[str, str]
) -> None:
    disagreeing(arguments, headers)
    for value in arguments.values():
        disagreeing({"region": value, "who": value, "count": value}, headers)
