from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from trio_mcp_session import Router
from trio_mcp_session.cli.failure import CommandFailed, find_failure
from trio_mcp_session.cli.loading import load_application


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current directory; what is imported from it is forgotten again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(tmp_path))])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, "utf-8")


TOY = """
from trio_mcp_session import Router
router = Router("toy")
class Namespace:
    inner = router
"""


ADVICE = " such as a Router, an MCPServer or a FastMCP"


@pytest.mark.parametrize("reference", ["toy_app:router", "toy_app:Namespace.inner"])
def test_an_application_in_the_current_directory(folder: Path, reference: str) -> None:
    write(folder / "toy_app.py", TOY)
    found = load_application(reference)
    assert isinstance(found, Router)
    assert found.server_info.name == "toy"


def test_an_application_in_a_package(folder: Path) -> None:
    write(folder / "toy_package" / "app.py", TOY)
    assert load_application("toy_package.app:router").server_info.name == "toy"
    # A second one is found in the same way.
    assert load_application("toy_package.app:router").server_info.name == "toy"


@pytest.mark.parametrize(
    "reference, complaint",
    [
        ("toy_app", "expected MODULE:APP, not 'toy_app'"),
        (":router", "expected MODULE:APP, not ':router'"),
        (
            "src/toy_app.py:router",
            (
                "expected MODULE:APP, not 'src/toy_app.py:router'; "
                "for a file, name its module: toy_app:router"
            ),
        ),
        ("toy_gone:app", "no module named 'toy_gone', neither in {here} nor installed"),
        ("toy_app.sub:app", "no module named 'toy_app.sub', neither in {here} nor installed"),
        ("toy_app:gone", "module 'toy_app' has no 'gone'; did you mean toy_app:router?"),
        (
            "toy_app:router.gone",
            "module 'toy_app' has no 'router.gone'; did you mean toy_app:router?",
        ),
        ("toy_none:gone", "module 'toy_none' has no 'gone'"),
        (
            "toy_app:Router",
            "{reference} is the class Router, not an application{advice}; did you mean {module}?",
        ),
        ("toy_none:x", "{reference} is of type int, not an application{advice}"),
    ],
)
def test_a_bad_reference_is_refused_with_a_suggestion(
    folder: Path, reference: str, complaint: str
) -> None:
    write(folder / "toy_app.py", TOY)
    write(folder / "toy_none.py", "x = 1")
    with pytest.raises(CommandFailed) as raised:
        load_application(reference)
    assert str(raised.value) == complaint.format(
        here=folder, reference=reference, advice=ADVICE, module="toy_app:router"
    )
    assert raised.value.status == 2


@pytest.mark.parametrize(
    "source, error",
    [
        ("def f():\n    1 / 0\nf()", "ZeroDivisionError: division by zero"),
        ("import toy_gone", "ModuleNotFoundError: No module named 'toy_gone'"),
        ("x = (", "SyntaxError: '(' was never closed"),
    ],
)
def test_a_module_that_fails(folder: Path, source: str, error: str) -> None:
    write(folder / "toy_broken.py", source)
    with pytest.raises(CommandFailed) as raised:
        load_application("toy_broken:app")
    told = str(raised.value)
    assert told.startswith("module 'toy_broken' cannot be imported:\n")
    assert told.endswith(error)
    assert "toy_broken.py" in told
    assert "loading.py" not in told
    assert "importlib" not in told
    assert raised.value.status == 1


def test_a_failure_is_found_in_groups() -> None:
    one, other = CommandFailed("no"), CommandFailed("nor this")
    assert find_failure(ExceptionGroup("", [ExceptionGroup("", [one])])) is one
    assert find_failure(ExceptionGroup("", [ExceptionGroup("", [one, other]), other])) is one


@pytest.mark.parametrize("error", [ValueError(), ExceptionGroup("", [ValueError()])])
def test_a_group_with_other_errors_is_not_a_failure(error: Exception) -> None:
    assert find_failure(ExceptionGroup("", [error])) is None
    assert find_failure(ExceptionGroup("", [error, CommandFailed("no")])) is None
