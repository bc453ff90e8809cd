"""What trusted proxies say about a request; from other clients it has no effect."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, strategies as st
from trio.testing import MockClock

from tests.helpers import initialize
from tests.transports.http.asgi_client import Client
from tests.transports.http.site import site
from trio_mcp_session.transports.asgi import Scope
from trio_mcp_session.transports.http.forwarded import NO_PROXIES, read_trusted_proxies

PROXIES = ["127.0.0.1", "10.0.0.0/8", "2001:db8::/32"]


def scope_of(
    *headers: tuple[str, str], client: Any = ("127.0.0.1", 1), server: Any = ("127.0.0.1", 80)
) -> Scope:
    return {
        "client": client,
        "server": server,
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers],
    }


@pytest.mark.parametrize(
    "client, trusted",
    [
        ("127.0.0.1", True),
        ("127.0.0.2", False),
        ("10.255.0.1", True),
        ("11.0.0.1", False),
        ("2001:db8:1::1", True),
        ("2001:db9::1", False),
        # As a socket for both families shows IPv4 addresses.
        ("::ffff:10.1.1.1", True),
        ("::ffff:11.1.1.1", False),
        ("testclient", False),
    ],
)
def test_proxies_are_trusted_by_their_address(client: str, trusted: bool) -> None:
    assert read_trusted_proxies(PROXIES).trusts(scope_of(client=(client, 1))) is trusted


@pytest.mark.parametrize(
    "addresses, server, trusted",
    [
        (["unix"], ("/run/socket", None), True),
        (["127.0.0.1"], ("/run/socket", None), False),
        # A server that says nothing of the client may listen anywhere.
        (["unix"], ("127.0.0.1", 80), False),
        (["unix"], None, False),
    ],
)
def test_clients_of_unix_sockets_are_trusted_if_that_is_said(
    addresses: list[str], server: Any, trusted: bool
) -> None:
    scope = scope_of(client=None, server=server)
    assert read_trusted_proxies(addresses).trusts(scope) is trusted


def test_without_proxies_nothing_is_trusted() -> None:
    proxies = read_trusted_proxies([])
    assert proxies is NO_PROXIES
    scope = scope_of(("x-forwarded-host", "a"), ("x-forwarded-for", "192.0.2.1"))
    assert proxies.hosts(scope) == []
    assert proxies.client_address(scope) == "127.0.0.1"
    assert proxies.client_address(scope_of(client=None)) == ""


@pytest.mark.parametrize("address", ["", "localhost", "10.0.0.1/8", "300.1.1.1", "unix:/run/x"])
def test_a_trusted_proxy_must_be_an_address(address: str) -> None:
    with pytest.raises(ValueError, match="a trusted proxy must be an IP address, a network or"):
        read_trusted_proxies([address])


def test_a_single_text_is_refused() -> None:
    with pytest.raises(TypeError, match=r"must be a collection of addresses, not '127\.0\.0\.1'"):
        read_trusted_proxies("127.0.0.1")


@pytest.mark.parametrize(
    "headers, hosts",
    [
        ([], []),
        ([("x-forwarded-host", "a.example")], ["a.example"]),
        ([("x-forwarded-host", "a.example:8443 , b"), ("x-forwarded-host", "c")], None),
        ([("forwarded", "for=1.2.3.4;host=a.example;proto=https")], ["a.example"]),
        ([("forwarded", 'Host="a.example:80"')], ["a.example:80"]),
        ([("forwarded", r'host="\[::1\]"')], ["[::1]"]),
        ([("forwarded", "host=a, for=x;host=b"), ("forwarded", "host = c")], ["a", "b", "c"]),
        ([("forwarded", "host=a"), ("x-forwarded-host", "b")], ["a", "b"]),
        ([("forwarded", "for=1.2.3.4")], []),
        ([("x-forwarded-host", "")], [""]),
    ],
)
def test_all_hosts_that_a_proxy_names(
    headers: list[tuple[str, str]], hosts: list[str] | None
) -> None:
    expected = ["a.example:8443", "b", "c"] if hosts is None else hosts
    assert read_trusted_proxies(PROXIES).hosts(scope_of(*headers)) == expected
    assert read_trusted_proxies(PROXIES).hosts(scope_of(*headers, client=("192.0.2.1", 1))) == []


@pytest.mark.parametrize(
    "headers, address",
    [
        ([], "127.0.0.1"),
        ([("x-forwarded-for", "203.0.113.5")], "203.0.113.5"),
        ([("x-forwarded-for", "203.0.113.5:4711")], "203.0.113.5"),
        ([("x-forwarded-for", "[2001:db9::1]:4711")], "2001:db9::1"),
        ([("x-forwarded-for", "2001:db9::1")], "2001:db9::1"),
        # The first ones can be the client's own.
        ([("x-forwarded-for", "1.2.3.4, 203.0.113.5, 10.0.0.1")], "203.0.113.5"),
        ([("x-forwarded-for", "1.2.3.4"), ("x-forwarded-for", "203.0.113.5")], "203.0.113.5"),
        ([("x-forwarded-for", "203.0.113.5, unknown")], "127.0.0.1"),
        ([("x-forwarded-for", "10.0.0.1, 10.0.0.2")], "127.0.0.1"),
        ([("forwarded", 'for="[2001:db9::1]:80";proto=https')], "2001:db9::1"),
        ([("forwarded", "for=1.2.3.4, for=203.0.113.5")], "203.0.113.5"),
        ([("forwarded", "for=203.0.113.5"), ("x-forwarded-for", "203.0.113.5")], "203.0.113.5"),
        # One of the two is not the proxy's.
        ([("forwarded", "for=1.2.3.4"), ("x-forwarded-for", "203.0.113.5")], "127.0.0.1"),
    ],
)
def test_the_address_of_the_client_behind_proxies(
    headers: list[tuple[str, str]], address: str
) -> None:
    assert read_trusted_proxies(PROXIES).client_address(scope_of(*headers)) == address
    stranger = scope_of(*headers, client=("192.0.2.1", 1))
    assert read_trusted_proxies(PROXIES).client_address(stranger) == "192.0.2.1"


_texts = st.text(st.characters(codec="latin-1"), max_size=40)


@given(st.lists(st.tuples(st.sampled_from(["forwarded", "x-forwarded-for"]), _texts)))
def test_nothing_that_is_sent_breaks_it(headers: list[tuple[str, str]]) -> None:
    proxies = read_trusted_proxies(PROXIES)
    proxies.hosts(scope_of(*headers))
    assert proxies.client_address(scope_of(*headers))


async def statuses(
    app: Any, headers: dict[str, str], clients: Iterable[str] = ("127.0.0.1",)
) -> list[int]:
    found = []
    for client in clients:
        scope = {"server": ("127.0.0.1", 8000), "client": (client, 1234)}
        answer = await Client(app, headers, scope).request(json=initialize())
        found.append(answer.status)
    return found


async def test_the_host_that_a_trusted_proxy_names_is_checked(autojump_clock: MockClock) -> None:
    async with site(trusted_proxies=["127.0.0.1"], allowed_hosts=["notes.example.com"]) as place:
        # As nginx sends it, without `proxy_set_header Host`.
        forwarded = {"host": "backend:8000", "x-forwarded-host": "notes.example.com"}
        assert await statuses(place.app, forwarded, ["127.0.0.1", "192.0.2.1"]) == [200, 403]
        # Its own pages are those of the public name.
        page = {**forwarded, "origin": "https://notes.example.com"}
        assert await statuses(place.app, page) == [200]
        assert await statuses(place.app, {**page, "origin": "http://backend:8000"}) == [403]
        evil = {**forwarded, "x-forwarded-host": "evil.example"}
        assert await statuses(place.app, evil) == [403]
        # A proxy that appends lets its client speak first.
        evil = {**forwarded, "x-forwarded-host": "notes.example.com, evil.example"}
        assert await statuses(place.app, evil) == [403]
        evil = {**forwarded, "forwarded": "host=evil.example"}
        assert await statuses(place.app, evil) == [403]
        # Without such a header it is a request like any other.
        assert await statuses(place.app, {"host": "backend:8000"}) == [403]
        assert await statuses(place.app, {"host": "notes.example.com"}) == [200]


async def test_without_a_list_a_forwarded_host_is_that_of_a_public_server(
    autojump_clock: MockClock,
) -> None:
    async with site(trusted_proxies=["127.0.0.1"]) as place:
        forwarded = {"host": "backend", "x-forwarded-host": "Notes.example.com"}
        assert await statuses(place.app, forwarded) == [200]
        page = {**forwarded, "origin": "https://notes.example.com"}
        assert await statuses(place.app, page) == [403]
        page = {"host": "x", "x-forwarded-host": "192.0.2.7", "origin": "https://192.0.2.7"}
        assert await statuses(place.app, page) == [200]
        # What does not come through the proxy's public side stays local.
        assert await statuses(place.app, {"host": "backend"}) == [403]
        assert await statuses(place.app, {"host": "localhost"}) == [200]


async def test_forwarded_headers_have_no_effect_by_default(autojump_clock: MockClock) -> None:
    async with site() as place:
        headers = {"host": "evil.example", "x-forwarded-host": "localhost"}
        assert await statuses(place.app, headers) == [403]
        headers = {"host": "localhost", "x-forwarded-host": "evil.example"}
        assert await statuses(place.app, headers) == [200]
