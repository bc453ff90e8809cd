"""The settings of Streamable HTTP: what they may be."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import attrs
import pytest

from trio_mcp_session.transports.http.http_options import HttpOptions, SlowReader
from trio_mcp_session.transports.http.memory_event_store import MemoryEventStore

POSITIVE = ("stream_after", "keep_alive", "authenticate_timeout", "body_timeout")
COUNTS = ("max_streams", "retry_after")


def test_the_http_options_have_documented_defaults() -> None:
    options = HttpOptions()
    assert isinstance(options.event_store, MemoryEventStore)
    assert attrs.asdict(options, filter=attrs.filters.exclude("event_store")) == {
        "answers": "auto",
        "stateless": False,
        "stream_after": 2,
        "keep_alive": 15,
        "retry": 3,
        "wrong_node_header": None,
        "retry_after": 5,
        "authenticate_timeout": 10,
        "body_timeout": 30,
        "max_streams": 128,
        "slow_reader": SlowReader.BLOCK,
        "event_store_timeout": 5,
        "trusted_proxies": (),
    }


def test_each_default_event_store_is_a_new_one() -> None:
    assert HttpOptions().event_store is not HttpOptions().event_store


@pytest.mark.parametrize(
    "good",
    [
        *({name: value} for name in POSITIVE for value in (0.001, 1, 3600.5)),
        *({name: value} for name in COUNTS for value in (1, 10**6)),
        {"retry": 0},
        {"retry": 0.5},
        {"event_store_timeout": 0.001},
        {"event_store_timeout": 3600},
        {"answers": "sse"},
        {"event_store": None},
        {"wrong_node_header": ("X-Accel-Redirect", "@{node}")},
        {"wrong_node_header": ("fly-replay", "instance={node} a")},
        *({"slow_reader": policy} for policy in SlowReader),
    ],
    ids=str,
)
def test_good_values_of_http_options_are_kept(good: dict[str, Any]) -> None:
    ((name, value),) = good.items()
    assert getattr(HttpOptions(**good), name) == value


@pytest.mark.parametrize(
    "bad",
    [
        *({name: value} for name in POSITIVE for value in (0, -1, nan, "1", None, True)),
        *({name: value} for name in COUNTS for value in (0, -1, 1.5, nan, inf, "1", None, True)),
        *({"retry": value} for value in (-1, nan, inf, "1", None, True)),
        *({"event_store_timeout": value} for value in (0, -1, nan, inf, "1", None, True)),
        *({"answers": value} for value in ("json", "", None, 1)),
        *({"event_store": value} for value in (5, (), "memory")),
        *({"slow_reader": value} for value in ("block", None, 1)),
        *(
            {"wrong_node_header": value}
            for value in (
                "X-Accel-Redirect: @{node}",
                ("X-Accel-Redirect", "@n2"),
                ("X Accel", "@{node}"),
                ("", "{node}"),
                ("X-Accel-Redirect", "{node}\r\nX: y"),
                ("X-Accel-Redirect", ""),
                ("X-Accel-Redirect", None),
                ("X-Accel-Redirect", "@{node}", "x"),
            )
        ),
    ],
    ids=str,
)
def test_bad_values_of_http_options_are_refused_by_name(bad: dict[str, Any]) -> None:
    (name,) = bad
    with pytest.raises((TypeError, ValueError), match=name):
        HttpOptions(**bad)


def test_http_options_are_frozen_and_keyword_only() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        HttpOptions().retry = 1  # type: ignore[misc]  # that is the point
    with pytest.raises(TypeError):
        HttpOptions("auto")  # type: ignore[call-arg]  # by name only
