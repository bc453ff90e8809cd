"""What the official Python client does when something changes, and with handles."""

from __future__ import annotations

import anyio

from tests.interop.python_bench import Bench, Checks, Connection, until

CHANGES = Checks()
HANDLES = Checks()


@CHANGES.check
async def check_list_changed(bench: Bench) -> None:
    async with bench.connect() as connection:
        before = await connection.tools()
        async with connection.hearing() as heard:
            await connection.call("add_tool")
            await until(lambda: "tools" in heard)
            after = await connection.tools()
        assert after.keys() - before.keys() == {"newcomer"}
        assert await connection.call("newcomer") == "here I am"


@CHANGES.check
async def check_updated(bench: Bench) -> None:
    async with bench.connect() as connection:
        for wanted, other in (("memo://one", "memo://two"), ("memo://two", "memo://one")):
            async with connection.hearing(wanted) as heard:
                await connection.call("change", uri=other)
                await connection.call("change", uri=wanted)
                await until(lambda heard=heard: len(heard) > 0)  # type: ignore[misc]
                assert heard == [wanted]
            await connection.call("change", uri=wanted)


@CHANGES.check
async def check_listens(bench: Bench) -> None:
    memos = ["memo://one", "memo://two"]
    async with (
        bench.connect() as connection,
        connection.listening(tools_list_changed=True) as tools,
        connection.listening(resource_subscriptions=memos[:1]) as one,
        connection.listening(resources_list_changed=True, resource_subscriptions=memos) as all_,
    ):
        # There are no prompts.
        listen = connection.client.listen(prompts_list_changed=True, tools_list_changed=True)
        async with listen as subscription:
            assert subscription.honored.prompts_list_changed is None
            assert subscription.honored.tools_list_changed is True
        for uri in memos:
            await connection.call("change", uri=uri)
        await connection.call("change")
        await connection.call("add_tool")
        await until(lambda: (len(tools), len(one), len(all_)) >= (1, 1, 3))
        assert tools == ["tools"]
        assert one == ["memo://one"]
        assert sorted(all_) == [*memos, "resources"]


async def open_notes(connection: Connection, title: str, *, brief: bool = False) -> str:
    opened = await connection.structured("open_notes", title=title, brief=brief)
    return str(opened["notes_id"])


@HANDLES.check
async def check_handle(bench: Bench) -> None:
    async with bench.connect() as connection:
        one, two = await open_notes(connection, "one"), await open_notes(connection, "two")
        assert one != two
        for notes_id, line in ((one, "a"), (two, "b")):
            await connection.structured("note", notes_id=notes_id, line=line)
        noted = await connection.structured("note", notes_id=one, line="c")
        assert noted == {"title": "one", "lines": ["a", "c"]}
        assert await connection.structured("close_notes", notes_id=one) == {"closed": True}
        assert await connection.call("outcome", key="one") == "one"
        noted = await connection.structured("note", notes_id=two, line="d")
        assert noted == {"title": "two", "lines": ["b", "d"]}
        assert await connection.structured("close_notes", notes_id=one) == {"closed": False}


@HANDLES.check
async def check_handle_unknown(bench: Bench) -> None:
    async with bench.connect() as connection:
        closed = await open_notes(connection, "one")
        await connection.structured("close_notes", notes_id=closed)
        # Its owner is told for a while what has ended; all else has one text.
        assert "has ended" in await connection.error("note", notes_id=closed, line="a")
        texts = set()
        for notes_id in (closed[:-1], "notes_", "brief_" + closed, "nonsense"):
            text = await connection.error("note", notes_id=notes_id, line="a")
            assert notes_id in text
            texts.add(text.replace(notes_id, "…"))
        assert len(texts) == 1


@HANDLES.check
async def check_handle_expired(bench: Bench) -> None:
    async with bench.connect() as connection:
        description = (await connection.tools())["open_notes"].description
        assert description is not None
        assert "30 minutes without use" in description
        assert "0.2 seconds without use" in description
        brief = await open_notes(connection, "one", brief=True)
        assert await connection.call("outcome", key="one") == "one"
        assert brief in await connection.error("note", notes_id=brief, line="a")


@HANDLES.check
async def check_handle_ended(bench: Bench) -> None:
    async with bench.connect() as connection:
        notes_id = await open_notes(connection, "one")
        told: list[str] = []

        async def hold() -> None:
            told.append(await connection.error("hold_notes", notes_id=notes_id, turn="never"))

        async with anyio.create_task_group() as group:
            group.start_soon(hold)
            await connection.call("wait_started", key="never")
            assert await connection.structured("close_notes", notes_id=notes_id) == {"closed": True}
        (text,) = told
        assert notes_id in text
