"""`JwtVerifier`: access tokens that are signed by an issuer (JWT, RFC 7519, RFC 9068)."""

from __future__ import annotations

from collections.abc import Collection
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, final

from ...core.identity import Principal
from ..extras import needs_extra
from .authentication import AuthenticationFailed, principal_of_client, scopes_of_claims
from .jwks import Key, KeySet, check_url

if TYPE_CHECKING:
    from jwt import PyJWK

ALGORITHMS: Final = (
    *("ES256", "ES384", "ES512", "EdDSA", "PS256"),
    *("PS384", "PS512", "RS256", "RS384", "RS512"),
)
"""Only algorithms with a public key: if shared secrets were accepted, too, an attacker could sign
with the public key as the secret."""

MAX_TOKEN: Final = 16_384
"""The longest token in bytes: longer than tokens with hundreds of groups are."""

MAX_TRIED: Final = 8
"""The most keys that a token without a key id is tried with: one try costs the time of a call."""


@final
class JwtVerifier:
    """Verifies access tokens that are JSON Web Tokens: ``verify`` of `BearerAuth`.

    It needs the extra ``jwt`` (PyJWT and cryptography). A token is valid if a key of the issuer
    has signed it, ``iss`` is the issuer, ``aud`` has the audience, and ``exp`` is in the future
    (and ``nbf`` in the past). The principal is ``sub``, or else the client that the token was
    issued to; its scopes are in ``scope`` or ``scp``, and its claims are the token's.

    Keys are fetched in a thread when they are needed first, and kept for ``max_age``. A token with
    an unknown key has them fetched again, once in ``cooldown`` at most. If they cannot be fetched,
    the old keys are used for another ``max_age``; after that, requests get 503.

    Args:
        issuer: The issuer, as in ``iss``.
        audience: What ``aud`` must have: mostly the ``resource`` of `BearerAuth`. With several,
            one is enough.
        jwks_url: Where the issuer's keys are (``jwks_uri`` in its metadata). ``https``, or
            ``http`` on this machine.
        algorithms: Which signatures are accepted.
        leeway: Seconds by which the clocks of issuer and server may differ.
        max_age: Seconds for which keys are kept. 3600 by default: issuers publish a new key for
            longer than that before they use it.
        cooldown: Seconds between two attempts to fetch keys. 30 by default: tokens with made-up
            key ids must not become requests to the issuer.
        timeout: Seconds for one attempt to fetch keys. 5 by default: less than
            `HttpOptions.authenticate_timeout`.

    Raises:
        ImportError: PyJWT or cryptography is not installed.
        ValueError: ``jwks_url`` or ``algorithms`` is not safe, or a number is not positive.
    """

    def __init__(
        self,
        *,
        issuer: str,
        audience: str | Collection[str],
        jwks_url: str,
        algorithms: Collection[str] = ALGORITHMS,
        leeway: float = 30.0,
        max_age: float = 3600.0,
        cooldown: float = 30.0,
        timeout: float = 5.0,
    ) -> None:
        # On first use: few servers need it.
        with needs_extra("jwt", "cryptography", "JwtVerifier"):
            import_module("cryptography")
        with needs_extra("jwt", "jwt", "JwtVerifier"):
            import jwt  # noqa: PLC0415
        check_url(jwks_url)
        unsafe = sorted(set(algorithms).difference(ALGORITHMS))
        if unsafe or not algorithms:
            raise ValueError(
                f"algorithms must be some of {', '.join(ALGORITHMS)}, not {unsafe or 'none'}"
            )
        for name, seconds in (("max_age", max_age), ("cooldown", cooldown), ("timeout", timeout)):
            if not 0 < seconds < float("inf"):
                raise ValueError(f"{name} must be positive and finite, not {seconds!r}")
        if not 0 <= leeway < float("inf"):
            raise ValueError(f"leeway must be 0 or more seconds, and finite, not {leeway!r}")
        self._jwt: Final = jwt
        self.issuer: Final = issuer
        """The issuer, for the metadata of `BearerAuth`."""
        self._audience: Final = [audience] if isinstance(audience, str) else list(audience)
        self._algorithms: Final = frozenset(algorithms)
        self._leeway: Final = leeway
        self._key_set: Final = KeySet(jwks_url, max_age, cooldown, timeout)
        self._prepared: dict[tuple[str | None, str], list[PyJWK]] = {}
        self._generation = 0

    def __repr__(self) -> str:
        return f"<JwtVerifier of {self.issuer!r}>"

    async def __call__(self, token: str) -> Principal | None:
        """Return the principal of a token; None if it is invalid.

        A checkpoint if keys must be fetched.

        Raises:
            AuthenticationFailed: 503, the keys of the issuer cannot be fetched.
        """
        if len(token) > MAX_TOKEN:
            return None
        jwt = self._jwt
        try:
            header = jwt.get_unverified_header(token)
        except jwt.PyJWTError:
            return None
        kid, algorithm = header.get("kid"), header.get("alg")
        if algorithm not in self._algorithms or not isinstance(kid, str | None):
            return None
        for key in await self._keys_for(kid, algorithm):
            try:
                claims = jwt.decode(
                    token,
                    key,
                    algorithms=[algorithm],
                    audience=self._audience,
                    issuer=self.issuer,
                    leeway=self._leeway,
                    options={"require": ["exp", "iss", "aud"]},
                )
            except jwt.InvalidSignatureError:
                continue  # Without a key id, another one may have signed it.
            except jwt.PyJWTError as error:
                raise AuthenticationFailed(f"The token is invalid: {error}") from error
            return self._principal_of(claims)
        return None

    async def _keys_for(self, kid: str | None, algorithm: str) -> list[PyJWK]:
        """Return the keys that may have signed a token, as the library wants them."""
        found = await self._key_set.find(kid)
        if kid is None:
            found = found[:MAX_TRIED]
        if self._generation != self._key_set.generation:
            self._prepared.clear()
            self._generation = self._key_set.generation
        known = self._prepared.get((kid, algorithm))
        if known is None:
            known = [one for key in found if (one := self._prepare(key, algorithm)) is not None]
            if known:  # Unknown ids are not kept: clients could fill the memory.
                self._prepared[kid, algorithm] = known
        return known

    def _prepare(self, key: Key, algorithm: str) -> PyJWK | None:
        if key.get("alg", algorithm) != algorithm:
            return None
        try:
            return self._jwt.PyJWK(dict(key), algorithm)
        except self._jwt.PyJWTError:
            return None  # It is for another kind of signature.

    def _principal_of(self, claims: dict[str, Any]) -> Principal:
        scopes = scopes_of_claims(claims)
        subject = claims.get("sub")
        if isinstance(subject, str) and subject:
            return Principal(subject, self.issuer, claims=claims, scopes=scopes)
        client_id = claims.get("client_id") or claims.get("azp")
        if isinstance(client_id, str) and client_id:
            return principal_of_client(client_id, self.issuer, claims, scopes)
        raise AuthenticationFailed("The token is invalid: it names neither subject nor client")
