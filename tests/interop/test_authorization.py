"""The official Python client gets a token: 401, metadata, authorization server, call, more scopes.

The authorization server is a stub: it registers every client and asks no user.
"""

from __future__ import annotations

import json
import time
from functools import partial
from typing import Any, final
from urllib.parse import parse_qs, urlsplit

import attrs
import httpx2
import jwt
import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm
from mcp.client.auth import OAuthClientProvider
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import (
    AuthorizationCodeResult,
    OAuthClientInformationFull,
    OAuthClientMetadata,
    OAuthToken,
)

from tests.interop.python_bench import text_of
from tests.interop.python_http_bench import PLAIN
from trio_mcp_session import (
    BearerAuth,
    JwtVerifier,
    RequestContext,
    Router,
    open_session_manager,
    serve_http,
)
from trio_mcp_session.transports.asgi import Receive, Scope, Send
from trio_mcp_session.transports.http1.listeners import bound_address, open_listeners
from trio_mcp_session.transports.http1.server import serve_asgi

pytestmark = [
    pytest.mark.interop,
    # It leaves the streams that it reads as they are, which Trio complains about.
    pytest.mark.filterwarnings("ignore:Async generator 'http:ResourceWarning"),
]

CALLBACK = "http://127.0.0.1:1/callback"


@final
@attrs.define
class Issuer:
    """A stub of an authorization server."""

    url: str = ""
    key: Any = attrs.field(factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    asked: list[str] = attrs.field(factory=list)
    """The path of each request."""
    granted: dict[str, dict[str, str]] = attrs.field(factory=dict)
    """What was asked for with each code."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError
        body, more = b"", True
        while more:
            message = await receive()
            body += message["body"]
            more = message["more_body"]
        self.asked.append(scope["path"])
        answer = self.answer(scope["path"], body.decode())
        status = 404 if answer is None else 201 if scope["path"] == "/register" else 200
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})

    def answer(self, path: str, body: str) -> Any:
        match path:
            case "/.well-known/oauth-authorization-server":
                return {
                    "issuer": self.url,
                    "authorization_endpoint": f"{self.url}/authorize",
                    "token_endpoint": f"{self.url}/token",
                    "registration_endpoint": f"{self.url}/register",
                    "response_types_supported": ["code"],
                    "code_challenge_methods_supported": ["S256"],
                }
            case "/register":
                return {**json.loads(body), "client_id": "the client"}
            case "/keys":
                public = json.loads(ECAlgorithm.to_jwk(self.key.public_key()))
                return {"keys": [{**public, "kid": "1", "use": "sig"}]}
            case "/token":
                (code,) = parse_qs(body)["code"]
                asked = self.granted[code]
                claims = {
                    "iss": self.url,
                    "aud": asked["resource"],
                    "sub": "ada",
                    "exp": time.time() + 60,
                    "scope": asked["scope"],
                }
                token = jwt.encode(claims, self.key, "ES256", headers={"kid": "1"})
                return {"access_token": token, "token_type": "Bearer", "scope": asked["scope"]}
            case _:
                return None

    def authorize(self, url: str) -> dict[str, str]:
        """Grant what a client asks for in the address that it opens; return the answer."""
        asked = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        code = f"code {len(self.granted)}"
        self.granted[code] = asked
        return {"code": code, "state": asked["state"]}


@final
class Storage:
    """Where the client keeps its token."""

    tokens: OAuthToken | None = None
    client: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.client = client_info


def notes() -> Router:
    router = Router("notes")

    @router.tool()
    async def who(ctx: RequestContext) -> str:
        assert ctx.principal is not None
        return f"{ctx.principal.subject}: {' '.join(sorted(ctx.principal.scopes))}"

    @router.tool(scopes="notes:write")
    async def write(ctx: RequestContext) -> str:
        assert ctx.principal is not None
        return " ".join(sorted(ctx.principal.scopes))

    return router


@pytest.mark.parametrize("mode", ["legacy", "auto", "2026-07-28"])
async def test_the_official_client_authorizes_itself_and_steps_up(mode: str) -> None:
    issuer = Issuer()
    statuses: list[tuple[str, int]] = []

    async def answered(response: httpx2.Response) -> None:
        statuses.append((response.request.url.path, response.status_code))

    with trio.fail_after(30):
        async with (
            open_listeners("127.0.0.1:0") as listeners,
            open_session_manager(notes()) as manager,
            trio.open_nursery() as nursery,
        ):
            issuer.url = bound_address(listeners[0]).url
            await nursery.start(partial(serve_asgi, issuer, listeners))
            # The port has to be known before the resource has a name.
            async with open_listeners("127.0.0.1:0") as probe:
                port = bound_address(probe[0]).port
            url = f"http://127.0.0.1:{port}/mcp"
            verify = JwtVerifier(issuer=issuer.url, audience=url, jwks_url=f"{issuer.url}/keys")
            auth = BearerAuth(verify, resource=url, scopes="notes:read")
            await nursery.start(
                partial(serve_http, manager, f"127.0.0.1:{port}", authenticate=auth)
            )

            answers: list[dict[str, str]] = []

            async def redirect(address: str) -> None:
                answers.append(issuer.authorize(address))

            async def callback() -> AuthorizationCodeResult:
                return AuthorizationCodeResult(**answers[-1], iss=issuer.url)

            metadata = OAuthClientMetadata.model_validate({"redirect_uris": [CALLBACK]})
            provider = OAuthClientProvider(url, metadata, Storage(), redirect, callback)
            async with httpx2.AsyncClient(
                auth=provider, verify=PLAIN, timeout=20, event_hooks={"response": [answered]}
            ) as http:
                transport = streamable_http_client(url, http_client=http)
                async with Client(transport, mode=mode) as client:
                    assert text_of(await client.call_tool("who", {})) == "ada: notes:read"
                    assert len(issuer.granted) == 1
                    assert text_of(await client.call_tool("write", {})) == "notes:read notes:write"
            nursery.cancel_scope.cancel()
    assert [one["scope"] for one in issuer.granted.values()] == [
        "notes:read",
        "notes:read notes:write",
    ]
    assert {one["resource"] for one in issuer.granted.values()} == {url}
    assert statuses[:2] == [("/mcp", 401), ("/.well-known/oauth-protected-resource/mcp", 200)]
    assert ("/mcp", 403) in statuses
    # The keys were fetched once for all requests.
    assert issuer.asked.count("/keys") == 1
