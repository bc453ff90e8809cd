"""`inspect`: the command line by which the MCP Inspector starts a server."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.cli.programs import write_toy
from trio_mcp_session.cli import inspector
from trio_mcp_session.cli.command import main, make_parser


class Executed(Exception):
    """The process would have become another program."""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_toy(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "toy", raising=False)
    monkeypatch.delenv("PYTHONPATH", raising=False)


def executed(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> list[str]:
    """Run the command, and return the arguments of npx."""

    def execv(path: str, argv: list[str]) -> None:
        assert path == argv[0] == "/somewhere/npx"
        raise Executed(argv[1:])

    monkeypatch.setattr(shutil, "which", lambda name: f"/somewhere/{name}")
    monkeypatch.setattr(os, "execv", execv)
    with pytest.raises(Executed) as raised:
        main(["inspect", *arguments])
    command: list[str] = raised.value.args[0]
    return command


SERVE = ["--", sys.executable, "-m", "trio_mcp_session", "serve", "toy:router"]
LATEST = ["--yes", "@modelcontextprotocol/inspector@latest"]


@pytest.mark.usefixtures("toy")
def test_the_inspector_starts_the_server_over_stdio(monkeypatch: pytest.MonkeyPatch) -> None:
    assert executed(monkeypatch, "toy:router") == [*LATEST, *SERVE]


@pytest.mark.usefixtures("toy")
def test_options_of_serve_and_variables_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "lib")
    options = ["--log-level", "debug", "--max-in-flight", "3"]
    ours = ["-e", "KEY=a=b", "--env", "EMPTY=", "--inspector-version", "2.12.0"]
    assert executed(monkeypatch, *ours, "toy:router", *options) == [
        *("--yes", "@modelcontextprotocol/inspector@2.12.0"),
        *("-e", "PYTHONPATH=lib", "-e", "KEY=a=b", "-e", "EMPTY="),
        *SERVE,
        *options,
    ]


@pytest.mark.usefixtures("toy")
def test_what_it_starts_is_a_command_line_of_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    command = executed(monkeypatch, "toy:router", "--eras", "legacy")
    started = command[command.index("serve") :]
    assert make_parser().parse_args(started).eras == "legacy"


@pytest.mark.usefixtures("toy")
def test_without_node_it_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    assert main(["inspect", "toy:router"]) == 1
    assert capsys.readouterr().err == f"trio_mcp_session: {inspector.NEEDS_NODE}\n"


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(
    "more", [["--http", "8000"], ["--tcp", "0"], ["--unix", "x.sock"], ["--reload"]]
)
def test_other_transports_are_refused(more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "toy:router", *more]) == 2
    assert "inspect serves over stdio" in capsys.readouterr().err


@pytest.mark.usefixtures("toy")
def test_an_application_that_cannot_be_loaded_is_told_here(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["inspect", "toy:rooter"]) == 2
    assert "module 'toy' has no 'rooter'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, told",
    [
        ([], "the following arguments are required: MODULE:APP"),
        (["-e", "KEY", "toy:router"], "must be NAME=VALUE, not 'KEY'"),
        (["-e", "=1", "toy:router"], "must be NAME=VALUE, not '=1'"),
        (["toy:router", "--max-in-flight", "many"], "must be a whole number"),
    ],
)
def test_wrong_usage(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["inspect", *arguments])
    assert told in capsys.readouterr().err
