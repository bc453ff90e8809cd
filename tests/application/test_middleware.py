"""Middleware: what it is around, what it sees, and in which order it is called."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Annotated, Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_mcp_session import (
    CallNext,
    CleanupConfig,
    Elicitation,
    InputRequired,
    Instrumentation,
    McpError,
    Principal,
    RequestContext,
    RequestDetails,
    RequestFinished,
    Router,
    ToolError,
    UrlElicitation,
    UrlElicitationRequired,
    open_session_manager,
)
from trio_mcp_session.application.completions import Completion
from trio_mcp_session.application.dependencies import Depends
from trio_mcp_session.testing import connect_client

from .answering import play, text_of, tool
from .client import ERAS, D, M, connected
from .test_context_questions import SCHEMA

IN_ALL = pytest.mark.parametrize("version", ERAS)
IN_BOTH = pytest.mark.parametrize("version", [D, M])


class Log:
    """What happened, in order."""

    def __init__(self) -> None:
        self.entries: list[Any] = []

    def middleware(self, name: str) -> Callable[[RequestContext, CallNext], Any]:
        """Return middleware that logs when it begins and what the outcome is."""

        async def logged(ctx: RequestContext, call_next: CallNext) -> object:
            self.entries.append(name)
            try:
                value = await call_next()
            except Exception as error:
                self.entries.append((name, type(error).__name__, str(error)))
                raise
            self.entries.append((name, value))
            return value

        return logged


LOG = Log()


def database() -> str:
    LOG.entries.append("dependency")
    return "db"


def with_one_of_each() -> Router:
    router = Router("test")

    @router.tool()
    async def run() -> None:
        pass

    @router.prompt()
    async def review(language: str = "") -> str:
        return "Review"

    @router.completion(review, "language")
    async def languages(value: str) -> list[str]:
        return ["python"]

    @router.resource("data://one")
    async def one() -> bytes:
        return b"1"

    return router


def error_text(result: Any) -> str:
    assert result["isError"] is True
    ((content,),) = [result["content"]]
    text: str = content["text"]
    return text


@IN_ALL
async def test_the_order_is_middleware_then_arguments_then_dependencies_then_handler(
    version: str, autojump_clock: MockClock
) -> None:
    log = LOG
    log.entries.clear()
    router = Router("test")
    router.middleware(log.middleware("outer"))
    router.middleware(log.middleware("inner"))

    @router.tool(middleware=[log.middleware("tool"), log.middleware("last")])
    async def run(count: int, db: Annotated[str, Depends(database)]) -> str:
        log.entries.append(f"handler {db}")
        return f"ran {count}"

    async with connected(router, version) as client:
        called = await client.call("run", count=1)
        assert called["content"] == [{"type": "text", "text": "ran 1"}]
        value = "ran 1"
        assert log.entries == [
            "outer",
            "inner",
            "tool",
            "last",
            "dependency",
            "handler db",
            ("last", value),
            ("tool", value),
            ("inner", value),
            ("outer", value),
        ]
        log.entries.clear()
        invalid = error_text(await client.call("run", count="x"))
        assert invalid.startswith("Invalid arguments: ")
        names = [one if isinstance(one, str) else one[:2] for one in log.entries]
        kind = "ArgumentsInvalid"
        assert names == [
            *("outer", "inner", "tool", "last"),
            *(("last", kind), ("tool", kind), ("inner", kind), ("outer", kind)),
        ]


async def test_instrumentation_begins_before_middleware_and_ends_after_it(
    autojump_clock: MockClock,
) -> None:
    log = Log()

    class Watch(Instrumentation):
        def request_begun(self, details: RequestDetails) -> RequestFinished | None:
            log.entries.append(f"begun {details.method}")
            return lambda _: log.entries.append("finished")

    router = Router("test")
    router.middleware(log.middleware("middleware"))

    @router.tool()
    async def run() -> str:
        return "ran"

    async with (
        open_session_manager(router, instrumentation=Watch()) as manager,
        connect_client(manager) as client,
    ):
        log.entries.clear()  # The handshake is watched, too.
        await client.call_tool("run")
    assert log.entries == ["begun tools/call", "middleware", ("middleware", "ran"), "finished"]


@IN_ALL
async def test_middleware_sees_every_kind_of_request_and_its_value(
    version: str, autojump_clock: MockClock
) -> None:
    router = with_one_of_each()
    seen: list[Any] = []

    @router.middleware
    async def watch(ctx: RequestContext, call_next: CallNext) -> object:
        value = await call_next()
        seen.append((ctx.method, ctx.request_id is None, value))
        return value

    @router.request("own")
    async def own(ctx: RequestContext) -> dict[str, Any]:
        return {"a": 1}

    @router.notification("noted")
    async def noted(ctx: RequestContext) -> None:
        pass

    async with connected(router, version) as client:
        await client.call("run")
        assert seen.pop() == ("tools/call", False, None)
        await client.request("prompts/get", {"name": "review"})
        assert seen.pop() == ("prompts/get", False, "Review")
        read = await client.request("resources/read", {"uri": "data://one"})
        assert read["contents"][0]["blob"] == "MQ=="
        assert seen.pop() == ("resources/read", False, b"1")
        reference = {"type": "ref/prompt", "name": "review"}
        params = {"ref": reference, "argument": {"name": "language", "value": ""}}
        completed = await client.request("completion/complete", params)
        assert completed["completion"] == {"values": ["python"]}
        assert seen.pop() == ("completion/complete", False, ["python"])
        listed = await client.request("tools/list")
        assert seen.pop() == ("tools/list", False, {"tools": listed["tools"]})
        assert (await client.request("own"))["a"] == 1
        assert seen.pop() == ("own", False, {"a": 1})
        await client.notify("noted")
        await wait_all_tasks_blocked()
        # From 2026-07-28 on, the application gets no notifications of clients on a pipe.
        assert seen == ([] if version == M else [("noted", True, None)])


@IN_ALL
@pytest.mark.parametrize(
    "method, params, message",
    [
        ("tools/call", {"name": "x"}, "Unknown tool: 'x'"),
        ("tools/call", {}, "name must be a string"),
        ("prompts/get", {"name": "x"}, "Unknown prompt: 'x'"),
        ("resources/read", {"uri": "x:y"}, "Resource not found: 'x:y'"),
        ("completion/complete", {}, "ref must be a ref/prompt with name, or a ref/resource"),
        (
            "completion/complete",
            {"ref": {"type": "ref/prompt", "name": "x"}},
            "ref does not match a prompt or a resource template",
        ),
        (
            "completion/complete",
            {"ref": {"type": "ref/resource", "uri": "data://one"}},
            "ref does not match a prompt or a resource template",
        ),
    ],
)
async def test_middleware_is_around_requests_for_unknown_things(
    version: str, method: str, params: dict[str, Any], message: str, autojump_clock: MockClock
) -> None:
    log = Log()
    router = with_one_of_each()
    router.middleware(log.middleware("watch"))
    async with connected(router, version) as client:
        refused = await client.refused(method, params)
        assert refused["message"] == message
        await client.forgive()
    assert [one if isinstance(one, str) else one[1] for one in log.entries] == ["watch", "McpError"]


@IN_ALL
async def test_middleware_may_refuse_answer_itself_and_change_the_value(
    version: str, autojump_clock: MockClock
) -> None:
    router = Router("test")
    ran: list[str] = []

    @router.middleware
    async def decide(ctx: RequestContext, call_next: CallNext) -> object:
        match ctx.params["name"]:
            case "limited":
                raise ToolError("Too many calls: wait a minute")
            case "forbidden":
                raise McpError(-32000, "Not allowed")
            case "cached":
                return "from the cache"
            case _:
                return f"{await call_next()}, twice: {await call_next()}"

    for name in ("limited", "forbidden", "cached", "run"):

        @router.tool(name=name)
        async def run() -> str:
            ran.append("run")
            return str(len(ran))

    async with connected(router, version) as client:
        assert error_text(await client.call("limited")) == "Too many calls: wait a minute"
        refused = await client.refused("tools/call", {"name": "forbidden"})
        assert refused["message"] == "Not allowed"
        assert not ran
        assert (await client.call("cached"))["content"][0]["text"] == "from the cache"
        assert not ran
        assert (await client.call("run"))["content"][0]["text"] == "1, twice: 2"


@IN_BOTH
async def test_a_crash_of_middleware_is_reported_and_a_result_of_the_tool(
    version: str, autojump_clock: MockClock
) -> None:
    router = Router("test")

    @router.middleware
    async def broken(ctx: RequestContext, call_next: CallNext) -> object:
        raise KeyError("secret")

    @router.tool()
    async def run() -> None: ...

    async with connected(router, version) as client:
        text = error_text(await client.call("run"))
        assert text == "The tool 'run' failed with an internal error"
        assert isinstance(await client.crash(), KeyError)
        assert (await client.refused("tools/list"))["message"] == "Internal error"
        assert isinstance(await client.crash(), KeyError)


@IN_BOTH
async def test_middleware_that_forgets_the_value_is_an_error(
    version: str, autojump_clock: MockClock
) -> None:
    router = Router("test")

    @router.middleware
    async def forgetful(ctx: RequestContext, call_next: CallNext) -> object:
        await call_next()
        return None

    @router.tool()
    async def run() -> str:
        return "ran"

    @router.tool()
    async def nothing() -> None:
        pass

    async with connected(router, version) as client:
        await client.call("run")
        error = await client.crash()
        assert isinstance(error, TypeError)
        assert "forgetful returned None, although the handler returned a value" in str(error)
        assert "isError" not in await client.call("nothing")


@pytest.mark.parametrize("what", ["def", "one parameter", "no function", "tool"])
def test_what_is_not_middleware_is_refused(what: str) -> None:
    router = Router("test")

    def plain(ctx: RequestContext, call_next: CallNext) -> None: ...

    async def short(ctx: RequestContext) -> None: ...

    wrong: Any = {"def": plain, "one parameter": short, "no function": 1, "tool": plain}[what]
    with pytest.raises(
        TypeError, match="must be an async def that takes the context and call_next"
    ):
        if what == "tool":
            router.tool(middleware=[wrong])(short)
        else:
            router.middleware(wrong)


async def test_middleware_may_be_an_object_or_a_partial(autojump_clock: MockClock) -> None:
    router = Router("test")

    class Suffix:
        async def __call__(self, ctx: RequestContext, call_next: CallNext) -> object:
            return f"{await call_next()}!"

    async def prefix(text: str, ctx: RequestContext, call_next: CallNext) -> object:
        return f"{text}{await call_next()}"

    suffix = Suffix()
    assert router.middleware(suffix) is suffix

    @router.tool(middleware=[functools.partial(prefix, "> ")])
    async def run() -> str:
        return "ran"

    async with connected(router) as client:
        assert (await client.call("run"))["content"][0]["text"] == "> ran!"


# Handlers that wait for their client.


@IN_BOTH
async def test_middleware_stays_around_a_handler_that_waits_for_its_client(
    version: str, autojump_clock: MockClock
) -> None:
    router = Router("test")
    times: list[tuple[float, float]] = []

    @router.middleware
    async def timed(ctx: RequestContext, call_next: CallNext) -> object:
        begun = trio.current_time()
        assert ctx.suspended_for == 0
        value = await call_next()
        times.append((trio.current_time() - begun, ctx.suspended_for))
        return value

    @router.tool()
    async def run(ctx: RequestContext) -> str:
        await trio.sleep(1)
        await ctx.elicit("Who?", SCHEMA)
        await trio.sleep(2)

        async def ask(after: float) -> None:
            await trio.sleep(after)
            await ctx.elicit("Who?", SCHEMA)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, 0)
            nursery.start_soon(ask, 0)
        return "ran"

    async with connected(router, version, capabilities={"elicitation": {}}) as client:
        message, asked = await play(client, "tools/call", tool("run"), takes=10)
        assert text_of(message) == "ran"
        assert len(asked) == 3
    # In one answer, or one after the other on a pipe.
    waited = 20.0 if version == M else 30.0
    assert times == [(3 + waited, waited)]


async def test_suspended_for_counts_questions_at_once_once_and_grows_while_they_wait(
    autojump_clock: MockClock,
) -> None:
    router = Router("test")
    seen: list[float] = []

    @router.tool()
    async def run(ctx: RequestContext) -> str:
        async def watch() -> None:
            await trio.sleep(4)
            seen.append(ctx.suspended_for)

        async def ask(seconds: float) -> None:
            with trio.move_on_after(seconds):
                await ctx.elicit("Who?", SCHEMA)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            nursery.start_soon(ask, 3)
            nursery.start_soon(ask, 6)
        seen.append(ctx.suspended_for)
        await trio.sleep(5)
        seen.append(ctx.suspended_for)
        return "ran"

    async with connected(router, capabilities={"elicitation": {}}) as client:
        await client.call("run")
    assert seen == [4, 6, 6]


def asking(calls: list[str]) -> Router:
    router = Router("test")

    @router.middleware
    async def around(ctx: RequestContext, call_next: CallNext) -> object:
        calls.append("begin")
        value = await call_next()
        calls.append("asks" if isinstance(value, InputRequired) else value)
        return value

    @router.tool()
    async def run(ctx: RequestContext) -> str | InputRequired:
        question = Elicitation("Who?", SCHEMA, key="who")
        answer = ctx.answer_to(question)
        calls.append("handler")
        if answer is None:
            return InputRequired(question)
        assert answer.content is not None
        return str(answer.content["name"])

    return router


@IN_BOTH
async def test_middleware_is_around_a_handler_that_returns_input_required(
    version: str, autojump_clock: MockClock
) -> None:
    calls: list[str] = []
    async with connected(asking(calls), version, capabilities={"elicitation": {}}) as client:
        message, _ = await play(client, "tools/call", tool("run"))
        assert text_of(message) == "Ada"
    if version == M:  # The client has sent two requests.
        assert calls == ["begin", "handler", "asks", "begin", "handler", "Ada"]
    else:
        assert calls == ["begin", "handler", "handler", "Ada"]


@IN_BOTH
async def test_a_question_that_the_client_cannot_be_asked_is_told_to_the_model(
    version: str, autojump_clock: MockClock
) -> None:
    calls: list[str] = []
    async with connected(asking(calls), version) as client:
        message = await client.answer_to(await client.ask("tools/call", tool("run")))
        assert "elicitation" in str(message)


@IN_BOTH
@pytest.mark.parametrize("by", ["handler", "middleware"])
async def test_a_url_that_the_client_cannot_open_is_answered_as_without_middleware(
    by: str, version: str, autojump_clock: MockClock
) -> None:
    """Up to 2025-11-25 the model is told; later the protocol has an error of its own."""
    router = Router("test")
    required = UrlElicitationRequired(UrlElicitation("Pay", "https://x.org/"))

    @router.tool()
    async def run() -> None:
        raise required

    async with connected(router, version) as client:
        plain = await client.answer_to(await client.ask("tools/call", tool("run")))
    assert ("result" if version == D else "error") in plain

    @router.middleware
    async def around(ctx: RequestContext, call_next: CallNext) -> object:
        if by == "middleware":
            raise required
        return await call_next()

    async with connected(router, version) as client:
        assert await client.answer_to(await client.ask("tools/call", tool("run"))) == plain


@IN_BOTH
async def test_middleware_may_return_input_required_itself(
    version: str, autojump_clock: MockClock
) -> None:
    router = Router("test")

    @router.middleware
    async def approve(ctx: RequestContext, call_next: CallNext) -> object:
        question = Elicitation("Really?", SCHEMA, key="sure")
        if ctx.answer_to(question) is None:
            return InputRequired(question)
        return await call_next()

    @router.tool()
    async def run() -> str:
        return "ran"

    async with connected(router, version, capabilities={"elicitation": {}}) as client:
        message, asked = await play(client, "tools/call", tool("run"))
        assert text_of(message) == "ran"
        assert len(asked) == 1


@IN_BOTH
async def test_middleware_is_cancelled_with_its_request(
    version: str, autojump_clock: MockClock
) -> None:
    router = Router("test")
    ends: list[float] = []

    @router.middleware
    async def around(ctx: RequestContext, call_next: CallNext) -> object:
        try:
            return await call_next()
        finally:
            ends.append(trio.current_time())

    @router.tool()
    async def run() -> None:
        await trio.sleep_forever()

    cleanup = CleanupConfig(request_timeout=5)
    async with connected(router, version, cleanup=cleanup) as client:
        begun = trio.current_time()
        text = error_text(await client.call("run"))
        assert text == "The tool 'run' took too long, and was cancelled"
        assert ends == [begun + 5]


@IN_BOTH
async def test_a_call_is_adopted_or_finished_while_its_middleware_waits(
    version: str, autojump_clock: MockClock
) -> None:
    """`on_disconnect` of the tool holds from the beginning, not only in its function."""
    router = Router("test")
    choices: list[object] = []

    @router.middleware
    async def around(ctx: RequestContext, call_next: CallNext) -> object:
        choices.append(ctx._request.on_disconnect)
        return await call_next()

    @router.tool(on_disconnect="finish")
    async def run() -> str:
        return "ran"

    async with connected(router, version) as client:
        await client.call("run")
    assert choices == ["finish"]


async def test_scopes_are_checked_before_middleware(autojump_clock: MockClock) -> None:
    log = Log()
    router = Router("test")
    router.middleware(log.middleware("watch"))

    @router.tool(scopes="files:write")
    async def run() -> None: ...

    async with (
        open_session_manager(router) as manager,
        connect_client(manager, principal=Principal("ada")) as client,
    ):
        with pytest.raises(McpError, match="the scopes: files:write"):
            await client.call_tool("run")
    assert not log.entries


async def test_completions_may_be_complete_objects(autojump_clock: MockClock) -> None:
    router = Router("test")

    @router.prompt()
    async def review(language: str = "") -> str: ...  # type: ignore[empty-body]

    @router.completion(review, "language")
    async def languages(value: str) -> Completion:
        return Completion(["python"], total=3)

    reference = {"type": "ref/prompt", "name": "review"}
    params = {"ref": reference, "argument": {"name": "language", "value": ""}}
    async with connected(router) as client:
        plain = await client.request("completion/complete", params)
    router.middleware(Log().middleware("watch"))
    async with connected(router) as client:
        assert await client.request("completion/complete", params) == plain
