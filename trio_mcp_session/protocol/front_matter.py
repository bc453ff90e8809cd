"""The front matter of Markdown files: a small part of YAML, with one meaning for every reader.

Clients compare the front matter of a skill with the JSON that the server sends for it, and refuse
the skill if the two differ. YAML 1.1 and 1.2 differ in what ``yes``, ``012`` or ``2026-01-01``
mean, and so do their parsers. Therefore this module reads the part of YAML that all of them read in
the same way, and refuses the rest with an error that says how to write it instead.

Read are mappings and lists, in blocks or on one line (``[a, b]``, ``{a: b}``); texts that are
plain, quoted, or in a block (``|`` and ``>``); null, booleans and decimal numbers; and comments.
Refused are anchors, aliases, tags, merge keys, tabs, several documents, and keys that are not
texts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, NoReturn, final

import attrs

from .jsonrpc import encode_json, is_object

FENCE: Final = "---"
"""The line before the front matter, and the line behind it."""

MAX_NESTING: Final = 16
"""Mappings and lists inside each other. Front matter has two or three."""

_KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_NUMBER: Final = re.compile(r"0|[-+]?[1-9][0-9]*")
_DECIMAL: Final = re.compile(r"[-+]?(?:0|[1-9][0-9]*)\.[0-9]+")
_CONSTANTS: Final[dict[str, bool | None]] = {
    **dict.fromkeys(("~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_AMBIGUOUS: Final = re.compile(
    r"y|n|yes|no|on|off"  # booleans of YAML 1.1
    r"|[-+]?[0-9][0-9_]*|[-+]?0[box][0-9a-f_]+"  # octal, separated, with a base
    r"|[-+]?[0-9][0-9_]*(?::[0-9]{1,2})+(?:\.[0-9_]*)?"  # base 60
    r"|[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9_]+)(?:e[-+]?[0-9]+)?"
    r"|[-+]?\.inf|\.nan"
    r"|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[t \t].*)?"  # dates
    r"|=|<<",
    re.IGNORECASE,
)
_MAX_NUMBER: Final = 2**53 - 1
"""The largest number that all JSON parsers keep."""

_ESCAPES: Final = {
    "0": "\0",
    "a": "\a",
    "b": "\b",
    "t": "\t",
    "n": "\n",
    "v": "\v",
    "f": "\f",
    "r": "\r",
    "e": "\x1b",
    '"': '"',
    "/": "/",
    "\\": "\\",
    "N": "\x85",
    "_": "\xa0",
    "L": "\u2028",
    "P": "\u2029",
}
_WIDTHS: Final = {"x": 2, "u": 4, "U": 8}
_HEX: Final = re.compile("[0-9A-Fa-f]+")
# Tabs, line breaks of YAML 1.1 only, control characters, surrogates, and byte order marks.
_REFUSED: Final = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
_UNSAFE: Final = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


@final
class FrontMatterInvalid(ValueError):
    """Front matter is missing, is not YAML, or is not read by all parsers in the same way."""


@final
@attrs.frozen
class _Line:
    number: int
    indent: int
    text: str
    """Without the indent, and without spaces at the end."""


def read_front_matter(text: str) -> dict[str, Any]:
    """Return the front matter of a Markdown text, as JSON values. Not a checkpoint.

    Raises:
        FrontMatterInvalid: The text does not begin with front matter that this module reads. The
            error names the line.
    """
    lines = text.split("\n")
    lines = [line.removesuffix("\r") for line in lines]
    if lines[0] != FENCE:
        raise FrontMatterInvalid("the first line must be '---', and front matter must follow")
    end = next((i for i, line in enumerate(lines[1:], 1) if line.rstrip(" \t") == FENCE), None)
    if end is None:
        raise FrontMatterInvalid("the front matter has no end: put a line '---' behind it")
    return _Reader(lines[1:end]).read()


def write_front_matter(fields: Mapping[str, Any]) -> str:
    """Return fields as front matter, with both of its lines ``---``. Not a checkpoint.

    Raises:
        TypeError: A value cannot be encoded as JSON.
        ValueError: `read_front_matter` would not return the same fields: a key is not a text, or a
            number is too large, for example.
    """
    lines = [f"{_write(str(key))}: {_write(value)}" for key, value in fields.items()]
    text = "\n".join([FENCE, *lines, FENCE, ""])
    if (read_front_matter(text) if fields else {}) != fields:
        raise ValueError(
            f"the front matter {dict(fields)!r} would be read with other values: use texts, numbers"
            " up to 2^53, true, false, null, lists, and mappings with texts as keys"
        )
    return text


def _write(value: object) -> str:
    if isinstance(value, str) and _KEY.fullmatch(value) and _resolve(value) == value:
        return value
    text = encode_json(value).decode()
    return _UNSAFE.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


def _resolve(text: str) -> object:
    """Return the value of a plain scalar; `_AMBIGUOUS` if parsers differ."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _NUMBER.fullmatch(text):
        number = int(text) if len(text) < 20 else _MAX_NUMBER + 1  # noqa: PLR2004
        return number if abs(number) <= _MAX_NUMBER else _AMBIGUOUS
    if _DECIMAL.fullmatch(text) and float(text) != 0:
        return float(text)
    return _AMBIGUOUS if _AMBIGUOUS.fullmatch(text) else text


@final
class _Reader:
    """Reads lines of front matter, from the top to the bottom."""

    def __init__(self, lines: list[str]) -> None:
        self._lines: Final = [
            _Line(number, len(line) - len(line.lstrip(" ")), line.strip(" "))
            for number, line in enumerate(lines, 2)
        ]
        self._raw: Final = lines
        self._place = 0
        self._nesting = 0
        for number, line in enumerate(lines, 2):
            refused = _REFUSED.search(line)
            if refused is not None:
                code = f"U+{ord(refused.group()):04X}"
                raise FrontMatterInvalid(
                    f"line {number} has the character {code}: use a space, or quote the text and"
                    " escape it"
                )

    def read(self) -> dict[str, Any]:
        line = self._next()
        if line is None:
            raise FrontMatterInvalid("the front matter is empty")
        found = self._block(line.indent)
        rest = self._next()
        if rest is not None:
            _fail(rest, "is indented unlike the lines above it")
        if not is_object(found):
            raise FrontMatterInvalid("the front matter must be a mapping: lines 'name: value'")
        return found

    def _next(self) -> _Line | None:
        """Return the next line that is neither empty nor a comment; None behind the last one."""
        while self._place < len(self._lines):
            line = self._lines[self._place]
            if line.text and not line.text.startswith("#"):
                return line
            self._place += 1
        return None

    def _nest(self, line: _Line, by: int) -> None:
        self._nesting += by
        if self._nesting > MAX_NESTING:
            _fail(line, f"has more than {MAX_NESTING} mappings and lists inside each other")

    def _block(self, indent: int) -> object:
        """Return the mapping or list whose lines have an indent."""
        line = self._lines[self._place]
        self._nest(line, 1)
        found = self._list(indent) if _is_item(line.text) else self._mapping(indent)
        self._nest(line, -1)
        return found

    def _list(self, indent: int) -> list[Any]:
        found: list[Any] = []
        while (line := self._next()) is not None and line.indent == indent and _is_item(line.text):
            rest = line.text[1:].lstrip(" ")
            if _is_item(rest) or _split_key(rest, line) is not None:
                # ``- key: value``: the mapping begins where the key is.
                inner = indent + len(line.text) - len(rest)
                self._lines[self._place] = _Line(line.number, inner, rest)
                found.append(self._block(inner))
            else:
                found.append(self._read_value(rest, line, indent, own_indent=indent + 1))
        return found

    def _mapping(self, indent: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while (line := self._next()) is not None and line.indent == indent:
            split = _split_key(line.text, line)
            if split is None:
                _fail(line, "is not 'name: value'; quote names with other characters")
            key, rest = split
            if key in found:
                _fail(line, f"has {key!r} a second time")
            found[key] = self._read_value(rest, line, indent, own_indent=indent)
        return found

    def _read_value(self, text: str, line: _Line, indent: int, *, own_indent: int) -> Any:
        """Return the value that begins with the rest of a line, and step behind it.

        Args:
            text: The rest of the line.
            line: The line.
            indent: Its indent: what belongs to the value is indented further.
            own_indent: The smallest indent that a list in the following lines may have.
        """
        self._place += 1
        if not text or text.startswith("#"):
            following = self._next()
            if following is None or following.indent < own_indent:
                return None
            if following.indent == indent and not _is_item(following.text):
                return None
            return self._block(following.indent)
        if text[0] in "|>":
            return self._text_block(text, line, indent)
        if text[0] in "\"'[{":
            return _OneLine(text, line).whole()
        pieces = [_without_comment(text)]
        complete = pieces[0] != text
        while (more := self._continuation(indent)) is not None:
            if complete or _without_comment(more.text) != more.text:
                _fail(more, "continues a text that has a comment: quote the text")
            pieces.append(more.text)
        return _plain(_folded(pieces), line)

    def _continuation(self, indent: int) -> _Line | None:
        """Return the next line of a plain text, empty ones included, and step behind it."""
        place = self._place
        while place < len(self._lines) and not self._lines[place].text:
            place += 1
        if place == len(self._lines) or self._lines[place].indent <= indent:
            return None
        line = self._lines[self._place]
        if line.text.startswith("#"):
            _fail(line, "is a comment inside a text: move it, or quote the text")
        self._place += 1
        return line

    def _text_block(self, head: str, line: _Line, indent: int) -> str:
        """Return a text in the lines below ``|`` or ``>``."""
        sign = _without_comment(head)
        if sign not in ("|", "|-", ">", ">-"):
            _fail(line, f"has {sign!r}: texts in lines begin with '|', '|-', '>' or '>-'")
        begin = self._place
        while self._place < len(self._lines):
            one = self._lines[self._place]
            if one.text and one.indent <= indent:
                break
            self._place += 1
        raw = self._raw[begin : self._place]
        filled = [text for text in raw if text.strip(" ")]
        if not filled:
            return ""
        width = len(filled[0]) - len(filled[0].lstrip(" "))
        before = raw[: raw.index(filled[0])]
        if any(len(text) > width for text in before):
            _fail(line, "begins a text with an empty line that has too many spaces: remove them")
        if any(text[:width].strip(" ") for text in raw):
            _fail(line, "begins a text in which a line is indented less than the first one")
        lines = [text[width:] for text in raw]
        while not lines[-1]:
            lines.pop()
        text = "\n".join(lines) if sign[0] == "|" else _folded_block(lines)
        return text if sign.endswith("-") else text + "\n"


@final
class _OneLine:
    """Reads a value that begins with a quote or a bracket, and ends on its line."""

    def __init__(self, text: str, line: _Line) -> None:
        self._text: Final = text
        self._line: Final = line
        self._place = 0
        self._nesting = 0

    def whole(self) -> Any:
        """Return the value, with which the line ends."""
        found = self._read_value()
        rest = self._text[self._place :]
        if rest.strip(" ") and not re.match(r" +#", rest):
            _fail(self._line, f"has {rest.strip()!r} behind its value: quote the whole value")
        return found

    def _read_value(self) -> Any:
        match self._peek():
            case "[":
                return self._collection("]")
            case "{":
                return self._collection("}")
            case _:
                return self._scalar()

    def _scalar(self) -> Any:
        match self._peek():
            case '"':
                return self._double_quoted()
            case "'":
                return self._single_quoted()
            case _:
                begin = self._place
                while self._peek() not in ("", ",", "]", "}", "[", "{") and not re.match(
                    r":(?:[ ,\[\]{}]|$)| #", self._text[self._place :]
                ):
                    self._place += 1
                return _plain(self._text[begin : self._place].strip(" "), self._line)

    def _collection(self, end: str) -> Any:
        self._nesting += 1
        if self._nesting > MAX_NESTING:
            _fail(self._line, f"has more than {MAX_NESTING} mappings and lists inside each other")
        self._step()
        items: list[Any] = []
        fields: dict[str, Any] = {}
        while self._peek() != end:
            value = self._read_value()
            if end == "}":
                if not isinstance(value, str) or self._peek() != ":":
                    _fail(self._line, "has a mapping whose names are not texts followed by ':'")
                if value in fields:
                    _fail(self._line, f"has {value!r} a second time")
                self._step()
                fields[value] = self._read_value()
            else:
                items.append(value)
            match self._peek():
                case ",":
                    self._step()
                case other if other != end:
                    _fail(self._line, f"lacks a {end!r}: lists and mappings must end on their line")
                case _:
                    pass
        self._place += 1
        self._nesting -= 1
        return fields if end == "}" else items

    def _peek(self) -> str:
        """Return the next character that is not a space; an empty text at the end."""
        while self._text[self._place : self._place + 1] == " ":
            self._place += 1
        return self._text[self._place : self._place + 1]

    def _step(self) -> None:
        self._place += 1
        self._peek()

    def _single_quoted(self) -> str:
        found = re.compile("'((?:[^']|'')*)'").match(self._text, self._place)
        if found is None:
            self._unended()
        self._place = found.end()
        return found.group(1).replace("''", "'")

    def _double_quoted(self) -> str:
        found = re.compile(r'"((?:[^"\\]|\\.)*)"').match(self._text, self._place)
        if found is None:
            self._unended()
        self._place = found.end()
        pieces: list[str] = []
        text = found.group(1)
        place = 0
        while place < len(text):
            if text[place] != "\\":
                pieces.append(text[place])
                place += 1
                continue
            name = text[place + 1]
            width = _WIDTHS.get(name, 0)
            digits = text[place + 2 : place + 2 + width]
            place += 2 + width
            if not width:
                if name not in _ESCAPES:
                    _fail(self._line, f"has the unknown escape '\\{name}'")
                pieces.append(_ESCAPES[name])
                continue
            code = int(digits, 16) if _HEX.fullmatch(digits) and len(digits) == width else -1
            if not 0 <= code <= 0x10FFFF or 0xD800 <= code <= 0xDFFF:  # noqa: PLR2004
                _fail(self._line, f"has an escape that is not a character: '\\{name}{digits}'")
            pieces.append(chr(code))
        return "".join(pieces)

    def _unended(self) -> NoReturn:
        _fail(self._line, "has a quote without an end: use '>' for texts of several lines")


def _is_item(text: str) -> bool:
    return text == "-" or text.startswith("- ")


def _split_key(text: str, line: _Line) -> tuple[str, str] | None:
    """Return the key and the rest of ``key: rest``; None if the text is something else."""
    if text[:1] in ('"', "'"):
        reader = _OneLine(text, line)
        key = reader._scalar()
        rest = text[reader._place :].lstrip(" ")
    else:
        found = _KEY.match(text)
        if found is None:
            return None
        key, rest = found.group(), text[found.end() :].lstrip(" ")
        if _resolve(key) != key:
            key = None
    if not rest.startswith(":") or rest[1:2] not in ("", " "):
        return None
    if key is None:
        _fail(line, "has a name that is not a text for all parsers: quote it")
    return key, rest[1:].strip(" ")


def _without_comment(text: str) -> str:
    return re.split(" +#", text, maxsplit=1)[0]


def _plain(text: str, line: _Line) -> Any:
    """Return the value of a text without quotes."""
    if not text:
        _fail(line, "has no value where one is needed")
    if text[0] in ",[]{}#&*!|>'\"%@`" or (text[0] in "-?:" and text[1:2] in ("", " ")):
        _fail(line, f"has a text that begins with {text[0]!r}: quote it")
    if ": " in text or ":\n" in text or text.endswith(":"):
        _fail(line, "has a text with ': ' or with ':' at its end: quote it")
    value = _resolve(text)
    if value is _AMBIGUOUS:
        _fail(line, f"has {text!r}, which parsers of YAML read differently: quote it")
    return value


def _folded(lines: list[str]) -> str:
    """Return lines of a plain text as one text: an empty line is a line break."""
    text = lines[0]
    breaks = 0
    for line in lines[1:]:
        if not line:
            breaks += 1
            continue
        text += "\n" * breaks + line if breaks else " " + line
        breaks = 0
    return text


def _folded_block(lines: list[str]) -> str:
    """Return the lines below ``>`` as one text: lines that are indented further are not joined."""
    text = ""
    breaks = 0
    before: str | None = None
    for line in lines:
        if not line:
            breaks += 1
            continue
        if before is None:
            text = "\n" * breaks + line
        elif line[0] == " " or before[0] == " ":
            text += "\n" * (breaks + 1) + line
        else:
            text += "\n" * breaks + line if breaks else " " + line
        before, breaks = line, 0
    return text


def _fail(line: _Line, problem: str) -> NoReturn:
    raise FrontMatterInvalid(f"line {line.number} {problem}")
