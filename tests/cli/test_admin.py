"""``--admin`` of the command: checks in this process, and a program of its own."""

from __future__ import annotations

import argparse
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.admin.test_serve_admin import TOKEN, fetch
from tests.cli.programs import connect_tcp, serving
from trio_mcp_session.cli.admin import check_options, instrumentation, load_token
from trio_mcp_session.cli.failure import CommandFailed
from trio_mcp_session.cli.serve import parse_address


def options(admin: str | None = None, token_file: str | None = None) -> argparse.Namespace:
    address: Any = None if admin is None else parse_address(admin)
    return argparse.Namespace(admin=address, admin_token_file=token_file)


@pytest.mark.parametrize(
    "given, why",
    [
        (options(None, "file"), "--admin-token-file is for --admin"),
        (options("0.0.0.0:9000"), "other machines can reach --admin 0.0.0.0:9000: it needs"),
        (options("example.com:9000"), "other machines can reach --admin example.com:9000"),
    ],
)
def test_options_that_contradict_each_other(given: argparse.Namespace, why: str) -> None:
    with pytest.raises(CommandFailed, match=why) as caught:
        check_options(given)
    assert caught.value.status == 2


@pytest.mark.parametrize(
    "given", [options(), options("9000"), options("[::1]:9000"), options("0.0.0.0:9000", "file")]
)
def test_options_that_fit(given: argparse.Namespace) -> None:
    check_options(given)
    assert bool(instrumentation(given)) is (given.admin is not None)


def test_a_token_is_read_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n", "utf-8")
    assert load_token(options("9000", str(path))) == TOKEN
    assert load_token(options("9000")) is None


@pytest.mark.parametrize(
    "content, why",
    [
        (None, "cannot read"),
        (b"", "at least 16 characters"),
        (b"\xff\xfe", "it is not UTF-8"),
        (b"0123456789abcde?", "letters, digits"),
    ],
)
def test_a_token_file_that_cannot_be_used(content: bytes | None, why: str, tmp_path: Path) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CommandFailed, match=why) as caught:
        load_token(options("9000", str(path)))
    assert "0123" not in str(caught.value)


async def test_the_program_serves_metrics_beside_its_clients(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(TOKEN, "utf-8")
    arguments = ("--tcp", "0", "--admin", "0", "--admin-token-file", str(path))
    async with serving(tmp_path, *arguments) as program:
        client = await connect_tcp(await program.stderr.next())
        told = await program.stderr.next()
        found = re.fullmatch(r"admin pages on http://127\.0\.0\.1:(\d+)/metrics", told)
        assert found is not None, told
        async with client.sink:
            await client.initialize("ada")
            await client.call("echo", text="hello")
            assert await client.text() == "hello"
            bearer = f"Authorization: Bearer {TOKEN}"
            answer = await fetch("127.0.0.1", int(found[1]), bearer)
        assert 'mcp_tool_calls_total{tool="echo",outcome="ok"} 1' in answer
        assert TOKEN not in answer
        program.process.send_signal(signal.SIGTERM)
        assert await program.wait() == 0


async def test_without_the_extra_the_program_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "httptools.py").write_text("raise ModuleNotFoundError(name='httptools')", "utf-8")
    async with serving(tmp_path, "--tcp", "0", "--admin", "0") as program:
        lines = [await program.stderr.next(), await program.stderr.next()]
        assert any("needs the extra 'http'" in line for line in lines), lines
        assert await program.wait() == 1
