"""A server over standard input and output, for tests that start it as a process of its own.

Arguments: ``run`` (the whole program is `run_stdio`) or ``serve`` (`serve_stdio`, beside a session
of another client that has request 77 in flight); then the settings, as JSON.

When a session has ended, one line of JSON on standard error says why and what it counted.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import attrs
import trio

from trio_mcp_session import (
    CleanupConfig,
    RequestContext,
    Router,
    Session,
    SessionConfig,
    SessionHooks,
    SessionLimits,
    TerminationReason,
    connect_memory,
    open_session_manager,
    run_stdio,
    serve_stdio,
)

router = Router("stdio", "1")
released: dict[str, trio.Event] = {}


def counted(session: Session) -> dict[str, int]:
    metrics = attrs.asdict(session.metrics)
    return {name: value for name, value in metrics.items() if isinstance(value, int)}


@router.tool()
async def metrics(ctx: RequestContext) -> dict[str, int]:
    """What the caller's session has counted, up to this call."""
    return counted(ctx.session)


@router.tool()
async def elsewhere(ctx: RequestContext) -> dict[str, int]:
    """What the other session has counted."""
    (other,) = ctx.manager.sessions(lambda session: session is not ctx.session)
    return counted(other)


@router.tool()
async def shout(ctx: RequestContext, text: str) -> str:
    """Print to the guarded standard output."""
    print(text, flush=True)
    return text


@router.tool()
async def many(ctx: RequestContext, size: int) -> str:
    """Return a long text."""
    return "y" * size


@router.request("wait")
async def wait(ctx: RequestContext, params: dict[str, Any]) -> dict[str, Any]:
    await released.setdefault(params["for"], trio.Event()).wait()
    return {"waited": params["for"]}


@router.notification("notifications/release")
async def release(ctx: RequestContext, params: dict[str, Any]) -> None:
    released.setdefault(params["for"], trio.Event()).set()


async def tell(session: Session, reason: TerminationReason) -> None:
    report = {"transport": session.transport.name, "reason": reason.value, **counted(session)}
    print(json.dumps(report), file=sys.stderr, flush=True)


async def serve_beside_another(config: SessionConfig, hooks: SessionHooks) -> None:
    async with open_session_manager(router, config=config, hooks=hooks) as manager:
        other = await connect_memory(manager)
        params = {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "other", "version": "1"},
        }
        for message in (
            {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params},
            {"jsonrpc": "2.0", "id": 77, "method": "wait", "params": {"for": "ever"}},
        ):
            await other.send(json.dumps(message).encode())
        await other.receive()
        await serve_stdio(manager)


def main() -> None:
    mode, settings = sys.argv[1], json.loads(sys.argv[2])
    config = SessionConfig(
        limits=SessionLimits(**settings.get("limits", {})),
        cleanup=CleanupConfig(**settings.get("cleanup", {})),
    )
    hooks = SessionHooks(on_session_terminated=tell)
    if mode == "run":
        run_stdio(router, config=config, hooks=hooks)
    else:
        trio.run(serve_beside_another, config, hooks)


if __name__ == "__main__":
    main()
