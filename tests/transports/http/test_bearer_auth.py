"""`BearerAuth`: metadata, challenges, and scopes of tools, as OAuth clients of MCP need them."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest
import trio
from trio.testing import MockClock

from tests.helpers import error, initialize, notification, request
from tests.transports.http.asgi_client import Client
from tests.transports.http.modern import headers_of, modern
from tests.transports.http.site import json_of, site
from trio_mcp_session import (
    AuthenticationFailed,
    BearerAuth,
    InsufficientScope,
    Principal,
    RequestContext,
    Router,
)
from trio_mcp_session.transports.http.bearer_auth import metadata_url_of

RESOURCE = "https://notes.example.com/mcp"
METADATA = "https://notes.example.com/.well-known/oauth-protected-resource/mcp"
ISSUER = "https://id.example.com"
ROOT = "/.well-known/oauth-protected-resource"

TOKENS: dict[str, Principal] = {
    "reader": Principal("ada", ISSUER, scopes="notes:read"),
    "writer": Principal("ada", ISSUER, scopes="notes:read notes:write"),
    "guest": Principal("bob", ISSUER),
}


async def verify(token: str) -> Principal | None:
    return TOKENS.get(token)


def auth(**options: Any) -> BearerAuth:
    given: dict[str, Any] = {"resource": RESOURCE, "authorization_servers": [ISSUER], **options}
    return BearerAuth(verify, **given)


def notes() -> Router:
    router = Router("notes")

    @router.tool(scopes=["notes:write"])
    async def write(ctx: RequestContext) -> str:
        return "written"

    @router.tool()
    async def read(ctx: RequestContext, topic: str = "") -> str:
        if topic.startswith("secret"):
            if topic == "secret soon":
                await ctx.notify("notifications/begun")
            raise InsufficientScope("notes:secret")
        return "read"

    @router.request("notes/purge", scopes="notes:write notes:admin")
    async def purge(ctx: RequestContext) -> None:
        raise AssertionError  # pragma: no cover  # no token has the scopes

    @router.notification("notifications/progress")
    async def _(ctx: RequestContext) -> None: ...

    return router


def with_token(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def call(request_id: int, name: str, **arguments: str) -> dict[str, Any]:
    return request(request_id, "tools/call", {"name": name, "arguments": arguments})


def text_of(answer: Any) -> str:
    return str(answer["result"]["content"][0]["text"])


# Metadata.


async def test_metadata_is_served_without_a_token_at_both_paths(autojump_clock: MockClock) -> None:
    hook = auth(
        scopes="notes:read",
        resource_name="Notes",
        resource_documentation="https://notes.example.com/docs",
    )
    async with site(notes(), authenticate=hook) as place:
        for path in (f"{ROOT}/mcp", ROOT):
            answer = await place.client().request("GET", path=path)
            assert answer.status == 200
            assert json_of(answer) == {
                "resource": RESOURCE,
                "authorization_servers": [ISSUER],
                "scopes_supported": ["notes:read"],
                "bearer_methods_supported": ["header"],
                "resource_name": "Notes",
                "resource_documentation": "https://notes.example.com/docs",
            }
            assert answer.headers == {
                "content-type": "application/json",
                "content-length": str(len(answer.body)),
                "access-control-allow-origin": "*",
                "cache-control": "public, max-age=300",
            }
            # Also to pages in browsers: what may use the endpoint is decided there.
            page = {"origin": "https://app.example.com", "host": "notes.example.com"}
            again = await place.client().request("GET", path=path, headers=page)
            assert again.body == answer.body
        assert (await place.client().request("GET", path=f"{ROOT}/other")).status == 404


async def test_an_allowed_page_gets_one_cors_header(autojump_clock: MockClock) -> None:
    # Browsers refuse an answer with two.
    page = "https://app.example.com"
    async with site(notes(), authenticate=auth(), allowed_origins=[page]) as place:
        headers = [(b"origin", page.encode())]
        scope = {"type": "http", "method": "GET", "path": ROOT, "headers": headers}
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        await place.app(scope, cast("Any", None), send)
        names = [name for name, _ in sent[0]["headers"]]
        assert names.count(b"access-control-allow-origin") == 1


async def test_methods_of_the_metadata(autojump_clock: MockClock) -> None:
    async with site(notes(), authenticate=auth()) as place:
        full = await place.client().request("GET", path=ROOT)
        head = await place.client().request("HEAD", path=ROOT)
        assert (head.status, head.body) == (200, b"")
        assert head.headers == full.headers
        preflight = await place.client().request("OPTIONS", path=ROOT)
        assert preflight.status == 204
        assert preflight.headers["access-control-allow-origin"] == "*"
        assert preflight.headers["access-control-allow-methods"] == "GET"
        assert preflight.headers["access-control-allow-headers"] == "*"
        refused = await place.client().request("POST", path=ROOT)
        assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD, OPTIONS")


async def test_a_client_that_leaves_during_the_metadata_changes_nothing(
    autojump_clock: MockClock,
) -> None:
    async def gone(message: Any) -> None:
        raise OSError("the client has left")

    async with site(notes(), authenticate=auth()) as place:
        scope = {"type": "http", "method": "GET", "path": ROOT, "headers": []}
        await place.app(scope, cast("Any", None), gone)


async def test_metadata_can_be_served_beside_a_mounted_endpoint(
    autojump_clock: MockClock,
) -> None:
    hook = auth(scopes_supported=["notes:read", "notes:write"])
    outside = Client(hook.metadata_app)
    for path in (f"{ROOT}/mcp", ROOT, f"{ROOT}/"):
        answer = await outside.request("GET", path=path, root_path=ROOT)
        assert json_of(answer)["scopes_supported"] == ["notes:read", "notes:write"]
    assert (await outside.request("GET", path=f"{ROOT}/other")).status == 404


async def test_without_a_resource_there_is_no_metadata(autojump_clock: MockClock) -> None:
    hook = BearerAuth(verify)
    assert hook.metadata_url is None
    assert repr(hook) == "<BearerAuth of None>"
    async with site(notes(), authenticate=hook) as place:
        assert (await place.client().request("GET", path=ROOT)).status == 404
        answer = await place.client().request("POST", initialize())
        assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")


@pytest.mark.parametrize(
    "resource, url",
    [
        (RESOURCE, METADATA),
        ("https://a.example", f"https://a.example{ROOT}"),
        ("https://a.example/", f"https://a.example{ROOT}"),
        ("http://localhost:8000/x/mcp/", f"http://localhost:8000{ROOT}/x/mcp"),
        ("HTTPS://a.example:8443/%7Ea", f"https://a.example:8443{ROOT}/%7Ea"),
    ],
)
def test_the_metadata_url_has_the_path_of_the_resource_behind_it(resource: str, url: str) -> None:
    assert metadata_url_of(resource) == url


@pytest.mark.parametrize(
    "resource",
    [
        *("", "/mcp", "notes.example.com/mcp", "ftp://a.example", "https://"),
        *("https://a.example/?x", "https://a.example/#", 'https://a.example/"'),
        *("https://a.example/\n", "https://ä.example"),
    ],
)
def test_a_resource_is_an_absolute_url(resource: str) -> None:
    with pytest.raises(ValueError, match="resource must be the URL of the endpoint"):
        auth(resource=resource)


def test_a_resource_needs_an_authorization_server() -> None:
    with pytest.raises(ValueError, match="resource needs authorization_servers"):
        BearerAuth(verify, resource=RESOURCE)

    class Verifier:
        issuer = ISSUER

        async def __call__(self, token: str) -> Principal | None:
            raise AssertionError  # pragma: no cover  # not called

    hook = BearerAuth(Verifier(), resource=RESOURCE)
    document = msgspec.json.decode(hook.documents[ROOT])
    assert document["authorization_servers"] == [ISSUER]
    assert "scopes_supported" not in document


# Challenges.


@pytest.mark.parametrize(
    "authorization, status, challenge",
    [
        (None, 401, f'Bearer resource_metadata="{METADATA}", scope="notes:read"'),
        ("Basic YTpi", 401, f'Bearer resource_metadata="{METADATA}", scope="notes:read"'),
        (
            "Bearer wrong",
            401,
            (
                'Bearer error="invalid_token", error_description="The token is invalid or has '
                f'expired", resource_metadata="{METADATA}", scope="notes:read"'
            ),
        ),
        (
            "Bearer guest",
            403,
            (
                'Bearer error="insufficient_scope", error_description="The token lacks a scope", '
                f'resource_metadata="{METADATA}", scope="notes:read"'
            ),
        ),
        *[
            (
                malformed,
                400,
                (
                    'Bearer error="invalid_request", error_description="The Authorization header '
                    f'is malformed", resource_metadata="{METADATA}", scope="notes:read"'
                ),
            )
            for malformed in ("Bearer", "Bearer ", "Bearer a b", "Bearer é", "Bearer a, Bearer b")
        ],
    ],
)
async def test_what_a_client_without_a_valid_token_is_told(
    authorization: str | None, status: int, challenge: str, autojump_clock: MockClock
) -> None:
    async with site(notes(), authenticate=auth(scopes="notes:read")) as place:
        for verb, body in (("POST", initialize()), ("GET", None), ("DELETE", None)):
            answer = await place.client().request(
                verb, body, headers={"authorization": authorization}
            )
            assert answer.status == status
            assert answer.headers["www-authenticate"] == challenge
        assert place.refused == {status: 3}


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_a_valid_token_opens_a_session(scheme: str, autojump_clock: MockClock) -> None:
    async with site(notes(), authenticate=auth(scopes="notes:read")) as place:
        client = place.client(headers={"authorization": f"{scheme} reader"})
        client = await client.initialize()
        assert text_of(await client.post(call(1, "read"))) == "read"
        (session,) = place.manager.sessions()
        assert session.principal == Principal("ada", ISSUER)


@pytest.mark.parametrize(
    "failure, status, challenge",
    [
        (
            AuthenticationFailed('No "such" key: \x7fé'),
            401,
            (
                'Bearer error="invalid_token", error_description="No ?such? key: ??", '
                f'resource_metadata="{METADATA}"'
            ),
        ),
        (AuthenticationFailed("Own", www_authenticate="DPoP"), 401, "DPoP"),
        (AuthenticationFailed("Blocked", status=403), 403, None),
        (AuthenticationFailed("Later", status=503), 503, None),
    ],
    ids=["invalid", "own challenge", "forbidden", "unavailable"],
)
async def test_what_verify_can_refuse(
    failure: AuthenticationFailed, status: int, challenge: str | None, autojump_clock: MockClock
) -> None:
    async def refuse(token: str) -> Principal | None:
        raise failure

    hook = BearerAuth(refuse, resource=RESOURCE, authorization_servers=[ISSUER])
    async with site(notes(), authenticate=hook) as place:
        answer = await place.client("x").request("POST", initialize())
        assert answer.status == status
        assert json_of(answer) == error(None, -32600, failure.message)
        assert answer.headers.get("www-authenticate") == challenge
        assert answer.headers.get("retry-after") == ("5" if status == 503 else None)


async def test_a_verify_that_returns_something_else_fails(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def wrong(token: str) -> Any:
        return False

    async with site(notes(), authenticate=BearerAuth(wrong)) as place:
        assert (await place.client("x").request("POST", initialize())).status == 500
    assert "TypeError: verify must return a Principal or None, not a bool" in caplog.text


@pytest.mark.parametrize("scope", ['a"b', "é"])
def test_scopes_are_checked_where_they_are_declared(scope: str) -> None:
    router = Router("x")
    with pytest.raises(ValueError, match="is not a scope"):
        auth(scopes=[scope])
    with pytest.raises(ValueError, match="is not a scope"):
        auth(scopes_supported=[scope])
    with pytest.raises(ValueError, match="is not a scope"):
        router.request("x", scopes=[scope])

    async def tool(ctx: RequestContext) -> None: ...

    with pytest.raises(ValueError, match="is not a scope"):
        router.tool(scopes=[scope])(tool)


# Scopes of tools and methods.

LACKS_WRITE = (
    'Bearer error="insufficient_scope", error_description="This request needs a token with the '
    f'scopes: notes:write", resource_metadata="{METADATA}", scope="notes:read notes:write"'
)
TEXT = "This request needs a token with the scopes: notes:write"


async def test_a_call_without_the_scopes_of_its_tool_is_403(autojump_clock: MockClock) -> None:
    async with site(notes(), authenticate=auth(scopes="notes:read")) as place:
        client = await place.client(headers=with_token("reader")).initialize()
        refused = await client.request("POST", call(1, "write"))
        assert (refused.status, refused.headers["www-authenticate"]) == (403, LACKS_WRITE)
        answer = error(1, -32600, TEXT)
        answer["error"]["data"] = {"requiredScopes": ["notes:write"]}
        assert json_of(refused) == answer
        # A new token of the same user continues the session.
        done = await client.post(call(2, "write"), headers=with_token("writer"))
        assert text_of(done) == "written"
        assert text_of(await client.post(call(3, "read"))) == "read"
        missing = (await client.post(call(4, "unknown")))["error"]
        assert missing["code"] == -32602


async def test_a_stateless_call_without_the_scopes_is_403(autojump_clock: MockClock) -> None:
    async with site(notes(), authenticate=auth(scopes="notes:read")) as place:
        message = modern(1, "tools/call", {"name": "write", "arguments": {}})
        client = place.client(headers=with_token("reader"))
        refused = await client.request("POST", message, headers=headers_of(message))
        assert (refused.status, refused.headers["www-authenticate"]) == (403, LACKS_WRITE)
        client = place.client(headers=with_token("writer"))
        assert text_of(await client.post(message, headers=headers_of(message))) == "written"


async def test_a_method_can_need_scopes_too(autojump_clock: MockClock) -> None:
    async with site(notes(), authenticate=auth()) as place:
        client = await place.client(headers=with_token("writer")).initialize()
        refused = await client.request("POST", request(1, "notes/purge"))
        assert refused.status == 403
        assert 'scope="notes:write notes:admin"' in refused.headers["www-authenticate"]


async def test_a_batch_is_refused_if_one_of_its_calls_is(autojump_clock: MockClock) -> None:
    async with site(notes(), authenticate=auth()) as place:
        client = place.client(headers=with_token("reader"))
        client = await client.initialize("2025-03-26")
        progress = notification("notifications/progress")
        refused = await client.request("POST", [call(1, "read"), progress, call(2, "write")])
        assert refused.status == 403
        assert "id" not in json_of(refused)
        answers = await client.post([call(1, "read"), progress])
        assert [text_of(one) for one in answers] == ["read"]
        # What a handler finds out later concerns only its own call.
        answers = await client.post([call(1, "read"), call(2, "read", topic="secret")])
        assert sorted("error" in one for one in answers) == [False, True]


@pytest.mark.parametrize("hook", ["own", "none"])
async def test_an_anonymous_call_that_needs_scopes_is_401(
    hook: str, autojump_clock: MockClock
) -> None:
    async def anonymous(scope: Any, headers: Any) -> Principal | None:
        return None

    options: dict[str, Any] = {"authenticate": anonymous} if hook == "own" else {}
    async with site(notes(), **options) as place:
        client = await place.client().initialize()
        refused = await client.request("POST", call(1, "write"))
        assert (refused.status, refused.headers["www-authenticate"]) == (
            401,
            'Bearer scope="notes:write"',
        )
        assert text_of(await client.post(call(2, "read"))) == "read"


async def test_a_handler_can_demand_scopes_that_depend_on_the_arguments(
    autojump_clock: MockClock,
) -> None:
    async with site(notes(), authenticate=auth()) as place:
        client = await place.client(headers=with_token("reader")).initialize()
        refused = await client.request("POST", call(1, "read", topic="secret"))
        assert refused.status == 403
        assert 'scope="notes:secret"' in refused.headers["www-authenticate"]
        assert json_of(refused)["error"]["data"] == {"requiredScopes": ["notes:secret"]}

        message = modern(2, "tools/call", {"name": "read", "arguments": {"topic": "secret"}})
        refused = await client.request(
            "POST", message, headers={**headers_of(message), "mcp-session-id": None}
        )
        assert refused.status == 403
        assert 'scope="notes:secret"' in refused.headers["www-authenticate"]

        # A stream has its status already.
        async with client.stream("POST", call(3, "read", topic="secret soon")) as late:
            events = await late.events()
        assert late.status == 200
        assert events[-1].json["error"]["data"] == {"requiredScopes": ["notes:secret"]}


class Plain:
    """An application that says nothing about scopes."""

    def __init__(self, router: Router) -> None:
        self._router = router

    def __getattr__(self, name: str) -> Any:
        if name == "required_scopes":
            raise AttributeError(name)
        return getattr(self._router, name)


async def test_an_application_need_not_know_about_scopes(autojump_clock: MockClock) -> None:
    async with site(cast("Any", Plain(notes())), authenticate=auth()) as place:
        client = await place.client(headers=with_token("reader")).initialize()
        assert text_of(await client.post(call(1, "read"))) == "read"
        # What it finds out later is answered in the same way.
        assert (await client.request("POST", call(2, "write"))).status == 403


async def test_an_application_that_fails_to_name_its_scopes_is_reported(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    router = notes()

    def required_scopes(method: str, params: Any) -> tuple[str, ...]:
        raise ZeroDivisionError("secret")

    cast("Any", router).required_scopes = required_scopes
    async with site(router, authenticate=auth()) as place:
        client = await place.client(headers=with_token("writer")).initialize()
        refused = await client.request("POST", call(1, "write"))
        assert json_of(refused) == error(1, -32603, "Internal error")
        assert refused.status == 500
    assert "required_scopes of the application" in caplog.text


# The budget of the hook.


TOOK_LONGER = (
    "HTTP 503 for POST /mcp from 192.0.2.1: Authentication took too long; "
    "authenticate ran for 10 s (HttpOptions.authenticate_timeout)"
)


async def test_a_hook_that_hangs_is_given_up(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def hang(scope: Any, headers: Any) -> Principal:
        await trio.sleep_forever()
        raise AssertionError  # pragma: no cover  # it sleeps

    async with site(notes(), authenticate=hang) as place:
        start = trio.current_time()
        for number, at in enumerate((10, 20, 30, 40, 50, 60, 70, 80), 1):
            answer = await place.client().request("POST", initialize())
            assert trio.current_time() - start == at
            assert answer.status == 503
            assert json_of(answer) == error(None, -32603, "Authentication took too long")
            assert answer.headers["retry-after"] == "5"
            # One record in a minute, so that clients cannot fill the log.
            assert len(caplog.messages) == (1 if number < 7 else 2)
            assert caplog.messages[0] == TOOK_LONGER
        assert place.refused == {503: 8}
