"""Recognise applications, and tell them from objects of another library."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from trio_mcp_session import (
    CannotServe,
    Router,
    UnsupportedVersion,
    open_session_manager,
    run_stdio,
)
from trio_mcp_session.adapters.recognise import as_application
from trio_mcp_session.cli.failure import CommandFailed
from trio_mcp_session.cli.loading import load_application
from trio_mcp_session.core.errors import McpError
from trio_mcp_session.protocol.input_required import read_questions


class FastMCP:
    """Looks like theirs."""


FastMCP.__module__ = "fastmcp.server.server"


@pytest.fixture
def without_mcp(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in {*(one for one in sys.modules if one.partition(".")[0] == "mcp"), "mcp"}:
        monkeypatch.setitem(sys.modules, name, None)


def test_an_application_is_taken_as_it_is() -> None:
    router = Router("r")
    assert as_application(router) is router


@pytest.mark.parametrize(
    "given, described",
    [
        (5, "an object of type int"),
        ({}, "an object of type dict"),
        (Router, "the class Router"),
        (McpError(1, ""), "an object of type McpError"),
    ],
)
def test_other_objects_are_refused(given: Any, described: str) -> None:
    for serve in (as_application, open_session_manager, run_stdio):
        with pytest.raises(TypeError, match=f"expected an application, .* not {described}"):
            serve(given)


@pytest.mark.usefixtures("without_mcp")
def test_a_library_that_is_not_installed_is_named() -> None:
    with pytest.raises(UnsupportedVersion, match=r"mcp .* has no mcp.server.* needs .* install"):
        open_session_manager(FastMCP())  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


FACTORIES = """
from trio_mcp_session import Router

def make_app():
    return Router("made")

async def make_later():
    pass

def fail():
    1 / 0

def make_nothing():
    pass

class FastMCP:
    pass

FastMCP.__module__ = "fastmcp.server.server"
theirs = FastMCP()
"""


def test_a_function_makes_the_application(folder: Path) -> None:
    (folder / "toy_factories.py").write_text(FACTORIES, encoding="utf-8")
    assert load_application("toy_factories:make_app()").server_info.name == "made"


@pytest.mark.usefixtures("without_mcp")
@pytest.mark.parametrize(
    "name, complaint",
    [
        ("make_later()", "does not name a function without async"),
        ("Router.tool.gone()", "has no 'Router.tool.gone'"),
        ("theirs()", "does not name a function without async"),
        ("fail()", "toy_bad:fail() failed:\n"),
        ("fail()", "ZeroDivisionError"),
        ("make_nothing()", "toy_bad:make_nothing() is of type NoneType, not an application"),
        ("theirs", "toy_bad:theirs: mcp"),
    ],
)
def test_a_function_that_makes_none(folder: Path, name: str, complaint: str) -> None:
    (folder / "toy_bad.py").write_text(FACTORIES, encoding="utf-8")
    with pytest.raises(CommandFailed) as failed:
        load_application(f"toy_bad:{name}")
    assert complaint in str(failed.value)


def test_a_part_that_cannot_run_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(found: object) -> object:
        raise CannotServe("PingMiddleware", "it needs asyncio", "remove it")

    monkeypatch.setattr("trio_mcp_session.cli.loading.as_application", refuse)
    (folder / "toy_refused.py").write_text(FACTORIES, encoding="utf-8")
    with pytest.raises(CommandFailed) as failed:
        load_application("toy_refused:make_app()")
    assert str(failed.value) == (
        "toy_refused:make_app(): PingMiddleware cannot be served by trio_mcp_session: "
        "it needs asyncio; remove it"
    )


def test_the_questions_of_a_result_are_read() -> None:
    question = {"method": "roots/list"}
    assert read_questions({"inputRequests": {"a": question}}) == {"a": ("roots/list", None)}
    assert read_questions({}) == {}
    malformed: list[Any] = [[1], {"a": 5}, {"a": {}}]
    for wrong in malformed:
        with pytest.raises(TypeError):
            read_questions({"inputRequests": wrong})
