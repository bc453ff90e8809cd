"""The names of the official SDK and of FastMCP that the adapter uses, checked before it serves.

Their servers have no interface for other runtimes, so some of these names are not documented. All
are in this module. A version without one of them is refused at the start, by name, and not in a
request.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module, metadata
from typing import Any, ClassVar, Final, Self, final

import attrs

from .cannot_serve import UnsupportedVersion

MEMBERS: Final = "members"
PATH: Final = "path"


def _at(path: str, *members: str) -> dict[str, Any]:
    """Return where an object of theirs is.

    Args:
        path: Its module and its name, as ``module:name``.
        members: The attributes of it that the adapter uses.
    """
    return {PATH: path, MEMBERS: members}


@attrs.frozen(kw_only=True)
class _Names:
    """Objects of another library."""

    distribution: ClassVar[str]
    """The name of the library, as pip knows it."""
    fits: ClassVar[str]
    """The versions that have these names."""

    @classmethod
    def load(cls) -> Self:
        """Import the objects, and check their attributes. Not a checkpoint.

        Raises:
            UnsupportedVersion: One of them does not exist.
        """
        found: dict[str, Any] = {}
        for field in attrs.fields(cls):
            path: str = field.metadata[PATH]
            found[field.name] = there = cls._find(path)
            for member in field.metadata[MEMBERS]:
                if not hasattr(there, member):
                    raise cls._lacks(f"{path}.{member}")
        return cls(**found)

    @classmethod
    def _find(cls, path: str) -> Any:
        module, _, name = path.partition(":")
        try:
            return getattr(import_module(module), name)
        except (ModuleNotFoundError, AttributeError) as error:
            raise cls._lacks(path) from error

    @classmethod
    def check_object(cls, checked: object, members: Iterator[str] | tuple[str, ...]) -> None:
        """Check that an object of theirs has these attributes. Not a checkpoint.

        Raises:
            UnsupportedVersion: It lacks one.
        """
        for member in members:
            if not hasattr(checked, member):
                raise cls._lacks(f"{type(checked).__name__}.{member}")

    @classmethod
    def _lacks(cls, path: str) -> UnsupportedVersion:
        try:
            version = metadata.version(cls.distribution)
        except metadata.PackageNotFoundError:
            version = "(not installed)"
        return UnsupportedVersion(
            f"{cls.distribution} {version} has no {path.replace(':', '.')}, which trio_mcp_session "
            f"needs to serve its applications: install '{cls.distribution}{cls.fits}'"
        )


@final
@attrs.frozen(kw_only=True)
class Sdk(_Names):
    """What the adapter uses of ``mcp``."""

    distribution = "mcp"
    fits = ">=2.0,<3"

    server: Any = attrs.field(
        metadata=_at(
            "mcp.server.lowlevel.server:Server",
            "create_initialization_options",
            "get_capabilities",
            "get_notification_handler",
            "get_request_handler",
        )
    )
    runner: Any = attrs.field(
        metadata=_at("mcp.server.runner:ServerRunner", "on_notify", "on_request")
    )
    close_connection: Any = attrs.field(metadata=_at("mcp.server.runner:aclose_shielded"))
    connection: Any = attrs.field(
        metadata=_at("mcp.server.connection:Connection", "for_loop", "from_envelope")
    )
    metadata: Any = attrs.field(metadata=_at("mcp.shared.message:ServerMessageMetadata"))
    transport: Any = attrs.field(metadata=_at("mcp.shared.transport_context:TransportContext"))
    error: Any = attrs.field(metadata=_at("mcp.shared.exceptions:MCPError"))
    no_channel: Any = attrs.field(metadata=_at("mcp.shared.exceptions:NoBackChannelError"))
    listen_handler: Any = attrs.field(metadata=_at("mcp.server.subscriptions:ListenHandler"))
    resource_updated: Any = attrs.field(metadata=_at("mcp.server.subscriptions:ResourceUpdated"))
    tools_changed: Any = attrs.field(metadata=_at("mcp.server.subscriptions:ToolsListChanged"))
    prompts_changed: Any = attrs.field(metadata=_at("mcp.server.subscriptions:PromptsListChanged"))
    resources_changed: Any = attrs.field(
        metadata=_at("mcp.server.subscriptions:ResourcesListChanged")
    )
    user: Any = attrs.field(
        metadata=_at("mcp.server.auth.middleware.auth_context:auth_context_var", "set", "reset")
    )
    authenticated: Any = attrs.field(
        metadata=_at("mcp.server.auth.middleware.bearer_auth:AuthenticatedUser")
    )
    bearer_backend: Any = attrs.field(
        metadata=_at("mcp.server.auth.middleware.bearer_auth:BearerAuthBackend", "authenticate")
    )
    access_token: Any = attrs.field(metadata=_at("mcp.server.auth.provider:AccessToken"))
    # Of the libraries that it is built on.
    http_request: Any = attrs.field(metadata=_at("starlette.requests:Request"))
    credentials: Any = attrs.field(metadata=_at("starlette.authentication:AuthCredentials"))
    invalid: Any = attrs.field(metadata=_at("pydantic:ValidationError"))
    event: Any = attrs.field(metadata=_at("anyio:Event"))


@final
@attrs.frozen(kw_only=True)
class FastMcp(_Names):
    """What the adapter uses of ``fastmcp``."""

    distribution = "fastmcp"
    fits = ">=4.1,<5"

    transport: Any = attrs.field(
        metadata=_at("fastmcp.server.context:_current_transport", "set", "reset")
    )
    http_request: Any = attrs.field(
        metadata=_at("fastmcp.server.http:_current_http_request", "set", "reset")
    )


SERVER_MEMBERS: Final = (
    "description",
    "icons",
    "instructions",
    "lifespan",
    "middleware",
    "name",
    "title",
    "version",
    "website_url",
)
"""What the adapter uses of a low-level server object, besides the methods of its class."""

CONNECTION_MEMBERS: Final = ("client_params", "initialized", "protocol_version")
"""What the adapter uses of a connection object."""
