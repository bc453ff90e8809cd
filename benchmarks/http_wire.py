"""HTTP/1.1 answers and server-sent events as bytes: what the load generator and the soak read."""

from __future__ import annotations

from typing import Final, NamedTuple

KNOWN: Final[dict[bytes, Head]] = {}
"""Heads seen before; most differ from another only once a second, in their date."""
MANY: Final = 4_096


class Malformed(Exception):
    """An answer is not valid HTTP."""


class Head(NamedTuple):
    """The relevant parts of an answer's head."""

    status: int
    length: int | None
    """None: chunked."""
    events: bool
    """Whether the body is a stream of server-sent events."""
    closes: bool
    session: bytes


class Answer(NamedTuple):
    head: Head
    body: bytes


def parse_head(raw: bytes) -> Head:
    """Parse the lines before the empty line."""
    first, *lines = raw.split(b"\r\n")
    version, _, rest = first.partition(b" ")
    if version != b"HTTP/1.1" or not rest[:3].isdigit():
        raise Malformed(f"no HTTP/1.1: {raw[:100]!r}")
    status = int(rest[:3])
    fields: dict[bytes, bytes] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        name = name.lower()
        if not colon or (name in fields and name in {b"content-length", b"transfer-encoding"}):
            raise Malformed(f"header line {line!r}")
        fields[name] = value.strip()
    length: int | None
    if fields.get(b"transfer-encoding", b"").lower() == b"chunked":
        length = None
        if b"content-length" in fields:
            raise Malformed("a length, and chunked")
    elif b"content-length" in fields:
        length = int(fields[b"content-length"])
    elif status in {204, 304}:
        length = 0
    else:
        raise Malformed(f"the body has no end: {raw!r}")
    return Head(
        status,
        length,
        fields.get(b"content-type", b"").startswith(b"text/event-stream"),
        fields.get(b"connection", b"").lower() == b"close",
        fields.get(b"mcp-session-id", b""),
    )


class Answers:
    """Turns the bytes of one connection into whole answers, or into pieces of streams."""

    def __init__(self) -> None:
        self.head: Head | None = None
        """Of the answer that is under way."""
        self._data = b""
        self._at = 0
        self._chunks: list[bytes] = []
        self._ended = False

    @property
    def rest(self) -> bytes:
        """The bytes that belong to no answer so far."""
        return self._data

    def feed(self, data: bytes) -> Answer | None:
        """Add bytes that were read; they should belong to one answer."""
        if self._data:
            data = self._data + data
        self._data = data
        head = self.head
        if head is None:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                return None
            head = self.head = find_head(data[:end])
            self._at = end + 4
        if head.length is not None:
            end = self._at + head.length
            if len(data) < end:
                return None
            body = data[self._at : end]
        else:
            self._dechunk()
            if not self._ended:
                return None
            body = b"".join(self._chunks)
            end = self._at
            self._chunks.clear()
            self._ended = False
        self._data = data[end:]
        self._at = 0
        self.head = None
        return Answer(head, body)

    def pieces(self) -> bytes:
        """Return the new bytes of a chunked body, for a stream that continues."""
        found = b"".join(self._chunks)
        self._chunks.clear()
        self._data = self._data[self._at :]
        self._at = 0
        return found

    def _dechunk(self) -> None:
        data, at = self._data, self._at
        while (line := data.find(b"\r\n", at)) >= 0:
            try:
                size = int(data[at:line].partition(b";")[0], 16)
            except ValueError:
                raise Malformed(f"chunk size {data[at:line][:20]!r}") from None
            end = line + 2 + size
            if len(data) < end + 2:
                break
            if data[end : end + 2] != b"\r\n":
                raise Malformed("a chunk is longer than it says")
            at = end + 2
            if not size:
                self._ended = True
                break
            self._chunks.append(data[line + 2 : end])
        self._at = at


def find_head(raw: bytes) -> Head:
    head = KNOWN.get(raw)
    if head is None:
        if len(KNOWN) >= MANY:
            KNOWN.clear()
        head = KNOWN[raw] = parse_head(raw)
    return head


class Event(NamedTuple):
    """One server-sent event."""

    id: bytes | None
    retry: bytes | None
    data: bytes


class Events:
    """Turns the bytes of a stream into whole events."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Event]:
        *whole, self._rest = (self._rest + data).replace(b"\r\n", b"\n").split(b"\n\n")
        return [event for block in whole if (event := parse_event(block)) is not None]


def parse_event(block: bytes) -> Event | None:
    """Parse one event; return None for a comment."""
    fields: dict[bytes, bytes] = {}
    for line in block.split(b"\n"):
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        fields[name] = fields[name] + b"\n" + value if name in fields else value
    fields.pop(b"", None)
    if not fields:
        return None
    return Event(fields.get(b"id"), fields.get(b"retry"), fields.get(b"data", b""))


def event_messages(body: bytes) -> list[bytes]:
    """Return the data of all events of a whole stream."""
    found = []
    for line in body.replace(b"\r\n", b"\n").split(b"\n"):
        if line.startswith(b"data:"):
            data = line[5:].removeprefix(b" ")
            if data:
                found.append(data)
    return found
