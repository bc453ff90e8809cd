"""`Origin` and `Host`: whose pages may talk to the server."""

from __future__ import annotations

from collections.abc import Collection
from itertools import product
from typing import Any

import attrs
import pytest
from hypothesis import given, strategies as st
from trio.testing import MockClock

from tests.helpers import initialize
from tests.transports.http.asgi_client import Client
from tests.transports.http.site import site
from trio_mcp_session.transports.http.headers import RequestHeaders
from trio_mcp_session.transports.http.http_error import HttpError
from trio_mcp_session.transports.http.origin import OriginPolicy
from trio_mcp_session.transports.http.trusted_proxies import TrustedProxies

LOOPBACK = [
    ("127.0.0.1", 8000),
    ("127.1.2.3", 80),
    ("::1", 8000),
    ("::ffff:127.0.0.1", 8000),
    ("localhost", 8000),
]
ELSEWHERE = [
    ("192.0.2.2", 80),
    ("0.0.0.0", 80),
    ("::", 80),
    ("2001:db8::1", 80),
    ("fe80::1%eth0", 80),
    ("::ffff:192.0.2.2", 80),
    ("example.com", 443),
    # A Unix socket, however it is written, and a server that does not say.
    ("/run/localhost", None),
    ("localhost", None),
    None,
    (),
]


def allows(
    server: object,
    *,
    host: str | None = "localhost:8000",
    origin: str | None = None,
    hosts: Collection[str] | None = None,
    origins: Collection[str] | None = None,
) -> bool:
    policy = OriginPolicy(hosts, origins)
    status = 200
    try:
        policy.check({"server": server}, RequestHeaders(host=host, origin=origin))
    except HttpError as refusal:
        status = refusal.status
    assert status in {200, 403}
    return status == 200


@attrs.frozen
class Case:
    """A request, and whether it is taken."""

    allowed: bool
    host: str | None
    origin: str | None = None
    hosts: Collection[str] | None = None
    origins: Collection[str] | None = None


# By default, where the server listens on loopback: the names of loopback, and their pages.
ON_LOOPBACK = [
    *(
        Case(True, host)
        for host in [
            "localhost",
            "localhost:8000",
            "LocalHost:1",
            "127.0.0.1",
            "127.0.0.1:8000",
            "[::1]",
            "[::1]:8000",
        ]
    ),
    *(
        Case(False, host)
        for host in [
            None,
            "",
            ":8000",
            "evil.example",
            "evil.example:8000",
            "localhost.evil.example",
            "localhost.evil.example:8000",
            "evil.example/localhost",
            "127.0.0.1.evil.example",
            "127.0.0.2.evil.example:80",
            "192.0.2.2",
            "0.0.0.0",
            "[::2]",
            "[::1",
            "[::1].evil.example",
            "[::1].evil.example:8000",
            "[]",
            "[",
        ]
    ),
    *(
        Case(True, "localhost:8000", origin)
        for origin in [
            "http://localhost:8000",
            "http://localhost:5173",
            "https://localhost",
            "HTTP://LOCALHOST:5173",
            "http://127.0.0.1:1",
            "http://[::1]:5173",
            "http://[::1]",
            "vscode-webview://localhost",
        ]
    ),
    *(
        Case(False, "localhost:8000", origin)
        for origin in [
            "",
            "null",
            "http://evil.example",
            "http://evil.example:8000",
            "http://localhost.evil.example",
            "http://localhost@evil.example",
            "http://evil.example#localhost",
            "http://evil.example/localhost",
            "localhost",
            "localhost:8000",
            "http://",
            "http:///localhost",
            "http://[localhost",
            "http://[::2]:8000",
            "http://192.0.2.2",
            "file://",
            "*",
        ]
    ),
]
# By default elsewhere: any name, and the server's own pages where its host is an address.
ANYWHERE = [
    *(Case(True, host) for host in ["example.com", "example.com:8443", "[2001:db8::1]:80", None]),
    *(
        Case(True, origin.partition("//")[2], origin)
        for origin in [
            "http://192.168.1.5:8000",
            "http://192.168.1.5",
            "https://[2001:db8::1]:80",
            "http://[::1]",
            # Browsers resolve this name themselves.
            "http://localhost:8000",
        ]
    ),
    *(
        # A page that has its own name resolved to this server's address (DNS rebinding).
        Case(False, host, f"http://{host}")
        for host in [
            "evil.example",
            "evil.example:8000",
            "192.168.1.5.evil.example:8000",
            "localhost.evil.example",
            "2130706433",
            "0x7f.1",
            "1" * 46,
            "[::1].evil.example",
            "",
        ]
    ),
    Case(False, "192.168.1.5:8000", "http://192.168.1.6:8000"),
    # The host has to be allowed, too, if the origin is.
    Case(False, "server.example", "https://app.example", origins=["https://app.example"]),
    Case(True, "192.168.1.5", "https://app.example", origins=["https://app.example"]),
    *(
        Case(True, "example.com:8443", origin, hosts=["example.com"])
        # The proxy that took TLS off does not report it.
        for origin in [
            "http://example.com:8443",
            "https://example.com:8443",
            "https://EXAMPLE.com:8443",
        ]
    ),
    Case(True, "Example.COM", "https://example.com", hosts=["example.com"]),
    Case(True, "[2001:db8::1]:80", "http://[2001:db8::1]:80"),
    *(
        Case(False, "example.com:8443", origin, hosts=["example.com"])
        for origin in [
            "https://example.com",
            "https://example.com:8444",
            "https://www.example.com:8443",
            "ftp://example.com:8443",
            "null",
            "",
            "http://localhost:8443",
            "http://127.0.0.1",
            "example.com:8443",
        ]
    ),
    Case(False, None, "http://example.com"),
]
# With patterns, wherever the server listens.
WILD = ["*.example.com", "api.example.org", "127.0.0.1:8000", "::1", "[2001:db8::1]", "a?c", "[xy]"]
PAGES = ["https://*.example.com", "http://localhost:*", "http://[::1]:3000", "HTTPS://App.example"]
PATTERNS = [
    *(
        Case(True, host, hosts=WILD)
        for host in [
            "www.example.com",
            "a.b.example.com:8443",
            "WWW.EXAMPLE.COM",
            "api.example.org",
            "api.example.org:1",
            "127.0.0.1:8000",
            "[::1]",
            "[::1]:8000",
            "[2001:db8::1]",
            "[2001:db8::1]:80",
        ]
    ),
    *(
        Case(False, host, hosts=WILD)
        for host in [
            None,
            "",
            "example.com",
            "example.com.evil.example",
            "api.example.org.evil.example",
            "www.api.example.org",
            "127.0.0.1",
            "127.0.0.1:8001",
            "localhost",
            # Nothing but the asterisk is special.
            "abc",
            "x",
            "[::2]",
        ]
    ),
    Case(True, "anything.example", hosts=["*"]),
    Case(False, "anything.example", hosts=[]),
    *(
        Case(True, "server.example", origin, origins=PAGES)
        for origin in [
            None,
            "https://app.example.com",
            "HTTPS://APP.EXAMPLE.COM",
            "https://app.example",
            "http://localhost:5173",
            "http://[::1]:3000",
            # Its own pages are always welcome.
            "https://server.example",
            "http://server.example",
        ]
    ),
    *(
        Case(False, "server.example", origin, origins=PAGES)
        for origin in [
            "null",
            "https://example.com",
            "http://app.example.com",
            "https://app.example.com:8443",
            "https://app.example.com.evil.example",
            "https://evil.example",
            "http://localhost",
            "http://[::1]:3001",
            "http://::3000",
            "http://1:3000",
        ]
    ),
    Case(True, "server.example", "null", origins=["null"]),
    Case(True, "server.example", "null", origins=["*"]),
    Case(False, "server.example", "http://localhost:8000", origins=[]),
]


@pytest.mark.parametrize("server", LOOPBACK, ids=str)
def test_a_loopback_server_allows_local_hosts_and_listed_origins(server: object) -> None:
    for case in ON_LOOPBACK:
        assert allows(server, host=case.host, origin=case.origin) is case.allowed, case
    # Origins that are listed take the place of the pages of this machine.
    listed = ["https://app.example"]
    assert allows(server, origin="https://app.example", origins=listed)
    assert not allows(server, origin="http://127.0.0.1:5173", origins=listed)
    assert allows(server, origin="http://localhost:8000", origins=listed)
    # They do not allow further hosts.
    assert not allows(server, host="evil.example", origins=["*"])
    assert not allows(server, host="evil.example", origin="http://evil.example")


@pytest.mark.parametrize("server", ELSEWHERE, ids=str)
def test_a_server_beyond_loopback_allows_any_host_and_pages_of_its_address(
    server: object,
) -> None:
    for case in ANYWHERE:
        assert (
            allows(
                server, host=case.host, origin=case.origin, hosts=case.hosts, origins=case.origins
            )
            is case.allowed
        ), case


@pytest.mark.parametrize("server", [LOOPBACK[0], ELSEWHERE[0], None], ids=str)
def test_host_and_origin_patterns_match_as_documented(server: object) -> None:
    for case in PATTERNS:
        # Where only origins are listed, any host is good for this.
        hosts = ["*"] if case.hosts is None else case.hosts
        assert (
            allows(server, host=case.host, origin=case.origin, hosts=hosts, origins=case.origins)
            is case.allowed
        ), case


def test_without_a_word_on_the_server_it_is_elsewhere() -> None:
    policy = OriginPolicy()
    policy.check({}, RequestHeaders(host="example.com"))


@attrs.frozen
class Asked:
    """One request to a server that gets others, too."""

    server: object
    host: str | None
    origin: str | None
    repeated: frozenset[str]
    proxied: bool
    """Whether it comes from a trusted proxy, which names the host."""

    def taken_by(self, policy: OriginPolicy) -> bool:
        forwarded = [(b"x-forwarded-host", b"mcp.example")]
        scope = {"server": self.server, "client": ("10.0.0.1", 5), "headers": forwarded}
        headers = RequestHeaders(host=self.host, origin=self.origin, repeated=self.repeated)
        try:
            policy.check(scope, headers, TrustedProxies(["10.0.0.1"]) if self.proxied else None)
        except HttpError:
            return False
        return True


ASKED = [
    Asked(*one)
    for one in product(
        [LOOPBACK[0], ELSEWHERE[0]],
        # The third is what a repeated one becomes.
        ["localhost", "evil.example", "localhost, evil.example", None],
        [None, "http://evil.example"],
        [frozenset[str](), frozenset({"host"})],
        [False, True],
    )
]


@pytest.mark.parametrize("hosts", [None, ["mcp.example", "localhost"]])
def test_a_request_is_taken_or_refused_whatever_came_before_it(hosts: list[str] | None) -> None:
    alone = {one: one.taken_by(OriginPolicy(hosts)) for one in ASKED}
    assert set(alone.values()) == {False, True}
    for before, one in product(ASKED, ASKED):
        policy = OriginPolicy(hosts)
        before.taken_by(policy)
        assert one.taken_by(policy) is alone[one], (before, one)


@pytest.mark.parametrize(
    "name, first", [(b"host", b"localhost:80"), (b"origin", b"http://localhost:80")]
)
async def test_a_repeated_host_or_origin_header_is_refused(
    name: bytes, first: bytes, autojump_clock: MockClock
) -> None:
    # Joined, they would begin like the good one.
    async with site() as place:
        other = b"http://evil.example" if name == b"origin" else b"evil.example"
        for second in (other, first):
            response = await place.client(headers={name.decode(): first.decode()}).request(
                json=initialize(), more_headers=[(name, second)]
            )
            assert response.status == 403
        assert place.manager.statistics().opened == 0


async def test_it_is_checked_for_every_verb(autojump_clock: MockClock) -> None:
    async with site() as place:
        client, session = await place.open()
        bad: list[dict[str, str]] = [{"origin": "http://evil.example"}, {"host": "evil.example"}]
        for headers in bad:
            for verb, body in [("POST", initialize()), ("GET", None), ("DELETE", None)]:
                assert (await client.request(verb, body, headers=headers)).status == 403
        assert session.termination_reason is None
        assert place.refused == {403: 6}


async def test_the_applications_own_lists(autojump_clock: MockClock) -> None:
    lists: dict[str, Any] = {
        "allowed_hosts": ["*.example.com"],
        "allowed_origins": ["https://app.example"],
    }
    async with site(**lists) as place:
        good = {"host": "mcp.example.com", "origin": "https://app.example"}
        assert (await place.client(headers=good).request(json=initialize())).status == 200
        for name in good:
            bad = {**good, name: "http://localhost"}
            assert (await place.client(headers=bad).request(json=initialize())).status == 403


async def test_behind_a_proxy_on_another_machine(autojump_clock: MockClock) -> None:
    async with site(allowed_hosts=["mcp.example.com"]) as place:
        headers = {"host": "mcp.example.com", "origin": "https://mcp.example.com"}
        client = Client(place.app, headers, {"server": ("192.0.2.2", 80), "scheme": "http"})
        assert (await client.request(json=initialize())).status == 200


_names = st.text(st.characters(codec="latin-1"), max_size=30)


@given(host=st.one_of(st.none(), _names), origin=st.one_of(st.none(), _names))
def test_nothing_that_is_sent_breaks_it(host: str | None, origin: str | None) -> None:
    for server in (LOOPBACK[0], ELSEWHERE[0]):
        for hosts in (None, WILD):
            allows(server, host=host, origin=origin, hosts=hosts, origins=PAGES)
            allows(server, host=host, origin=origin, hosts=hosts)


@given(name=st.from_regex(r"[a-z0-9.-]{1,20}", fullmatch=True), port=st.integers(0, 65_535))
def test_a_strange_name_is_never_a_name_of_loopback(name: str, port: int) -> None:
    expected = name in {"localhost", "127.0.0.1"}
    for host in (name, f"{name}:{port}"):
        assert allows(LOOPBACK[0], host=host) is expected
    origin = f"https://{name}:{port}"
    assert allows(LOOPBACK[0], origin=origin) is expected


def test_addresses_of_loopback_are_names_of_it() -> None:
    assert allows(("127.0.0.2", 80), host="127.0.0.2")
    assert allows(("127.0.0.1", 80), host="[::1]:80", origin="http://127.9.9.9:3000")
    assert not allows(("127.0.0.1", 80), host="localhost" + "t" * 50)
    assert not allows(("127.0.0.1", 80), host="localhost.example")
