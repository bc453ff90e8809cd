from __future__ import annotations

import io
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.cli.terminal import Terminal
from tests.helpers import LATEST
from trio_mcp_session import (
    ClientInfo,
    RequestContext,
    Router,
    Session,
    SessionState,
    TerminationReason,
    Transport,
    connect_memory,
    open_session_manager,
)
from trio_mcp_session.cli.screen import Screen
from trio_mcp_session.cli.text import Style
from trio_mcp_session.cli.watch import Watch, name_of, picture_of
from trio_mcp_session.testing import connect_http_client

ADA = ClientInfo(client_id="ada")
BEN = ClientInfo(client_id="ben")


async def test_a_picture_tells_what_a_session_is_doing(autojump_clock: MockClock) -> None:
    async with open_session_manager() as manager:
        session = await manager.create_session(ADA)
        await trio.sleep(3)
        quiet = picture_of(session)
        with session.lease():
            busy = picture_of(session, "thinking")
        session.terminate()
        ending = picture_of(session)
        await session.wait_terminated()
        ended = picture_of(session)
    assert (quiet.client, quiet.age, quiet.idle, quiet.tasks) == ("ada", 3, 3, 0)
    assert (busy.idle, busy.tasks, busy.note) == (0, 1, "thinking")
    assert (ending.state, ending.reason) == (
        SessionState.TERMINATING,
        TerminationReason.REQUESTED,
    )
    assert not ending.ended
    assert ended.ended


async def test_requests_do_not_count_as_tasks(autojump_clock: MockClock) -> None:
    router = Router("x")

    @router.request("wait")
    async def wait(ctx: RequestContext) -> None:
        await trio.sleep_forever()

    async with open_session_manager(router) as manager:
        client = await connect_memory(manager)
        await client.send(
            b'{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"%s",'
            b'"capabilities":{},"clientInfo":{"name":"ada","version":"1"}}}' % LATEST.encode()
        )
        await client.receive()
        await client.send(b'{"jsonrpc":"2.0","method":"notifications/initialized"}')
        await client.send(b'{"jsonrpc":"2.0","id":1,"method":"wait"}')
        await wait_all_tasks_blocked()
        (session,) = manager.sessions()
        picture = picture_of(session)
        assert (picture.in_flight, picture.tasks) == (1, 0)
        assert (picture.received, picture.sent) == (3, 1)
        await client.aclose()


async def test_a_task_has_a_row_that_tells_its_status(autojump_clock: MockClock) -> None:
    router = Router("x")

    @router.tool(task="required")
    async def build(ctx: RequestContext) -> str:
        await ctx.progress(1, 3, "compiling")
        await ctx.elicit("Deploy?", {"type": "object", "properties": {}})
        return "built"

    async with open_session_manager(router) as manager:
        async with connect_http_client(
            manager, era="modern", name="ada", elicit=_decline
        ) as client:
            watch = Watch(manager)
            task = await client.start_task("build")
            await trio.sleep(3)
            ((asking,), _) = watch.look()
            assert (asking.client, asking.age, asking.tasks) == ("ada", 3, 1)
            assert asking.note == "task input required, 1 question open: tool 'build', compiling"
            assert asking.state is SessionState.ACTIVE
            await task.result()
            ((over,), _) = watch.look()
            assert (over.note, over.tasks) == ("task completed: tool 'build'", 0)
            terminal = Terminal()
            watch.draw(Screen(terminal, Style(live=True)))
            assert [line for line in terminal.lines if "task completed: tool" in line]
            assert "1 open · 1 opened so far · tasks: 1 completed" in terminal.lines


async def _decline(_: dict[str, Any]) -> dict[str, Any]:
    await trio.lowlevel.checkpoint()
    return {"action": "decline"}


async def test_a_client_without_a_name_is_called_by_its_connection() -> None:
    async with open_session_manager() as manager:
        unnamed = await manager.create_session()
        peer = await manager.create_session(transport=Transport("tcp", "10.0.0.1:99"))
        named = await manager.create_session(ADA)
        assert [name_of(one) for one in (unnamed, peer, named)] == [
            "application",
            "10.0.0.1:99",
            "ada",
        ]


async def test_ended_sessions_linger_in_their_rows(autojump_clock: MockClock) -> None:
    async with open_session_manager() as manager:
        watch = Watch(manager, linger=5)
        ada = await manager.create_session(ADA)
        await trio.sleep(1)
        await manager.create_session(BEN)
        watch.look()
        ada.terminate(TerminationReason.EVICTED)
        await ada.wait_terminated()
        await trio.sleep(1)
        pictures, hidden = watch.look()
        assert [(one.client, one.ended, one.reason) for one in pictures] == [
            ("ada", True, TerminationReason.EVICTED),
            ("ben", False, None),
        ]
        assert hidden == 0
        await trio.sleep(4.9)
        assert len(watch.look()[0]) == 2
        await trio.sleep(0.1)
        assert [one.client for one in watch.look()[0]] == ["ben"]


async def test_of_many_sessions_the_most_active_are_shown(autojump_clock: MockClock) -> None:
    async with open_session_manager() as manager:
        watch = Watch(manager, most=2)
        sessions: list[Session] = []
        for name in "abc":
            sessions.append(await manager.create_session(ClientInfo(client_id=name)))
            await trio.sleep(1)
        pictures, hidden = watch.look()
        assert ([one.client for one in pictures], hidden) == (["b", "c"], 1)
        await trio.sleep(1)
        sessions[0].touch()
        # One that is no longer among them has not ended.
        pictures, hidden = watch.look()
        assert ([one.client for one in pictures], hidden) == (["a", "c"], 1)


async def test_the_table_is_drawn_again_and_again(autojump_clock: MockClock) -> None:
    terminal = Terminal()
    screen = Screen(terminal, Style(live=True))
    async with open_session_manager() as manager:
        await manager.create_session(ADA)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Watch(manager, note_of=lambda _: "thinking").run, screen)
            await trio.sleep(1.05)
            first = list(terminal.lines)
            await trio.sleep(2)
            second = list(terminal.lines)
            nursery.cancel_scope.cancel()
    assert [line.split() for line in first if "ada" in line] == [
        ["●", "active", "ada", "1.0s", "1.0s", "·", "·", "0", "⇄", "0", "thinking"]
    ]
    assert [line.split()[3] for line in second if "ada" in line] == ["3.0s"]
    assert second[-2:] == ["1 open · 1 opened so far", ""]


async def test_the_last_drawing_is_of_the_end(autojump_clock: MockClock) -> None:
    terminal = Terminal()
    async with open_session_manager() as manager:
        session = await manager.create_session(ADA)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Watch(manager).run, Screen(terminal, Style(live=True)))
            await wait_all_tasks_blocked()
            session.terminate()
            await session.wait_terminated()
            nursery.cancel_scope.cancel()
    assert any("terminated" in line for line in terminal.lines)


@pytest.mark.parametrize("rows, shown", [(24, 16), (9, 2), (5, 2)])
async def test_the_table_leaves_room_for_what_is_printed(
    rows: int, shown: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = io.StringIO()
    screen = Screen(file, Style(live=True))
    monkeypatch.setattr(screen, "size", lambda: (80, rows))
    async with open_session_manager() as manager:
        for number in range(30):
            await manager.create_session(ClientInfo(client_id=f"c{number}"))
        Watch(manager).draw(screen)
    drawn = [line for line in file.getvalue().splitlines() if "active" in line]
    assert len(drawn) <= shown - 1
