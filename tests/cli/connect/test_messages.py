from __future__ import annotations

import pytest

from trio_mcp_session.cli.connect import tool_headers
from trio_mcp_session.cli.connect.carried_request import Exchange, RequestFailed
from trio_mcp_session.cli.connect.messages import (
    HostMessage,
    error_of,
    protocol_version_of,
    tools_of,
)
from trio_mcp_session.cli.connect.tool_headers import ToolHeaders


@pytest.mark.parametrize("frame", [b"", b"[]", b"{}", b'{"error":5}', b'{"error":{"code":"x"}}'])
def test_what_is_not_an_error_is_none(frame: bytes) -> None:
    assert error_of(frame) is None


@pytest.mark.parametrize("frame", [b"", b"{}", b'{"result":5}', b'{"result":{}}'])
def test_what_is_not_a_result_has_neither_version_nor_tools(frame: bytes) -> None:
    assert protocol_version_of(frame) is None
    assert tools_of(frame) == ({}, None)


def test_an_answer_to_another_request_answers_nothing() -> None:
    exchange = Exchange(HostMessage(frame=b"", ids=(1, "1")))
    exchange.answered(2)
    exchange.answered(None)
    assert exchange.open_ids == [1, "1"]
    exchange.answered("1")
    assert exchange.fail(RequestFailed("why", data=7)) == [
        b'{"jsonrpc":"2.0","id":1,"error":{"code":-32603,"message":"why","data":7}}'
    ]
    assert exchange.fail(RequestFailed("again")) == []


def test_tools_are_learnt_up_to_a_limit_and_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool_headers, "MAX_TOOLS", 1)
    schema = {"type": "object", "properties": {"a": {"type": "string", "x-mcp-header": "A"}}}
    tools = ToolHeaders()
    tools.learn({"t": schema, "u": schema})
    assert tools.of_call("t", b'{"a":"b"}') == {"Mcp-Param-A": "b"}
    assert tools.of_call("u", b'{"a":"b"}') == {}
    assert tools.of_call("t", b"[1]") == tools.of_call("t", b"") == tools.of_call(5, b"{}") == {}
    tools.learn({"t": {"properties": {"a": {"type": "object", "x-mcp-header": "A"}}}, "u": schema})
    assert tools.of_call("t", b'{"a":"b"}') == {}
    assert tools.of_call("u", b'{"a":"b"}') == {"Mcp-Param-A": "b"}
