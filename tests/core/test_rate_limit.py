"""Token buckets: how much is let through, and that full buckets take no memory."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import attrs
import pytest
from hypothesis import given, strategies as st

from trio_mcp_session import RateLimit
from trio_mcp_session.core import rate_limit
from trio_mcp_session.core.rate_limit import TokenBuckets, whole_seconds


def test_a_burst_then_one_at_a_time() -> None:
    buckets = TokenBuckets(RateLimit(2, burst=3))
    assert [buckets.take("a", 10.0) for _ in range(4)] == [0, 0, 0, 0.5]
    assert buckets.take("a", 10.25) == 0.25
    assert buckets.take("a", 10.5) == 0
    assert buckets.take("a", 10.5) == 0.5
    # Others have buckets of their own.
    assert buckets.take("b", 10.5) == 0


def test_a_pause_fills_the_bucket_at_most() -> None:
    buckets = TokenBuckets(RateLimit(1, burst=2))
    assert [buckets.take("a", 0) for _ in range(3)] == [0, 0, 1]
    assert [buckets.take("a", 1000) for _ in range(3)] == [0, 0, 1]


def test_full_buckets_are_dropped() -> None:
    buckets = TokenBuckets(RateLimit(1, burst=2))
    for number in range(100):
        assert not buckets.take(number, 0)
    assert len(buckets) == 100
    for _ in range(50):
        buckets.take("late", 1000)
    assert len(buckets) == 1


def test_the_number_of_buckets_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit, "MAX_BUCKETS", 10)
    buckets = TokenBuckets(RateLimit(1, burst=1))
    for number in range(100):
        assert not buckets.take(number, 0)
        assert len(buckets) <= 10


@given(
    st.floats(0.1, 5),
    st.integers(1, 3),
    st.lists(st.floats(0, 0.5), min_size=10, max_size=60),
)
def test_a_bucket_never_gives_more_tokens_than_its_limit(
    rate: float, burst: int, pauses: list[float]
) -> None:
    buckets = TokenBuckets(RateLimit(rate, burst=burst))
    tokens, now = float(burst), 0.0
    for pause in pauses:
        now += pause
        tokens = min(burst, tokens + pause * rate)
        wait = buckets.take("a", now)
        if wait:
            assert tokens < 1 + 1e-6
            assert wait == pytest.approx((1 - tokens) / rate, abs=1e-6)
        else:
            assert tokens > 1 - 1e-4
            tokens -= 1


def test_a_limit_as_the_command_shows_it() -> None:
    assert str(RateLimit(0.5, burst=3)) == "0.5:3"
    assert str(RateLimit(inf)) == "inf"
    assert RateLimit(inf).buckets() is None
    made = RateLimit(2).buckets()
    assert made is not None
    assert attrs.asdict(made.limit) == {"per_second": 2, "burst": 1}


@pytest.mark.parametrize("value", [0, -1, nan, "1", None, True])
def test_a_rate_is_a_number(value: Any) -> None:
    with pytest.raises(ValueError, match="per_second must be a number above 0, not"):
        RateLimit(value, 1)


@pytest.mark.parametrize("value", [0, -1, 1.5, "1", None, True])
def test_a_burst_is_a_whole_number(value: Any) -> None:
    with pytest.raises(ValueError, match="burst must be a whole number of at least 1, not"):
        RateLimit(1, value)


def test_retry_after_is_in_whole_seconds() -> None:
    assert [whole_seconds(wait) for wait in (0.01, 1, 1.1, 60)] == [1, 1, 2, 60]
