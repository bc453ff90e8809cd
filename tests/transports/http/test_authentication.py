"""On whose behalf a request is made: hooks, middleware, and what they get wrong."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, final

import attrs
import pytest
import trio
from hypothesis import given, strategies as st
from trio.testing import MockClock

from tests.helpers import at_every_step, brief, cancelled_at_step, error, initialize, request
from tests.transports.http.site import Site, bearer, json_of, never, site, works
from trio_mcp_session import Principal
from trio_mcp_session.transports.asgi import Scope
from trio_mcp_session.transports.http.authentication import (
    AuthenticationFailed,
    principal_of,
    principal_of_user,
)
from trio_mcp_session.transports.http.http_error import HttpError

VERBS = [("POST", initialize()), ("GET", None), ("DELETE", None)]


def always(outcome: object) -> Any:
    """A hook that returns the outcome, or raises it."""

    async def authenticate(scope: Scope, headers: Mapping[str, str]) -> Any:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    return authenticate


# Hooks.


async def test_the_principal_of_the_hook_owns_the_session(autojump_clock: MockClock) -> None:
    for principal in (Principal("alice"), Principal("alice", "https://issuer.example"), None):
        async with site(authenticate=always(principal)) as place:
            client, session = await place.open()
            assert session.principal == principal
            assert await works(client)


async def test_what_a_hook_is_given(autojump_clock: MockClock) -> None:
    given_: list[tuple[Scope, Mapping[str, str]]] = []

    async def authenticate(scope: Scope, headers: Mapping[str, str]) -> None:
        given_.append((scope, headers))

    async with site(authenticate=authenticate) as place:
        more = [(b"x-forwarded-for", b"192.0.2.7"), (b"x-forwarded-for", b"192.0.2.8")]
        answer = await place.client().request(
            json=initialize(), headers={"Authorization": "Bearer \xe9"}, more_headers=more
        )
        assert answer.status == 200
    ((scope, headers),) = given_
    assert (scope["type"], scope["method"], scope["path"]) == ("http", "POST", "/mcp")
    assert headers["authorization"] == "Bearer \xe9"
    assert headers["host"] == "localhost:8000"
    assert headers["x-forwarded-for"] == "192.0.2.7, 192.0.2.8"


@pytest.mark.parametrize(
    "failure, status, message, challenge",
    [
        (AuthenticationFailed(), 401, "Authentication required", None),
        (AuthenticationFailed("No."), 401, "No.", None),
        (AuthenticationFailed(www_authenticate="Bearer"), 401, "Authentication required", "Bearer"),
        (
            AuthenticationFailed(
                "Scope is missing",
                status=403,
                www_authenticate='Bearer error="insufficient_scope", scope="files:write"',
            ),
            403,
            "Scope is missing",
            'Bearer error="insufficient_scope", scope="files:write"',
        ),
        (AuthenticationFailed("Malformed", status=400), 400, "Malformed", None),
        (AuthenticationFailed("Later", status=599), 599, "Later", None),
        # What a header cannot hold is not worth failing for.
        (
            AuthenticationFailed("é", www_authenticate='Bearer realm="é☃"'),
            401,
            "é",
            'Bearer realm="é?"',
        ),
    ],
    ids=range(7),
)
async def test_an_authentication_failure_sets_status_message_and_challenge(
    failure: AuthenticationFailed,
    status: int,
    message: str,
    challenge: str | None,
    autojump_clock: MockClock,
) -> None:
    async with site(authenticate=always(failure)) as place:
        for verb, body in VERBS:
            response = await place.client().request(verb, body)
            assert response.status == status
            assert json_of(response) == error(None, -32600, message)
            assert response.headers.pop("content-length") == str(len(response.body))
            assert response.headers == {
                "content-type": "application/json",
                **({} if challenge is None else {"www-authenticate": challenge}),
            }
        assert place.refused == {status: 3}
        assert place.manager.statistics().opened == 0


@pytest.mark.parametrize("status", [-1, 0, 200, 204, 302, 399, 600, 1000])
def test_a_failure_has_a_status_that_refuses(status: int) -> None:
    with pytest.raises(ValueError, match=rf"status must refuse the request, not be {status}$"):
        AuthenticationFailed(status=status)


@pytest.mark.parametrize("char", ["\r", "\n", "\r\n", "\0"])
def test_a_challenge_is_one_line(char: str) -> None:
    with pytest.raises(ValueError, match="www_authenticate must be one line"):
        AuthenticationFailed(www_authenticate=f"Bearer{char}X-Injected: yes")


@pytest.mark.parametrize(
    "outcome",
    [
        ZeroDivisionError("secret"),
        OSError("secret"),
        ExceptionGroup("secret", [ValueError("secret")]),
        False,
        "alice",
        {"sub": "secret"},
    ],
    ids=lambda outcome: type(outcome).__name__,
)
async def test_a_failing_authentication_hook_refuses_the_request(
    outcome: object, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with site(authenticate=always(outcome)) as place:
        for verb, body in VERBS:
            response = await place.client().request(verb, body)
            assert response.status == 500
            # What went wrong is for the log, not for the client.
            assert json_of(response) == error(None, -32603, "Internal error")
            assert b"secret" not in response.body
        assert place.refused == {500: 3}
        assert place.manager.statistics().opened == 0
    assert [(one.name, one.levelno) for one in caplog.records] == [
        ("trio_mcp_session", logging.ERROR)
    ] * 3
    for record in caplog.records:
        assert record.getMessage() == "authentication raised; the request is refused"
        assert record.exc_info is not None


async def test_a_refusal_is_not_reported_as_a_failure(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with site(authenticate=bearer) as place:
        assert (await place.client().request(json=initialize())).status == 401
    assert caplog.records == []


async def test_before_authentication_no_body_is_read_and_no_session_looked_up(
    autojump_clock: MockClock,
) -> None:
    async with site(authenticate=bearer) as place:
        _, session = await place.open("alice")

        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        bodies = set()
        for verb in ("POST", "GET", "DELETE"):
            # Live, unknown, or none: an unauthenticated client does not learn the difference.
            for named in ([session.session_id], ["x" * 32], []):
                headers = [
                    (b"host", b"localhost:8000"),
                    (b"content-length", b"100000000"),
                    *((b"mcp-session-id", one.encode()) for one in named),
                ]
                await place.app(
                    {"type": "http", "method": verb, "path": "/mcp", "headers": headers},
                    never,
                    send,
                )
                start, body = sent
                sent.clear()
                assert start["status"] == 401
                bodies.add(body["body"])
        assert len(bodies) == 1


async def test_valid_credentials_and_an_unknown_session_are_404(autojump_clock: MockClock) -> None:
    async with site(authenticate=bearer) as place:
        named = {"mcp-session-id": "x" * 32}
        for verb, body in VERBS[1:]:  # `initialize` opens another session.
            known = await place.client("alice").request(verb, body, headers=named)
            assert (known.status, brief(json_of(known))) == (404, error(None, -32600))
            assert (await place.client().request(verb, body, headers=named)).status == 401


async def test_a_hook_may_take_its_time(autojump_clock: MockClock) -> None:
    async def slow(scope: Scope, headers: Mapping[str, str]) -> Principal:
        await trio.sleep(9)
        return await bearer(scope, headers)

    async with site(authenticate=slow) as place:
        _, session = await place.open("alice")
        assert session.principal == Principal("alice")


async def test_a_hook_is_cancelled_with_its_request(autojump_clock: MockClock) -> None:
    async def slow(scope: Scope, headers: Mapping[str, str]) -> Principal:
        await trio.sleep(1)
        return Principal("alice")

    async def attempt(step: int) -> bool:
        async with site(authenticate=slow) as place:
            with cancelled_at_step(step) as scope:
                assert (await place.client().request("DELETE")).status == 400
            assert place.manager.statistics().opened == 0
            return not scope.cancelled_caught

    assert await at_every_step(attempt) > 2


# What middleware left in the scope.


class BaseUser:
    """As Starlette's: what a user class leaves out raises."""

    @property
    def is_authenticated(self) -> bool:
        raise NotImplementedError

    @property
    def display_name(self) -> str:
        raise NotImplementedError  # pragma: no cover  # never asked of a token's user

    @property
    def identity(self) -> str:
        raise NotImplementedError


class SimpleUser(BaseUser):
    """As Starlette's, and as it was before it had an identity."""

    def __init__(self, username: str) -> None:
        self.username = username

    @property
    def is_authenticated(self) -> bool:
        return True

    @property
    def display_name(self) -> str:
        return self.username


class UnauthenticatedUser(BaseUser):
    @property
    def is_authenticated(self) -> bool:
        return False


class DisplayedUser(BaseUser):
    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def is_authenticated(self) -> bool:
        return True

    @property
    def display_name(self) -> str:
        return self._name


class IdentifiedUser(SimpleUser):
    @property
    def identity(self) -> str:
        return f"id of {self.username}"


@final
@attrs.frozen
class AccessToken:
    """As the official SDK's."""

    client_id: str = "client"
    subject: str | None = None
    claims: dict[str, Any] | None = None


class SdkUser(SimpleUser):
    """As the official SDK's `AuthenticatedUser`: it displays the client's id."""

    def __init__(self, access_token: AccessToken) -> None:
        super().__init__(access_token.client_id)
        self.access_token = access_token


class TokenUser(BaseUser):
    """A user of which only the token is known."""

    def __init__(self, access_token: AccessToken) -> None:
        self.access_token = access_token

    @property
    def is_authenticated(self) -> bool:
        return True


@attrs.frozen
class Attributes:
    """Anything that has some attributes."""

    username: object = None
    access_token: object = None


ISSUER = "https://issuer.example"
USERS = [
    ("alice", Principal("alice")),
    ({"sub": "alice"}, Principal("alice")),
    ({"sub": "alice", "iss": ISSUER, "aud": "us"}, Principal("alice", ISSUER)),
    ({"sub": "alice", "iss": None}, Principal("alice")),
    (MappingProxyType({"sub": "alice", "iss": ISSUER}), Principal("alice", ISSUER)),
    (SimpleUser("alice"), Principal("alice")),
    (DisplayedUser("Alice"), Principal("Alice")),
    (IdentifiedUser("alice"), Principal("id of alice")),
    (UnauthenticatedUser(), None),
    (SdkUser(AccessToken(subject="alice")), Principal("alice")),
    (SdkUser(AccessToken(subject="alice", claims={"iss": ISSUER})), Principal("alice", ISSUER)),
    (SdkUser(AccessToken(subject="alice", claims={"act": {}})), Principal("alice")),
    (SdkUser(AccessToken()), Principal("client", "clients of ")),
    (
        SdkUser(AccessToken(subject="", claims={"iss": ISSUER})),
        Principal("client", f"clients of {ISSUER}"),
    ),
    (TokenUser(AccessToken()), Principal("client", "clients of ")),
    (Attributes(access_token=AccessToken()), Principal("client", "clients of ")),
    (Attributes(username="alice", access_token=AccessToken(subject="al")), Principal("al")),
]
NAMELESS = [
    "",
    {},
    {"iss": ISSUER},
    {"sub": ""},
    {"sub": 7},
    {"username": "alice"},
    SimpleUser(""),
    Attributes(),
    Attributes(username=7),
    Attributes(access_token=AccessToken(client_id="")),
    BaseUser(),
    7,
    True,
]


@pytest.mark.parametrize("user, principal", USERS, ids=range(len(USERS)))
async def test_the_user_of_a_middleware_becomes_the_principal(
    user: object, principal: Principal | None, autojump_clock: MockClock
) -> None:
    assert principal_of_user(user) == principal
    async with site() as place:
        client = await place.client(user=user).initialize()
        (session,) = place.manager.sessions()
        assert session.principal == principal
        assert await works(client)


@pytest.mark.parametrize("user", NAMELESS, ids=range(len(NAMELESS)))
async def test_users_without_a_name_are_refused(
    user: object, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with site() as place:
        for verb, body in VERBS:
            response = await place.client(user=user).request(verb, body)
            assert (response.status, brief(json_of(response))) == (500, error(None, -32603))
        assert place.manager.statistics().opened == 0
    assert len(caplog.records) == 3


@pytest.mark.parametrize("scope", [{}, {"user": None}])
async def test_without_middleware_the_session_has_no_principal(
    scope: dict[str, Any], autojump_clock: MockClock
) -> None:
    assert await principal_of(scope, None) is None


async def test_a_hook_overrides_middleware(autojump_clock: MockClock) -> None:
    async with site(authenticate=bearer) as place:
        client = await place.client("alice", user="mallory").initialize()
        (session,) = place.manager.sessions()
        assert session.principal == Principal("alice")
        assert await works(client)


async def test_the_same_subject_of_another_issuer_is_another_principal(
    autojump_clock: MockClock,
) -> None:
    async def probe(place: Site, **user: str) -> int:
        named = {"mcp-session-id": client.headers["mcp-session-id"]}
        answer = await place.client(user=user).request(json=request(1, "echo"), headers=named)
        return answer.status

    async with site() as place:
        client = await place.client(user={"sub": "alice", "iss": ISSUER}).initialize()
        assert await probe(place, sub="alice", iss=ISSUER, jti="another token") == 200
        assert await probe(place, sub="alice", iss="https://evil.example") == 404
        assert await probe(place, sub="alice") == 404
        assert await probe(place, sub="bob", iss=ISSUER) == 404


@given(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.text(),
        st.dictionaries(
            st.sampled_from(["sub", "iss", "x"]), st.one_of(st.none(), st.text(), st.integers())
        ),
        st.builds(Attributes, st.one_of(st.none(), st.text(), st.booleans())),
    )
)
def test_no_user_becomes_a_principal_with_an_empty_subject(user: object) -> None:
    try:
        principal = principal_of_user(user)
    except TypeError:
        return
    assert principal is not None
    assert principal.subject
    assert isinstance(principal.issuer, str)


async def test_refusals_keep_their_cause() -> None:
    cause = AuthenticationFailed()
    with pytest.raises(HttpError) as caught:
        await principal_of({"headers": []}, always(cause))
    assert caught.value.__cause__ is cause


@attrs.frozen
class Credentials:
    """As Starlette's ``scope["auth"]``."""

    scopes: object = ("a", "b")


@attrs.frozen
class ScopedToken:
    """As the official SDK's."""

    subject: str | None = None
    client_id: str = "client"
    scopes: object = ("x",)


@pytest.mark.parametrize(
    "user, auth, scopes, claims",
    [
        ("alice", None, set(), {}),
        ("alice", Credentials(), {"a", "b"}, {}),
        (SimpleUser("alice"), Credentials(), {"a", "b"}, {}),
        ({"sub": "alice"}, Credentials(), {"a", "b"}, {"sub": "alice"}),
        ({"sub": "a", "scope": "x y"}, Credentials(), {"x", "y"}, {"sub": "a", "scope": "x y"}),
        ({"sub": "a", "scp": ["x"]}, None, {"x"}, {"sub": "a", "scp": ("x",)}),
        ({"sub": "a", "scope": 7, "scp": "y"}, None, {"y"}, {"sub": "a", "scope": 7, "scp": "y"}),
        (Attributes(access_token=ScopedToken("alice")), Credentials(), {"x"}, {}),
        (Attributes(access_token=ScopedToken()), None, {"x"}, {}),
        (
            Attributes(access_token=AccessToken(subject="alice", claims={"iss": "i"})),
            Credentials(),
            set(),
            {"iss": "i"},
        ),
    ],
    ids=range(10),
)
def test_the_principal_has_the_scopes_and_claims_of_the_middleware(
    user: object, auth: object, scopes: set[str], claims: dict[str, Any]
) -> None:
    principal = principal_of_user(user, auth)
    assert principal is not None
    assert principal.scopes == scopes
    assert principal.claims == claims
