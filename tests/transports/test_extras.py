"""What to install where an extra is missing."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import pytest

import trio_mcp_session
from trio_mcp_session.transports.extras import MissingExtra, install_command, needs_extra


def installed_from(monkeypatch: pytest.MonkeyPatch, record: str | None, folder: Path) -> None:
    """Let the package look as if pip had installed it from somewhere."""
    info = folder / "trio_mcp_session-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: trio-mcp-session\nVersion: 1.0\n", "utf-8")
    if record is not None:
        (info / "direct_url.json").write_text(record, "utf-8")
    monkeypatch.setattr(metadata, "distribution", lambda _: metadata.PathDistribution(info))


GIT = {"url": "https://git.example/it.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}}


@pytest.mark.parametrize(
    "record, command",
    [
        (None, "'trio-mcp-session[http]'"),
        ("not JSON", "'trio-mcp-session[http]'"),
        ("[]", "'trio-mcp-session[http]'"),
        ({"url": "file:///a%20b/it", "dir_info": {}}, "'/a b/it[http]'"),
        (
            {"url": "file:///it", "dir_info": {"editable": True}},
            "--editable '/it[http]'",
        ),
        (GIT, "'trio-mcp-session[http] @ git+https://git.example/it.git@abc'"),
        (
            {"url": "https://x.example/it.whl", "archive_info": {}},
            "'trio-mcp-session[http] @ https://x.example/it.whl'",
        ),
    ],
)
def test_the_command_installs_from_where_the_package_came(
    record: object, command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = record if record is None or isinstance(record, str) else json.dumps(record)
    installed_from(monkeypatch, text, tmp_path)
    assert install_command("http") == f"python -m pip install {command}"


def test_a_checkout_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    folder = Path(trio_mcp_session.__file__).parents[1]
    assert install_command("http") == f"python -m pip install '{folder}[http]'"


@pytest.mark.parametrize("module", ["hypercorn", "hypercorn.trio"])
def test_a_missing_module_of_an_extra_is_explained(module: str) -> None:
    with pytest.raises(MissingExtra) as caught:
        with needs_extra("hypercorn", "hypercorn", "server='hypercorn'"):
            raise ModuleNotFoundError("gone", name=module)
    assert caught.value.name == module
    assert str(caught.value) == (
        "server='hypercorn' needs the extra 'hypercorn', which is not installed: "
        + install_command("hypercorn")
    )
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


@pytest.mark.parametrize("module", [None, "hyper", "priority"])
def test_another_missing_module_is_left_alone(module: str | None) -> None:
    error = ModuleNotFoundError("gone", name=module)
    with pytest.raises(ModuleNotFoundError) as caught:
        with needs_extra("hypercorn", "hypercorn", "server='hypercorn'"):
            raise error
    assert caught.value is error


def test_what_is_installed_is_imported() -> None:
    with needs_extra("http", "httptools", "it"):
        pass
