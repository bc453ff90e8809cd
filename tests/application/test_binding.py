from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncContextDecorator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypedDict, TypeVar, cast

import attrs
import msgspec
import pytest

from trio_mcp_session import McpError, RequestContext
from trio_mcp_session.application.binding import bind

from .client import context_of

if TYPE_CHECKING:
    from collections.abc import Sequence as SeenByTypeCheckersOnly

T = TypeVar("T")
Handler = Callable[..., Awaitable[object]]


class Struct(msgspec.Struct):
    a: int
    b: str = "b"


class Renamed(msgspec.Struct, rename="camel"):
    page_size: int


class Box(msgspec.Struct, Generic[T]):
    a: T


@attrs.define
class Attrs:
    a: int = attrs.field(validator=attrs.validators.ge(0))


@dataclass
class Data:
    a: int


class Typed(TypedDict):
    a: int


class Unconvertible:
    pass


async def test_handler_may_take_the_context_alone() -> None:
    context = context_of({})

    async def handler(ctx: RequestContext) -> object:
        return ctx

    assert await bind(handler)(context) is context


async def as_dict(ctx: RequestContext, params: dict[str, Any]) -> object:
    return params


async def as_mapping(ctx: RequestContext, params: Mapping[str, Any]) -> object:
    return params


async def as_any(ctx: RequestContext, params: Any) -> object:
    return params


async def as_object(ctx: RequestContext, params: object) -> object:
    return params


async def as_bare_dict(ctx: RequestContext, params: dict) -> object:  # type: ignore[type-arg]  # this is the test
    return params


async def untyped(ctx, params):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201  # this is the test
    return params


async def variable(*arguments: Any) -> object:
    return arguments[1]


@pytest.mark.parametrize(
    "handler", [as_dict, as_mapping, as_any, as_object, as_bare_dict, untyped, variable]
)
async def test_unannotated_parameters_are_passed_as_sent(handler: Handler) -> None:
    context = context_of({"a": 1, "_meta": {}})
    assert await bind(handler)(context) is context.params


async def as_struct(ctx: RequestContext, params: Struct) -> object:
    return params


async def as_attrs(ctx: RequestContext, params: Attrs) -> object:
    return params


async def as_data(ctx: RequestContext, params: Data) -> object:
    return params


async def as_typed(ctx: RequestContext, params: Typed) -> object:
    return params


async def as_box(ctx: RequestContext, params: Box[int]) -> object:
    return params


async def as_annotated(
    ctx: RequestContext, params: Annotated[Struct, "no more than that"]
) -> object:
    return params


async def as_union(ctx: RequestContext, params: Struct | None) -> object:
    return params


@pytest.mark.parametrize(
    "handler, expected",
    [
        (as_struct, Struct(1)),
        (as_attrs, Attrs(1)),
        (as_data, Data(1)),
        (as_typed, {"a": 1}),
        (as_box, Box(1)),
        (as_annotated, Struct(1)),
        (as_union, Struct(1)),
    ],
)
async def test_parameters_are_converted_to_the_annotation(
    handler: Handler, expected: object
) -> None:
    """Members that no parameter asks for (``_meta`` comes with any request) do not matter."""
    params = await bind(handler)(context_of({"a": 1, "_meta": {}}))
    assert params == expected
    assert type(params) is type(expected)


@pytest.mark.parametrize(
    "handler", [as_struct, as_attrs, as_data, as_typed, as_box, as_annotated, as_union]
)
@pytest.mark.parametrize("params", [{}, {"a": "one"}, {"a": True}])
async def test_parameters_that_do_not_fit_are_invalid_params(
    handler: Handler, params: dict[str, Any]
) -> None:
    with pytest.raises(McpError) as caught:
        await bind(handler)(context_of(params))
    assert caught.value.code == -32602
    assert caught.value.message.startswith("Invalid params: ")


async def test_attrs_validators_reject_parameters() -> None:
    with pytest.raises(McpError, match="must be >= 0") as caught:
        await bind(as_attrs)(context_of({"a": -1}))
    assert caught.value.code == -32602


async def test_renamed_struct_members_are_read() -> None:
    async def handler(ctx: RequestContext, params: Renamed) -> object:
        return params.page_size

    assert await bind(handler)(context_of({"pageSize": 3})) == 3


async def test_validation_error_of_the_handler_is_not_invalid_params() -> None:
    async def handler(ctx: RequestContext, params: Struct) -> object:
        return msgspec.convert({"a": "one"}, Struct)

    with pytest.raises(msgspec.ValidationError):
        await bind(handler)(context_of({"a": 1}))


async def nothing() -> None: ...


async def three(ctx: RequestContext, a: object, b: object) -> None: ...


async def keyword(ctx: RequestContext, *, params: dict[str, Any]) -> None: ...


@pytest.mark.parametrize("handler", [nothing, three, keyword])
def test_handler_with_other_parameters_is_refused(handler: Handler) -> None:
    with pytest.raises(TypeError, match="a handler must take the context"):
        bind(handler)


def test_annotation_that_json_cannot_be_converted_to_is_refused() -> None:
    """It fails where it is written, not at the first request."""

    async def handler(ctx: RequestContext, params: Unconvertible) -> None: ...

    with pytest.raises(TypeError, match="Unconvertible"):
        bind(handler)


class Methods:
    async def method(self, ctx: RequestContext, params: Struct) -> object:
        return params

    async def __call__(self, ctx: RequestContext, params: Struct) -> object:
        return params


async def bound_late(extra: str, ctx: RequestContext, params: Struct) -> object:
    return params


class Counted(AsyncContextDecorator):
    """Its wrapper is written in a module that knows nothing of our names."""

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *_: object) -> None:
        pass


def logged(handler: Handler) -> Handler:
    @functools.wraps(handler)
    async def wrapper(*args: object) -> object:
        return await handler(*args)

    return wrapper


@pytest.mark.parametrize(
    "handler",
    [
        Methods().method,
        Methods(),
        functools.partial(bound_late, "extra"),
        functools.partial(Methods().method),
        pytest.param(logged(as_struct), id="wrapped"),
        pytest.param(Counted()(as_struct), id="wrapped elsewhere"),
    ],
)
async def test_any_callable_can_be_a_handler(handler: Handler) -> None:
    assert await bind(handler)(context_of({"a": 1})) == Struct(1)


async def test_only_needed_annotations_are_evaluated() -> None:
    """Users import what only annotations need inside of ``if TYPE_CHECKING``."""

    async def handler(
        ctx: SeenByTypeCheckersOnly[int], params: Struct
    ) -> SeenByTypeCheckersOnly[int]:
        return cast("SeenByTypeCheckersOnly[int]", params)

    assert await bind(handler)(context_of({"a": 1})) == Struct(1)
