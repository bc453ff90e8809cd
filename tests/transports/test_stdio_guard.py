from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

PRELUDE = """
import os, subprocess, sys
from trio_mcp_session.transports.stdio_guard import guard_stdio

def say(fd, text):
    os.write(fd, text.encode())
"""


def run(body: str, *, stdin: bytes = b"", redirect: str = "") -> subprocess.CompletedProcess[bytes]:
    """Run ``body`` in a Python of its own, after a shell has redirected its descriptors."""
    return subprocess.run(
        [
            *("/bin/sh", "-c", f'exec "$@" {redirect}', "sh"),
            *(sys.executable, "-c", PRELUDE + textwrap.dedent(body)),
        ],
        input=stdin,
        capture_output=True,
        check=False,
        timeout=60,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
    )


def test_nothing_stray_reaches_the_protocol() -> None:
    result = run(
        """
        print("before")
        with guard_stdio() as (read_fd, write_fd):
            assert min(read_fd, write_fd) > 2
            assert not os.get_inheritable(read_fd) and not os.get_inheritable(write_fd)
            print("print")
            sys.stdout.write("unflushed")
            say(1, "C code")
            subprocess.run(["sh", "-c", "echo child; cat"], check=True)
            assert os.read(0, 10) == b""
            assert os.read(read_fd, 10) == b"question"
            say(write_fd, "answer")
        """,
        stdin=b"question",
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == b"answer"
    for text in (b"before", b"print", b"unflushed", b"C code", b"child"):
        assert text in result.stderr


def test_guard_stdio_restores_descriptors_and_streams() -> None:
    result = run(
        """
        before = os.listdir("/dev/fd")
        stats = [os.fstat(fd) for fd in (0, 1)]
        try:
            with guard_stdio() as pair:
                assert not os.path.samestat(stats[1], os.fstat(1))
                for fd in pair:
                    os.close(fd)
                raise KeyError
        except KeyError:
            pass
        assert len(os.listdir("/dev/fd")) == len(before)
        assert all(os.path.samestat(stats[fd], os.fstat(fd)) for fd in (0, 1))
        assert os.get_inheritable(0) and os.get_inheritable(1)
        print("after", sys.stdin.read())
        subprocess.run(["echo", "child"], check=True)
        """,
        stdin=b"input",
    )
    assert result.returncode == 0, result.stderr
    assert sorted(result.stdout.split()) == [b"after", b"child", b"input"]


def test_guards_of_stdio_may_be_nested() -> None:
    result = run(
        """
        with guard_stdio() as (_, outer):
            with guard_stdio() as (_, inner):
                say(inner, "inner ")
            say(outer, "outer ")
        say(1, "after")
        """
    )
    assert result.stdout == b"outer after"
    assert result.stderr == b"inner "


@pytest.mark.parametrize(
    "replace",
    [
        "sys.stdin = sys.stdout = None",
        "sys.stdin = sys.stdout = sys.__stdin__ = sys.__stdout__ = None",
        "sys.stdin = sys.stdout = object()",
        "import io; sys.stdin = sys.stdout = io.StringIO()",
        "import io; sys.stdout = io.StringIO(); sys.stdout.close()",
    ],
)
def test_guard_stdio_works_with_replaced_sys_streams(replace: str) -> None:
    result = run(
        f"""
        {replace}
        with guard_stdio() as (read_fd, write_fd):
            say(1, "stray")
            say(write_fd, os.read(read_fd, 10).decode())
        sys.stdin = sys.stdout = None
        """,
        stdin=b"echo",
    )
    assert result.returncode == 0, result.stderr
    assert (result.stdout, result.stderr) == (b"echo", b"stray")


def test_guard_stdio_works_without_standard_error() -> None:
    result = run(
        """
        with guard_stdio() as pair:
            assert min(pair) > 2
            print("stray")
            say(1, "stray")
            say(pair[1], "answer")
        """,
        redirect="2>&-",
    )
    assert (result.returncode, result.stdout) == (0, b"answer")


@pytest.mark.parametrize("redirect", ["<&-", ">&-"])
def test_guard_stdio_fails_on_a_closed_stdin_or_stdout(redirect: str) -> None:
    result = run(
        """
        try:
            with guard_stdio():
                pass
        except OSError:
            sys.exit(3)
        """,
        redirect=redirect,
    )
    assert result.returncode == 3, result.stderr
