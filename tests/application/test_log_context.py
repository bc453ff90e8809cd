"""What log records say of their session and request."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from hashlib import sha256

import pytest
import trio

from tests.transports.http.asgi_client import Client
from tests.transports.http.modern import headers_of, modern
from trio_mcp_session import (
    LogContextFilter,
    McpError,
    Principal,
    RequestContext,
    Router,
    http_app,
    open_session_manager,
)
from trio_mcp_session.application.log_context import (
    FIELDS,
    ContextRecordFactory,
    add_context_to_all_records,
)
from trio_mcp_session.testing import connect_client

ADA = Principal("ada", "https://issuer.example")


def short(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:8]


class Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.context: dict[str, dict[str, object]] = {}
        self.addFilter(LogContextFilter())

    def emit(self, record: logging.LogRecord) -> None:
        self.context[record.getMessage()] = {
            name.removeprefix("mcp_"): getattr(record, name) for name in FIELDS
        }


@pytest.fixture
def records() -> Iterator[Records]:
    records = Records()
    root = logging.getLogger()
    root.addHandler(records)
    yield records
    root.removeHandler(records)


@pytest.fixture
def router() -> Router:
    router = Router("x")
    log = logging.getLogger("application")

    @router.tool()
    async def work(ctx: RequestContext) -> str:
        log.warning("in the handler")
        await trio.to_thread.run_sync(log.warning, "in a thread")
        async with trio.open_nursery() as nursery:  # noqa: ASYNC112  # a task of its own
            nursery.start_soon(child)
        if ctx.protocol_version != "2026-07-28":
            ctx.session.start_soon(task)
        raise ValueError("the crash")

    async def child() -> None:  # noqa: ASYNC124
        log.warning("in a child")

    async def task() -> None:  # noqa: ASYNC124
        log.warning("in a task of the session")

    return router


async def test_records_of_a_session(router: Router, records: Records) -> None:
    async with open_session_manager(router) as manager:
        async with connect_client(manager, principal=ADA) as client:
            assert (await client.call_tool("work")).is_error
            (session,) = manager.sessions()
            name = repr(session)
    logging.getLogger("application").warning("outside")
    ours = {"session": short(session.session_id), "principal": short("https://issuer.example\nada")}
    request_id = records.context["in the handler"]["request_id"]
    assert request_id is not None
    of_request = ours | {"request_id": request_id, "method": "tools/call"}
    crash = f"{name}: tool 'work' crashed: ValueError: the crash"
    for message in ("in the handler", "in a thread", "in a child"):
        assert records.context[message] == of_request
    assert [context for message, context in records.context.items() if "crashed" in message] == [
        of_request
    ], crash
    assert records.context["in a task of the session"] == ours | {
        "request_id": None,
        "method": None,
    }
    assert set(records.context["outside"].values()) == {None}


async def test_records_of_a_session_without_authentication(
    router: Router, records: Records
) -> None:
    async with open_session_manager(router) as manager, connect_client(manager) as client:
        assert (await client.call_tool("work")).is_error
    assert records.context["in the handler"]["principal"] is None


async def test_records_of_a_stateless_request(router: Router, records: Records) -> None:
    long_id = "7" * 100
    async with open_session_manager(router) as manager:
        call = modern(long_id, "tools/call", {"name": "work", "arguments": {}})
        await Client(http_app(manager)).post(call, headers=headers_of(call))
    assert records.context["in the handler"] == {
        "session": None,
        "request_id": "7" * 64 + "...",
        "method": "tools/call",
        "principal": None,
    }


async def test_a_record_that_another_task_writes_about_a_session(
    records: Records, caplog: pytest.LogCaptureFixture
) -> None:
    """A protocol violation is reported by the task that reads the connection."""
    caplog.set_level(logging.DEBUG, "trio_mcp_session")
    async with open_session_manager(Router("x")) as manager:
        async with connect_client(manager, principal=ADA):
            (session,) = manager.sessions()
            session._report(ValueError("noticed elsewhere"))
    (context,) = [
        context for message, context in records.context.items() if "noticed elsewhere" in message
    ]
    assert context["session"] == short(session.session_id)
    assert context["principal"] == short("https://issuer.example\nada")


def test_all_records_of_a_program_get_a_context(monkeypatch: pytest.MonkeyPatch) -> None:
    before = logging.getLogRecordFactory()
    monkeypatch.setattr(logging, "_logRecordFactory", logging.LogRecord)
    try:
        add_context_to_all_records()
        add_context_to_all_records()
        factory = logging.getLogRecordFactory()
        assert isinstance(factory, ContextRecordFactory)
        assert factory.make is logging.LogRecord
        record = factory("x", logging.INFO, "", 0, "text", (), None)
    finally:
        logging.setLogRecordFactory(before)
    assert [getattr(record, name) for name in FIELDS] == [None] * 4
    record.mcp_session = "another"  # A filter does not look it up again, in another thread.
    assert LogContextFilter().filter(record)
    assert getattr(record, "mcp_session") == "another"  # noqa: B009  # it has no type


def test_extra_attributes_of_the_application_do_not_clash(records: Records) -> None:
    logging.getLogger("application").warning("told", extra={"session": 1, "method": 2})
    assert records.context["told"]["session"] is None
