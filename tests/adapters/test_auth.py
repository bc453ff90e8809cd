"""The token verifier of an SDK application protects its HTTP endpoints."""

from __future__ import annotations

import json
import warnings
from typing import Any

import pytest
from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import Context, MCPServer
from trio.testing import MockClock

from tests.adapters.apps import ERAS, app_with, serving
from trio_mcp_session import AuthenticationFailed, CannotServe, Principal, http_app
from trio_mcp_session.adapters.recognise import as_application
from trio_mcp_session.testing import HttpRefused, connect_client, connect_http_client

RESOURCE = "https://example.com/mcp"


class Verifier:
    async def verify_token(self, token: str) -> AccessToken | None:
        match token:
            case "good":
                return AccessToken(
                    token=token, client_id="program", scopes=["read"], resource=RESOURCE
                )
            case "other":
                return AccessToken(token=token, client_id="program", scopes=["read"], resource="x")
            case "weak":
                return AccessToken(token=token, client_id="program", scopes=[])
            case _:
                return None


async def who(ctx: Context) -> list[Any]:
    token = get_access_token()
    assert token is not None
    request: Any = ctx.request_context.request
    return [token.token, request.user.access_token is token, sorted(request.auth.scopes)]


def protected(**settings: Any) -> MCPServer[Any]:
    options = {"issuer_url": "https://issuer.example", "resource_server_url": RESOURCE}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        auth = AuthSettings.model_validate({**options, "required_scopes": ["read"], **settings})
        return app_with(who, auth=auth, token_verifier=Verifier())


def metadata(app: Any) -> Any:
    """Return what the endpoint of an application serves to OAuth clients."""
    hook: Any = as_application(app).authenticate  # type: ignore[attr-defined]
    assert hook.metadata_url.endswith("/.well-known/oauth-protected-resource/mcp")
    return json.loads(hook.documents["/.well-known/oauth-protected-resource/mcp"])


@pytest.mark.parametrize("era", ERAS)
async def test_a_good_token(era: Any, autojump_clock: MockClock) -> None:
    async with serving(protected()) as manager:
        headers = {"authorization": "Bearer good"}
        async with connect_http_client(manager, era=era, headers=headers) as client:
            answer = await client.call_tool("who")
            assert answer.structured == {"result": ["good", True, ["read"]]}


@pytest.mark.parametrize(
    "token, status", [(None, 401), ("Bearer bad", 401), ("Bearer weak", 403), ("Bearer", 400)]
)
async def test_a_bad_token(token: str | None, status: int, autojump_clock: MockClock) -> None:
    async with serving(protected()) as manager:
        headers = {} if token is None else {"authorization": token}
        with pytest.raises(HttpRefused) as refused:
            async with connect_http_client(manager, headers=headers):
                raise AssertionError
        assert refused.value.status == status


@pytest.mark.skipif(
    "validate_token_resource" not in AuthSettings.model_fields,
    reason="this version of the SDK cannot check it",
)
async def test_the_resource_of_a_token_is_checked(autojump_clock: MockClock) -> None:
    async with serving(protected(validate_token_resource=True)) as manager:
        async with connect_http_client(manager, headers={"authorization": "Bearer good"}) as good:
            await good.list_tools()
        with pytest.raises(HttpRefused) as refused:
            async with connect_http_client(manager, headers={"authorization": "Bearer other"}):
                raise AssertionError
        assert refused.value.status == 401


async def test_the_metadata_of_the_resource(autojump_clock: MockClock) -> None:
    found = metadata(protected())
    assert found["resource"] == RESOURCE
    assert [one.rstrip("/") for one in found["authorization_servers"]] == ["https://issuer.example"]
    assert found["scopes_supported"] == ["read"]


async def test_without_a_resource(autojump_clock: MockClock) -> None:
    async with serving(protected(resource_server_url=None)) as manager:
        headers = {"authorization": "Bearer good"}
        async with connect_http_client(manager, headers=headers) as client:
            assert (await client.call_tool("who")).structured is not None


async def test_a_hook_of_the_program_is_used_instead(autojump_clock: MockClock) -> None:
    async def authenticate(scope: Any, headers: Any) -> Principal:
        raise AuthenticationFailed("not here", status=403)

    async with serving(protected()) as manager:
        app = http_app(manager, authenticate=authenticate)
        with pytest.raises(HttpRefused) as refused:
            async with connect_http_client(manager, app=app):
                raise AssertionError
        assert refused.value.status == 403


async def test_a_pipe_needs_no_token(autojump_clock: MockClock) -> None:
    async with serving(protected()) as manager:
        async with connect_client(manager) as client:
            assert len(await client.list_tools()) == 1


async def test_an_authorization_server_is_refused(autojump_clock: MockClock) -> None:
    app = protected()
    app._auth_server_provider = object()  # type: ignore[assignment]
    async with serving(app) as manager:
        with pytest.raises(CannotServe, match="auth_server_provider"):
            http_app(manager)


async def test_a_missing_member_does_not_open_the_endpoint(autojump_clock: MockClock) -> None:
    app = protected()
    del app._token_verifier
    async with serving(app) as manager:
        with pytest.raises(AttributeError):
            http_app(manager)
