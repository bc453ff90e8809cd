"""Access tokens that an issuer has signed: which are valid, and what principal they make."""

from __future__ import annotations

import json
import sys
import time
from typing import Any, Final

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from trio.testing import MockClock

from tests.helpers import initialize
from tests.transports.http.site import json_of, site
from trio_mcp_session import AuthenticationFailed, BearerAuth, JwtVerifier, Principal
from trio_mcp_session.transports.http import jwks
from trio_mcp_session.transports.http.jwt_verifier import MAX_TOKEN

ISSUER: Final = "https://id.example.com"
RESOURCE: Final = "https://notes.example.com/mcp"
URL: Final = "https://id.example.com/keys"

RSA_KEY: Final = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_KEY: Final = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY: Final = ec.generate_private_key(ec.SECP256R1())
ED_KEY: Final = ed25519.Ed25519PrivateKey.generate()


def public(key: str, kid: str | None, **members: str) -> dict[str, Any]:
    """The key as its issuer publishes it."""
    named = {} if kid is None else {"kid": kid}
    return {**json.loads(key), **named, **members}


def rsa_public(kid: str | None = "rsa", **members: str) -> dict[str, Any]:
    return public(RSAAlgorithm.to_jwk(RSA_KEY.public_key()), kid, **members)


def other_public(kid: str | None = "other", **members: str) -> dict[str, Any]:
    return public(RSAAlgorithm.to_jwk(OTHER_KEY.public_key()), kid, **members)


EC_PUBLIC: Final = public(ECAlgorithm.to_jwk(EC_KEY.public_key()), "ec")
ED_PUBLIC: Final = public(OKPAlgorithm.to_jwk(ED_KEY.public_key()), "ed")


class Issuer:
    """In place of the network: the keys that are fetched."""

    def __init__(self) -> None:
        self.keys: list[Any] = [rsa_public(), EC_PUBLIC, ED_PUBLIC]
        self.fetched = 0

    def fetch(self, url: str, timeout: float) -> tuple[Any, ...]:
        assert url == URL
        self.fetched += 1
        if not self.keys:
            raise jwks.KeysUnavailable("it is down")
        return tuple(self.keys)


@pytest.fixture
def issuer(monkeypatch: pytest.MonkeyPatch) -> Issuer:
    found = Issuer()
    monkeypatch.setattr(jwks, "fetch", found.fetch)
    return found


def verifier(**options: Any) -> JwtVerifier:
    return JwtVerifier(**{"issuer": ISSUER, "audience": RESOURCE, "jwks_url": URL, **options})


def claims(**members: Any) -> dict[str, Any]:
    """The claims of a token; ``exp`` and ``nbf`` are seconds from now."""
    found = {"iss": ISSUER, "aud": RESOURCE, "sub": "ada", "exp": 60, **members}
    now = time.time()
    return {
        name: now + value if name in ("exp", "nbf") else value
        for name, value in found.items()
        if value is not None
    }


def token(
    key: Any = RSA_KEY, algorithm: str = "RS256", kid: str | None = "rsa", **members: Any
) -> str:
    headers = {} if kid is None else {"kid": kid}
    return jwt.encode(claims(**members), key, algorithm, headers=headers)


async def refused(verify: JwtVerifier, text: str) -> str | None:
    """Why a token is refused."""
    found, why = None, None
    try:
        found = await verify(text)
    except AuthenticationFailed as failure:
        why = (failure.status, failure.message)
    assert found is None
    if why is None:
        return None
    assert why[0] == 401
    return why[1].removeprefix("The token is invalid: ")


# Valid tokens.


@pytest.mark.parametrize(
    "key, algorithm, kid",
    [
        (RSA_KEY, "RS256", "rsa"),
        (RSA_KEY, "RS512", "rsa"),
        (RSA_KEY, "PS256", "rsa"),
        (EC_KEY, "ES256", "ec"),
        (ED_KEY, "EdDSA", "ed"),
    ],
    ids=["RS256", "RS512", "PS256", "ES256", "EdDSA"],
)
async def test_a_token_with_a_valid_signature_names_its_principal(
    key: Any, algorithm: str, kid: str, issuer: Issuer
) -> None:
    verify = verifier()
    for _ in range(3):
        found = await verify(token(key, algorithm, kid, scope="notes:read notes:write", org=["x"]))
        assert found == Principal("ada", ISSUER)
        assert found.scopes == {"notes:read", "notes:write"}
        assert found.claims["org"] == ("x",)
    assert issuer.fetched == 1
    assert repr(verify) == f"<JwtVerifier of {ISSUER!r}>"


@pytest.mark.parametrize(
    "members, principal",
    [
        ({"sub": None, "client_id": "app"}, Principal("app", f"clients of {ISSUER}")),
        ({"sub": None, "azp": "app"}, Principal("app", f"clients of {ISSUER}")),
        ({"sub": "", "client_id": "app"}, Principal("app", f"clients of {ISSUER}")),
        ({"client_id": "app"}, Principal("ada", ISSUER)),
        ({"aud": ["other", RESOURCE]}, Principal("ada", ISSUER)),
        # The clocks of two machines differ.
        ({"exp": -20}, Principal("ada", ISSUER)),
        ({"nbf": 20}, Principal("ada", ISSUER)),
    ],
    ids=range(7),
)
async def test_claims_that_are_accepted(
    members: dict[str, Any], principal: Principal, issuer: Issuer
) -> None:
    assert await verifier()(token(**members)) == principal


async def test_a_token_without_a_key_id_is_tried_with_all_keys(issuer: Issuer) -> None:
    issuer.keys = [other_public(None), EC_PUBLIC, rsa_public(None)]
    assert await verifier()(token(kid=None)) == Principal("ada", ISSUER)
    issuer.keys = [other_public(None)] * 8 + [rsa_public(None)]
    assert await verifier()(token(kid=None)) is None


async def test_one_of_several_audiences_is_enough(issuer: Issuer) -> None:
    verify = verifier(audience=["a", "b"])
    assert await verify(token(aud="b")) == Principal("ada", ISSUER)
    assert await refused(verify, token(aud="c")) == "Audience doesn't match"


# Invalid tokens.


@pytest.mark.parametrize(
    "members, why",
    [
        ({"exp": -3600}, "Signature has expired"),
        ({"exp": None}, 'Token is missing the "exp" claim'),
        ({"nbf": 3600}, "The token is not yet valid (nbf)"),
        ({"aud": "https://other.example.com"}, "Audience doesn't match"),
        ({"aud": None}, 'Token is missing the "aud" claim'),
        ({"iss": "https://evil.example.com"}, "Invalid issuer"),
        ({"iss": None}, 'Token is missing the "iss" claim'),
        ({"sub": None}, "it names neither subject nor client"),
        ({"sub": "", "client_id": ""}, "it names neither subject nor client"),
    ],
    ids=range(9),
)
async def test_a_token_with_other_claims_is_refused(
    members: dict[str, Any], why: str, issuer: Issuer
) -> None:
    assert await refused(verifier(), token(**members)) == why


@pytest.mark.parametrize(
    "text",
    [
        "",
        "opaque",
        "a.b.c",
        token(OTHER_KEY),
        token(kid="unknown"),
        token(EC_KEY, "ES256", "rsa"),
        token("s" * 32, "HS256"),
        jwt.encode(claims(), "", "none"),
        # The published key, used as a shared secret.
        jwt.encode(claims(), rsa_public()["n"], "HS256", headers={"kid": "rsa"}),
        f"{token()[:-8]}AAAAAAAA",
        token(padding="x" * MAX_TOKEN),
    ],
    ids=range(11),
)
async def test_a_token_without_a_valid_signature_is_refused(text: str, issuer: Issuer) -> None:
    assert await refused(verifier(), text) is None


async def test_a_key_is_used_for_its_own_algorithm_only(issuer: Issuer) -> None:
    issuer.keys = [rsa_public(alg="PS256")]
    verify = verifier()
    assert await verify(token()) is None
    assert await verify(token(RSA_KEY, "PS256")) == Principal("ada", ISSUER)
    verify = verifier(algorithms=["RS256"])
    assert await verify(token(RSA_KEY, "PS256")) is None


async def test_keys_that_make_no_sense_are_skipped(issuer: Issuer) -> None:
    issuer.keys = [{"kid": "rsa"}, {"kid": "rsa", "kty": "RSA", "n": "!"}, rsa_public()]
    assert await verifier()(token()) == Principal("ada", ISSUER)


# Keys that change.


async def test_a_new_key_is_found_and_an_old_one_is_gone(
    issuer: Issuer, mock_clock: MockClock
) -> None:
    verify = verifier()
    assert await verify(token()) == Principal("ada", ISSUER)
    issuer.keys = [other_public("new")]
    new = token(OTHER_KEY, kid="new")
    assert await verify(new) is None
    mock_clock.jump(30)
    assert await verify(new) == Principal("ada", ISSUER)
    assert await verify(token()) is None
    assert issuer.fetched == 2
    # Made-up ids leave nothing behind.
    for number in range(100):
        assert await verify(token(kid=f"made up {number}")) is None
    assert len(verify._prepared) == 1


async def test_without_keys_requests_are_answered_with_503(
    issuer: Issuer, mock_clock: MockClock
) -> None:
    issuer.keys = []
    hook = BearerAuth(verifier(), resource=RESOURCE)
    async with site(authenticate=hook) as place:
        answer = await place.client().request(
            "POST", initialize(), headers={"authorization": f"Bearer {token()}"}
        )
        assert answer.status == 503
        assert answer.headers["retry-after"] == "5"
        assert json_of(answer)["error"]["message"] == "Tokens cannot be checked now"


async def test_what_is_wrong_with_a_token_is_in_the_challenge(
    issuer: Issuer, mock_clock: MockClock
) -> None:
    hook = BearerAuth(verifier(), resource=RESOURCE, scopes="notes:read")
    async with site(authenticate=hook) as place:

        async def ask(text: str) -> Any:
            given = {"authorization": f"Bearer {text}"}
            return await place.client().request("POST", initialize(), headers=given)

        assert (await ask(token(scope="notes:read"))).status == 200
        late = await ask(token(exp=-3600))
        assert late.status == 401
        challenge = late.headers["www-authenticate"]
        assert 'error_description="The token is invalid: Signature has expired"' in challenge
        assert (await ask(token())).status == 403
        for session in place.manager.sessions():
            session.terminate()


# Settings.


@pytest.mark.parametrize(
    "options, message",
    [
        ({"jwks_url": "http://id.example.com/keys"}, "keys must come from an https URL"),
        ({"algorithms": ["RS256", "HS256"]}, r"algorithms must be some of .*, not \['HS256'\]"),
        ({"algorithms": ["none"]}, r"not \['none'\]"),
        ({"algorithms": []}, "algorithms must be some of .*, not none"),
        ({"max_age": 0}, "max_age must be positive and finite, not 0"),
        ({"cooldown": float("inf")}, "cooldown must be positive and finite, not inf"),
        ({"timeout": -1}, "timeout must be positive"),
        ({"leeway": -1}, "leeway must be 0 or more seconds"),
        ({"leeway": float("nan")}, "leeway must be 0 or more seconds"),
    ],
    ids=range(9),
)
def test_unsafe_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        verifier(**options)


@pytest.mark.parametrize("missing", ["jwt", "cryptography"])
def test_the_error_names_the_extra(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=r"JwtVerifier needs the extra 'jwt', .*\[jwt\]"):
        verifier()
