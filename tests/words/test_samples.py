"""Sentences for readers, and test names that say nothing."""

from __future__ import annotations

import pytest

from .names import report, says_nothing
from .samples import sample, sentences
from .texts import Kind, Text


def page(text: str, kind: Kind = "page", path: str = "docs/a.md") -> Text:
    return Text(path, 1, kind, text)


def test_a_paragraph_is_split_into_sentences() -> None:
    text = 'A session ends, i.e. leaves. (It is "done" then.) `x` is closed, too! Really?'
    assert [one.text for one in sentences([page(text)])] == [
        "A session ends, i.e. leaves.",
        '(It is "done" then.)',
        "`x` is closed, too!",
    ]


def test_sentences_are_of_pages_docstrings_and_messages_of_the_package() -> None:
    text = "This is a sentence."
    assert sentences([page(text), page(text, "docstring"), page(text, "message")])
    assert not sentences([page(text, "comment"), page(text, path="tests/a.py")])


def test_the_same_seed_draws_the_same_sentences() -> None:
    pages = [page(f"This is sentence number {number}.") for number in range(100)]
    first = sample(pages, 10, seed=1)
    assert len({one.text for one in first}) == 10
    assert sample(pages, 10, seed=1) == first
    assert sample(pages, 10, seed=2) != first
    assert len(sample(pages, 1000)) == 100


@pytest.mark.parametrize("name", ["revoke", "used already", "who may live", "it is what it was"])
def test_a_name_of_few_words_or_of_any_words_says_nothing(name: str) -> None:
    assert says_nothing(name)


@pytest.mark.parametrize("name", ["an idle session is evicted", "DELETE ends the session"])
def test_a_name_with_four_words_and_two_of_substance_says_something(name: str) -> None:
    assert not says_nothing(name)


def test_the_report_has_the_share_and_the_names() -> None:
    names = [page("an idle session is evicted", "test name"), page("revoke", "test name")]
    assert report([*names, page("revoke")]).splitlines() == [
        "docs/a.md:1: revoke",
        "1 of 2 test names say nothing by themselves: 50.0%",
    ]
    assert report([]) == "0 of 0 test names say nothing by themselves: 0.0%"
