from __future__ import annotations

import pytest

from trio_mcp_session.protocol.header_agreement import (
    check_agreement,
    check_parameters,
    decode_value,
)
from trio_mcp_session.protocol.header_mirroring import (
    encode_value,
    mirror_arguments,
    mirror_request,
)
from trio_mcp_session.protocol.jsonrpc import Request

VERSION = "2026-07-28"


@pytest.mark.parametrize(
    "text", ["plain", "", "a b", " led", "trail ", "é", "a\nb", "=?base64?eA==?="]
)
def test_a_value_is_sent_so_that_the_server_reads_the_same(text: str) -> None:
    value = encode_value(text)
    assert value.isascii()
    assert decode_value("X", value) == text
    assert (value == text) is (text in {"plain", "", "a b"})


@pytest.mark.parametrize(
    "method, params, name",
    [
        ("tools/call", {"name": "naïve"}, "naïve"),
        ("resources/read", {"uri": "a:b"}, "a:b"),
        ("tasks/get", {"taskId": "n1.x"}, "n1.x"),
        ("tools/list", {}, None),
    ],
)
def test_the_headers_of_a_request_agree_with_it(
    method: str, params: dict[str, object], name: str | None
) -> None:
    headers = mirror_request(method, VERSION, name)
    assert ("Mcp-Name" in headers) is (name is not None)
    check_agreement(
        Request(1, method, params),
        VERSION,
        header_version=headers["MCP-Protocol-Version"],
        header_method=headers["Mcp-Method"],
        header_name=headers.get("Mcp-Name"),
    )


def test_what_no_header_can_have_is_left_out() -> None:
    assert mirror_request("a\r\nb", "é", 5) == {}
    assert mirror_request("tools/call", VERSION, 5).keys() == {"MCP-Protocol-Version", "Mcp-Method"}


def test_the_headers_of_arguments_agree_with_them() -> None:
    declared = {"A": ("a",), "B": ("b", "c"), "C": ("flag",), "D": ("missing",), "E": ("wrong",)}
    arguments = {"a": "é", "b": {"c": 12}, "flag": True, "wrong": [1]}
    headers = mirror_arguments(declared, arguments)
    assert headers == {"Mcp-Param-A": encode_value("é"), "Mcp-Param-B": "12", "Mcp-Param-C": "true"}
    del declared["E"]
    check_parameters(
        declared, arguments, {name[len("Mcp-Param-") :].lower(): headers[name] for name in headers}
    )
