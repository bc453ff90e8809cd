from __future__ import annotations

import pytest

from trio_mcp_session.transports.http1.request_refused import RequestRefused
from trio_mcp_session.transports.http1.targets import read_target


@pytest.mark.parametrize(
    "target, path, raw_path, query",
    [
        (b"/", "/", b"/", b""),
        (b"/a/b?c=d?e", "/a/b", b"/a/b", b"c=d?e"),
        (b"/a?", "/a", b"/a", b""),
        (b"//b.example/c", "//b.example/c", b"//b.example/c", b""),
        (b"/%C3%A9%2Fx?%zz", "/é/x", b"/%C3%A9%2Fx", b"%zz"),
        (b"/a:b|c", "/a:b|c", b"/a:b|c", b""),
        (b"http://a", "/", b"/", b""),
        (b"http://a?b", "/", b"/", b"b"),
        (b"HTTP://A/b?c", "/b", b"/b", b"c"),
    ],
)
def test_a_request_target_is_split_into_path_and_query(
    target: bytes, path: str, raw_path: bytes, query: bytes
) -> None:
    found = read_target(b"GET", target, b"a")
    assert (found.path, found.raw_path, found.query) == (path, raw_path, query)


@pytest.mark.parametrize(
    "target",
    [
        b"*",
        b"a",
        b"?a",
        b"a.example:80",
        b"https://a/",
        b"http:/a",
        b"http:///b",
        b"http://a@b/",
        b"http://a#b",
        b"/a#b",
        b"/?a#b",
        b"/%",
        b"/%4",
        b"/%zz",
        b"/%C3",
        b"http://b/",
        b"ftp://a/",
    ],
)
def test_a_malformed_request_target_is_refused(target: bytes) -> None:
    with pytest.raises(RequestRefused) as caught:
        read_target(b"GET", target, b"a")
    assert caught.value.status == 400


def test_the_target_that_means_the_server_is_for_one_method() -> None:
    found = read_target(b"OPTIONS", b"*", b"a")
    assert (found.path, found.raw_path, found.query) == ("*", b"*", b"")
    with pytest.raises(RequestRefused):
        read_target(b"OPTIONS", b"**", b"a")


def test_an_absolute_target_names_a_host_where_there_is_none() -> None:
    assert read_target(b"GET", b"http://b:1/", None).authority == b"b:1"
    assert read_target(b"GET", b"/", None).authority is None
