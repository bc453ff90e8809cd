"""The FastMCP client with its tasks extension: one line of JSON for each check.

    python drive_fastmcp.py WHERE CHECK ...

WHERE is {"url": ...} or {"command": [...]} as JSON. It runs in the environment of the client.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TextIO

from fastmcp import Client
from fastmcp.client.elicitation import ElicitResult
from fastmcp.client.transports import StdioTransport, StreamableHttpTransport
from fastmcp.exceptions import ToolError
from fastmcp_tasks.client import call_tool_task

PATIENCE = 30.0
"""Seconds for one check."""


class Driver:
    """Runs checks with a client."""

    def __init__(self, where: dict[str, Any]) -> None:
        self.where = where
        self.asked: list[str] = []

    async def answer(self, message: str, kind: Any, params: Any, context: Any) -> Any:
        self.asked.append(message)
        return ElicitResult(action="accept", content={"name": "Ada"})

    @asynccontextmanager
    async def connected(self, mode: str = "auto", *, able: bool = True) -> AsyncIterator[Any]:
        transport: Any
        if "url" in self.where:
            transport = StreamableHttpTransport(self.where["url"])
        else:
            program, *arguments = self.where["command"]
            transport = StdioTransport(program, arguments, keep_alive=False)
        asking: dict[str, Any] = {"elicitation_handler": self.answer} if able else {}
        async with Client(transport, mode=mode, **asking) as client:
            yield client

    async def call(self, tool: str, *, able: bool = True, **arguments: object) -> Any:
        """Call a tool as if there were no tasks; tell how the call went."""
        self.asked.clear()
        async with self.connected(able=able) as client:
            try:
                result = await client.call_tool(tool, arguments)
            except ToolError as error:
                return {"error": str(error), "asked": list(self.asked)}
            return {"text": result.content[0].text, "asked": list(self.asked)}

    async def check_immediate(self) -> Any:
        return await self.call("add", a=1, b=2)

    async def check_quick(self) -> Any:
        return await self.call("quick", text="at once")

    async def check_job(self) -> Any:
        return await self.call("job", steps=3)

    async def check_fail(self) -> Any:
        return await self.call("fail")

    async def check_refuse(self) -> Any:
        return await self.call("refuse")

    async def check_elicit(self) -> Any:
        return await self.call("elicit")

    async def check_elicit_again(self) -> Any:
        return await self.call("elicit_again")

    async def check_ask_first(self) -> Any:
        return await self.call("ask_first")

    async def check_unable(self) -> Any:
        return await self.call("elicit", able=False)

    async def check_sample(self) -> Any:
        return await self.call("sample")

    async def check_statuses(self) -> Any:
        """All statuses, with a handle of the task."""
        told: dict[str, Any] = {}
        async with self.connected() as client:
            job = await call_tool_task(client, "job", {"steps": 3})
            told["created"] = job.create_result.status
            told["completed"] = (await job.wait()).status
            told["result"] = (await job.result()).content[0].text
            asking = await call_tool_task(client, "elicit", {})
            waiting = await asking.wait(state="input_required")
            told["input_required"] = [one["method"] for one in waiting.input_requests.values()]
            told["answered"] = (await asking.result()).content[0].text
            refused = await call_tool_task(client, "refuse", {})
            failed = await refused.wait()
            told["failed"] = [failed.status, failed.error["code"], failed.status_message]
        return told

    async def check_cancel(self) -> Any:
        async with self.connected() as client:
            task = await call_tool_task(client, "never", {})
            await task.cancel()
            status = (await task.wait()).status
            try:
                await task.result()
            except ToolError as error:
                return [status, str(error).replace(task.task_id, "ID")]

    async def check_expiry(self) -> Any:
        async with self.connected() as client:
            task = await call_tool_task(client, "job", {"steps": 1})
            told: list[Any] = [(await task.wait()).status]
            try:
                while True:
                    await task.status()
                    await asyncio.sleep(0.05)
            except Exception as error:  # whatever it makes of the answer
                return [*told, str(error)]

    async def check_legacy(self) -> Any:
        told = {}
        async with self.connected("legacy") as client:
            told["job"] = (await client.call_tool("job", {"steps": 2})).content[0].text
            told["elicit"] = (await client.call_tool("elicit", {})).content[0].text
            told["ask_first"] = (await client.call_tool("ask_first", {})).content[0].text
            try:
                await client.call_tool("fail", {})
            except ToolError as error:
                told["fail"] = str(error)
        return told


async def main(out: TextIO) -> None:
    where, *checks = sys.argv[1:]
    driver = Driver(json.loads(where))
    for check in checks:
        report: dict[str, Any] = {"check": check}
        try:
            async with asyncio.timeout(PATIENCE):
                told = await getattr(driver, f"check_{check}")()
        except BaseException as error:  # noqa: ASYNC103  # told, and the next check follows
            text = "".join(traceback.format_exception(error))
            report |= {"ok": False, "error": text[-4000:]}
        else:
            report |= {"ok": True, "told": told}
        print(json.dumps(report), file=out, flush=True)


if __name__ == "__main__":
    reports = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Libraries print.
    asyncio.run(main(reports))
