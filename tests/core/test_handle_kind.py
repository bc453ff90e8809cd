"""Kinds of handles: what they may be, and how they describe their clocks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import inf, nan
from typing import Any

import attrs
import pytest

from trio_mcp_session import AdmissionPolicy, CleanupConfig, HandleKind


@asynccontextmanager
async def nothing() -> AsyncIterator[None]:
    yield  # pragma: no cover  # not opened here


def test_defaults() -> None:
    kind = HandleKind[None]("brw", nothing)
    assert (kind.prefix, kind.opener) == ("brw", nothing)
    assert (kind.idle_timeout, kind.lifetime) == (1800, inf)
    assert (kind.max_handles, kind.max_per_principal) == (1_000, 100)
    assert (kind.concurrent, kind.admission) == (False, None)
    assert repr(kind) == "HandleKind('brw')"


def test_kinds_are_told_apart_by_identity() -> None:
    assert HandleKind[None]("brw", nothing) != HandleKind[None]("brw", nothing)
    assert len({HandleKind[None]("brw", nothing) for _ in range(2)}) == 2


def test_kinds_do_not_change() -> None:
    kind = HandleKind[None]("brw", nothing)
    for field in attrs.fields(HandleKind):
        if field.init:
            with pytest.raises(attrs.exceptions.FrozenAttributeError):
                setattr(kind, field.name, getattr(kind, field.name))


@pytest.mark.parametrize("prefix", ["a", "brw", "a1", "abcdefghijklmnop"])
def test_good_prefixes(prefix: str) -> None:
    assert HandleKind[None](prefix, nothing).prefix == prefix


@pytest.mark.parametrize(
    "prefix", ["", "1a", "Brw", "a_b", "a-b", "a b", "é", "brw\n", "abcdefghijklmnopq", None, b"a"]
)
def test_bad_prefixes(prefix: Any) -> None:
    with pytest.raises(ValueError, match=r"^prefix must be 1 to 16 small letters and digits"):
        HandleKind[None](prefix, nothing)


@pytest.mark.parametrize(
    "name, value",
    [
        ("idle_timeout", 0),
        ("idle_timeout", nan),
        ("idle_timeout", "1"),
        ("lifetime", -1),
        ("lifetime", None),
        ("max_handles", 0),
        ("max_handles", 1.5),
        ("max_per_principal", 0),
        ("max_per_principal", True),
    ],
)
def test_bad_numbers(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name} must be "):
        HandleKind[None]("brw", nothing, **{name: value})


@pytest.mark.parametrize(
    "name, value", [("concurrent", 1), ("admission", "reject"), ("opener", None)]
)
def test_bad_settings(name: str, value: Any) -> None:
    arguments: dict[str, Any] = {"prefix": "brw", "opener": nothing, name: value}
    with pytest.raises(TypeError, match=name):
        HandleKind[None](**arguments)


@pytest.mark.parametrize(
    "idle, lifetime, sentence",
    [
        (1800, inf, "Expires after 30 minutes without use."),
        (90, inf, "Expires after 90 seconds without use."),
        (1, inf, "Expires after 1 second without use."),
        (60, inf, "Expires after 1 minute without use."),
        (5400, inf, "Expires after 90 minutes without use."),
        (7200, inf, "Expires after 2 hours without use."),
        (3600.0, inf, "Expires after 1 hour without use."),
        (86_400, inf, "Expires after 1 day without use."),
        (36 * 3600, inf, "Expires after 36 hours without use."),
        (0.5, inf, "Expires after 0.5 seconds without use."),
        (
            900,
            7200,
            "Expires after 15 minutes without use, and 2 hours after it was opened at the latest.",
        ),
        # An idle time that never comes is not worth a word.
        (7200, 7200, "Expires 2 hours after it was opened."),
        (inf, 172_800, "Expires 2 days after it was opened."),
        (inf, inf, "Lives until it is closed."),
    ],
)
def test_expiry_in_words(idle: float, lifetime: float, sentence: str) -> None:
    kind = HandleKind[None]("brw", nothing, idle_timeout=idle, lifetime=lifetime)
    assert kind.expiry == sentence


def test_its_clocks_beside_those_of_a_manager() -> None:
    kind = HandleKind[None]("brw", nothing, idle_timeout=7, lifetime=9)
    config = CleanupConfig(idle_after=3, cleanup_interval=1)
    clocks = kind._clocks_beside(config)
    assert clocks == attrs.evolve(config, max_idle_time=7, max_session_time=9)
    # Thousands of handles share them; another manager's are others.
    assert kind._clocks_beside(config) is clocks
    other = CleanupConfig(idle_after=4)
    assert kind._clocks_beside(other) == attrs.evolve(other, max_idle_time=7, max_session_time=9)
    assert kind._clocks_beside(config) == clocks


def test_policies() -> None:
    for policy in AdmissionPolicy:
        assert HandleKind[None]("brw", nothing, admission=policy).admission is policy
