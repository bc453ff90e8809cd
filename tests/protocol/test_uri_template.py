"""URI templates: expansion as RFC 6570 defines it, and matching as its inverse."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from trio_mcp_session.protocol.uri_template import UriTemplate

VALUES = {
    "var": "value",
    "hello": "Hello World!",
    "empty": "",
    "path": "/foo/bar",
    "x": "1024",
    "y": "768",
    "list": ["red", "green", "blue"],
    "half": "50%",
    "base": "http://example.com/home/",
}


@pytest.mark.parametrize(
    "template, uri",
    [
        # RFC 6570, sections 3.2.2 to 3.2.9.
        ("{var}", "value"),
        ("{hello}", "Hello%20World%21"),
        ("{half}", "50%25"),
        ("O{empty}X", "OX"),
        ("O{undefined}X", "OX"),
        ("{x,y}", "1024,768"),
        ("{x,empty}", "1024,"),
        ("{x,undefined}", "1024"),
        ("{list}", "red,green,blue"),
        ("{+var}", "value"),
        ("{+hello}", "Hello%20World!"),
        ("{+half}", "50%25"),
        ("{base}index", "http%3A%2F%2Fexample.com%2Fhome%2Findex"),
        ("{+base}index", "http://example.com/home/index"),
        ("{+path}/here", "/foo/bar/here"),
        ("{#var}", "#value"),
        ("foo{#empty}", "foo#"),
        ("foo{#undefined}", "foo"),
        ("X{.var}", "X.value"),
        ("X{.x,y}", "X.1024.768"),
        ("X{.list}", "X.red,green,blue"),
        ("X{.list*}", "X.red.green.blue"),
        ("{/var}", "/value"),
        ("{/var,empty}", "/value/"),
        ("{/list*}", "/red/green/blue"),
        ("{;x,y}", ";x=1024;y=768"),
        ("{;x,y,empty}", ";x=1024;y=768;empty"),
        ("{;list*}", ";list=red;list=green;list=blue"),
        ("{?x,y}", "?x=1024&y=768"),
        ("{?x,y,empty}", "?x=1024&y=768&empty="),
        ("?fixed=yes{&x}", "?fixed=yes&x=1024"),
        ("{?list}", "?list=red,green,blue"),
    ],
)
def test_expansion_gives_the_examples_of_rfc_6570(template: str, uri: str) -> None:
    assert UriTemplate.parse(template).expand(VALUES) == uri


def test_reserved_expansion_keeps_what_is_encoded_already() -> None:
    assert UriTemplate.parse("{+x}").expand({"x": "a%20b %zz"}) == "a%20b%20%25zz"


def test_empty_lists_are_left_out() -> None:
    assert UriTemplate.parse("a{/x*}{?y}").expand({"x": [], "y": []}) == "a"


def test_empty_items_of_a_named_list_have_no_equals_sign() -> None:
    assert UriTemplate.parse("a{;x*}").expand({"x": ["", "b"]}) == "a;x;x=b"


@pytest.mark.parametrize(
    "template, uri, values",
    [
        ("notes://all", "notes://all", {}),
        ("notes://{name}", "notes://a%20b", {"name": "a b"}),
        ("notes://{name}", "notes://", {"name": ""}),
        ("{scheme}://x", "a://x", {"scheme": "a"}),
        ("{a}", "b", {"a": "b"}),
        ("{a}-{b}", "x-y-z", {"a": "x-y", "b": "z"}),
        ("n://{a,b}", "n://1,2", {"a": "1", "b": "2"}),
        ("n://{+path}", "n://a/b/c.txt", {"path": "a/b/c.txt"}),
        ("{+path}.txt", "a/b.txt.txt", {"path": "a/b.txt"}),
        ("n://{host}/{+path}/end", "n://h/a/b/end", {"host": "h", "path": "a/b"}),
        ("n://{a}/{+b}{.ext}", "n://1/2/3.tar.gz", {"a": "1", "b": "2/3.tar", "ext": "gz"}),
        ("n://x{#at}", "n://x#here/there?", {"at": "here/there?"}),
        ("n://x{/path*}", "n://x/a/b%2Fc", {"path": ["a", "b/c"]}),
        ("n://x{/path*}", "n://x/", {"path": [""]}),
        ("n://x{;p*}", "n://x;p=1;p;p=3", {"p": ["1", "", "3"]}),
        ("n://x{;p}", "n://x;p=1", {"p": "1"}),
        ("n://x{;p}", "n://x;p", {"p": ""}),
        ("n://x{?page,size}", "n://x", {}),
        ("n://x{?page,size}", "n://x?size=2&other=3&page=1%26", {"page": "1&", "size": "2"}),
        ("n://x{?page}", "n://x?page=1&page=2#part", {"page": "1"}),
        ("n://{name}{?page}{&size}", "n://a?size=5", {"name": "a", "size": "5"}),
        ("n://x?a=1{&b}", "n://x?a=1&b=2", {"b": "2"}),
        ("n://x{?a}/y", "n://x?a=1/y", {"a": "1"}),
        ("{?q}", "?q=1", {"q": "1"}),
        ("\u00e9t\u00e9://{x}", "\u00e9t\u00e9://%C3%A9", {"x": "\u00e9"}),
    ],
)
def test_a_uri_matches_with_the_values_that_are_in_it(
    template: str, uri: str, values: dict[str, object]
) -> None:
    assert UriTemplate.parse(template).match(uri) == values


@pytest.mark.parametrize(
    "template, uri",
    [
        ("notes://all", "notes://al"),
        ("notes://all", "notes://all2"),
        ("notes://all", "Notes://all"),
        ("notes://{name}", "note://a"),
        ("notes://{name}", "notes://a/b"),
        ("notes://{name}", "notes://a?b"),
        ("notes://{name}/end", "notes://a/en"),
        ("notes://{name}/x/{b}", "notes://a/b"),
        ("{a}-{b}", "x,y-z"),
        ("{a}/{b}", "x/y/z"),
        ("n://x{;p}", "n://x;pq"),
        ("n://x{;p*}", "n://x;p=1;q=2"),
        ("n://x{;p*}", "n://x;p="),
        ("n://x{/p*}", "n://x/a?b"),
        ("n://{a}/{+b}/c", "n://x?/b/c"),
        ("n://{a}/{+b}/c", "n://x"),
        ("n://{a}/{+b}/c", "n://x/b/d"),
        ("n://{+b}{.c}", "n://b/c"),
        ("n://{+b}", "n://b?c"),
        ("aa{+b}aa", "aaa"),
        ("{?q}", "x?q=1"),
    ],
)
def test_other_uris_do_not_match(template: str, uri: str) -> None:
    assert UriTemplate.parse(template).match(uri) is None


@pytest.mark.parametrize(
    "template, what",
    [
        ("a{b", "an opening brace without a closing one"),
        ("a}b", "a closing brace without an opening one"),
        ("a{b}}", "a closing brace without an opening one"),
        ("a{}", "the variable ''"),
        ("a{b:3}", "the variable 'b:3'"),
        ("a{b.}", "the variable 'b.'"),
        ("a{=b}", "the variable '=b'"),
        ("a{b*}", r"the list 'b\*'"),
        ("a{+b*}", r"the list 'b\*'"),
        ("a{?b*}", r"\{\?name\*\}"),
        ("a{b}{c}", "no text between the variables 'b' and 'c'"),
        ("a{+b}{c}", "no text between the variables 'b' and 'c'"),
        ("a{+b}/{#c}", "two variables that span segments"),
        ("a{b}/{b}", "the variable 'b' twice"),
    ],
)
def test_a_text_that_is_not_a_supported_template_is_refused(template: str, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        UriTemplate.parse(template)


def test_the_variables_are_told_and_which_of_them_are_optional() -> None:
    template = UriTemplate.parse("n://{a.b}/{c}{?d,e}")
    assert template.variables == ("a.b", "c", "d", "e")
    assert template.optional == {"d", "e"}
    assert repr(template) == "<UriTemplate 'n://{a.b}/{c}{?d,e}'>"


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@given(a=TEXT, b=TEXT, path=st.lists(TEXT, min_size=1, max_size=4), q=TEXT)
def test_what_was_expanded_matches_with_the_same_values(
    a: str, b: str, path: list[str], q: str
) -> None:
    template = UriTemplate.parse("n://{a}/{b}{/path*}{?q}")
    values = {"a": a, "b": b, "path": path, "q": q}
    assert template.match(template.expand(values)) == values


@given(uri=st.text("a/?#&,;.=%2F-", max_size=40))
def test_matching_any_text_does_not_raise(uri: str) -> None:
    for text in ("{a}-{b}", "a{/b*}{.c}{?d}", "{+a}/{b}{;c}", "a{#b}", "{a}{;b*}"):
        values = UriTemplate.parse(text).match(uri)
        assert values is None or values.keys() <= set(UriTemplate.parse(text).variables)
