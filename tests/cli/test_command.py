from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from trio_mcp_session.cli import command
from trio_mcp_session.cli.failure import CommandFailed


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["--help"], ["serve", "demo", "Serve an MCP server on Trio"]),
        (
            ["serve", "--help"],
            ["MODULE:APP", "--eras {", "--tcp HOST:PORT", "--max-idle-time SECONDS"],
        ),
        (["demo", "--help"], ["--plain", "official SDK"]),
        (["inspect", "--help"], ["MODULE:APP", "options of serve", "--inspector-version"]),
    ],
)
def test_help(arguments: list[str], told: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        command.main(arguments)
    shown = " ".join(capsys.readouterr().out.split())
    for text in told:
        assert text in shown


@pytest.mark.parametrize(
    "arguments, told",
    [
        ([], "the following arguments are required: COMMAND"),
        (["dance"], "invalid choice: 'dance'"),
        (["serve"], "the following arguments are required: MODULE:APP"),
        (["serve", "m:a", "--watsh"], "unrecognized arguments: --watsh"),
    ],
)
def test_wrong_usage(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(arguments)
    assert told in capsys.readouterr().err


def run_instead(monkeypatch: pytest.MonkeyPatch, result: int | BaseException) -> None:
    def run(options: argparse.Namespace) -> int:
        if isinstance(result, int):
            return result
        raise result

    monkeypatch.setattr("trio_mcp_session.cli.demo.command.run", run)


@pytest.mark.parametrize(
    "result, status, told",
    [
        (0, 0, ""),
        (1, 1, ""),
        (CommandFailed("no"), 1, "trio_mcp_session: no\n"),
        (CommandFailed("not so", status=2), 2, "trio_mcp_session: not so\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_exit_status(
    result: int | BaseException,
    status: int,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_instead(monkeypatch, result)
    assert command.main(["demo"]) == status
    assert capsys.readouterr().err == told


def test_version_names_what_matters_in_a_bug_report(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        command.main(["--version"])
    version, trio_version = metadata.version("trio-mcp-session"), metadata.version("trio")
    assert capsys.readouterr().out == (
        f"trio_mcp_session {version} (trio {trio_version}, Python {platform.python_version()})\n"
    )


def test_a_checkout_that_is_not_installed_has_no_version(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    with pytest.raises(SystemExit, match="0"):
        command.main(["--version"])
    assert capsys.readouterr().out.startswith("trio_mcp_session (not installed) (trio")


def test_the_script_of_pyproject_is_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pyproject = Path(__file__).parents[2] / "pyproject.toml"
    scripts = tomllib.loads(pyproject.read_text("utf-8"))["project"]["scripts"]
    assert scripts == {command.SCRIPT: "trio_mcp_session.cli.command:main"}
    for started, name in [
        ("/venv/bin/trio-mcp-session", "trio-mcp-session"),
        ("/venv/lib/trio_mcp_session/__main__.py", "python -m trio_mcp_session"),
    ]:
        monkeypatch.setattr(sys, "argv", [started])
        with pytest.raises(SystemExit, match="0"):
            command.main(["--help"])
        assert capsys.readouterr().out.startswith(f"usage: {name} [-h] [--version] COMMAND")


def test_the_package_is_a_program() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "trio_mcp_session", "--help"], capture_output=True, check=True
    )
    assert result.stdout.startswith(b"usage: python -m trio_mcp_session ")
    assert result.stderr == b""


def test_its_help_loads_no_sdk() -> None:
    script = (
        "import sys\n"
        "from trio_mcp_session.cli.command import make_parser\n"
        "make_parser().format_help()\n"
        "assert not {'mcp', 'mcp_types', 'pydantic', 'anyio', 'asyncio'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
