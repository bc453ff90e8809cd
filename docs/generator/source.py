"""Reads classes and functions: their fields, signatures and docstrings, as they are written."""

from __future__ import annotations

import ast
import functools
import inspect
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from math import inf
from types import ModuleType
from typing import Any, Final, NamedTuple

import attrs

from trio_mcp_session import Transport
from trio_mcp_session.core.construction import NoPublicConstructor

from .public import NOT_CALLED, ONLY, PUBLIC

AnyFunction = ast.FunctionDef | ast.AsyncFunctionDef

WIDTH: Final = 88
"""Characters of a signature on one line."""


class Field(NamedTuple):
    """A field, a member of an enumeration, or a property."""

    name: str
    type: str
    default: str
    doc: str


class Callable(NamedTuple):
    """A function or method."""

    name: str
    signatures: list[str]
    doc: str


class Described(NamedTuple):
    """A public name."""

    name: str
    signatures: list[str]
    bases: list[str]
    doc: str
    fields: list[Field]
    methods: list[Callable]


def describe(name: str, value: Any) -> Described:
    """Return what the code says of a public name."""
    if inspect.isclass(value):
        return _describe_class(name, value)
    if inspect.isfunction(value):
        nodes = _functions_of(inspect.unwrap(value))
        doc = inspect.cleandoc(value.__doc__ or "")
        return Described(name, _signatures(nodes, name), [], doc, [], [])
    written, doc = _describe_value(name, value)
    return Described(name, [f"{name} = {written}"], [], doc, [], [])


def meanings(owner: type | ModuleType) -> Mapping[str, str]:
    """Return the documentation under each value of a class or module, by name, on one line."""
    found = {}
    for field, line in pairwise(_parse(owner).body):
        name, _ = _assigned(field)
        if name and (text := _text(line)) is not None:
            found[name] = " ".join(text.split())
    return found


def settings(owner: type) -> list[Field]:
    """Return the fields that the constructor of an attrs class takes."""
    own = {field.name: field for field in _fields(owner)}
    return [own[field.name] for field in attrs.fields(owner) if field.init]


def _describe_class(name: str, owner: type) -> Described:
    fields: dict[str, Field] = {}
    methods: dict[str, Callable] = {}
    for one in reversed(list(_written_in(owner))):
        fields |= {field.name: field for field in _fields(one)}
        for member, nodes in _methods(one).items():
            doc = next((text for node in nodes if (text := ast.get_docstring(node))), "")
            decorators = _decorators(nodes[-1])
            if not doc or "setter" in decorators:
                continue
            if "property" in decorators and "\n    " not in doc:
                type_ = _unparse(nodes[-1].returns)
                fields[member] = Field(member, type_, "", doc)
            else:
                methods[member] = Callable(member, _signatures(nodes, f"{name}.{member}"), doc)
    only = ONLY.get(name)
    return Described(
        name,
        _constructor(name, owner),
        _bases(owner),
        inspect.cleandoc(owner.__doc__ or ""),
        [field for field in fields.values() if only is None or field.name in only],
        [method for method in methods.values() if only is None or method.name in only],
    )


def _written_in(owner: type) -> Iterator[type]:
    """Return a class and those of its bases that belong to the library and are not public."""
    for one in owner.__mro__:
        ours = one.__module__.startswith("trio_mcp_session.")
        if one is owner or (ours and one.__name__ not in PUBLIC):
            yield one


def _bases(owner: type) -> list[str]:
    shown = []
    for one in owner.__bases__:
        if one.__name__ in PUBLIC:
            shown.append(one.__name__)
        elif one.__module__.startswith("trio.") or one.__module__ == "trio":
            shown.append(f"trio.abc.{one.__name__}")
        elif issubclass(one, Exception) and one is not Exception:
            shown.append(one.__name__)
    return shown


def _fields(owner: type) -> list[Field]:
    node = _class_node(owner)
    defaults = {one.name: one for one in attrs.fields(owner)} if attrs.has(owner) else {}
    lines = [*pairwise(node.body)]
    for function in node.body:
        if isinstance(function, ast.FunctionDef) and function.name == "__init__":
            lines += pairwise(function.body)
    found = []
    for field, line in lines:
        name, type_ = _assigned(field)
        doc = _text(line)
        if name and not name.startswith("_") and doc is not None:
            attribute = defaults.get(name)
            shown = "" if attribute is None or not attribute.init else _default(attribute)
            found.append(Field(name, type_, shown, doc))
    return found


def _text(node: ast.stmt) -> str | None:
    """Return the text of a docstring below a value; None for any other line."""
    match node:
        case ast.Expr(ast.Constant(str(text))):
            return inspect.cleandoc(text)
        case _:
            return None


def _assigned(node: ast.stmt) -> tuple[str, str]:
    match node:
        case ast.AnnAssign(
            target=ast.Name(name) | ast.Attribute(ast.Name("self"), name), annotation=annotation
        ):
            return name, _unparse(annotation)
        case ast.Assign(targets=[ast.Name(name) | ast.Attribute(ast.Name("self"), name)]):
            return name, ""
        case _:
            return "", ""


def _methods(owner: type) -> dict[str, list[AnyFunction]]:
    found: dict[str, list[AnyFunction]] = {}
    for node in _class_node(owner).body:
        if isinstance(node, AnyFunction) and not node.name.startswith("_"):
            found.setdefault(node.name, []).append(node)
    return found


def _constructor(name: str, owner: type) -> list[str]:
    if isinstance(owner, NoPublicConstructor) or name in NOT_CALLED or name in ONLY:
        return []
    if attrs.has(owner):
        types = {field.name: field.type for one in owner.__mro__[:-1] for field in _typed(one)}
        parts: list[str] = []
        for field in attrs.fields(owner):
            if not field.init:
                continue
            if field.kw_only and "*" not in parts:
                parts.append("*")
            shown = f"{field.alias}: {types.get(field.name, 'Any')}"
            parts.append(shown if not _default(field) else f"{shown} = {_default(field)}")
        return [_layout(name, parts, "")]
    nodes = [
        node
        for node in _class_node(owner).body
        if isinstance(node, AnyFunction) and node.name == "__init__"
    ]
    if not nodes:
        return []
    entered = [
        _unparse(node.returns)
        for node in _class_node(owner).body
        if isinstance(node, AnyFunction) and node.name == "__aenter__"
    ]
    if entered and name.islower():
        return [
            f"async with {_layout(name, _parameters(node), '')} as {entered[0]}" for node in nodes
        ]
    return [_layout(name, _parameters(node), "") for node in _overloads(nodes)]


def _typed(owner: type) -> list[Field]:
    """Return the names and types of all annotated fields of a class, documented or not."""
    if not owner.__module__.startswith("trio_mcp_session."):
        return []
    fields = [_assigned(node) for node in _class_node(owner).body]
    return [Field(name, type_, "", "") for name, type_ in fields if name and type_]


def _signatures(nodes: list[AnyFunction], name: str) -> list[str]:
    shown = []
    for node in _overloads(nodes):
        decorators = _decorators(node)
        returns = _unparse(node.returns)
        # A function that makes an ``async with`` block is annotated with what iterates.
        made = returns.partition("[")[2][:-1].removesuffix(", None")
        block = returns.partition("[")[0]
        if "property" in decorators:
            shown.append(f"{name}: {returns}")
            continue
        call = _layout(name, _parameters(_with_defaults(node, nodes[-1]), method="." in name), "")
        if "asynccontextmanager" in decorators or block == "AbstractAsyncContextManager":
            shown.append(f"async with {call} as {made}")
        elif "contextmanager" in decorators or block == "AbstractContextManager":
            shown.append(f"with {call} as {made}")
        elif isinstance(node, ast.AsyncFunctionDef) and not returns.startswith("AsyncIterator"):
            shown.append(f"await {call} -> {returns}")
        else:
            shown.append(f"{call} -> {returns}")
    return [text.replace(" as None", "") for text in shown]


def _with_defaults(overload: AnyFunction, function: AnyFunction) -> AnyFunction:
    """Return an overload with the defaults of the function, where it only says ``...``."""
    names = [one.arg for one in function.args.kwonlyargs]
    defaults = dict(zip(names, function.args.kw_defaults, strict=True))
    for number, argument in enumerate(overload.args.kwonlyargs):
        default = overload.args.kw_defaults[number]
        if isinstance(default, ast.Constant) and default.value is ...:
            overload.args.kw_defaults[number] = defaults[argument.arg]
    return overload


def _overloads(nodes: list[AnyFunction]) -> list[AnyFunction]:
    overloads = [node for node in nodes if "overload" in _decorators(node)]
    return overloads or nodes[-1:]


def _parameters(node: AnyFunction, *, method: bool = True) -> list[str]:
    arguments = node.args
    plain = [*arguments.posonlyargs, *arguments.args]
    missing = len(plain) - len(arguments.defaults)
    defaults: list[ast.expr | None] = [*[None] * missing, *arguments.defaults]
    parts = [_parameter(one, default) for one, default in zip(plain, defaults, strict=True)]
    if len(arguments.posonlyargs) > method:  # more than ``self``
        parts.insert(len(arguments.posonlyargs), "/")
    if method and "staticmethod" not in _decorators(node):
        parts = parts[1:]
    if arguments.vararg is not None:
        parts.append(f"*{_parameter(arguments.vararg, None)}")
    elif arguments.kwonlyargs:
        parts.append("*")
    for one, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        parts.append(_parameter(one, default))
    if arguments.kwarg is not None:
        parts.append(f"**{_parameter(arguments.kwarg, None)}")
    return parts


def _parameter(argument: ast.arg, default: ast.expr | None) -> str:
    type_ = "" if argument.annotation is None else f": {_unparse(argument.annotation)}"
    if default is None:
        return f"{argument.arg}{type_}"
    shown = _unparse(default)
    # A value that only marks "not given" says nothing to a reader.
    shown = "..." if shown.startswith("_") or shown.endswith("UNSET") else shown
    return f"{argument.arg}{type_} = {shown}"


def _layout(name: str, parts: list[str], end: str) -> str:
    line = f"{name}({', '.join(parts)}){end}"
    if len(line) <= WIDTH - 20:
        return line
    return "\n".join([f"{name}(", *(f"    {part}," for part in parts), f"){end}"])


def _default(attribute: attrs.Attribute[Any]) -> str:
    """Return the default of a field as it would be written; nothing if there is none."""
    default: Any = attribute.default
    if default is attrs.NOTHING:
        return ""
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        made = default.factory
        made = getattr(made, "__origin__", made)
        return {dict: "{}", list: "[]"}.get(made, f"{made.__name__}()")
    if isinstance(default, str):
        return f'"{default}"'
    if isinstance(default, int) and not isinstance(default, bool):
        return f"{default:_}"
    if isinstance(default, float):
        return "math.inf" if default == inf else f"{default:g}"
    return getattr(default, "__name__", str(default))


def _describe_value(name: str, value: Any) -> tuple[str, str]:
    """Return how an exported value is written in the module that defines it, and its docstring."""
    for module in list(sys.modules.values()):
        named = module.__name__.startswith("trio_mcp_session.")
        if not named or vars(module).get(name) is not value:
            continue
        for node, line in pairwise(_parse(module).body):
            doc = _text(line)
            if _assigned(node)[0] == name and doc is not None and node.value is not None:
                written = _unparse(node.value)
                return written if len(written) <= 4 * WIDTH else "...", doc
    raise LookupError(f"{name} has no docstring below its definition")


@functools.cache
def _parse(owner: type | ModuleType) -> Any:
    tree = ast.parse(textwrap.dedent(inspect.getsource(owner)))
    module = owner if isinstance(owner, ModuleType) else sys.modules[owner.__module__]
    for node in ast.walk(tree):
        if isinstance(node, ast.arguments):
            node.defaults = [_resolve(one, vars(module)) for one in node.defaults]
            node.kw_defaults = [
                None if one is None else _resolve(one, vars(module)) for one in node.kw_defaults
            ]
    if isinstance(owner, ModuleType):
        return tree
    return next(node for node in tree.body if isinstance(node, ast.ClassDef))


def _resolve(default: ast.expr, names: Mapping[str, Any]) -> ast.expr:
    """Return the value of a default that names a constant of its module: the name says nothing."""
    match default:
        case ast.Name(name):
            value = names.get(name)
        case ast.Attribute(ast.Name(owner), name):
            value = getattr(names.get(owner), name, None)
        case _:
            return default
    if isinstance(value, Transport):
        return ast.parse(f'Transport("{value.name}")', mode="eval").body
    return ast.Constant(value) if isinstance(value, (str, int)) else default


def _class_node(owner: type) -> ast.ClassDef:
    node: ast.ClassDef = _parse(owner)
    return node


def _functions_of(function: Any) -> list[AnyFunction]:
    """Return all definitions of a function: its overloads too, if it has some."""
    module = sys.modules[function.__module__]
    return [
        node
        for node in _parse(module).body
        if isinstance(node, AnyFunction) and node.name == function.__name__
    ]


def _decorators(node: AnyFunction) -> set[str]:
    names: Iterable[ast.expr] = (
        one.func if isinstance(one, ast.Call) else one for one in node.decorator_list
    )
    return {ast.unparse(one).rpartition(".")[2] for one in names}


def _unparse(node: ast.expr | None) -> str:
    if node is None:
        return "None"
    text = ast.unparse(node)
    if '"' not in text:
        text = text.replace("'", '"')
    for wrapper in ("Final[", "ClassVar["):
        if text.startswith(wrapper):
            text = text[len(wrapper) : -1]
    return "" if text == "Final" else text
