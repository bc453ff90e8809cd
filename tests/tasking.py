"""Clients of the tasks extension (2026-07-28), over pipes and HTTP, and tools for them to call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias, final

import attrs
import pytest
import trio

from tests.helpers import LISTEN, PREFIX, SUBSCRIPTION_ID
from tests.rounds import ALL, SCHEMA, Call, Http, Pipe, Town, Way
from trio_mcp_session import (
    Elicitation,
    ElicitResult,
    RequestContext,
    Router,
    Session,
    SessionKind,
)

TASKS = f"{PREFIX}tasks"
WITH_TASKS: Mapping[str, Any] = {**ALL, "extensions": {TASKS: {}}}
"""The capabilities of a client that can be asked anything, and given a task."""

WAYS = ("pipe", "http")
BOTH = pytest.mark.parametrize("way", WAYS)
UNKNOWN = (-32602, "Unknown task: it does not exist, or has expired")
NEEDED: Mapping[str, Any] = {"requiredCapabilities": {"extensions": {TASKS: {}}}}
DONE = ("completed", "failed", "cancelled")

State: TypeAlias = dict[str, Any]
"""What ``tasks/get`` says."""


async def client_of(here: Town, way: str, user: str | None = None) -> Way:
    """A client that declares the extension with each of its requests."""
    client = await here.way(way, user)
    client.capabilities = WITH_TASKS
    return client


def created(call: Call) -> State:
    """What a call is answered with that has become a task."""
    assert call.answer is not None, "the call was not answered"
    assert "result" in call.answer, call.answer
    result = call.result
    assert result["resultType"] == "task", result
    return result


def id_of(call: Call) -> str:
    task_id: str = created(call)["taskId"]
    return task_id


async def start(client: Way, tool: str, **arguments: Any) -> str:
    """Call a tool that becomes a task at once; return the task's id."""
    return id_of(await client.call(tool, arguments))


async def ask_for(client: Way, task_id: object, **more: Any) -> Call:
    return await client.begin("tasks/get", {"taskId": task_id}, **more)


async def get(client: Way, task_id: str) -> State:
    """Ask for a task; return what it is, without what all results have."""
    call = await ask_for(client, task_id)
    assert "result" in call.answer, call.answer
    result = dict(call.result)
    assert result.pop("resultType") == "complete"
    assert result.pop("_meta").keys() == {f"{PREFIX}serverInfo"}
    assert result["taskId"] == task_id
    return result


async def status(client: Way, task_id: str) -> str:
    """The status of a task, with the message behind it, if there is one."""
    state = await get(client, task_id)
    said = state.get("statusMessage")
    found: str = state["status"]
    return found if said is None else f"{found}: {said}"


async def update(client: Way, task_id: object, answers: object, **more: Any) -> Call:
    return await client.begin(
        "tasks/update", {"taskId": task_id, "inputResponses": answers}, **more
    )


async def cancel(client: Way, task_id: object, **more: Any) -> Call:
    return await client.begin("tasks/cancel", {"taskId": task_id}, **more)


def acknowledged(call: Call) -> bool:
    """Whether a request is answered with nothing but that it was taken."""
    result = call.result
    return result.keys() == {"resultType", "_meta"} and result["resultType"] == "complete"


def text_in(state: State) -> str:
    """What the tool of a task said."""
    assert state["status"] == "completed", state
    assert not state["result"].get("isError"), state
    text: str = state["result"]["content"][0]["text"]
    return text


def complaint_in(state: State) -> str:
    """What the tool of a task said that failed."""
    assert state["status"] == "completed", state
    assert state["result"]["isError"], state
    text: str = state["result"]["content"][0]["text"]
    return text


async def listen(client: Way, *task_ids: str, **more: Any) -> Call:
    """Subscribe to tasks."""
    return await client.begin(LISTEN, {"notifications": {"taskIds": list(task_ids)}}, **more)


def heard(call: Call) -> list[Any]:
    """What a subscription was told so far: methods, or the states of tasks."""
    way = call.way
    notes = call.notes if isinstance(way, Http) else notes_of(way)
    tag = call.id
    return [
        one["params"] if one["method"] == "notifications/tasks" else one
        for one in notes
        if one["params"].get("_meta", {}).get(SUBSCRIPTION_ID) == tag
    ]


def notes_of(way: Way) -> list[Any]:
    assert isinstance(way, Pipe)
    return way.notes


def states_heard(call: Call) -> list[State]:
    """The states of tasks that a subscription was told, without what is for all."""
    told = [dict(one) for one in heard(call)[1:]]
    for one in told:
        assert one.pop("_meta") == {SUBSCRIPTION_ID: call.id}
    return told


def statuses(call: Call) -> list[str]:
    return [one["status"] for one in states_heard(call)]


def task_sessions(here: Town) -> list[Session]:
    return here.manager.sessions(lambda session: session.kind is SessionKind.TASK)


def the_task(here: Town) -> Session:
    (session,) = task_sessions(here)
    return session


@final
@attrs.define(eq=False)
class Workshop:
    """Tools that become tasks, and work until the test lets them continue."""

    router: Router = attrs.field(factory=lambda: Router("workshop"))
    gate: trio.Event = attrs.field(factory=trio.Event)
    log: list[Any] = attrs.field(factory=list[Any])

    def __attrs_post_init__(self) -> None:
        tool = self.router.tool
        tool(task="required")(self.work)
        tool(task="optional")(self.maybe)
        tool(task="required", ask_first=True)(self.asks_first)
        tool(task="required")(self.ask)
        tool(task="required")(self.ask_many)
        tool(task="required")(self.stubborn)
        tool()(self.greet)

    async def work(self, ctx: RequestContext, seconds: float | None = None) -> str:
        """Work for so long, or until the test opens the gate."""
        self.log.append("began")
        try:
            await self.wait(seconds)
        except trio.Cancelled:
            self.log.append("cancelled")
            raise
        return "done"

    async def wait(self, seconds: float | None) -> None:
        if seconds is None:
            await self.gate.wait()
        else:
            await trio.sleep(seconds)

    async def maybe(self, ctx: RequestContext, seconds: float | None = None) -> str:
        return await self.work(ctx, seconds)

    async def asks_first(self, ctx: RequestContext) -> str:
        one = await ctx.elicit("before", SCHEMA, key="name")
        became = await ctx.become_task()
        other = await ctx.elicit("after", SCHEMA, key="name")
        return f"{name_in(one)} {became} {name_in(other)}"

    async def ask(self, ctx: RequestContext, times: int = 1) -> str:
        """Ask the same question so many times, one after the other."""
        answers = [name_in(await ctx.elicit("?", SCHEMA, key="name")) for _ in range(times)]
        return " ".join(answers)

    async def ask_many(self, ctx: RequestContext, groups: list[list[str]]) -> str:
        """Ask several groups of questions in several tasks at the same time."""

        async def ask(keys: list[str]) -> None:
            answers = await ctx.ask_all(*(Elicitation(key, SCHEMA, key=key) for key in keys))
            self.log.append([name_in(answer) for answer in answers])

        async with trio.open_nursery() as nursery:
            for keys in groups:
                nursery.start_soon(ask, keys)
        return "asked all"

    async def stubborn(self, ctx: RequestContext, seconds: float) -> str:
        """Ignore a cancellation for so long."""
        with trio.CancelScope(shield=True):
            await trio.sleep(seconds)
        return "all the same"

    async def greet(self, name: str) -> str:
        return f"Hello, {name}!"


def name_in(answer: ElicitResult[Mapping[str, Any]]) -> str:
    return answer.action if answer.content is None else str(answer.content["name"])
