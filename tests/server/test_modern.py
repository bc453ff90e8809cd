"""What is known of a modern request before it runs, and what the library answers itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast, final

import attrs
import msgspec
import pytest

from tests.helpers import LATEST, LISTEN, MODERN, OpenOutlet, modern, modern_result, undressed
from trio_mcp_session import HandlerCrashed, McpError, RequestContext, Router
from trio_mcp_session.core.metrics import SessionCounters
from trio_mcp_session.protocol.envelope import Envelope, read_envelope
from trio_mcp_session.protocol.eras import BOTH
from trio_mcp_session.protocol.jsonrpc import Request
from trio_mcp_session.protocol.methods import DISCOVER, REMOVED, RESERVED
from trio_mcp_session.protocol.results import complete_result
from trio_mcp_session.protocol.revisions import Revision
from trio_mcp_session.server.modern import (
    check_method,
    discover,
    is_violation,
    open_envelope,
)
from trio_mcp_session.server.request import InFlightRequest
from trio_mcp_session.server.sink import MessageSink


def router(**settings: Any) -> Router:
    made = Router("r", **settings)

    @made.request("known")
    async def known(ctx: RequestContext) -> None: ...

    # Even where a handler serves them: they have no place in such a request.
    for method in REMOVED - RESERVED:
        made.request(method)(known)
    return made


def read(message: Mapping[str, Any]) -> Request:
    return Request(message["id"], message["method"], message["params"])


def refusal(message: Mapping[str, Any]) -> tuple[int, Any]:
    with pytest.raises(McpError) as caught:
        open_envelope(router(), read(message), BOTH)
    return caught.value.code, caught.value.data


SUPPORTED = {"supported": [MODERN]}


def test_known_methods_discovery_and_listen_open_an_envelope() -> None:
    for method in ("known", DISCOVER, LISTEN):
        check_method(router(), method)
        envelope = open_envelope(
            router(), read(modern(1, method, capabilities={"roots": {}})), BOTH
        )
        assert envelope.version == envelope.revision.version == MODERN
        assert envelope.client.capabilities == {"roots": {}}


@pytest.mark.parametrize("method", [*sorted(REMOVED), "unknown", "", "Known"])
def test_methods_that_are_not_served(method: str) -> None:
    with pytest.raises(McpError) as caught:
        check_method(router(), method)
    assert caught.value.code == -32601
    assert refusal(modern(1, method)) == (-32601, None)


@pytest.mark.parametrize("method", ["known", DISCOVER, "initialize", "unknown"])
def test_the_order_of_the_checks(method: str) -> None:
    assert refusal(modern(1, method, version="1900-01-01", capabilities=1)) == (-32602, SUPPORTED)
    assert refusal(modern(1, method, version=LATEST, logLevel="loud"))[0] == -32602
    # An old revision cannot be served without its handshake.
    assert refusal(modern(1, method, version=LATEST)) == (
        -32022,
        {**SUPPORTED, "requested": LATEST},
    )


@pytest.mark.parametrize(
    "message, broken",
    [
        (modern(1, "known", capabilities=1), True),
        (modern(1, "known", version=1), True),
        (modern(1, "known", logLevel="loud"), True),
        (modern(1, "known", version=LATEST), False),
        (modern(1, "unknown"), False),
        (modern(1, "initialize"), False),
    ],
)
def test_to_ask_what_there_is_breaks_nothing(message: Mapping[str, Any], broken: bool) -> None:
    with pytest.raises(McpError) as caught:
        open_envelope(router(), read(message), BOTH)
    assert is_violation(caught.value) is broken
    assert is_violation(McpError(-32020, "headers do not agree"))


@final
@attrs.define(eq=False)
class Owner(OpenOutlet):
    """Takes what a request has to tell, and answers."""

    application: Router
    answers: list[Any] = attrs.field(factory=list)
    reported: list[Exception] = attrs.field(factory=list)
    counters: SessionCounters = attrs.field(factory=SessionCounters)

    def complete_result(self, method: str, value: object, *, keepable: bool) -> Mapping[str, Any]:
        assert keepable
        info = self.application.server_info
        return complete_result(method, value, info, self.application.cache_hint(method))

    def send_result(self, outlet: MessageSink, frame: bytes) -> None:
        self.answers.append(msgspec.json.decode(frame))

    def report(self, error: Exception) -> None:
        self.reported.append(error)


def answer_of(application: Router) -> Owner:
    owner = Owner(application)
    message = read(modern(1, DISCOVER))
    envelope: Envelope = read_envelope(message.params)
    request = InFlightRequest(cast("Any", owner), message, cast("Any", owner), envelope)
    discover(application, request)
    return owner


def test_discovery_returns_versions_capabilities_and_instructions() -> None:
    (answer,) = answer_of(router(instructions="Be kind.", title="T")).answers
    assert answer["result"]["_meta"] == {
        "io.modelcontextprotocol/serverInfo": {"name": "r", "version": "0", "title": "T"}
    }
    expected = {
        "supportedVersions": [MODERN],
        "capabilities": {"logging": {}},
        "instructions": "Be kind.",
        "ttlMs": 0,
        "cacheScope": "private",
    }
    assert undressed(answer) == modern_result(1, expected)
    (answer,) = answer_of(router()).answers
    del expected["instructions"]
    assert undressed(answer) == modern_result(1, expected)


def test_a_crash_of_capabilities_fails_discovery_without_details(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    application = router()

    def capabilities(revision: Revision) -> Mapping[str, Any]:
        assert revision.version == MODERN
        raise ValueError("secret")

    monkeypatch.setattr(application, "capabilities", capabilities)
    for owner in (answer_of(application), answer_of(router(instructions=object()))):
        (answer,), (report,) = owner.answers, owner.reported
        assert answer["error"] == {"code": -32603, "message": "Internal error"}
        assert isinstance(report, HandlerCrashed)
        assert owner.counters.errors == 1
