"""A client's answer that cannot be decoded ends the question that it answers, at once."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from tests.helpers import connect, initialize, notification, request, serving
from trio_mcp_session import McpError, RequestContext, Router, SessionLimits

BIG = b"y" * 2000


@pytest.mark.parametrize(
    "answer, what",
    [
        (b'{"jsonrpc":"2.0","id":1,"result":{"x":"%b"}}' % BIG, "larger than 1000 bytes"),
        (b'{"result":{"x":"%b"},"jsonrpc":"2.0","id":1}' % BIG, "larger than 1000 bytes"),
        (b'{"result":{"x":NaN},"jsonrpc":"2.0","id":1}', "not JSON"),
        (b'{"jsonrpc":"2.0","id":1,"error":"\xff"}', "not JSON"),
        (b'{"jsonrpc":"2.0","id":1,"result":%b1%b}' % (b"[" * 80, b"]" * 80), "64 deep"),
    ],
)
async def test_an_answer_that_cannot_be_decoded_ends_its_question_at_once(
    answer: bytes, what: str, autojump_clock: MockClock
) -> None:
    router = Router("r")
    errors: list[McpError] = []

    @router.request("ask")
    async def ask(ctx: RequestContext) -> None:
        with pytest.raises(McpError, match=what) as caught:
            await ctx.list_roots()
        errors.append(caught.value)

    limits = SessionLimits(max_message_size=1000)
    async with serving(router, limits=limits) as manager:
        peer = await connect(manager)
        await peer.send(
            initialize(0, capabilities={"roots": {}}), notification("notifications/initialized")
        )
        await peer.waiting()
        await peer.send(request(7, "ask"))
        (question,) = await peer.waiting()
        assert question["method"] == "roots/list"
        # An answer to no question, and one of another type, change nothing.
        await peer.send(
            answer.replace(b'"id":1', b'"id":99'), answer.replace(b'"id":1', b'"id":"1"')
        )
        assert await peer.waiting() == []
        await peer.send(answer)
        assert [one["id"] for one in await peer.waiting()] == [7]
        assert trio.current_time() == 0
        assert errors[0].code == -32603
        assert peer.session.metrics.bad_input == 3
