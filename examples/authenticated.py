"""Streamable HTTP with tokens: each session belongs to the user who opened it."""

from __future__ import annotations

import argparse
import hashlib
import signal
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

import trio

from trio_mcp_session import (
    AuthenticationFailed,
    Principal,
    RequestContext,
    Router,
    SessionManager,
    open_session_manager,
    serve_http,
)

CHALLENGE = 'Bearer realm="notes"'


class Tokens:
    """The tokens and their users. A real server uses its identity provider instead."""

    def __init__(self, names: Mapping[str, str]) -> None:
        # Looked up by digest, so that the time of a look-up reveals nothing about the tokens.
        self._names = {self._digest(token): name for token, name in names.items()}

    async def authenticate(self, scope: Any, headers: Mapping[str, str]) -> Principal:
        """Return the user of a request. Called for each request, also within a session."""
        kind, _, token = headers.get("authorization", "").partition(" ")
        name = self._names.get(self._digest(token))
        if kind.lower() != "bearer" or name is None:
            raise AuthenticationFailed("A token is needed", www_authenticate=CHALLENGE)
        return Principal(name)

    @staticmethod
    def _digest(token: str) -> bytes:
        return hashlib.sha256(token.encode()).digest()


# Its tools use the session: clients that support both eras of the protocol use one then.
router = Router("notes", "1.0", eras="legacy")


@router.tool()
async def who_am_i(ctx: RequestContext) -> dict[str, str]:
    """Return the owner of this session."""
    assert ctx.session.principal is not None
    return {"subject": ctx.session.principal.subject}


@router.tool()
async def sign_out(ctx: RequestContext) -> dict[str, int]:
    """End all other sessions of this user."""
    mine, manager = ctx.session.principal, ctx.manager
    others = manager.sessions(lambda one: one.principal == mine and one is not ctx.session)
    for session in others:
        session.terminate()
    return {"ended": len(others)}


async def stop_at_signal(manager: SessionManager) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            # Ends every stream with its last chunk, and then `serve_http`.
            await manager.drain()
            return


async def main(bind: str, tokens: Tokens) -> None:
    async with open_session_manager(router) as manager, trio.open_nursery() as nursery:
        nursery.start_soon(stop_at_signal, manager)
        serve = partial(serve_http, authenticate=tokens.authenticate)
        (address,) = await nursery.start(serve, manager, bind)
        print(f"listening on {address.url}/mcp", file=sys.stderr, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bind", default="127.0.0.1:8000", help="where to listen")
    parser.add_argument(
        "--token",
        action="append",
        default=[],
        metavar="NAME=TOKEN",
        help="a user and the user's token (only for trials: other users see command lines)",
    )
    options = parser.parse_args()
    pairs = (text.partition("=") for text in options.token)
    trio.run(main, options.bind, Tokens({token: name for name, _, token in pairs}))
