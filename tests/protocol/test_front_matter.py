"""Front matter: what is read, and what is refused because parsers of YAML differ.

What each text means has been compared with PyYAML (YAML 1.1), and with the packages yaml and
js-yaml of npm (YAML 1.2): all three read the same.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, strategies as st

from trio_mcp_session.protocol.front_matter import (
    MAX_NESTING,
    FrontMatterInvalid,
    read_front_matter,
    write_front_matter,
)


def read(text: str) -> Any:
    return read_front_matter(f"---\n{text}\n---\nThe text.\n")


@pytest.mark.parametrize(
    "text, value",
    [
        ("word", "word"),
        ("two words", "two words"),
        ("it's 3 apples, (a) [b]#1", "it's 3 apples, (a) [b]#1"),
        ("http://example.com/a:b", "http://example.com/a:b"),
        ("2.1.0", "2.1.0"),
        ("-x", "-x"),
        (":x", ":x"),
        ("a # a comment", "a"),
        ("# a comment", None),
        ("", None),
        ("~", None),
        ("null", None),
        ("true", True),
        ("FALSE", False),
        ("0", 0),
        ("-3", -3),
        ("+3", 3),
        ("1.50", 1.5),
        ("9007199254740991", 9007199254740991),
        ('"a \\" \\\\ \\n \\x41 \\u00e9 \\U0001F600 \\N"', 'a " \\ \n A é 😀 \x85'),
        ('"yes" # a comment', "yes"),
        ("'it''s: # no comment'", "it's: # no comment"),
        ("''", ""),
        ("[]", []),
        ("{}", {}),
        ("[a, 'b', \"c\", 1, [true]]", ["a", "b", "c", 1, [True]]),
        ("[ a b , c, ]", ["a b", "c"]),
        ("{a: b, \"c\":1, 'd' : [e]} # f", {"a": "b", "c": 1, "d": ["e"]}),
        ("[Bash(git:*), http://x/y]", ["Bash(git:*)", "http://x/y"]),
    ],
)
def test_a_value_on_one_line(text: str, value: object) -> None:
    assert read(f"key: {text}") == {"key": value}
    assert read(f"  key:   {text}") == {"key": value}
    assert read(f"list:\n- {text}") == {"list": [value]}


@pytest.mark.parametrize(
    "text, fields",
    [
        ("a: 1\n\n# a comment\nb: 2", {"a": 1, "b": 2}),
        ("a:\n  b:\n    c: d\n  e: f\ng: h", {"a": {"b": {"c": "d"}, "e": "f"}, "g": "h"}),
        ("a:\n- b\n- c\nd:\n  - e\n  -\n", {"a": ["b", "c"], "d": ["e", None]}),
        (
            "a:\n- - b\n  - c\n- d: e\n  f: g\n-\n  h: i",
            {"a": [["b", "c"], {"d": "e", "f": "g"}, {"h": "i"}]},
        ),
        ("a:\nb:\n  # nothing", {"a": None, "b": None}),
        ("a:\n - b:\n   - c", {"a": [{"b": ["c"]}]}),
        ("'a b': 1\n\"c:\": 2", {"a b": 1, "c:": 2}),
        ("a: one\n  two\n\n\n  three\nb: c", {"a": "one two\n\nthree", "b": "c"}),
        ("a: |\n  one\n    two\n\n  # three\n\nb: c", {"a": "one\n  two\n\n# three\n", "b": "c"}),
        ("a: |-\n\n  one\n", {"a": "\none"}),
        (
            "a: > # a comment\n  one\n  two\n\n  three\n    four\n  five\n",
            {"a": "one two\nthree\n  four\nfive\n"},
        ),
        ("a: >-\n\n  one\n   two\n\n  three", {"a": "\none\n two\n\nthree"}),
        ("a: >\n\nb: |", {"a": "", "b": ""}),
        ("- a\n", None),
    ],
)
def test_values_on_several_lines(text: str, fields: object) -> None:
    if fields is None:
        with pytest.raises(FrontMatterInvalid, match="must be a mapping"):
            read(text)
    else:
        assert read(text) == fields


def test_windows_line_ends_and_spaces_behind_the_end() -> None:
    assert read_front_matter("---\r\na: |\r\n  b\r\nc: d\r\n---  \r\n") == {"a": "b\n", "c": "d"}


@pytest.mark.parametrize(
    "text",
    [
        # Booleans, numbers and dates of one YAML, and texts of the other one.
        *("yes", "No", "ON", "off", "y", "N", "=", "<<"),
        *("012", "0x1F", "0o17", "0b1", "1_000", "12:30", "1:30:15.5", "1e3", ".5", "1.", "5e-3"),
        *(".inf", "-.INF", ".nan", "-0", "-0.0", "9007199254740992", "1" * 30),
        *("2026-01-01", "2026-1-1T10:00:00Z"),
    ],
)
def test_values_that_parsers_read_differently_are_refused(text: str) -> None:
    for whole in (f"key: {text}", f"key: [{text}]"):
        with pytest.raises(FrontMatterInvalid, match=r"line 2 .*parsers of YAML read differently"):
            read(whole)
    assert read(f"key: '{text}'") == {"key": text}


@pytest.mark.parametrize(
    "text, error",
    [
        ("", "the front matter is empty"),
        ("# a comment", "the front matter is empty"),
        ("a: 1\na: 2", "line 3 has 'a' a second time"),
        ("a: 1\n  b: 2", "line 2 has a text with ': '"),
        ("  a: 1\nb: 2", "line 3 is indented unlike the lines above"),
        ("a:\n  b: 1\n c: 2", "line 4 is indented unlike"),
        ("just text", "line 2 is not 'name: value'"),
        ("é: 1", "line 2 is not 'name: value'"),
        ("a:b", "line 2 is not 'name: value'"),
        ("true: 1", "line 2 has a name that is not a text for all parsers"),
        ("a: b: c", "line 2 has a text with ': '"),
        ("a: b:", "line 2 has a text with ': ' or with ':' at its end"),
        ("a: one\n  two # three", "line 3 continues a text that has a comment"),
        ("a: one # two\n  three", "line 3 continues a text that has a comment"),
        ("a: one\n  # two\n  three", "line 3 is a comment inside a text"),
        ("a: *b", r"line 2 has a text that begins with '\*'"),
        ("a: &b c", "line 2 has a text that begins with '&'"),
        ("a: !b c", "line 2 has a text that begins with '!'"),
        ("a: - b", "line 2 has a text that begins with '-'"),
        ("a: ?", r"line 2 has a text that begins with '\?'"),
        ("a: |2\n  b", r"line 2 has '\|2'"),
        ("a: >+\n  b", r"line 2 has '>\+'"),
        ("a: |\n    \n  b", "line 2 begins a text with an empty line that has too many spaces"),
        ("a: |\n    b\n  c", "line 2 begins a text in which a line is indented less"),
        ("a: 'b", "line 2 has a quote without an end"),
        ('a: "b\\"', "line 2 has a quote without an end"),
        ("a: 'b' c", "line 2 has 'c' behind its value"),
        ("a: 'b'# c", "line 2 has '# c' behind its value"),
        ("a: [b", "line 2 lacks a ']'"),
        ("a: [b c: d]", "line 2 lacks a ']'"),
        ("a: {b", "line 2 has a mapping whose names are not texts followed by ':'"),
        ("a: {1: b}", "line 2 has a mapping whose names are not texts"),
        ("a: {b: c", "line 2 lacks a '}'"),
        ("a: {b: 1, b: 2}", "line 2 has 'b' a second time"),
        ("a: [b,, c]", "line 2 has no value where one is needed"),
        ("a: {b: }", "line 2 has no value where one is needed"),
        ('a: "\\q"', r"line 2 has the unknown escape '\\q'"),
        ('a: "\\xg1"', r"line 2 has an escape that is not a character: '\\xg1'"),
        ('a: "\\u12"', r"line 2 has an escape that is not a character: '\\u12'"),
        ('a: "\\ud800"', r"line 2 has an escape that is not a character"),
        ('a: "\\UFFFFFFFF"', r"line 2 has an escape that is not a character"),
        ("a: b\tc", r"line 2 has the character U\+0009"),
        ("a: 1\nb: \u2028", r"line 3 has the character U\+2028"),
        ("a: \ud800", r"line 2 has the character U\+D800"),
        ("a: " + "[" * (MAX_NESTING + 1), f"more than {MAX_NESTING} mappings and lists"),
        ("\n".join(" " * n + "a:" for n in range(MAX_NESTING + 1)), f"more than {MAX_NESTING}"),
    ],
)
def test_what_is_refused(text: str, error: str) -> None:
    with pytest.raises(FrontMatterInvalid, match=error):
        read(text)


def test_nesting_up_to_the_limit() -> None:
    read("a: " + "[" * MAX_NESTING + "]" * MAX_NESTING)
    read("\n".join(" " * n + "a:" for n in range(MAX_NESTING)))


@pytest.mark.parametrize("text", ["", "a: b", " ---\na: b\n---", "--- \na: b\n---", "\ufeff---\n"])
def test_a_text_without_front_matter(text: str) -> None:
    with pytest.raises(FrontMatterInvalid, match="the first line must be '---'"):
        read_front_matter(text)


def test_front_matter_without_an_end() -> None:
    with pytest.raises(FrontMatterInvalid, match="has no end"):
        read_front_matter("---\na: b\n ---\n")


TEXTS = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(
    ["yes", "012", "# a", "a: b", "- a", "---", "\u2028", "\x85\x7f\ufeff", "a\nb", " ", "a/b"]
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.integers(-999, 999).map(lambda number: number / 8).filter(bool)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(TEXTS, VALUES, max_size=4))
def test_what_is_written_is_read_the_same(fields: dict[str, Any]) -> None:
    text = write_front_matter(fields)
    assert text.isprintable() or text.splitlines()[0] == text.splitlines()[-1] == "---"
    if fields:
        found = read_front_matter(text + "The text.")
        assert found == fields
        assert list(found) == list(fields)


def test_how_fields_are_written() -> None:
    text = write_front_matter({"name": "refunds", "description": "Money: back", "n": {"v": "1.0"}})
    assert text == '---\nname: refunds\ndescription: "Money: back"\n"n": {"v":"1.0"}\n---\n'


@pytest.mark.parametrize(
    "fields, kind",
    [
        ({"a": object()}, TypeError),
        ({"a": b"bytes"}, ValueError),
        ({"a": math.nan}, ValueError),
        ({"a": 1e22}, ValueError),
        ({"a": 2**53}, ValueError),
        ({"a": (1, 2)}, ValueError),
        ({1: "a"}, ValueError),
        ({"a": "\ud800"}, ValueError),
    ],
)
def test_fields_that_cannot_be_written(fields: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        write_front_matter(fields)
