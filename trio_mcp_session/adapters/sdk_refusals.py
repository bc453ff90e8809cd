"""Parts of FastMCP that cannot run here: they need asyncio, or a server of their own.

They are refused when the application is about to be served, never in a request.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from ..protocol.tasks_extension import TASKS
from .cannot_serve import CannotServe

if TYPE_CHECKING:
    from .sdk_server import SdkServer


VERIFY: Final = (
    "verify its tokens with a token verifier, such as JWTVerifier, or pass authenticate= to the "
    "HTTP endpoint"
)
ASYNCIO: Final = "it needs asyncio"

MIDDLEWARE: Final[Mapping[str, str]] = {
    "fastmcp.server.middleware.ping": (
        "remove it: this library pings the clients of sessions (CleanupConfig.ping_interval)"
    ),
}
"""The way out for each module whose middleware needs asyncio."""

AUTHENTICATION: Final = (
    "fastmcp.server.auth.identity_assertion",
    "fastmcp.server.auth.oauth_proxy",
    "fastmcp.server.auth.oidc_proxy",
    "fastmcp.server.auth.providers.descope",
    "fastmcp.server.auth.ssrf",
)
"""The modules whose authentication needs asyncio."""

TASKS_INSTEAD: Final = (
    'let this library run the tasks: sdk_application(app, tasks={"NAME": "optional"})'
)


def modules_of(part: object) -> list[str]:
    """Return the modules of the classes of an object. Not a checkpoint."""
    return [kind.__module__ for kind in type(part).__mro__]


def check_parts(server: SdkServer) -> None:
    """Refuse middleware and extensions that cannot run here. Not a checkpoint.

    Raises:
        CannotServe: There is such a part.
    """
    if server.fastmcp is None:
        return
    for middleware in getattr(server.app, "middleware", ()):
        for module in modules_of(middleware):
            if module in MIDDLEWARE:
                raise CannotServe(type(middleware).__name__, ASYNCIO, MIDDLEWARE[module])
    if TASKS in getattr(server.app, "_extensions", ()):
        raise CannotServe(
            "the tasks extension of FastMCP", "its queue (Docket) needs asyncio", TASKS_INSTEAD
        )


async def check_background_tasks(app: Any) -> None:
    """Refuse tools that FastMCP runs as background tasks. A checkpoint if FastMCP is one.

    Raises:
        CannotServe: There is such a tool.
    """
    for component in await app.get_tasks():
        if component.task_config.supports_tasks():
            raise CannotServe(
                f"the background task {component.name!r}",
                "the queue of FastMCP (Docket) needs asyncio",
                TASKS_INSTEAD,
            )


def check_authentication(auth: object) -> None:
    """Refuse authentication that cannot run here. Not a checkpoint.

    Raises:
        CannotServe: It needs asyncio, or is an authorization server.
    """
    name = type(auth).__name__
    for module in modules_of(auth):
        if any(module == one or module.startswith(f"{one}.") for one in AUTHENTICATION):
            raise CannotServe(name, ASYNCIO, VERIFY)
    if any(kind.__name__ == "OAuthProvider" for kind in type(auth).__mro__):
        raise CannotServe(name, "it is an authorization server with pages of its own", VERIFY)
