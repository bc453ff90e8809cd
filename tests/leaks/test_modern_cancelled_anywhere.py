"""Cancelling a manager, or its clients, at every step of handlers that ask and handles in use.

A handler waits for its client, resumes, and asks again; a subscription receives changes; a
handle is used, closed and left: all of it on a pipe, and all of it over HTTP. So do calls that
become tasks: before they do, while they work, ask, are cancelled, and when they are over.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar, cast

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_mcp_session import AdmissionPolicy, Principal, SessionConfig, SessionKind
from trio_mcp_session.server.mcp_server import server_of
from trio_mcp_session.testing import ConnectionEnded, connect_client
from trio_mcp_session.transports.http.endpoint import Endpoint
from trio_mcp_session.transports.http.http_app import http_app

from .exchange import authenticate
from .machine import LIMITS, Server
from .modern import (
    ANSWERS,
    CLINGING,
    MODERN_CLOCKS,
    Asker,
    Call,
    Conversation,
    HttpAsker,
    ModernServer,
    PipeAsker,
    virtual_wall_clock,
)
from .test_cancelled_anywhere import CancelAt, Scenario


def new_config() -> SessionConfig:
    limits = attrs.evolve(
        LIMITS,
        max_in_flight=4,
        max_stateless_requests=4,
        max_sessions_of={**LIMITS.max_sessions_of, SessionKind.TASK: 16},
        admission=AdmissionPolicy.EVICT_IDLE,
    )
    return SessionConfig(limits=limits, cleanup=MODERN_CLOCKS, wall_clock=virtual_wall_clock)


@attrs.define(eq=False)
class ModernScenario(Scenario):
    """A manager with an endpoint, and a client of 2026-07-28 by each transport."""

    server: Server = attrs.field(factory=ModernServer)
    config: SessionConfig = attrs.field(factory=new_config)
    endpoint: Endpoint = attrs.field(init=False)
    server_tasks: trio.Nursery = attrs.field(init=False)
    http: HttpAsker = attrs.field(init=False)
    heard: list[str] = attrs.field(factory=list)
    """What came of the calls of clients that were not cancelled."""

    async def cancel_manager_only(self) -> None:
        """The server continues, and every request comes to its end all the same."""
        async with trio.open_nursery() as self.server_tasks:
            self.instrument.counting = True
            with self.instrument.scope:
                await self.manage(self.be_busy)
            self.instrument.counting = False
            await wait_all_tasks_blocked()

    async def work(self) -> None:
        async with trio.open_nursery() as self.server_tasks:
            await self.be_busy()
            self.server_tasks.cancel_scope.cancel()

    async def be_busy(self) -> None:
        app = http_app(self.manager, authenticate=authenticate)
        self.endpoint = cast("Endpoint", app)
        self.http = HttpAsker(app, self.server_tasks.start_soon, "ann")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.be_asked, self.http)
            nursery.start_soon(self.be_on_a_pipe)
            await trio.sleep(3)
            await self.manager.drain(grace=0.1)
            nursery.cancel_scope.cancel()

    async def be_on_a_pipe(self) -> None:
        async with connect_client(self.manager, principal=Principal("bob"), version=None) as client:
            with suppress(ConnectionEnded):
                await self.be_asked(PipeAsker(client))

    async def be_asked(self, asker: Asker) -> None:
        listen = await asker.listen()
        opened = await self.finish(await asker.call("open", {"flavour": "leave hangs"}), "done")
        box = {"box": opened.text}
        await asker.call("use", {**box, "key": "never"})
        self.manager.notify_list_changed("tools")
        talk = Conversation("quiz", {"key": opened.text})
        lent = Conversation("borrow", {**box, "key": "lent"})
        await lent.begin(asker)  # It waits in line.
        talk.hear(await self.finish(await talk.begin(asker), "asked"))
        talk.hear(await self.finish(await talk.come_back(asker, {"a": ANSWERS["a"]}), "asked"))
        call = await talk.come_back(asker)
        await trio.sleep(0.2)
        self.manager.notify_resource_updated("file:///a")
        self.server.gate(opened.text).set()
        talk.hear(await self.finish(call, "asked"))
        late = await talk.come_back(asker, state=talk.states[0])
        await trio.sleep(0.2)
        closing = await asker.call("close", box)
        self.heard.append((await self.finish(late, "-32602")).outcome)
        await self.finish(closing, "done")
        listen.withdraw()
        await asker.listen()
        # What waits now waits until the drain.
        await trio.sleep_forever()

    async def finish(self, call: Call, outcome: str) -> Call:
        """Wait for what has to come of a call, unless the server is gone."""
        await call.wait_over()
        self.seen += self.manager.sessions()
        if call.outcome != outcome:  # pragma: no cover  # it may be cancelled before it hears that
            await trio.sleep_forever()
        return call

    expected: ClassVar[Sequence[str]] = ("-32602",)
    """What each of the clients hears, if it is not cancelled."""

    def check(self) -> None:
        self.seen += self.server.asked
        super().check()
        assert isinstance(self.server, ModernServer)
        assert not self.server.held
        assert not len(server_of(self.manager).subscriptions)
        assert not len(self.endpoint.ticker)
        assert not len(self.endpoint.stateless_ticker)
        assert not any(one.running for one in self.http.exchanges)

    def check_answers(self) -> None:
        for one in self.http.exchanges:
            if one.begun and not one.excused:
                assert one.complete, one
                assert one.has_answer, one


@attrs.define(eq=False)
class TaskScenario(ModernScenario):
    """Each client has tasks in every state when the manager drains."""

    expected: ClassVar[Sequence[str]] = ("input_required", "completed", "cancelled", "cancelled")

    async def be_asked(self, asker: Asker) -> None:
        key = f"of {type(asker).__name__}"
        late = await asker.call("maybe", {"key": f"late {key}"})
        asked = await self.begin_task(asker, "survey", key)
        working = await self.begin_task(asker, "toil", f"working {key}")
        sulking = await self.begin_task(asker, "sulk", key)
        listen = await asker.listen({"taskIds": [asked, working, sulking, "unknown"]})
        talk = Conversation("prepare", {"key": key})
        talk.hear(await self.finish(await talk.begin(asker), "asked"))
        await self.finish(await talk.come_back(asker), "task")
        await self.about_task(asker, "update", asked, {"a": ANSWERS["a"], "c": None})
        self.heard.append(await self.status(asker, asked))
        await self.about_task(asker, "update", asked, {"b": ANSWERS["b"]})
        await self.about_task(asker, "update", asked, {"c": ANSWERS["c"]})
        self.heard.append(await self.status(asker, asked))
        await self.finish(late, "task")
        await asker.about_task("cancel", sulking)
        assert self.manager.cancel_task(working)
        await trio.sleep(CLINGING)
        self.heard.append(await self.status(asker, working))
        self.heard.append(await self.status(asker, sulking))
        listen.withdraw()
        asked = await self.begin_task(asker, "survey", f"again {key}")
        sulking = await self.begin_task(asker, "sulk", f"again {key}")
        await asker.listen({"taskIds": [asked, sulking, working, late.task_id]})
        # What works now works until the drain, and a call is on its way to become a task.
        await trio.sleep(max(0, 2.5 - trio.current_time()))
        await asker.call("maybe", {"key": "too late"})
        await trio.sleep_forever()

    async def begin_task(self, asker: Asker, tool: str, key: str) -> str:
        return (await self.finish(await asker.call(tool, {"key": key}), "task")).task_id

    async def about_task(
        self, asker: Asker, what: str, task_id: str, answers: Mapping[str, Any]
    ) -> None:
        await self.finish(
            await asker.about_task(what, task_id, inputResponses=answers),
            "done",
        )

    async def status(self, asker: Asker, task_id: str) -> str:
        call = await self.finish(await asker.about_task("get", task_id), "done")
        assert call.answer is not None
        return str(call.answer["result"]["status"])


@pytest.mark.parametrize("kind", [ModernScenario, TaskScenario])
@pytest.mark.parametrize(
    "who",
    [
        ModernScenario.cancel_manager,
        ModernScenario.cancel_manager_only,
        ModernScenario.cancel_user,
    ],
)
def test_nothing_is_left_wherever_it_is_cancelled(
    who: Callable[[ModernScenario], Awaitable[None]],
    kind: type[ModernScenario],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("CRITICAL", logger="trio_mcp_session")
    at = steps = 1
    heard: list[str] = []
    while steps >= at:
        instrument = CancelAt(at)
        scenario = kind(instrument)
        trio.run(who, scenario, clock=MockClock(autojump_threshold=0), instruments=[instrument])
        scenario.check()
        if who is ModernScenario.cancel_manager_only:
            scenario.check_answers()
        steps, heard = instrument.steps, scenario.heard
        at += 1
    assert at > 200, "the scenario is shorter than it looks"
    assert sorted(heard) == sorted([*kind.expected] * 2)
