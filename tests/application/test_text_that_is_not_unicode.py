"""Names of files that are not UTF-8 get through to clients, and are reported once."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import attrs
import pytest
from trio.testing import MockClock

from tests.application.client import ERAS, D, M, connected
from tests.helpers import request
from tests.transports.http.site import site
from trio_mcp_session import McpError, RequestContext, Router, ToolError

BROKEN = "resum\udce9"
SENT = "resum\ufffd"


@attrs.frozen
class File:
    name: str


def server(folder: Path) -> Router:
    router = Router("files")
    os.close(os.open(os.fsencode(folder) + b"/resum\xe9", os.O_CREAT))

    @router.tool()
    async def as_text(ctx: RequestContext) -> str:
        await ctx.log("error", BROKEN)
        await ctx.progress(1, message=BROKEN)
        return "\n".join(os.listdir(folder))

    @router.tool()
    async def as_data(ctx: RequestContext) -> dict[str, Any]:
        return {"files": os.listdir(folder)}

    @router.tool()
    async def as_object(ctx: RequestContext) -> File:
        return File(*os.listdir(folder))

    @router.tool()
    async def fails(ctx: RequestContext) -> None:
        raise ToolError(f"cannot read {BROKEN}")

    @router.tool()
    async def refuses(ctx: RequestContext) -> None:
        raise McpError(7, BROKEN, {"file": BROKEN})

    return router


@pytest.mark.parametrize("version", ERAS)
async def test_names_of_files_get_through_and_are_reported_once(
    version: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async with connected(server(tmp_path), version) as client:
        asking = {"name": "as_text", "_meta": {"progressToken": 1}}
        assert (await client.request("tools/call", asking))["content"][0]["text"] == SENT
        for tool in ("as_data", "as_object"):
            result = await client.call(tool)
            assert SENT in result["content"][0]["text"]
            if version >= "2025-06-18":
                assert result["structuredContent"] in ({"files": [SENT]}, {"name": SENT})
        failed = await client.call("fails")
        assert failed["content"][0]["text"] == f"cannot read {SENT}"
        error = await client.refused("tools/call", {"name": "refuses"})
        assert error == {"code": 7, "message": SENT, "data": {"file": SENT}}
        told = [one for one in client.notes if one["method"] == "notifications/message"]
        assert [one["params"]["data"] for one in told] == ([] if version == M else [SENT])
    (record,) = [one for one in caplog.records if "not valid Unicode" in one.getMessage()]
    assert record.levelno == logging.WARNING
    assert "'tools/call'" in record.getMessage()
    assert "\udce9" not in record.getMessage()


async def test_names_of_files_get_through_over_http(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with site(server(tmp_path)) as here:
        legacy, _ = await here.open()
        call = request(1, "tools/call", {"name": "as_data", "arguments": None})
        answer = await legacy.post(call)
        assert answer["result"]["structuredContent"] == {"files": [SENT]}
        # Another manager would report it, too.
        assert sum("not valid Unicode" in one.getMessage() for one in caplog.records) == 1


@pytest.mark.parametrize("version", [D, M])
async def test_text_of_a_client_that_is_not_unicode_arrives_as_unicode(
    version: str, autojump_clock: MockClock
) -> None:
    router = Router("echo")

    @router.tool()
    async def echo(ctx: RequestContext, text: str) -> str:
        assert text.isprintable()
        return text

    async with connected(router, version) as client:
        # Cut in the middle of an emoji; `json` escapes what is left.
        result = await client.call("echo", text="ok \ud83d")
        assert result["content"] == [{"type": "text", "text": "ok \ufffd"}]
