from __future__ import annotations

import itertools
from math import inf, nextafter

import attrs
import pytest
from hypothesis import given, strategies as st

from trio_mcp_session import DURATION_BUCKETS, SessionMetrics, TerminationReason
from trio_mcp_session.core.metrics import ManagerCounters, SessionCounters


def test_counters_begin_at_zero() -> None:
    assert set(attrs.asdict(SessionCounters()).values()) == {0}
    counters = ManagerCounters()
    assert (counters.opened, counters.events_missed, counters.hook_failures) == (0, 0, 0)
    assert not counters.refused
    assert not counters.ended
    assert counters.durations == [0] * (len(DURATION_BUCKETS) + 1)


def test_managers_do_not_share_their_counters() -> None:
    one, other = ManagerCounters(), ManagerCounters()
    one.refused["ShuttingDown"] += 1
    one.count_end(TerminationReason.IDLE, 1)
    assert not other.refused
    assert not other.ended
    assert sum(other.durations) == 0


def test_each_counter_is_in_the_metrics() -> None:
    shown = attrs.fields_dict(SessionMetrics).keys()
    assert attrs.fields_dict(SessionCounters).keys() <= shown


@pytest.mark.parametrize("place, bound", list(enumerate(DURATION_BUCKETS)))
def test_duration_at_a_bound_is_in_its_bucket(place: int, bound: float) -> None:
    counters = ManagerCounters()
    counters.count_end(TerminationReason.IDLE, bound)
    assert counters.durations[place] == 1
    counters.count_end(TerminationReason.IDLE, nextafter(bound, inf))
    assert counters.durations[place : place + 2] == [1, 1]
    assert sum(counters.durations) == 2


def test_duration_buckets_increase() -> None:
    assert sorted(set(DURATION_BUCKETS)) == list(DURATION_BUCKETS)
    assert DURATION_BUCKETS[0] > 0


@given(
    st.lists(
        st.tuples(
            st.sampled_from(TerminationReason),
            st.one_of(st.sampled_from([0.0, 1e12, *DURATION_BUCKETS]), st.floats(0, 1e7)),
        )
    )
)
def test_each_end_is_counted_once_by_reason_and_duration(
    ends: list[tuple[TerminationReason, float]],
) -> None:
    counters = ManagerCounters()
    for reason, duration in ends:
        counters.count_end(reason, duration)
    reasons = [reason for reason, _ in ends]
    assert counters.ended == {reason: reasons.count(reason) for reason in reasons}
    within = [-inf, *DURATION_BUCKETS, inf]
    assert counters.durations == [
        sum(low < duration <= high for _, duration in ends)
        for low, high in itertools.pairwise(within)
    ]
