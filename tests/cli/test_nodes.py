"""Options of the command for one of several processes."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import pytest

from trio_mcp_session import SessionConfig
from trio_mcp_session.cli.command import main
from trio_mcp_session.cli.failure import CommandFailed
from trio_mcp_session.cli.nodes import (
    NODE_VARIABLE,
    check_options,
    parse_header,
    parse_label,
    read_keys,
    with_settings,
)

KEY, OTHER_KEY = "0123456789abcdef", "fedcba9876543210"


def options(**changes: object) -> argparse.Namespace:
    given: dict[str, object] = {
        "node": None,
        "wrong_node_header": None,
        "request_state_key_file": None,
        "reuse_port": False,
        "stateless": False,
        "eras": None,
        "workers": None,
        "http": ["127.0.0.1:8000"],
    }
    return argparse.Namespace(**{**given, **changes})


def test_labels_on_the_command_line() -> None:
    assert parse_label("mcp-0") == "mcp-0"
    with pytest.raises(argparse.ArgumentTypeError, match="must be 1 to 32 small letters"):
        parse_label("MCP")


def test_headers_on_the_command_line() -> None:
    expected = ("X-Accel-Redirect", "@{node}")
    assert parse_header("X-Accel-Redirect: @{node}") == expected
    assert parse_header("X-Accel-Redirect:@{node}") == expected
    for text in ("", "X-Accel-Redirect", "X-Accel-Redirect: @n1", ": @{node}", "a b: {node}"):
        with pytest.raises(argparse.ArgumentTypeError, match="must be NAME: VALUE, with"):
            parse_header(text)


@pytest.mark.parametrize(
    "given, environment, node",
    [
        (None, {}, None),
        (None, {NODE_VARIABLE: ""}, None),
        (None, {NODE_VARIABLE: "n2"}, "n2"),
        ("n1", {NODE_VARIABLE: "n2"}, "n1"),
        ("n1", {NODE_VARIABLE: "N 2"}, "n1"),
    ],
)
def test_the_label_may_be_in_the_environment(
    given: str | None, environment: dict[str, str], node: str | None
) -> None:
    found = options(node=given)
    check_options(found, environment)
    assert found.node == node


def test_a_malformed_label_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(NODE_VARIABLE, "N 2")
    assert main(["serve", "toy:router", "--http", "0"]) == 2
    expected = f"{NODE_VARIABLE} must be 1 to 32 small letters, digits and hyphens, not 'N 2'"
    assert capsys.readouterr().err == f"trio_mcp_session: {expected}\n"


HEADER = ("X-Accel-Redirect", "@{node}")


@pytest.mark.parametrize(
    "given, why",
    [
        ({"wrong_node_header": HEADER}, "--wrong-node-header needs --node"),
        ({"reuse_port": True, "http": []}, "--reuse-port is for --http"),
        ({"reuse_port": True}, "with --reuse-port any process gets any request"),
        ({"reuse_port": True, "eras": "both"}, "with --reuse-port any process gets any request"),
    ],
)
def test_options_of_nodes_that_are_refused(given: dict[str, Any], why: str) -> None:
    with pytest.raises(CommandFailed, match=why) as caught:
        check_options(options(**given), {})
    assert caught.value.status == 2


@pytest.mark.parametrize(
    "given",
    [
        {"wrong_node_header": HEADER, "node": "n1"},
        {"wrong_node_header": HEADER, "workers": 2},
        {"reuse_port": True, "node": "n1"},
        {"reuse_port": True, "stateless": True},
        {"reuse_port": True, "eras": "modern"},
    ],
)
def test_options_of_nodes_that_fit(given: dict[str, Any]) -> None:
    check_options(options(**given), {})


def test_settings_of_a_node(tmp_path: Path) -> None:
    config = SessionConfig()
    assert with_settings(config, options()) == config
    changed = with_settings(config, options(node="n1"))
    assert changed.node == "n1"
    assert changed.request_state_keys is config.request_state_keys
    path = tmp_path / "keys"
    path.write_text(KEY, "utf-8")
    changed = with_settings(config, options(request_state_key_file=str(path)))
    assert changed.request_state_keys.sign(b"x") == read_keys(str(path)).sign(b"x")


def test_the_first_key_of_a_file_signs_and_all_are_recognised(tmp_path: Path) -> None:
    both, old = tmp_path / "both", tmp_path / "old"
    both.write_text(f"# the new one\n{KEY}\n\n  {OTHER_KEY}  \n", "utf-8")
    old.write_text(OTHER_KEY, "utf-8")
    keys, other = read_keys(str(both)), read_keys(str(old))
    assert keys.recognise(other.sign(b"x"), b"x")
    assert not other.recognise(keys.sign(b"x"), b"x")


def test_keys_are_read_from_an_inherited_file_at_any_position(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(KEY, "utf-8")
    with path.open("rb") as file:
        file.read()
        found = read_keys(f"fd:{file.fileno()}")
    assert found.recognise(read_keys(str(path)).sign(b"x"), b"x")


@pytest.mark.parametrize(
    "content, why",
    [
        (None, "cannot read .*: No such file"),
        (b"", "has no key"),
        (b"\n# comment\n", "has no key"),
        (b"\xff" * 32, "it is not UTF-8"),
        (KEY.encode() + b"\n0123456789abcde", "keys must have at least 16 bytes, not 15"),
    ],
)
def test_a_file_without_keys(content: bytes | None, why: str, tmp_path: Path) -> None:
    path = tmp_path / "keys"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CommandFailed, match=f"^--request-state-key-file: .*{why}") as caught:
        read_keys(str(path))
    assert KEY[:8] not in str(caught.value)


def test_a_closed_descriptor_has_no_keys() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    os.close(writing)
    with pytest.raises(CommandFailed, match=f"cannot read fd:{reading}: Bad file descriptor"):
        read_keys(f"fd:{reading}")
