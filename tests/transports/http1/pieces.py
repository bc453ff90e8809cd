"""What is common to the tests of the parser: streams of bytes, cut anywhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import attrs
from hypothesis import strategies as st

from trio_mcp_session.transports.http1.limits import HttpServerLimits
from trio_mcp_session.transports.http1.parser import Request, RequestParser
from trio_mcp_session.transports.http1.request_refused import RequestRefused

HOST = b"Host: a.example\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST
POST = b"POST / HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


@attrs.define
class Seen:
    """A request, and what came of its body."""

    request: Request
    body: bytes = b""
    complete: bool = False

    def brief(self) -> tuple[object, ...]:
        one = self.request
        target = (one.target.path, one.target.raw_path, one.target.query, one.target.authority)
        more = (one.keep_alive, one.expects_continue, self.body, self.complete)
        return (one.method, target, one.version, one.headers, *more)


def is_complete(parser: RequestParser) -> bool:
    """Return whether the last body was taken (mypy takes it that this can't change)."""
    return parser.body_complete


def parse(
    chunks: Iterable[bytes], limits: HttpServerLimits | None = None
) -> tuple[list[Seen], int | None]:
    """Return the requests in some bytes, and the status of the refusal that ended them."""
    parser = RequestParser(limits or HttpServerLimits())
    seen: list[Seen] = []
    try:
        for chunk in chunks:
            parser.receive_data(chunk)
            while True:
                if not is_complete(parser):
                    seen[-1].body += parser.take_body()
                    if not is_complete(parser):
                        break
                    seen[-1].complete = True
                request = parser.next_request()
                if request is None:
                    break
                seen.append(Seen(request, complete=parser.body_complete))
    except RequestRefused as refusal:
        return seen, int(refusal.status)
    return seen, None


def parse_one(data: bytes, limits: HttpServerLimits | None = None) -> Seen:
    (seen,), status = parse([data], limits)
    assert status is None
    return seen


def refused(data: bytes, limits: HttpServerLimits | None = None) -> int | None:
    """Return the status of the refusal, whether the bytes come at once or one by one."""
    _, status = parse([data], limits)
    assert parse(one_by_one(data), limits)[1] == status
    return status


def one_by_one(data: bytes) -> Iterator[bytes]:
    return (data[i : i + 1] for i in range(len(data)))


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """Cut bytes in pieces, none of them empty."""
    ends = sorted({place % (len(data) + 1) for place in places} | {len(data)})
    return [piece for a, b in zip([0, *ends], ends, strict=False) if (piece := data[a:b])]


tokens = st.text("!#$%&'*+-.^_`|~019AZaz", min_size=1, max_size=8).map(str.encode)
values = st.binary(max_size=12).map(
    lambda raw: bytes(c for c in raw if c >= 32 and c != 127).strip(b" \t")
)
paths = st.text("/abc%20.-_~", max_size=12).map(
    lambda text: b"/" + text.replace("%", "%41").encode()
)
DECIDING = {b"host", b"content-length", b"transfer-encoding", b"connection", b"expect", b"upgrade"}
headers = st.lists(
    st.tuples(tokens, values).filter(lambda one: one[0].lower() not in DECIDING), max_size=4
)


@st.composite
def chunked_bodies(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Draw a body, and the same in chunks, with extensions and trailers."""
    wire = body = b""
    for piece in draw(st.lists(st.binary(min_size=1, max_size=40), max_size=4)):
        extension = draw(st.sampled_from([b"", b";a", b";a=b", b';a="b c"', b";a;b=c"]))
        digits = draw(st.sampled_from([b"%x", b"%X", b"00%x"])) % len(piece)
        wire += digits + extension + b"\r\n" + piece + b"\r\n"
        body += piece
    trailers = draw(headers)
    wire += b"0\r\n" + b"".join(b"%b: %b\r\n" % one for one in trailers) + b"\r\n"
    return body, wire


@st.composite
def requests(draw: st.DrawFn) -> tuple[tuple[bytes, bytes], bytes]:
    """Draw a request: what it says, and its bytes."""
    path = draw(paths)
    lines = [b"%b: %b\r\n" % one for one in draw(headers)]
    kind = draw(st.sampled_from(["none", "length", "chunked"]))
    body = after = b""
    if kind == "length":
        body = after = draw(st.binary(max_size=60))
        lines.append(b"content-length: %d\r\n" % len(body))
    elif kind == "chunked":
        body, after = draw(chunked_bodies())
        lines.append(b"Transfer-Encoding: Chunked\r\n")
    lines.insert(draw(st.integers(0, len(lines))), HOST)
    if draw(st.booleans()):
        lines.append(b"Connection: Upgrade\r\nUpgrade: h2c\r\n")
    return (path, body), b"PUT %b HTTP/1.1\r\n%b\r\n%b" % (path, b"".join(lines), after)
