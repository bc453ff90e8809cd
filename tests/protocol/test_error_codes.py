from __future__ import annotations

from trio_mcp_session.protocol import error_codes


def test_the_numbers_agree_with_the_specification() -> None:
    numbers = {name: value for name, value in vars(error_codes).items() if name.isupper()}
    assert numbers == {
        "PARSE_ERROR": -32700,
        "INVALID_REQUEST": -32600,
        "METHOD_NOT_FOUND": -32601,
        "INVALID_PARAMS": -32602,
        "INTERNAL_ERROR": -32603,
        "HEADER_MISMATCH": -32020,
        "MISSING_CLIENT_CAPABILITY": -32021,
        "UNSUPPORTED_PROTOCOL_VERSION": -32022,
        "URL_ELICITATION_REQUIRED": -32042,
        "RESOURCE_NOT_FOUND": -32002,
    }


def test_each_number_has_one_name() -> None:
    numbers = [value for name, value in vars(error_codes).items() if name.isupper()]
    assert len(set(numbers)) == len(numbers)
