"""An endpoint in a Starlette application, on Hypercorn: its middleware authenticates users."""

from __future__ import annotations

import argparse
import signal
import sys
from functools import partial

import trio
from starlette.applications import Starlette
from starlette.authentication import (
    AuthCredentials,
    AuthenticationBackend,
    AuthenticationError,
    BaseUser,
    SimpleUser,
)
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from trio_mcp_session import (
    RequestContext,
    Router,
    SessionManager,
    http_app,
    open_session_manager,
    serve_http,
)

USERS = {"secret-of-ada": "ada", "secret-of-bob": "bob"}


class Bearer(AuthenticationBackend):
    """Authentication as in any Starlette application. It does not know about sessions."""

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser]:
        kind, _, token = conn.headers.get("Authorization", "").partition(" ")
        if kind.lower() != "bearer" or token not in USERS:
            raise AuthenticationError("A token is needed")
        return AuthCredentials(["notes"]), SimpleUser(USERS[token])


def refuse(conn: HTTPConnection, error: Exception) -> Response:
    challenge = {"WWW-Authenticate": 'Bearer realm="notes"'}
    return JSONResponse({"error": str(error)}, status_code=401, headers=challenge)


router = Router("notes", "1.0")


@router.tool()
async def who_am_i(ctx: RequestContext) -> dict[str, str]:
    """Return the user of this request. Works with and without a session."""
    assert ctx.principal is not None
    return {"subject": ctx.principal.subject}


def make_app(manager: SessionManager) -> Starlette:
    """Return the web application: a health page, and the endpoint at ``/notes/mcp``."""

    async def health(request: Request) -> Response:
        now = manager.statistics()
        ready = not now.draining
        sessions = sum(now.active.values())
        return JSONResponse({"ready": ready, "sessions": sessions}, 200 if ready else 503)

    return Starlette(
        routes=[
            Route("/health", health),
            Mount(
                "/notes",
                # The middleware sets `scope["user"]`: sessions belong to this user.
                app=http_app(manager),
                middleware=[
                    Middleware(AuthenticationMiddleware, backend=Bearer(), on_error=refuse)
                ],
            ),
        ]
    )


async def stop_at_signal(manager: SessionManager) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            # Ends every stream with its last chunk, and then `serve_http`.
            await manager.drain()
            return


async def main(bind: str) -> None:
    # The manager is around the server, so it is left after the server has ended.
    async with open_session_manager(router) as manager, trio.open_nursery() as nursery:
        nursery.start_soon(stop_at_signal, manager)
        serve = partial(serve_http, app=make_app(manager), server="hypercorn")
        (address,) = await nursery.start(serve, manager, bind)
        print(f"listening on {address.url}/notes/mcp", file=sys.stderr, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bind", default="127.0.0.1:8000", help="where to listen")
    trio.run(main, parser.parse_args().bind)
