"""URI templates (RFC 6570): from values to a URI, and from a URI back to the values.

RFC 6570 defines only the first direction. The second one follows these rules, like the
official Python SDK:

- A value ends at the first character that its operator would have encoded: a ``{name}`` does not
  match ``/``, ``?``, ``#``, ``&`` or ``,``.
- One variable of a template may span several segments: ``{+path}``, ``{#fragment}``, or one with
  an asterisk, as in ``{/path*}``.
- Variables of ``{?a,b}`` and ``{&c}`` at the end are optional, come in any order, and other
  parameters of the query are ignored.
- Between two variables there must be some text or an operator, which shows where one ends.

Matching looks at each character a fixed number of times: a hostile URI costs no more than its
length. The prefix modifier (``{name:3}``) and ``{?list*}`` are not supported.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Final, NoReturn, TypeAlias, final
from urllib.parse import quote, unquote

import attrs

Value: TypeAlias = str | list[str]
"""The value of a variable; a list for a variable with an asterisk."""

_NAME: Final = re.compile(r"[A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+)*")
_ENCODED: Final = re.compile(r"(%[0-9A-Fa-f]{2})")
_RESERVED: Final = ":/?#[]@!$&'()*+,;="


@attrs.frozen
class _Operator:
    """How the variables of an expression are written (RFC 6570, appendix A)."""

    first: str
    """Text before the first value."""

    separator: str
    """Text between two values."""

    ends: str
    """Characters that end a value."""

    named: bool = False
    """Whether the name is written before the value."""

    reserved: bool = False
    """Whether reserved characters are not encoded."""

    empty: str = ""
    """Text behind the name if the value is empty."""


_OPERATORS: Final = {
    "": _Operator("", ",", "/?#&,"),
    "+": _Operator("", ",", "?#", reserved=True),
    "#": _Operator("#", ",", "", reserved=True),
    ".": _Operator(".", ".", "./?#"),
    "/": _Operator("/", "/", "/?#"),
    ";": _Operator(";", ";", ";/?#", named=True),
    "?": _Operator("?", "&", "&#", named=True, empty="="),
    "&": _Operator("&", "&", "&#", named=True, empty="="),
}


@attrs.frozen
class _Variable:
    name: str
    operator: _Operator
    exploded: bool

    @property
    def spans_segments(self) -> bool:
        return self.exploded or self.operator.reserved

    def write(self, value: str | Sequence[str]) -> list[str]:
        """Return the texts that stand for it, between separators."""
        if isinstance(value, str):
            values = [self._encode(value)]
        elif self.exploded:
            values = [self._encode(one) for one in value]
        else:
            values = [",".join(map(self._encode, value))] if value else []
        if not self.operator.named:
            return values
        return [f"{self.name}={one}" if one else self.name + self.operator.empty for one in values]

    def _encode(self, text: str) -> str:
        if not self.operator.reserved:
            return quote(text, safe="")
        # What is encoded already stays as it is (RFC 6570, 3.2.3).
        pieces = _ENCODED.split(text)
        pieces[::2] = [quote(piece, safe=_RESERVED) for piece in pieces[::2]]
        return "".join(pieces)

    def read(self, text: str) -> Value | None:
        """Return the value that a piece of a URI stands for; None if it cannot be one."""
        operator = self.operator
        if not self.exploded:
            if operator.named:  # ``;name`` stands before it as text.
                if text and not text.startswith("="):
                    return None
                text = text[1:]
            return None if any(end in text for end in operator.ends) else unquote(text)
        values: list[str] = []
        # The first separator is text of the template.
        for piece in text.split(operator.separator):
            one = piece
            if operator.named:
                name, equals, one = piece.partition("=")
                if name != self.name or (equals and not one):
                    return None
            if any(end in one for end in operator.ends):
                return None
            values.append(unquote(one))
        return values


@attrs.frozen
class _Expression:
    operator: _Operator
    variables: tuple[_Variable, ...]


_Part: TypeAlias = str | _Expression
_Atom: TypeAlias = str | _Variable


@final
@attrs.frozen(eq=False, repr=False)
class UriTemplate:
    """A parsed URI template. `UriTemplate.parse` makes it."""

    text: str
    """The template."""

    variables: tuple[str, ...]
    """The names of its variables, in order."""

    optional: frozenset[str]
    """The variables that `match` may leave out: those of the query at the end."""

    _parts: tuple[_Part, ...]
    _before: tuple[_Atom, ...]
    """What comes before the variable that spans segments; all that is not query without one."""
    _spanning: _Variable | None
    _after: tuple[_Atom, ...]

    @classmethod
    def parse(cls, text: str) -> UriTemplate:
        """Parse a template. Not a checkpoint.

        Raises:
            ValueError: The text is not a template, or uses what is not supported.
        """
        parts = tuple(_parse(text))
        names = [one.name for part in parts if not isinstance(part, str) for one in part.variables]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            _fail(text, f"has the variable {twice!r} twice")
        path, query = _split_query(parts)
        for expression in query:
            if any(one.exploded for one in expression.variables):
                _fail(text, "has a list in its query ({?name*}), which is not supported")
        atoms = list(_flatten(path))
        for left, right in pairwise(atoms):
            if isinstance(left, _Variable) and isinstance(right, _Variable):
                _fail(text, f"has no text between the variables {left.name!r} and {right.name!r}")
        spanning = [
            place
            for place, atom in enumerate(atoms)
            if isinstance(atom, _Variable) and atom.spans_segments
        ]
        if len(spanning) > 1:
            _fail(text, "has two variables that span segments ({+name}, {#name}, {/name*})")
        place = spanning[0] if spanning else len(atoms)
        middle = atoms[place] if spanning else None
        return cls(
            text,
            tuple(names),
            frozenset(one.name for expression in query for one in expression.variables),
            parts,
            tuple(atoms[:place]),
            middle if isinstance(middle, _Variable) else None,
            tuple(atoms[place + 1 :]),
        )

    def __repr__(self) -> str:
        return f"<UriTemplate {self.text!r}>"

    def expand(self, values: Mapping[str, str | Sequence[str]]) -> str:
        """Return the URI for some values. Not a checkpoint.

        Args:
            values: The values by name; variables without one are left out.
        """
        uri: list[str] = []
        for part in self._parts:
            if isinstance(part, str):
                uri.append(part)
                continue
            texts = [
                text
                for variable in part.variables
                if variable.name in values
                for text in variable.write(values[variable.name])
            ]
            if texts:
                uri.append(part.operator.first + part.operator.separator.join(texts))
        return "".join(uri)

    def match(self, uri: str) -> dict[str, Value] | None:
        """Return the values of the variables in a URI. Not a checkpoint.

        Returns:
            The decoded values, by name; None if the URI does not match. Variables of the query that
            are not in the URI are left out.
        """
        found: dict[str, Value] = {}
        if self.optional:
            uri, _, query = uri.partition("?")
            for pair in query.partition("#")[0].split("&"):
                name, _, value = pair.partition("=")
                if name in self.optional:
                    found.setdefault(name, unquote(value))
        if self._spanning is None:
            return found if _match_whole(self._before, uri, found) else None
        start = _match_from_start(self._before, uri, found)
        if start is None:
            return None
        end = _match_from_end(self._after, uri, start, found)
        if end is None:
            return None
        if not _take(self._spanning, uri[start:end], found):
            return None
        return found


def _match_from_start(atoms: Sequence[_Atom], uri: str, found: dict[str, Value]) -> int | None:
    """Match atoms from the start of a URI on; return where they end. The last one is a text."""
    position = 0
    variable: _Variable | None = None
    for atom in atoms:
        if not isinstance(atom, str):
            variable = atom
            continue
        start = uri.find(atom, position)
        if start < 0 or not _take(variable, uri[position:start], found):
            return None
        variable = None
        position = start + len(atom)
    return position


def _match_whole(atoms: Sequence[_Atom], uri: str, found: dict[str, Value]) -> bool:
    """Match atoms against the whole URI."""
    start = 0
    if atoms and isinstance(atoms[0], str):
        if not uri.startswith(atoms[0]):
            return False
        start = len(atoms[0])
        atoms = atoms[1:]
    begin = _match_from_end(atoms, uri, start, found)
    return begin == start


def _match_from_end(
    atoms: Sequence[_Atom], uri: str, start: int, found: dict[str, Value]
) -> int | None:
    """Match atoms from the end of a URI back to ``start`` at most; return where they begin."""
    position = len(uri)
    variable: _Variable | None = None
    for atom in reversed(atoms):
        if not isinstance(atom, str):
            variable = atom
            continue
        begin = uri.rfind(atom, start, position)
        if begin < 0 or not _take(variable, uri[begin + len(atom) : position], found):
            return None
        variable = None
        position = begin
    if variable is not None:
        if not _take(variable, uri[start:position], found):
            return None
        position = start
    return position


def _take(variable: _Variable | None, text: str, found: dict[str, Value]) -> bool:
    """Read what is between two texts; return whether it matches."""
    if variable is None:
        return not text
    value = variable.read(text)
    if value is None:
        return False
    found[variable.name] = value
    return True


def _parse(text: str) -> Iterator[_Part]:
    position = 0
    while True:
        begin = text.find("{", position)
        literal = text[position:] if begin < 0 else text[position:begin]
        if "}" in literal:
            _fail(text, "has a closing brace without an opening one")
        if literal:
            yield literal
        if begin < 0:
            return
        end = text.find("}", begin)
        if end < 0:
            _fail(text, "has an opening brace without a closing one")
        yield _expression(text, text[begin + 1 : end])
        position = end + 1


def _expression(text: str, inside: str) -> _Expression:
    sign = inside[:1] if inside[:1] in _OPERATORS else ""
    operator = _OPERATORS[sign]
    variables: list[_Variable] = []
    for written in inside.removeprefix(sign).split(","):
        name = written.removesuffix("*")
        if not _NAME.fullmatch(name):
            _fail(text, f"has the variable {written!r}, which is not supported")
        exploded = name != written
        if exploded and sign in ("", "+", "#"):
            _fail(text, f"has the list {written!r}, which is supported with / . ; only")
        variables.append(_Variable(name, operator, exploded))
    return _Expression(operator, tuple(variables))


def _split_query(parts: tuple[_Part, ...]) -> tuple[tuple[_Part, ...], list[_Expression]]:
    """Split off the ``{?…}`` at the end, and any ``{&…}`` behind it."""
    query: list[_Expression] = []
    left = list(parts)
    while left and not isinstance(part := left[-1], str):
        if part.operator not in (_OPERATORS["?"], _OPERATORS["&"]):
            break
        query.append(part)
        left.pop()
        if part.operator is _OPERATORS["?"]:
            return tuple(left), query
    return parts, []


def _flatten(parts: Sequence[_Part]) -> Iterator[_Atom]:
    """Yield texts and variables; neighbouring texts are joined."""
    text = ""
    for part in parts:
        if isinstance(part, str):
            text += part
            continue
        for number, variable in enumerate(part.variables):
            operator = part.operator
            text += operator.separator if number else operator.first
            if operator.named and not variable.exploded:
                text += variable.name
            if text:
                yield text
            text = ""
            yield variable
    if text:
        yield text


def _fail(text: str, what: str) -> NoReturn:
    raise ValueError(f"the URI template {text!r} {what}")
