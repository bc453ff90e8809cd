"""The tables of the page about types: each row is tried."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

import msgspec
import pytest

from trio_mcp_session import Router
from trio_mcp_session.adapters.open_session_manager import open_session_manager
from trio_mcp_session.testing import connect_client

PAGE = (Path(__file__).parents[2] / "docs" / "types.md").read_text("utf-8")
CODE = re.compile(r"^```\{testcode\}\n(.*?)^```", re.MULTILINE | re.DOTALL)


def rows_below(header: str) -> Iterator[list[str]]:
    """The cells of the rows of a table, without the marks of code."""
    below = PAGE.partition(f"{header}\n")[2].splitlines()[1:]
    for line in takewhile(lambda line: line.startswith("|"), below):
        cells = line.strip("| ").replace(r"\|", "\0").split(" | ")
        yield [cell.strip().strip("`").replace("\0", "|") for cell in cells]


ACCEPTED = list(rows_below("| Type | Schema | Sent | Received |"))
REFUSED = list(rows_below("| Parameter | Text |"))


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    """What the code of the page defines."""
    found: dict[str, Any] = {"__name__": "page"}
    for code in CODE.findall(PAGE):
        exec(compile(code, "types.md", "exec", dont_inherit=True), found)  # noqa: S102  # it is ours
    return found


def resolved(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema that a reference stands for."""
    name = str(schema.get("$ref", "")).rpartition("/")[2]
    found: Mapping[str, Any] = definitions[name] if name else schema
    return found


@pytest.mark.parametrize("row", ACCEPTED, ids=lambda row: f"{row[0]} from {row[2]}")
async def test_a_type_has_the_schema_and_the_conversion_of_the_table(
    row: list[str], names: dict[str, Any], autojump_clock: object
) -> None:
    annotation, schema, sent, received = row
    router = Router("types")
    seen: list[object] = []

    async def work(value: Any) -> None:
        seen.append(value)

    work.__annotations__["value"] = eval(annotation, names)  # noqa: S307  # it is ours
    router.tool()(work)
    tool = router.tools["work"]
    shown = resolved(tool.input_schema["properties"]["value"], tool.input_schema.get("$defs", {}))
    assert shown == msgspec.json.decode(schema)
    async with open_session_manager(router) as manager, connect_client(manager) as client:
        result = await client.call_tool("work", {"value": msgspec.json.decode(sent)})
        assert not result.is_error, result
    assert list(map(repr, seen)) == [received]


@pytest.mark.parametrize("row", REFUSED, ids=lambda row: row[0])
def test_a_parameter_is_refused_with_the_text_of_the_table(
    row: list[str], names: dict[str, Any]
) -> None:
    parameter, text = row
    code = f"async def work({parameter}) -> None: ..."
    exec(compile(code, "row", "exec", dont_inherit=True), names)  # noqa: S102  # it is ours
    with pytest.raises(TypeError) as refused:
        Router("types").tool()(names["work"])
    assert str(refused.value) == text


def test_the_tables_are_found() -> None:
    assert len(ACCEPTED) > 30
    assert len(REFUSED) == 9
