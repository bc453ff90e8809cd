"""Parties: which clients share the limits of one principal or one address."""

from __future__ import annotations

import pytest

from trio_mcp_session import Principal
from trio_mcp_session.core.peer import party_of

ANN = Principal("ann", "issuer")


@pytest.mark.parametrize(
    "peer, party",
    [
        ("192.0.2.7:5000", "192.0.2.7"),
        ("192.0.2.7:5001", "192.0.2.7"),
        ("[2001:db8:1:2:3:4:5:6]:80", "2001:db8:1:2::/64"),
        ("[2001:db8:1:2::9]:81", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9:81", "2001:db8:1:2::/64"),  # As HTTP servers name it.
        ("[2001:db8:1:3::9]:81", "2001:db8:1:3::/64"),
        ("[::ffff:192.0.2.7]:80", "192.0.2.7"),
        ("[fe80::1%eth0]:80", "fe80::/64"),
        ("testclient:50000", "testclient"),
        ("", None),
    ],
)
def test_the_party_of_a_client_without_authentication_is_its_address(
    peer: str, party: str | None
) -> None:
    assert party_of(None, peer) == party


def test_the_party_of_an_authenticated_client_is_its_principal() -> None:
    assert party_of(ANN, "192.0.2.7:5000") == party_of(ANN, "") == ANN
