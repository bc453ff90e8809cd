from __future__ import annotations

import argparse
import inspect
from math import inf
from typing import Any

import attrs
import pytest

from trio_mcp_session import (
    AdmissionPolicy,
    CleanupConfig,
    RateLimit,
    SessionConfig,
    SessionKind,
    SessionLimits,
)
from trio_mcp_session.cli.options import add_settings, chosen_settings, default_of, field_docs

SETTINGS = (SessionLimits, CleanupConfig)
FIELDS = [(settings, field) for settings in SETTINGS for field in attrs.fields(settings)]


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="test")
    add_settings(parser)
    return parser


def test_no_option_gives_the_defaults(parser: argparse.ArgumentParser) -> None:
    config = chosen_settings(parser.parse_args([]))
    assert config.limits == SessionLimits()
    assert config.cleanup == CleanupConfig()


@pytest.mark.parametrize("settings, field", FIELDS, ids=lambda value: getattr(value, "name", ""))
def test_every_setting_has_an_option(
    settings: type[Any], field: attrs.Attribute[Any], parser: argparse.ArgumentParser
) -> None:
    value: Any
    match default_of(field):
        case AdmissionPolicy():
            text, value = "evict-idle", AdmissionPolicy.EVICT_IDLE
        case dict() if field.name == "method_rates":
            text, value = "tools/call=7:8", {"tools/call": RateLimit(7, 8)}
        case RateLimit():
            text, value = "7.5", RateLimit(7.5, 1)
        case dict():
            text, value = "handle=7", {SessionKind.HANDLE: 7}
        case float() | None:
            text, value = "7.5", 7.5
        case _:
            text, value = "7", 7
    option = f"--{field.name.replace('_', '-')}"
    config = chosen_settings(parser.parse_args([option, text]))
    changed = settings(**{field.name: value})
    assert changed in (config.limits, config.cleanup)
    assert changed != settings()


@pytest.mark.parametrize("settings", SETTINGS)
def test_every_option_is_explained(settings: type[Any], parser: argparse.ArgumentParser) -> None:
    docs = field_docs(settings)
    told = " ".join(parser.format_help().split())
    for field in attrs.fields(settings):
        assert docs[field.name] in told


def test_defaults_are_told(parser: argparse.ArgumentParser) -> None:
    told = " ".join(parser.format_help().split())
    assert "(default: 10000) --max-sessions-of KIND=N" in told
    assert "(default: fair)" in told
    assert "(default: 200:1000)" in told
    assert "(default: inf)" in told
    assert "(default: 1.5)" in told
    assert "use 9 seconds by default" in told


def test_a_package_without_sources_has_no_explanations(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_source(_: object) -> str:
        raise OSError("could not get source code")

    monkeypatch.setattr(inspect, "getsource", no_source)
    assert field_docs(SessionLimits) == {}
    parser = argparse.ArgumentParser()
    add_settings(parser)
    assert "(default: 10000)" in parser.format_help()


def test_limits_of_kinds_add_up(parser: argparse.ArgumentParser) -> None:
    options = ["--max-sessions-of", "connection=3", "--max-sessions-of", "handle=4"]
    limits = chosen_settings(parser.parse_args(options)).limits
    assert limits.max_sessions_of == {SessionKind.CONNECTION: 3, SessionKind.HANDLE: 4}


@pytest.mark.parametrize("text", ["inf", "Infinity"])
def test_a_clock_is_turned_off(text: str, parser: argparse.ArgumentParser) -> None:
    config: SessionConfig = chosen_settings(parser.parse_args(["--max-idle-time", text]))
    assert config.cleanup.max_idle_time == inf


@pytest.mark.parametrize(
    "option, text, complaint",
    [
        ("--max-sessions", "0", "must be a whole number of at least 1, not 0"),
        ("--max-sessions", "many", "must be a whole number, not 'many'"),
        ("--max-sessions-of", "foo=1", "must be KIND=N with one of the kinds connection, "),
        ("--max-sessions-of", "handle", "must be a whole number, not ''"),
        ("--max-sessions-of", "handle=0", "must be a whole number of at least 1, not 0"),
        ("--admission", "nice", "must be one of fair, reject, evict-idle, replace-own, not 'nice'"),
        (
            "--opening-rate",
            "0:1",
            "must be RATE:BURST, times per second and at once, or 'inf', not",
        ),
        (
            "--opening-rate",
            "1:some",
            "must be RATE:BURST, times per second and at once, or 'inf', ",
        ),
        ("--method-rates", "ping", "must be RATE:BURST, times per second and at once, or 'inf', "),
        ("--idle-after", "0", "must be more than 0 seconds, not 0.0"),
        ("--idle-after", "nan", "must be a number of seconds, not nan"),
        ("--idle-after", "soon", "must be a number of seconds, or 'inf', not 'soon'"),
        ("--drain-grace", "inf", "must be 0 or more seconds, and finite, not inf"),
    ],
)
def test_a_setting_that_makes_no_sense(
    option: str,
    text: str,
    complaint: str,
    parser: argparse.ArgumentParser,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args([option, text])
    assert f"error: argument {option}: {complaint}" in " ".join(capsys.readouterr().err.split())
