"""The head of a connection's last request, for the next one.

A client sends nearly the same head with each request of a connection: only the length of the body
differs, or the value of one header. What did not change is not read again: taking a head apart and
checking it is about an eighth of all that a short call costs.

What is taken over must be what a full reading would give. So a head may differ from the last one
only in values of headers that decide nothing about the others, in plain text, and in
`Content-Length`. Every other head is read in full.
"""

from __future__ import annotations

import re
from typing import Final, final

import attrs

from .heads import MAX_DIGITS
from .targets import Target

MAX_SIZE: Final = 2048
"""The largest head that is kept, in bytes: an idle connection holds it, and its headers."""

_CONTENT_LENGTH: Final = b"content-length"
_DECIDING: Final = frozenset(
    (
        b"connection",
        b"expect",
        b"host",
        b"proxy-connection",
        b"transfer-encoding",
        b"upgrade",
    )
)
"""Headers that decide how the request is read, here or in httptools."""

_PLAIN: Final = re.compile(rb"[!-~](?:[ -~]*[!-~])?")
"""Values that every parser reads alike."""


@final
@attrs.define(eq=False, repr=False)
class KnownHead:
    """A head that was read in full, or that differs from such a one in plain values only."""

    data: bytes
    """The head, with the empty line behind it."""
    method: str
    target: Target
    version: str
    headers: list[tuple[bytes, bytes]]
    """In their order, one for each line; they are not changed."""
    length: int
    """Bytes of the body."""

    def with_values_of(self, data: bytes) -> KnownHead | None:
        """Return another head that has the same lines, some of them with other values.

        None if it has to be read in full.

        Args:
            data: The head, with the empty line behind it.
        """
        if len(data) > MAX_SIZE:
            return None
        lines, known = data.split(b"\r\n"), self.data.split(b"\r\n")
        if len(lines) != len(known) or lines[0] != known[0]:
            return None
        headers, length = self.headers, self.length
        for number, line in enumerate(lines):
            if line == known[number]:
                continue
            name, _, value = line.partition(b":")
            name, value = name.lower(), value.strip(b" \t")
            index = number - 1  # The first line is the request line.
            if name != self.headers[index][0] or name in _DECIDING or not _PLAIN.fullmatch(value):
                return None
            if name == _CONTENT_LENGTH:
                if not value.isdigit() or len(value) > MAX_DIGITS:
                    return None
                length = int(value)
            if headers is self.headers:
                headers = headers.copy()
            headers[index] = name, value
        return KnownHead(data, self.method, self.target, self.version, headers, length)
