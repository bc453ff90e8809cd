"""Results of tools: from a function's return value to the result of ``tools/call``.

The return annotation gives the output schema (from 2025-06-18 on). An object is the structured
content itself; any other type is the member ``result`` of one, as the official Python SDK does it.
Contents, and results that a tool writes itself, have no schema.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias, Union, cast, final, get_args, get_origin

import attrs
import msgspec

from ..protocol.jsonrpc import encode_json, is_object
from .annotations import translate
from .content import Content, ToolResult, as_content, is_content
from .conversion import convert, inline, schema_of, to_json
from .question_types import InputRequired

if TYPE_CHECKING:
    from ..protocol.revisions import Revision

Result: TypeAlias = dict[str, Any]
"""The result of ``tools/call``."""

_NOT_DATA: Final = (*get_args(Content), ToolResult, InputRequired)
_NO_SCHEMA: Final = (inspect.Signature.empty, Any, object, None, type(None))


class OutputInvalid(TypeError):
    """A tool returned a value that its return annotation does not allow."""


@final
@attrs.frozen(kw_only=True, eq=False)
class Output:
    """What one tool returns."""

    schema: Mapping[str, Any] | None
    """The JSON schema of its structured content; None for a tool without."""

    _kind: Any = attrs.field(alias="kind")
    _wrapped: bool = attrs.field(alias="wrapped")

    @classmethod
    def of(
        cls,
        returns: Any,
        what: str,
        *,
        structured: bool | None = None,
        inline_references: bool = False,
    ) -> Output:
        """Read a return annotation.

        Args:
            returns: The annotation; `inspect.Signature.empty` without one.
            what: The function, for error messages.
            structured: Whether the tool has structured content; by default if the annotation
                allows it.
            inline_references: Whether the schema must have no ``$ref``.

        Raises:
            TypeError: Structured content is wanted, and the annotation does not allow it.
        """
        kind = _data_of(returns)
        if structured is False or kind in _NO_SCHEMA or _has_content(kind):
            if structured:
                raise TypeError(f"{what} needs a return annotation for structured content")
            return cls(schema=None, kind=None, wrapped=False)
        try:
            kind = translate(kind)
            schema = schema_of(kind)
        except TypeError as error:
            if structured is None:  # Any value that encodes to JSON may be returned as text.
                return cls(schema=None, kind=None, wrapped=False)
            raise TypeError(f"{what}: the return annotation has no JSON schema: {error}") from error
        wrapped = schema.get("type") != "object"
        if wrapped:
            schema = schema_of(msgspec.defstruct("output", [("result", kind)]))
            schema.pop("title", None)
        return cls(
            schema=inline(schema) if inline_references else schema, kind=kind, wrapped=wrapped
        )

    def write(self, returned: object, revision: Revision) -> Result:
        """Return the result for a return value. Not a checkpoint.

        Raises:
            OutputInvalid: The value does not fit the return annotation.
            TypeError: The value does not encode to JSON.
        """
        value = returned  # The checks below narrow the type of the other name.
        if isinstance(returned, str):  # First: most tools return text.
            text = str.__str__(returned)  # A plain ``str``, also where it is of a subclass.
            result: Result = {"content": [{"type": "text", "text": text}]}
            if self.schema is None:
                return result
            if self._kind is str and revision.structured_content:
                result["structuredContent"] = {"result": text}  # It needs no check.
                return result
            return self._with_data(result, text, revision)
        if isinstance(returned, ToolResult):
            return self._check_own(returned).write(revision)
        if is_content(returned):
            return {"content": [cast("Content", returned).write(revision)]}
        if isinstance(returned, (list, tuple)):
            parts = cast("Sequence[Content | str]", returned)
            if any(map(is_content, parts)):
                return {"content": [as_content(part).write(revision) for part in parts]}
        if returned is None and self.schema is None:
            return {"content": []}
        data = to_json(value)
        text = encode_json(data).decode()
        return self._with_data({"content": [_text(text)]}, data, revision)

    def _with_data(self, result: Result, value: Any, revision: Revision) -> Result:
        """Add the structured content to a result."""
        data: Any = None
        if self.schema is not None:
            data = self._check(value)
        elif is_object(value):  # Without an annotation an object is structured content, too.
            data = value
        if data is not None and revision.structured_content:
            result["structuredContent"] = data
        return result

    def _check(self, value: Any) -> Any:
        try:
            convert(value, self._kind)
        except msgspec.ValidationError as error:
            raise OutputInvalid(f"the return value does not fit its annotation: {error}") from error
        return {"result": value} if self._wrapped else value

    def _check_own(self, result: ToolResult) -> ToolResult:
        if self.schema is None or result.is_error or result.structured_content is None:
            return result
        data = self._check(to_json(result.structured_content))
        return attrs.evolve(result, structured_content=data)


def _data_of(returns: Any) -> Any:
    """Return what is data in an annotation: not questions, and not a result written by hand."""
    if get_origin(returns) not in (Union, types.UnionType):
        return None if returns in _NOT_DATA else returns
    left = tuple(one for one in get_args(returns) if one not in (ToolResult, InputRequired))
    return Union[left] if left else None  # noqa: UP007  # the types are known at run time only


def _has_content(kind: Any) -> bool:
    """Return whether an annotation allows contents: such results have no schema."""
    return kind in _NOT_DATA or any(map(_has_content, get_args(kind)))


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}
