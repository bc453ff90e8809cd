"""A shell behind each handle: variables and the directory stay from command to command.

Only for users who may run any command on this machine: a shell can do all that the server can.
"""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import final

import trio

from trio_mcp_session import HandleKind, RequestContext, Router, ToolError, run_stdio

MAX_OUTPUT = 100_000
MAX_SECONDS = 60.0


@final
class Shell:
    """A bash process, which takes one command after the other."""

    def __init__(self, process: trio.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._input, self._output = process.stdin, process.stdout

    async def run(self, command: str) -> str:
        """Run a command; return what it prints and its status."""
        # The shell says this when the command is done. No command can guess it.
        end = f"end-{secrets.token_hex(8)}"
        await self._input.send_all(f"{command}\necho {end} $?\n".encode())
        said = bytearray()
        while end.encode() not in said or not said.endswith(b"\n"):
            chunk = await self._output.receive_some()
            if not chunk:
                raise ToolError("the shell has exited: open another one")
            said += chunk
            if len(said) > MAX_OUTPUT:
                raise ToolError(f"the command printed more than {MAX_OUTPUT} bytes")
        output, _, status = said.decode(errors="replace").rpartition(end)
        return f"{output}status {status.strip()}"


@asynccontextmanager
async def open_shell() -> AsyncIterator[Shell]:
    """Start bash; end it with the handle."""
    process = await trio.lowlevel.open_process(
        ["bash", "--noprofile", "--norc"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        yield Shell(process)
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            for stream in (process.stdin, process.stdout):
                assert stream is not None
                await stream.aclose()


SHELLS = HandleKind[Shell]("sh", open_shell, idle_timeout=600, max_per_principal=3)
router = Router("shell", "1.0")


@router.tool(description=f"Start a shell; returns its shell_id. {SHELLS.expiry}")
async def start_shell(ctx: RequestContext) -> dict[str, str]:
    return {"shell_id": await ctx.open_handle(SHELLS)}


@router.tool()
async def run_command(ctx: RequestContext, shell_id: str, command: str) -> str:
    """Run a command in a shell that start_shell has started. After a minute it is stopped."""
    async with ctx.use_handle(SHELLS, shell_id) as shell:
        with trio.move_on_after(MAX_SECONDS):
            return await shell.run(command)
    # The shell is in the middle of the command: it cannot be used again.
    await ctx.close_handle(SHELLS, shell_id)
    raise ToolError(f"the command took longer than {MAX_SECONDS:g} s: the shell is closed")


if __name__ == "__main__":
    run_stdio(router)
