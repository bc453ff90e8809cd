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
from trio_mcp_session import HttpOptions
from trio_mcp_session.transports.asgi import Scope
from trio_mcp_session.transports.http.forwarded import forwarded_hosts
from trio_mcp_session.transports.http.trusted_proxies import TrustedProxies

PROXIES = TrustedProxies(["127.0.0.1"])
TRUSTING = HttpOptions(trusted_proxies=["127.0.0.1"])


def scope_of(*headers: tuple[str, str], client: Any = ("127.0.0.1", 1)) -> Scope:
    return {
        "client": client,
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers],
    }


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
        ([("forwarded", "for=1.2.3.4;, x-id=1;host=a;")], ["a"]),
        ([("forwarded", "host=")], [""]),
        # Malformed.
        ([("forwarded", 'host=a;ext=", host=b')], [""]),
        ([("forwarded", "host=a;host=b")], [""]),
        ([("forwarded", "host")], [""]),
        ([("x-forwarded-host", "")], [""]),
        ([("x-forwarded-host", "a,")], ["a", ""]),
    ],
)
def test_all_hosts_that_a_trusted_proxy_names(
    headers: list[tuple[str, str]], hosts: list[str] | None
) -> None:
    expected = ["a.example:8443", "b", "c"] if hosts is None else hosts
    assert forwarded_hosts(PROXIES, scope_of(*headers)) == expected
    for client in (("192.0.2.1", 1), ("testclient", 1), None):
        assert forwarded_hosts(PROXIES, scope_of(*headers, client=client)) == []
    local = TrustedProxies(["unix"])
    assert forwarded_hosts(local, scope_of(*headers, client=None)) == expected


_texts = st.text(st.characters(codec="latin-1"), max_size=40)


@given(st.lists(st.tuples(st.sampled_from(["forwarded", "x-forwarded-host"]), _texts)))
def test_no_header_breaks_the_reading_of_forwarded_hosts(headers: list[tuple[str, str]]) -> None:
    forwarded_hosts(PROXIES, scope_of(*headers))


@pytest.mark.parametrize("start", ["", "a", "a=", 'a="'])
@pytest.mark.parametrize("more", ["a", " ", "=", '"', "\\"])
def test_a_long_header_is_read_in_one_pass(start: str, more: str) -> None:
    # At any start a search for pairs went to the end: a second for 8 KB of letters, and minutes
    # for these, in which nothing else runs.
    header = ("forwarded", start + more * 200_000)
    assert set(forwarded_hosts(PROXIES, scope_of(header))) <= {""}


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
    async with site(options=TRUSTING, allowed_hosts=["notes.example.com"]) as place:
        # As nginx sends it, without `proxy_set_header Host`.
        forwarded = {"host": "backend:8000", "x-forwarded-host": "notes.example.com"}
        assert await statuses(place.app, forwarded, ["127.0.0.1", "192.0.2.1"]) == [200, 403]
        # Its own pages have the public name.
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


async def test_without_a_list_a_forwarded_host_is_treated_as_a_public_name(
    autojump_clock: MockClock,
) -> None:
    async with site(options=TRUSTING) as place:
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
