"""Tools for testing servers: a client in memory, HTTP requests, injected faults, a leak check.

All of it runs on Trio's clock. Under `trio.testing.MockClock` (the ``autojump_clock`` of
pytest-trio) a test of an idle timeout does not wait. Do not use a clock that jumps by itself
beside real pipes, sockets (`http_request`), threads or processes: Trio does not see their work, and
every timeout would expire at once.
"""

from __future__ import annotations

from .asgi_connection import (
    HttpConnection as HttpConnection,
    HttpResponse as HttpResponse,
)
from .calls import PendingRequest as PendingRequest
from .client import Client as Client
from .client_answers import (
    CompletionAnswer as CompletionAnswer,
    PromptAnswer as PromptAnswer,
    ResourceAnswer as ResourceAnswer,
    TaskAnswer as TaskAnswer,
    TaskCancelled as TaskCancelled,
    ToolAnswer as ToolAnswer,
)
from .client_tasks import ClientTask as ClientTask, TaskUpdates as TaskUpdates
from .connecting import (
    ClientEraName as ClientEraName,
    connect_client as connect_client,
    connect_http_client as connect_http_client,
)
from .connection_errors import (
    ConnectionEnded as ConnectionEnded,
    HttpRefused as HttpRefused,
)
from .conversation import Answerer as Answerer
from .failure_check import (
    FailureCheck as FailureCheck,
    ReportedFailure as ReportedFailure,
    UnexpectedFailures as UnexpectedFailures,
)
from .faults import (
    FaultyChannel as FaultyChannel,
    FaultyContext as FaultyContext,
    crash as crash,
    cut_short as cut_short,
    hang as hang,
    refuse_cancellation as refuse_cancellation,
)
from .http_client import (
    HttpAnswer as HttpAnswer,
    http_request as http_request,
    open_http_session as open_http_session,
)
from .leaks import (
    LeakError as LeakError,
    assert_no_leaks as assert_no_leaks,
    check_leaks as check_leaks,
    find_leaks as find_leaks,
)
from .stateless import call_and_answer as call_and_answer, modern as modern
