"""What limits for one client are counted by."""

from __future__ import annotations

import pytest

from trio_mcp_session import Principal
from trio_mcp_session.core.peer import host_of, join_host_port, network_of, party_of, read_address

ALICE = Principal("alice")


@pytest.mark.parametrize(
    "peer, host",
    [
        ("192.0.2.1:80", "192.0.2.1"),
        ("192.0.2.1", "192.0.2.1"),
        ("[2001:db8::1]:80", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("[::1]", "::1"),
        ("localhost:80", "localhost"),
        ("", ""),
    ],
)
def test_an_address_without_its_port(peer: str, host: str) -> None:
    assert host_of(peer) == host


def test_an_address_with_its_port() -> None:
    assert join_host_port("192.0.2.1", 80) == "192.0.2.1:80"
    assert join_host_port("::1", 80) == "[::1]:80"


@pytest.mark.parametrize(
    "host, network",
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::7", "2001:db8:1:2::/64"),
        ("::1", "::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("not:an:address", "not:an:address"),
        ("testclient", "testclient"),
    ],
)
def test_ipv6_is_counted_by_its_first_64_bits(host: str, network: str) -> None:
    assert network_of(host) == network


def test_a_party_is_a_principal_or_else_an_address() -> None:
    assert party_of(ALICE, "192.0.2.1:80") is ALICE
    assert party_of(None, "192.0.2.1:80") == party_of(None, "192.0.2.1:81") == "192.0.2.1"
    assert party_of(None, "[2001:db8::1]:80") == party_of(None, "[2001:db8::2]:80")
    assert party_of(None, "") is None


def test_text_that_is_not_an_address() -> None:
    assert read_address("unknown") is None
    assert str(read_address("192.0.2.1")) == "192.0.2.1"


@pytest.mark.parametrize(
    "peer, party",
    [
        ("192.0.2.7:5001", "192.0.2.7"),
        ("[2001:db8:1:2:3:4:5:6]:80", "2001:db8:1:2::/64"),
        ("[2001:db8:1:2::9]:81", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9:81", "2001:db8:1:2::/64"),  # As HTTP servers name it.
        ("[2001:db8:1:3::9]:81", "2001:db8:1:3::/64"),
        ("[::ffff:192.0.2.7]:80", "192.0.2.7"),
        ("[fe80::1%eth0]:80", "fe80::/64"),
        ("testclient:50000", "testclient"),
    ],
)
def test_the_party_of_a_client_without_authentication_is_its_address(peer: str, party: str) -> None:
    assert party_of(None, peer) == party
