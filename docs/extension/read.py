"""Reading what classes say of themselves. Pure: imports nothing but what it reads."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterable, Mapping
from itertools import pairwise
from math import inf
from types import ModuleType
from typing import Any, NamedTuple

import attrs


class Setting(NamedTuple):
    """One field of a class of settings."""

    name: str
    default: str
    meaning: str


def meanings(owner: type | ModuleType) -> Mapping[str, str]:
    """Return the line of documentation under each value of a class or module, by name."""
    body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
    if isinstance(owner, type):
        body = next(node.body for node in body if isinstance(node, ast.ClassDef))
    found = {}
    for field, line in pairwise(body):
        match field, line:
            case (
                ast.AnnAssign(target=ast.Name(name)) | ast.Assign(targets=[ast.Name(name)]),
                ast.Expr(ast.Constant(str(text))),
            ):
                found[name] = " ".join(inspect.cleandoc(text).split())
    return found


def settings(owner: type) -> list[Setting]:
    """Return the fields of an attrs class, with what they are if nobody says otherwise."""
    texts = meanings(owner)
    return [
        Setting(field.name, _show(field.default), texts.get(field.name, ""))
        for field in attrs.fields(owner)
        if field.init
    ]


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table in Markdown."""
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def error_tree(errors: Iterable[type[Exception]]) -> str:
    """Return exceptions as nested lists in Markdown, each below its base."""
    classes = list(errors)

    def below(base: type, indent: str) -> Iterable[str]:
        for one in classes:
            if one.__base__ is base:
                first, *_ = inspect.cleandoc(one.__doc__ or "").split("\n\n")
                yield f"{indent}- `{one.__name__}`: {' '.join(first.split())}"
                yield from below(one, indent + "  ")

    return "\n".join(below(Exception, ""))


def with_defaults(owner: type, signature: str) -> str:
    """Return the signature of an attrs class, with its defaults as they are written."""
    fields = {field.alias: field for field in attrs.fields(owner)}

    def show(match: re.Match[str]) -> str:
        return f"{match[1]}{match[2]} = {_show(fields[match[1]].default)}"

    brackets = r"\[(?:[^\[\]]|\[[^\[\]]*\])*\]"
    annotation = rf"(?:[^=,\[\]]|{brackets})+?"
    default = r"(?:attr_dict\['\w+'\]\.default|NOTHING)"
    return re.sub(rf"(\w+)(: {annotation}) = {default}", show, signature)


def _show(default: Any) -> str:
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        made = default.factory
        return "{}" if made is dict else f"{made.__name__}()"
    if isinstance(default, str):
        return repr(default)
    if isinstance(default, int) and not isinstance(default, bool):
        return f"{default:_}"
    if isinstance(default, float):
        return "math.inf" if default == inf else f"{default:g}"
    return getattr(default, "__name__", str(default))
