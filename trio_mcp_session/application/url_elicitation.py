"""Questions that send the user to a web page, for secrets and payments (from 2025-11-25 on)."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, final
from urllib.parse import urlsplit

import attrs
import trio

from ..core.errors import McpError
from ..protocol.error_codes import URL_ELICITATION_REQUIRED
from ..protocol.revisions import HANDSHAKE_REVISIONS, V2025_11_25
from ..sessions.failures import first_if_all
from .question_types import ElicitResult, InputRequired, Question

if TYPE_CHECKING:
    from ..protocol.revisions import Revision
    from ..sessions.session import Session

COMPLETE: Final = "notifications/elicitation/complete"


def _url(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if isinstance(value, str) and value.isprintable() and " " not in value:
        parts = urlsplit(value)
        if parts.scheme and parts.netloc:
            return
    raise ValueError(f"{attribute.name} must be a URL such as 'https://host/path', not {value!r}")


def _new_id() -> str:
    return secrets.token_urlsafe(16)


@final
@attrs.frozen
class UrlElicitation(Question[ElicitResult[None]]):
    """Ask the user to open a URL (``elicitation/create`` in mode ``url``, from 2025-11-25 on).

    For what must not pass through the client, such as passwords and payments. ``accept`` says that
    the user agreed to open it, not that anything was done there: your web page knows that. Make
    sure that the user that opens the URL is the user that was asked.

    Raises:
        ValueError: It is not a URL.
    """

    message: str
    """Text for the user: why to open the URL."""

    url: str = attrs.field(validator=_url)
    """The URL. Without secrets: the client and its logs see it."""

    elicitation_id: str = attrs.field(factory=_new_id, kw_only=True)
    """Names it in the notification that it is complete (2025-11-25 only). Random by default."""

    key: str | None = attrs.field(default=None, kw_only=True)
    """See `Question.key`."""

    _method = "elicitation/create"

    def _params(self, revision: Revision) -> Mapping[str, Any]:
        params = {"mode": "url", "message": self.message, "url": self.url}
        if revision.elicitation_ids:
            params["elicitationId"] = self.elicitation_id
        return params

    def _read(self, answer: dict[str, Any]) -> ElicitResult[None]:
        return ElicitResult(action=answer["action"], content=None)


@final
class UrlElicitationRequired(McpError):
    """Raise it in a handler that cannot do its work before the user has opened some URLs.

    In 2025-11-25 it is answered with the error -32042, which names them; from 2026-07-28 on with a
    result that asks for them (as `InputRequired` does), which only ``tools/call``, ``prompts/get``
    and ``resources/read`` can have. Either way the client sends its request again when the user is
    ready, and the handler begins anew: it must find out whether the user is done.

    A client that did not declare ``elicitation.url`` gets what `CapabilityMissing` says.

    Args:
        *elicitations: What the user has to open.

    Raises:
        ValueError: No elicitation was passed.
    """

    def __init__(self, *elicitations: UrlElicitation) -> None:
        if not elicitations:
            raise ValueError("UrlElicitationRequired needs a UrlElicitation")
        described = [one._params(V2025_11_25) for one in elicitations]
        super().__init__(
            URL_ELICITATION_REQUIRED,
            "This request needs something that the user has to do in a browser first",
            {"elicitations": described},
        )
        self.elicitations = elicitations
        """What the user has to open."""

    def _as_input_required(self) -> InputRequired:
        return InputRequired(
            *(attrs.evolve(one, key=one.key or one.elicitation_id) for one in self.elicitations)
        )


def required_urls(error: Exception) -> UrlElicitationRequired | None:
    """Return the error that asks for URLs, alone or in a group of a nursery; None for others."""
    first = first_if_all(error, lambda one: isinstance(one, UrlElicitationRequired))
    return first if isinstance(first, UrlElicitationRequired) else None


async def notify_elicitation_complete(session: Session, elicitation_id: str) -> None:
    """Notify the client of a session that its user is done with a URL. A checkpoint.

    For the time after the request; while its handler runs, use
    `RequestContext.notify_elicitation_complete`. It waits while the client's buffer is full.
    Nothing is sent where the revision does not have it: it is in 2025-11-25 only. Tell only the
    client that was asked.

    Args:
        session: The session whose client was asked.
        elicitation_id: `UrlElicitation.elicitation_id`.

    Raises:
        NoChannel: The session has no connection to its client.
        SessionTerminated: The session ends or has ended.
    """
    revision = HANDSHAKE_REVISIONS.get(session.protocol_version or "")
    if revision is None or revision.elicitation_ids:
        # Without a client, it says so.
        await session.notify(COMPLETE, {"elicitationId": elicitation_id})
    else:
        await trio.lowlevel.checkpoint()
