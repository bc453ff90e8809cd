"""What the official Python client does when it is asked something."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeAlias

import anyio
import mcp_types as types
import pytest
from mcp.shared.exceptions import MCPError
from pydantic import FileUrl

from tests.interop.python_bench import Bench, Checks, Connection, text_of, until

MISSING_CAPABILITY = -32021

Answer: TypeAlias = Callable[[object, types.ElicitRequestParams], Awaitable[types.ElicitResult]]

QUESTIONS = Checks()


def named(name: str) -> types.ElicitResult:
    return types.ElicitResult(action="accept", content={"name": name})


def telling(names: dict[str, str]) -> Answer:
    """Return a callback that knows what to answer to which question."""

    async def on_elicitation(
        context: object, params: types.ElicitRequestParams
    ) -> types.ElicitResult:
        return named(names.pop(params.message))

    return on_elicitation


async def on_sampling(
    context: object, params: types.CreateMessageRequestParams
) -> types.CreateMessageResult:
    assert params.max_tokens == 50
    content = params.messages[0].content
    assert isinstance(content, types.TextContent)
    reply = types.TextContent(type="text", text=content.text.upper())
    return types.CreateMessageResult(role="assistant", content=reply, model="parrot")


async def on_roots(context: object) -> types.ListRootsResult:
    return types.ListRootsResult(roots=[types.Root(uri=FileUrl("file:///srv"), name="srv")])


@QUESTIONS.check
async def check_sampling(bench: Bench) -> None:
    async with bench.connect(sampling_callback=on_sampling) as connection:
        assert await connection.call("sample", prompt="hello") == "parrot: HELLO"


@QUESTIONS.check
async def check_elicitation(bench: Bench) -> None:
    answers = [
        types.ElicitResult(action="accept", content={"name": "Ada"}),
        types.ElicitResult(action="decline"),
        types.ElicitResult(action="cancel"),
    ]
    remaining = iter(answers)

    async def on_elicitation(
        context: object, params: types.ElicitRequestParams
    ) -> types.ElicitResult:
        assert isinstance(params, types.ElicitRequestFormParams)
        assert params.message == "Who?"
        assert params.requested_schema["required"] == ["name"]
        return next(remaining)

    async with bench.connect(elicitation_callback=on_elicitation) as connection:
        for answer in answers:
            structured = await connection.structured("elicit", question="Who?")
            assert structured == {"action": answer.action, "answer": answer.content}


@QUESTIONS.check
async def check_roots(bench: Bench) -> None:
    async with bench.connect(list_roots_callback=on_roots) as connection:
        assert await connection.structured("roots") == {"uris": ["file:///srv"]}


@QUESTIONS.check
async def check_interview(bench: Bench) -> None:
    async with bench.connect(
        elicitation_callback=telling({"Who?": "Ada"}),
        sampling_callback=on_sampling,
        list_roots_callback=on_roots,
    ) as connection:
        assert await connection.structured("interview") == {
            "name": {"name": "Ada"},
            "reply": "HELLO",
            "uris": ["file:///srv"],
        }


async def talks(bench: Bench, tool: str) -> None:
    answers = {"Who?": "Ada", "And besides Ada?": "Bob"}
    async with bench.connect(elicitation_callback=telling(answers)) as connection:
        assert await connection.call(tool) == "Ada and Bob"
        assert answers == {}


@QUESTIONS.check
async def check_talk(bench: Bench) -> None:
    await talks(bench, "talk")


@QUESTIONS.check
async def check_talk_in_steps(bench: Bench) -> None:
    await talks(bench, "talk_in_steps")


@QUESTIONS.check
async def check_question_in_read(bench: Bench) -> None:
    async with bench.connect(elicitation_callback=telling({"Whose memo?": "Ada"})) as connection:
        (content,) = (await connection.client.read_resource("memo://yours")).contents
        assert isinstance(content, types.TextResourceContents)
        assert content.text == "a memo to Ada"


@QUESTIONS.check
async def check_no_capability(bench: Bench) -> None:
    async with bench.connect() as connection:
        for name, arguments in (("sample", {"prompt": "?"}), ("elicit", {"question": "?"})):
            if connection.is_modern:
                with pytest.raises(MCPError) as refused:
                    await connection.client.call_tool(name, arguments)
                assert refused.value.code == MISSING_CAPABILITY
            else:
                with contextlib.suppress(MCPError):
                    assert (await connection.client.call_tool(name, arguments)).is_error
        assert await connection.call("echo", text="next") == "next"


@QUESTIONS.check
async def check_cancel_question(bench: Bench) -> None:
    events: list[str] = []

    async def on_sampling(context: object, params: object) -> types.CreateMessageResult:
        events.append("asked")
        try:
            await anyio.sleep_forever()
        finally:
            events.append("cancelled")
        raise AssertionError("unreachable")

    async with bench.connect(sampling_callback=on_sampling) as connection:
        async with anyio.create_task_group() as group:
            group.start_soon(partial(connection.call, "sample", prompt="hello"))
            await until(lambda: events == ["asked"])
            group.cancel_scope.cancel()
        await until(lambda: events == ["asked", "cancelled"])
        assert await connection.call("echo", text="next") == "next"


class Asked:
    """A call that was answered with a question, before the client did anything about it."""

    def __init__(
        self, connection: Connection, result: object, name: str, arguments: dict[str, Any]
    ) -> None:
        assert isinstance(result, types.InputRequiredResult)
        assert result.input_requests is not None
        assert result.request_state is not None
        ((self.key, question),) = result.input_requests.items()
        assert isinstance(question, types.ElicitRequest)
        self.connection = connection
        self.state = result.request_state
        self.name = name
        self.arguments = arguments

    async def answer(self, user: str) -> types.CallToolResult | Asked:
        """Call again, with an answer."""
        return await self.retry(self.state, {self.key: named(user)})

    async def retry(
        self, state: str, answers: types.InputResponses, *, name: str | None = None
    ) -> types.CallToolResult | Asked:
        """Call again, with these answers."""
        result = await self.connection.client.session.call_tool(
            *(name or self.name, self.arguments),
            input_responses=answers,
            request_state=state,
            allow_input_required=True,
        )
        if isinstance(result, types.CallToolResult):
            return result
        return Asked(self.connection, result, self.name, self.arguments)

    async def is_refused(self, state: str, *, name: str | None = None) -> None:
        with pytest.raises(MCPError) as refused:
            await self.retry(state, {self.key: named("Eve")}, name=name)
        assert refused.value.code == types.INVALID_PARAMS


async def ask(connection: Connection, name: str, **arguments: Any) -> Asked:
    call = connection.client.session.call_tool
    result = await call(name, arguments, allow_input_required=True)
    return Asked(connection, result, name, arguments)


@QUESTIONS.check
async def check_abandoned(bench: Bench) -> None:
    timeout = 0.2
    options = ("--request-state-timeout", str(timeout))
    async with bench.connect(*options, elicitation_callback=telling({})) as connection:
        asked = await ask(connection, "wait_answer", key="one")
        assert await connection.call("outcome", key="one") == "cancelled"
        # The state has its own date, by another clock.
        await anyio.sleep(timeout)
        await asked.is_refused(asked.state)
        assert await connection.call("echo", text="next") == "next"


@QUESTIONS.check
async def check_state(bench: Bench) -> None:
    async with bench.connect(elicitation_callback=telling({})) as connection:
        asked = await ask(connection, "talk")
        middle = len(asked.state) // 2
        changed = "A" if asked.state[middle] != "A" else "B"
        await asked.is_refused(asked.state[:middle] + changed + asked.state[middle + 1 :])
        await asked.is_refused(asked.state, name="talk_in_steps")
        # A client that answers something else is asked again.
        again = await asked.retry(asked.state, {"else": named("Eve")})
        assert isinstance(again, Asked)
        second = await again.answer("Ada")
        assert isinstance(second, Asked)
        await second.is_refused(again.state)
        done = await second.answer("Bob")
        assert isinstance(done, types.CallToolResult)
        assert text_of(done) == "Ada and Bob"
        # What was signed for is gone, which the model is told.
        late = await second.answer("Eve")
        assert isinstance(late, types.CallToolResult)
        assert late.is_error
