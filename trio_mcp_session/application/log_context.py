"""The session, the request, the method and the principal of a log record.

They are looked up when a record is made, from the context variables of the task that logs (and of
its threads, if `trio.to_thread.run_sync` started them). So requests that log nothing pay nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, final

from ..core.identity import hash_of_principal
from ..core.ids import short_hash
from ..sessions.current import running_in
from ..sessions.error_log import log_subject
from .context import running_request

if TYPE_CHECKING:
    from ..core.identity import Principal
    from ..core.ids import SessionId

FIELDS: Final = ("mcp_session", "mcp_request_id", "mcp_method", "mcp_principal")
"""The attributes of records. The prefix leaves shorter names to ``extra=`` of the application."""

MOST_LETTERS: Final = 64
"""Most characters of a request id or method in a record: clients choose them."""


@final
class LogContextFilter(logging.Filter):
    """Adds the session and the request that a log record belongs to; it filters nothing out.

    `run_stdio`, `run_http` and the command do the same for all records. In your own program, add it
    to your log handlers::

        handler.addFilter(LogContextFilter())
        handler.setFormatter(logging.Formatter("%(mcp_session)s %(mcp_request_id)s %(message)s"))

    Each record gets four attributes, which are None where no value is known:

    - ``mcp_session``: the first 8 hexadecimal digits of the SHA-256 of the session's id, since the
      id itself gives access where there is no authentication;
    - ``mcp_request_id``: the JSON-RPC id of the request, cut to 64 characters;
    - ``mcp_method``: its method;
    - ``mcp_principal``: the first 8 digits of the SHA-256 of the authenticated principal's issuer
      and subject, with a line feed between them.

    The request is known in the handlers of a `Router`, and in the tasks and threads that they
    start.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the attributes."""
        add_log_context(record)
        return True


def add_log_context(record: logging.LogRecord) -> None:
    """Add the attributes `FIELDS` to a record, unless it has them. Not a checkpoint."""
    if not hasattr(record, "mcp_session"):
        vars(record).update(_current_fields())


def _current_fields() -> Mapping[str, object]:
    session_id: SessionId | None = None
    principal: Principal | None = None
    request_id: object = None
    method: str | None = None
    request = running_request()
    session = running_in.get(None)
    subject = log_subject.get(None)
    if request is not None:
        method = _cut(request.method)
        request_id = request.request_id
        principal = request.principal
    if subject is not None:
        session_id = subject.session_id
        principal = principal or subject.principal
    elif session is not None:
        session_id = session.session_id
        principal = principal or session.principal
    values = (
        None if session_id is None else short_hash(session_id),
        _cut(request_id) if isinstance(request_id, str) else request_id,
        method,
        hash_of_principal(principal),
    )
    return dict(zip(FIELDS, values, strict=True))


def _cut(text: str) -> str:
    return text if len(text) <= MOST_LETTERS else f"{text[:MOST_LETTERS]}..."


@final
class ContextRecordFactory:
    """A factory of log records that adds the context to every one."""

    def __init__(self, make: Callable[..., logging.LogRecord]) -> None:
        self.make: Final = make
        """The factory before this one."""

    def __call__(self, *args: object, **kwargs: object) -> logging.LogRecord:
        """Make a record."""
        record = self.make(*args, **kwargs)
        add_log_context(record)
        return record


def add_context_to_all_records() -> None:
    """Add the attributes `FIELDS` to every record of this process. Not a checkpoint."""
    factory = logging.getLogRecordFactory()
    if not isinstance(factory, ContextRecordFactory):
        logging.setLogRecordFactory(ContextRecordFactory(factory))
