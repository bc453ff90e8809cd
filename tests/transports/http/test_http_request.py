"""What is known of a request, and of the connection that it came on."""

from __future__ import annotations

from typing import Any

import pytest

from tests.transports.http.site import never, site
from trio_mcp_session import Transport
from trio_mcp_session.transports.http.headers import RequestHeaders
from trio_mcp_session.transports.http.http_request import HttpRequest


@pytest.mark.parametrize(
    "scope, peer",
    [
        ({"client": ("192.0.2.1", 1234)}, "192.0.2.1:1234"),
        ({"client": ["::1", 1]}, "[::1]:1"),
        # Over a Unix socket no client has an address.
        ({"client": None}, ""),
        ({}, ""),
    ],
)
def test_the_transport_names_the_client(scope: dict[str, Any], peer: str) -> None:
    request = HttpRequest(scope, RequestHeaders(), None, never, never)
    assert request.transport == Transport("http", peer)


async def test_requests_are_told_apart_by_what_they_are() -> None:
    one, other = (HttpRequest({}, RequestHeaders(), None, never, never) for _ in range(2))
    assert one != other
    async with site() as place:
        client = await place.client(client=None).initialize()
        (session,) = place.manager.sessions()
        assert session.transport == Transport("http")
        assert (await client.request("DELETE")).status == 204
