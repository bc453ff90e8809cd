"""What several of the official Python clients do with one server."""

from __future__ import annotations

import anyio
import mcp_types as types

from tests.interop.losing_proxy import open_proxy
from tests.interop.python_bench import Checks, until
from tests.interop.python_change_checks import open_notes
from tests.interop.python_http_bench import HttpBench, HttpConnection
from tests.interop.python_question_checks import ask, telling

TOGETHER = Checks()


@TOGETHER.check
async def check_two_clients(bench: HttpBench) -> None:
    async with (
        bench.serve() as server,
        open_proxy(server.port) as proxy,
        bench.join(server, proxy) as one,
        bench.join(server, proxy) as two,
    ):
        assert len(one.session_ids ^ two.session_ids) == (0 if one.is_modern else 2)
        told: dict[str, str] = {}

        async def wait(connection: HttpConnection, turn: str) -> None:
            told[turn] = await connection.call("wait_turn", turn=turn)

        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(wait, one, f"one {number}")
                group.start_soon(wait, two, f"two {number}")
            for number in range(10):
                await one.call("give_turn", turn=f"two {number}")
                await two.call("give_turn", turn=f"one {number}")
        assert len(told) == 20
        assert all(turn == text for turn, text in told.items())


@TOGETHER.check
async def check_two_eras(bench: HttpBench) -> None:
    async with (
        bench.serve() as server,
        open_proxy(server.port) as proxy,
        bench.join(server, proxy, elicitation_callback=telling({"Who?": "Ada"})) as one,
        bench.join(
            *(server, proxy),
            mode="legacy" if one.is_modern else "auto",
            elicitation_callback=telling({"Who?": "Bob"}),
        ) as two,
    ):
        assert one.is_modern != two.is_modern
        async with one.hearing("memo://one") as heard, two.hearing("memo://one") as heard_too:
            await one.call("change", uri="memo://one")
            await until(lambda: bool(heard and heard_too))
            await two.call("add_tool")
            await until(lambda: len(heard) == len(heard_too) == 2)
        assert heard == heard_too == ["memo://one", "tools"]
        assert (await one.tools()).keys() == (await two.tools()).keys()
        for connection, name in ((one, "Ada"), (two, "Bob")):
            answered = await connection.structured("wait_answer", key=name)
            assert answered == {"answer": {"name": name}}


@TOGETHER.check
async def check_answer_elsewhere(bench: HttpBench) -> None:
    async with bench.serve() as server, open_proxy(server.port) as proxy:
        async with bench.join(server, proxy, elicitation_callback=telling({})) as one:
            asked = await ask(one, "wait_answer", key="one")
        async with bench.join(server, proxy, elicitation_callback=telling({})) as two:
            asked.connection = two
            answered = await asked.answer("Ada")
            assert isinstance(answered, types.CallToolResult)
            assert answered.structured_content == {"answer": {"name": "Ada"}}


@TOGETHER.check
async def check_handle_owner(bench: HttpBench) -> None:
    async with bench.serve("--authenticated") as server, open_proxy(server.port) as proxy:
        async with bench.join(server, proxy, user="ada") as ada:
            opened = await open_notes(ada, "one")
        async with (
            bench.join(server, proxy, user="ada") as again,
            bench.join(server, proxy, user="eve") as eve,
        ):
            noted = await again.structured("note", notes_id=opened, line="a")
            assert noted == {"title": "one", "lines": ["a"]}
            assert await again.structured("list_notes") == {"titles": {opened: "one"}}
            assert await eve.structured("list_notes") == {"titles": {}}
            made_up = opened[:-1]
            unknown = await eve.error("note", notes_id=made_up, line="b")
            foreign = await eve.error("note", notes_id=opened, line="b")
            assert foreign == unknown.replace(made_up, opened)
            assert await eve.structured("close_notes", notes_id=opened) == {"closed": False}
            noted = await again.structured("note", notes_id=opened, line="c")
            assert noted == {"title": "one", "lines": ["a", "c"]}


@TOGETHER.check
async def check_handle_anonymous(bench: HttpBench) -> None:
    async with (
        bench.serve() as server,
        open_proxy(server.port) as proxy,
        bench.join(server, proxy) as stranger,
    ):
        async with bench.join(server, proxy) as one:
            opened = await open_notes(one, "one")
            if one.is_modern:
                assert "list" in await one.error("list_notes")
            else:
                assert await one.structured("list_notes") == {"titles": {opened: "one"}}
                await stranger.error("note", notes_id=opened, line="a")
            noted = await one.structured("note", notes_id=opened, line="b")
            assert noted == {"title": "one", "lines": ["b"]}
        if stranger.is_modern:
            noted = await stranger.structured("note", notes_id=opened, line="c")
            assert noted == {"title": "one", "lines": ["b", "c"]}
        else:
            # Its session has ended, and the handle with it.
            assert await stranger.call("outcome", key="one") == "one"
