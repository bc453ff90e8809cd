"""Reading headers: what is known of them, what came more than once."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given, strategies as st

from trio_mcp_session.transports.http.headers import (
    RequestHeaders,
    as_mapping,
    read_headers,
    read_parameters,
)

FIELDS = {
    b"accept": "accept",
    b"content-type": "content_type",
    b"content-encoding": "content_encoding",
    b"content-length": "content_length",
    b"expect": "expect",
    b"host": "host",
    b"last-event-id": "last_event_id",
    b"mcp-method": "method",
    b"mcp-name": "name",
    b"mcp-protocol-version": "protocol_version",
    b"mcp-session-id": "session_id",
    b"origin": "origin",
}


def test_a_request_without_headers_has_empty_fields() -> None:
    headers = read_headers([])
    assert headers == RequestHeaders()
    assert set(attrs.asdict(headers).values()) == {None, frozenset()}


@pytest.mark.parametrize("name, field", FIELDS.items(), ids=FIELDS.values())
def test_each_header_is_read_into_its_field(name: bytes, field: str) -> None:
    expected = RequestHeaders()
    setattr(expected, field, "a b")
    assert read_headers([(name, b"a b")]) == expected
    # An empty one was said all the same.
    assert getattr(read_headers([(name, b"")]), field) == ""
    assert getattr(read_headers([(name, b" \t a, b \t")]), field) == "a, b"
    # Only what may stand around a value does not belong to it.
    assert getattr(read_headers([(name, b"\xa0\xe9\x85")]), field) == "\xa0\xe9\x85"
    twice = read_headers([(name, b"a"), (b"x-other", b"-"), (name, b" b"), (name, b"")])
    assert getattr(twice, field) == "a, b, "
    assert twice.repeated == {field}


def test_every_field_is_covered() -> None:
    assert {*FIELDS.values(), "repeated"} == {one.name for one in attrs.fields(RequestHeaders)}


def test_other_headers_do_not_matter() -> None:
    others = [(b"cookie", b"a=b"), (b"mcp-session", b"x"), (b"", b""), (b"repeated", b"host")]
    assert read_headers(others * 2) == RequestHeaders()


def test_as_mapping_joins_repeated_headers_by_lower_case_name() -> None:
    headers = [(b"X-One", b"1"), (b"x-two", b"\xe9"), (b"x-one", b"2"), (b"host", b"h")]
    assert as_mapping(headers) == {"x-one": "1, 2", "x-two": "\xe9", "host": "h"}
    assert as_mapping([]) == {}


def test_the_headers_of_arguments() -> None:
    headers = [
        (b"mcp-param-region", b" \t us-west1 \t"),
        (b"Mcp-Param-MAX", b"\xa01"),
        (b"mcp-param-", b""),
        (b"mcp-param-twice", b"a"),
        (b"mcp-param-twice", b" b"),
        (b"mcp-params-no", b"x"),
        (b"x-mcp-param-no", b"x"),
        (b"mcp-name", b"x"),
    ]
    expected = {"region": "us-west1", "max": "\xa01", "": "", "twice": "a,  b"}
    assert read_parameters(headers) == expected
    assert read_parameters([]) == {}


_headers = st.lists(st.tuples(st.one_of(st.sampled_from([*FIELDS]), st.binary()), st.binary()))


@given(_headers)
def test_any_bytes_can_be_read(headers: list[tuple[bytes, bytes]]) -> None:
    found = read_headers(headers)
    for name, field in FIELDS.items():
        values = [value for one, value in headers if one == name]
        assert (getattr(found, field) is None) is (not values)
        assert (field in found.repeated) is (len(values) > 1)
    assert as_mapping(headers).keys() == {name.decode("latin-1").lower() for name, _ in headers}
