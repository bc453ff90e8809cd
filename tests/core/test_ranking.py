"""The ranking, against counting by hand."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, strategies as st

from trio_mcp_session.core.ranking import Ranking


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abcd"))))
def test_the_ranking_agrees_with_counting(changes: list[tuple[bool, str]]) -> None:
    ranking, counts = Ranking[str](), Counter[str]()
    for more, key in changes:
        if more:
            ranking.add(key)
            counts[key] += 1
        elif counts[key]:
            ranking.remove(key)
            counts[key] -= 1
        else:
            with pytest.raises(KeyError):
                ranking.remove(key)
        most = max(counts.values(), default=0)
        assert ranking.most == most
        assert set(ranking.leaders) == {one for one in counts if counts[one] == most > 0}
        assert [ranking[one] for one in "abcde"] == [counts[one] for one in "abcde"]
        assert len(ranking) == len(+counts)


def test_an_empty_ranking_takes_nothing() -> None:
    ranking = Ranking[str]()
    for _ in range(3):
        ranking.add("a")
    for _ in range(3):
        ranking.remove("a")
    assert (ranking.most, list(ranking.leaders)) == (0, [])
    assert not ranking._keys
    assert not ranking._counts
