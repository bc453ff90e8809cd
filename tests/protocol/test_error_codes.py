from __future__ import annotations

from trio_mcp_session.protocol import error_codes


def test_the_numbers_are_those_of_the_specification() -> None:
    numbers = {name: value for name, value in vars(error_codes).items() if name.isupper()}
    assert numbers == {
        "PARSE_ERROR": -32700,
        "INVALID_REQUEST": -32600,
        "METHOD_NOT_FOUND": -32601,
        "INVALID_PARAMS": -32602,
        "INTERNAL_ERROR": -32603,
        "RESOURCE_NOT_FOUND": -32002,
    }
