"""Which address a request comes from, behind proxies."""

from __future__ import annotations

from typing import Any

import pytest

from tests.transports.http.site import never, site
from trio_mcp_session import HttpOptions, Principal, Transport
from trio_mcp_session.transports.http.headers import RequestHeaders
from trio_mcp_session.transports.http.http_request import HttpRequest
from trio_mcp_session.transports.http.trusted_proxies import TrustedProxies

PROXIES = TrustedProxies(["10.0.0.1", "10.1.0.0/16", "2001:db8::/32", "unix"])


def scope(client: Any, *headers: tuple[str, str]) -> dict[str, Any]:
    return {
        "client": client,
        "headers": [(name.encode(), value.encode()) for name, value in headers],
    }


def listed(text: str) -> tuple[str, str]:
    return "x-forwarded-for", text


def elements(text: str) -> tuple[str, str]:
    return "forwarded", text


@pytest.mark.parametrize(
    "client, headers, address",
    [
        # Not a proxy: what it says does not count.
        (("192.0.2.1", 1), [listed("198.51.100.1")], "192.0.2.1"),
        (("10.0.0.2", 1), [listed("198.51.100.1")], "10.0.0.2"),
        (("testclient", 1), [listed("198.51.100.1")], "testclient"),
        # One proxy, and several.
        (("10.0.0.1", 1), [listed("198.51.100.1")], "198.51.100.1"),
        (("10.0.0.1", 1), [listed("198.51.100.1:4711")], "198.51.100.1"),
        (("::ffff:10.0.0.1", 1), [listed("198.51.100.1")], "198.51.100.1"),
        (("10.0.0.1", 1), [listed("203.0.113.5, 198.51.100.1, 10.1.2.3")], "198.51.100.1"),
        (("10.0.0.1", 1), [listed("203.0.113.5"), listed("198.51.100.1")], "198.51.100.1"),
        (("2001:db8::5", 1), [listed("2a00:1::7")], "2a00:1::7"),
        (("10.0.0.1", 1), [listed("10.1.2.4, 10.1.2.3")], "10.1.2.4"),
        # A Unix socket.
        (None, [listed("198.51.100.1")], "198.51.100.1"),
        (("", 0), [listed("198.51.100.1")], "198.51.100.1"),
        (None, [], ""),
        # A proxy that names no client.
        (("10.0.0.1", 1), [], "10.0.0.1"),
        (("10.0.0.1", 1), [listed("unknown")], "10.0.0.1"),
        (("10.0.0.1", 1), [listed("198.51.100.1, _hidden, 10.1.2.3")], "10.1.2.3"),
        (("10.0.0.1", 1), [listed("")], "10.0.0.1"),
        # RFC 7239.
        (("10.0.0.1", 1), [elements("for=198.51.100.1;proto=https")], "198.51.100.1"),
        (("10.0.0.1", 1), [elements('proto=https; For="[2a00:1::7]:4711"')], "2a00:1::7"),
        (("10.0.0.1", 1), [elements("for=203.0.113.5, for=198.51.100.1")], "198.51.100.1"),
        (("10.0.0.1", 1), [elements("proto=https")], "10.0.0.1"),
        # A host that the client has chosen, in the quotes of the proxy.
        (("10.0.0.1", 1), [elements('for=1.2.3.4;host="a,for=198.51.100.1"')], "1.2.3.4"),
        (("10.0.0.1", 1), [elements(r'for=1.2.3.4;host="a\",for=198.51.100.1"')], "1.2.3.4"),
        # Malformed: a quote that the client has left open, a value in two elements.
        (("10.0.0.1", 1), [elements('host=", for=198.51.100.1')], "10.0.0.1"),
        (("10.0.0.1", 1), [elements('for=1.2.3.4;host=", for="198.51.100.1"')], "10.0.0.1"),
        (("10.0.0.1", 1), [elements("for=1.2.3.4;for=198.51.100.1")], "10.0.0.1"),
        (("10.0.0.1", 1), [elements('host="'), elements("for=198.51.100.1")], "198.51.100.1"),
        # Both, where one of them may be the client's own.
        (("10.0.0.1", 1), [listed("198.51.100.1"), elements("for=203.0.113.5")], "10.0.0.1"),
        (("10.0.0.1", 1), [listed("198.51.100.1"), elements("for=198.51.100.1")], "198.51.100.1"),
    ],
)
def test_the_address_of_the_client(
    client: Any, headers: list[tuple[str, str]], address: str
) -> None:
    assert PROXIES.client_of(scope(client, *headers)) == address


def test_no_unix_socket_is_trusted_unless_it_is_named() -> None:
    assert TrustedProxies(["10.0.0.1"]).client_of(scope(None, listed("198.51.100.1"))) == ""


def test_one_text_is_one_proxy() -> None:
    assert TrustedProxies("10.0.0.1").client_of(scope(("10.0.0.1", 1), listed("::5"))) == "::5"


@pytest.mark.parametrize("wrong", ["10.0.0.1/8", "proxy", "", "10.0.0.0/99"])
def test_proxies_are_addresses_or_networks(wrong: str) -> None:
    with pytest.raises(ValueError, match="trusted_proxies must be addresses, networks such as"):
        HttpOptions(trusted_proxies=["10.0.0.1", wrong])


def test_a_request_is_counted_by_its_principal_or_address() -> None:
    alice = Principal("alice")

    def request(client: Any, *headers: tuple[str, str], **more: Any) -> HttpRequest:
        principal = more.pop("principal", None)
        return HttpRequest(
            scope(client, *headers), RequestHeaders(), principal, never, never, **more
        )

    assert request(("192.0.2.1", 5)).party == "192.0.2.1"
    assert request(("192.0.2.1", 5), principal=alice).party is alice
    assert request(("2001:db8::7", 5)).party == "2001:db8::/64"
    assert request(None).party is None
    forwarded = request(("10.0.0.1", 5), listed("198.51.100.1"), proxies=PROXIES)
    assert forwarded.party == "198.51.100.1"
    assert forwarded.transport == Transport("http", "198.51.100.1")


async def test_the_session_of_a_client_behind_a_proxy_has_its_address() -> None:
    async with site(options=HttpOptions(trusted_proxies=["10.0.0.1"])) as place:
        headers = {"x-forwarded-for": "198.51.100.1"}
        await place.client(headers=headers, client=("10.0.0.1", 5)).initialize()
        (session,) = place.manager.sessions()
        assert session.transport == Transport("http", "198.51.100.1")
