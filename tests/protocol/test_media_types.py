"""``Accept`` and ``Content-Type``."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from trio_mcp_session.protocol import media_types
from trio_mcp_session.protocol.media_types import accepts, is_json

JSON, SSE = "application/json", "text/event-stream"


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "Application/JSON",
        " application/json ",
        "application/json; charset=utf-8",
        "application/json;charset=UTF-8",
        "application/json ; x=y; z",
        "application/json;",
    ],
)
def test_json_content_types(content_type: str) -> None:
    assert is_json(content_type)


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        ";",
        "text/plain",
        "application/jsonx",
        "application/json-rpc",
        "application/problem+json",
        "text/json",
        "json",
        "application/*",
        "*/*",
        "text/plain; application/json",
        "application/json, application/json",
    ],
)
def test_other_content_types(content_type: str) -> None:
    assert not is_json(content_type)


@pytest.mark.parametrize(
    "accept, json, sse",
    [
        ("application/json, text/event-stream", True, True),
        ("text/event-stream,application/json", True, True),
        ("TEXT/Event-Stream, Application/JSON", True, True),
        ("*/*", True, True),
        ("text/html, */*;q=0.1", True, True),
        ("application/*, text/*", True, True),
        ("application/json", True, False),
        ("text/event-stream", False, True),
        ("application/*", True, False),
        ("text/*", False, True),
        ("application/json;charset=utf-8, text/event-stream; x=y", True, True),
        ("", False, False),
        (",", False, False),
        ("text/html", False, False),
        ("json", False, False),
        ("application", False, False),
        ("application/jso", False, False),
        ("application/json/*", False, False),
        ("*", False, False),
        # A weight of zero excludes, whatever wider ranges say, and no matter where it stands.
        ("*/*, application/json;q=0", False, True),
        ("application/json;q=0, */*", False, True),
        ("application/*;q=0, */*", False, True),
        ("application/*;q=0, application/json", True, False),
        ("*/*;q=0, text/event-stream", False, True),
        ("application/json; Q=0.000 , */*", False, True),
        ("application/json;q = 0, */*", False, True),
        ("application/json;q=0., text/event-stream;q=0.00", False, False),
        ("application/json;x=y;q=0.0, */*", False, True),
        # Others don't.
        ("application/json;q=0.001", True, False),
        ("application/json;q=1", True, False),
        ("application/json;q=", True, False),
        ("application/json;q=no", True, False),
        ("application/json;eq=0", True, False),
    ],
)
def test_accept_header(accept: str, json: bool, sse: bool) -> None:
    assert accepts(accept, JSON) is json
    assert accepts(accept, SSE) is sse


_weights = st.sampled_from(
    ["", ";q=0", ";q=0.000", ";q=0.5", ";q=1", "; charset=utf-8; q=0.0", ";x"]
)
_excludes = {";q=0", ";q=0.000", "; charset=utf-8; q=0.0"}
_ranges = st.dictionaries(
    st.sampled_from([JSON, SSE, "application/*", "text/*", "*/*", "text/html", "image/*"]),
    _weights,
)
_spaces = st.sampled_from(["", " ", "\t", "  "])


@given(ranges=_ranges, space=_spaces, data=st.data())
def test_most_specific_accept_range_decides(
    ranges: dict[str, str], space: str, data: st.DataObject
) -> None:
    order = data.draw(st.permutations([*ranges]))
    accept = f"{space},{space}".join(one.upper() + ranges[one] for one in order)
    for media_type, family in [(JSON, "application/*"), (SSE, "text/*")]:
        fitting = [one for one in (media_type, family, "*/*") if one in ranges]
        expected = bool(fitting) and ranges[fitting[0]] not in _excludes
        assert accepts(accept, media_type) is expected


@given(st.text(max_size=40))
def test_any_accept_header_is_read(text: str) -> None:
    is_json(text)
    accepts(text, JSON)
    # One more range that has nothing to do with it changes nothing.
    assert accepts(f"{text}, image/png", JSON) is accepts(text, JSON)


def test_long_accept_header_is_not_cached() -> None:
    kept = media_types._read.cache_info().currsize
    long = ",".join(["text/html"] * 100 + ["application/json"])
    assert accepts(long, "application/json")
    assert not accepts(long, "text/event-stream")
    assert media_types._read.cache_info().currsize == kept
