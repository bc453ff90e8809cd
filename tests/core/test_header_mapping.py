"""The headers of a request, for handlers."""

from __future__ import annotations

from typing import Any, cast

import pytest

from trio_mcp_session.core.header_mapping import NO_HEADERS, Headers


def test_headers_are_found_by_a_name_in_any_case() -> None:
    headers = Headers([(b"x-tenant", b"acme"), (b"Host", b"localhost")])
    assert headers["X-Tenant"] == headers["x-tenant"] == "acme"
    assert "HOST" in headers
    assert "origin" not in headers
    assert cast("Any", 7) not in headers
    assert headers.get("origin") is None
    assert dict(headers) == {"x-tenant": "acme", "host": "localhost"}
    assert len(headers) == 2
    assert not NO_HEADERS


def test_repeated_headers_are_joined() -> None:
    raw = [(b"accept", b"a"), (b"cookie", b"x=1"), (b"accept", b"b"), (b"cookie", b"y=2")]
    assert Headers(raw) == {"accept": "a, b", "cookie": "x=1; y=2"}


def test_headers_are_read_only_and_do_not_show_their_values() -> None:
    headers = Headers([(b"authorization", b"Bearer secret")])
    assert repr(headers) == "<Headers authorization>"
    with pytest.raises(TypeError):
        cast("Any", headers)["authorization"] = "Bearer other"
