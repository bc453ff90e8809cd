from __future__ import annotations

from math import inf
from typing import Any

import attrs
import pytest

from trio_mcp_session.transports.http1.limits import HttpServerLimits


def make(name: str, value: Any) -> HttpServerLimits:
    return HttpServerLimits(**{name: value})


FIELDS = [field.name for field in attrs.fields(HttpServerLimits)]


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("value", [-1, None, "1", True, float("nan")])
def test_what_makes_no_sense_fails_with_its_name(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        make(name, value)


@pytest.mark.parametrize("name", [name for name in FIELDS if name.startswith("m")])
def test_counts_are_whole_numbers_of_at_least_one(name: str) -> None:
    assert getattr(make(name, 1), name) == 1
    for value in (0, 1.5):
        with pytest.raises(ValueError, match=name):
            make(name, value)


@pytest.mark.parametrize("name", [name for name in FIELDS if name.endswith("timeout")])
def test_every_timeout_but_linger_may_be_infinite(name: str) -> None:
    assert getattr(make(name, 0.5), name) == 0.5
    if name == "linger_timeout":
        assert HttpServerLimits(linger_timeout=0).linger_timeout == 0
        with pytest.raises(ValueError, match=name):
            HttpServerLimits(linger_timeout=inf)
    else:
        assert getattr(make(name, inf), name) == inf
        with pytest.raises(ValueError, match=name):
            make(name, 0)


def test_every_field_of_the_server_limits_is_a_maximum_or_a_timeout() -> None:
    assert [name for name in FIELDS if not name.startswith("m") and "timeout" not in name] == []
