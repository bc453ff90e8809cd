"""The classes of the package: in how many files each is, and where its fields are assigned."""

from __future__ import annotations

import ast
import builtins
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final

import attrs

from .modules import Module, import_statements, inner_name, targets

FUNCTIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef)


@attrs.frozen(eq=False)
class Class:
    """A class at the top of a module."""

    name: str
    module: str
    node: ast.ClassDef = attrs.field(repr=False)

    @property
    def full_name(self) -> str:
        """Module and name."""
        return f"{self.module}.{self.name}"

    def members(self) -> dict[str, ast.expr | None]:
        """Return what its body defines, with annotations: of a function, what it returns."""
        found: dict[str, ast.expr | None] = {}
        for statement in self.node.body:
            if isinstance(statement, FUNCTIONS):
                found.setdefault(statement.name, statement.returns)
            elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                found[statement.target.id] = statement.annotation
            elif isinstance(statement, ast.Assign):
                for target in statement.targets:
                    if isinstance(target, ast.Name) and target.id != "__slots__":
                        found[target.id] = None
        return found

    def fields(self) -> set[str]:
        """Return the names of what it defines or assigns to ``self``."""
        own = {
            node.attr
            for node in ast.walk(self.node)
            if isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name)
            and node.value.id in {"self", "cls"}
        }
        return own | self.members().keys()


@attrs.frozen
class Chain:
    """A class that is assembled from classes in at least two other files."""

    cls: Class
    parts: tuple[Class, ...]
    """The classes of the package that it inherits from."""

    def __str__(self) -> str:
        others = sorted({part.module for part in self.parts} - {self.cls.module})
        return f"{self.cls.full_name} from {', '.join(others)}"

    @property
    def size(self) -> tuple[int, int, int]:
        """The numbers of files, classes and members."""
        whole = [self.cls, *self.parts]
        members = {name for one in whole for name in one.fields()}
        return len({one.module for one in whole}), len(whole), len(members)


@attrs.frozen(order=True)
class Assignment:
    """A field of a class that a module assigns, which is not one of the class's own."""

    owner: str
    """The name of the class; a question mark where several or none have such a field."""
    field: str
    module: str

    def __str__(self) -> str:
        return f"{self.owner}.{self.field} in {self.module}"


class Classes:
    """All classes of some modules, and what their names mean in each module."""

    def __init__(self, modules: Mapping[str, Module]) -> None:
        self._modules = modules
        self._names: dict[str, dict[str, tuple[str, str | None]]] = {}
        self.found: dict[tuple[str, str], Class] = {}
        for module in modules.values():
            names = self._names[module.name] = {}
            for statement, _ in import_statements(module.tree):
                for local, target, name in targets(module, statement, modules):
                    inner = inner_name(target)
                    if inner is not None:
                        names[local] = inner, name
            for node in module.tree.body:
                if isinstance(node, ast.ClassDef):
                    self.found[module.name, node.name] = Class(node.name, module.name, node)
        self._ancestors = {one: list(self._find_ancestors(one)) for one in self.found.values()}
        self._owners: dict[str, list[Class]] = {}
        for one in self.found.values():
            for field in one.fields():
                self._owners.setdefault(field, []).append(one)

    def meant(self, module: str, expression: ast.expr | None) -> Class | None:
        """Return the one class of the package that an annotation or a base names, if it is one."""
        if expression is None:
            return None
        if isinstance(expression, ast.Constant) and isinstance(expression.value, str):
            expression = ast.parse(expression.value, mode="eval").body
        if isinstance(expression, ast.Subscript):  # an argument of a container is not the value
            expression = expression.value
        if isinstance(expression, ast.BinOp):
            sides = [self.meant(module, expression.left), self.meant(module, expression.right)]
            known = [side for side in sides if side is not None]
            return known[0] if len(known) == 1 else None
        if isinstance(expression, ast.Attribute) and isinstance(expression.value, ast.Name):
            where, inner = self._names[module].get(expression.value.id, ("", ""))
            return self.found.get((where, expression.attr)) if inner is None else None
        if isinstance(expression, ast.Name):
            where, name = self._names[module].get(expression.id, (module, expression.id))
            return self.found.get((where, name or ""))
        return None

    def _find_ancestors(self, cls: Class) -> Iterator[Class]:
        for base in cls.node.bases:
            parent = self.meant(cls.module, base)
            if parent is not None:
                yield parent
                yield from self._find_ancestors(parent)

    def _is_error(self, cls: Class) -> bool:
        return any(
            isinstance(found := getattr(builtins, ast.unparse(base), None), type)
            and issubclass(found, BaseException)
            for one in (cls, *self._ancestors[cls])
            for base in one.node.bases
        )

    def chains(self) -> list[Chain]:
        """Return the chains, each by the class at its end; errors may be sorted as they are."""
        found = []
        for cls, ancestors in self._ancestors.items():
            parts = tuple(dict.fromkeys(ancestors))
            files = {part.module for part in parts} - {cls.module}
            if len(files) > 1 and not self._is_error(cls):
                found.append(Chain(cls, parts))
        inner = {part for chain in found for part in chain.parts}
        return sorted((chain for chain in found if chain.cls not in inner), key=str)

    def _whole(self, cls: Class) -> Class:
        """Return the class that a part belongs to, where it is a part of one class only."""
        heirs = [one for one, ancestors in self._ancestors.items() if cls in ancestors]
        last = [one for one in heirs if not any(one in self._ancestors[other] for other in heirs)]
        return last[0] if len(last) == 1 else cls

    def _own_modules(self, cls: Class) -> set[str]:
        return {one.module for one in (cls, *self._ancestors[cls])}

    def _annotation(self, cls: Class, field: str) -> Class | None:
        for one in (cls, *self._ancestors[cls]):
            if field in (members := one.members()):
                return self.meant(one.module, members[field])
        return None

    def _type(
        self, module: str, expression: ast.expr, names: Mapping[str, Class | None]
    ) -> Class | None:
        if isinstance(expression, ast.Name):
            return names.get(expression.id)
        if isinstance(expression, ast.Attribute):
            holder = self._type(module, expression.value, names)
            return None if holder is None else self._annotation(holder, expression.attr)
        return None

    def foreign_assignments(self) -> Counter[Assignment]:
        """Return the assignments to fields from outside of their class's modules.

        Which class it is, is told from annotations, else from the name of the field, if it is
        private and of one class only.
        """
        found: Counter[Assignment] = Counter()
        for module in self._modules.values():
            for target, names in _stores(module.tree, self, module.name):
                cls = self._type(module.name, target.value, names)
                if cls is None and target.attr.startswith("_"):
                    wholes = {self._whole(one) for one in self._owners.get(target.attr, ())}
                    here = any(module.name in self._own_modules(one) for one in wholes)
                    if len(wholes) != 1 and not here:
                        found[Assignment("?", target.attr, module.name)] += 1
                    cls = wholes.pop() if len(wholes) == 1 else None
                if cls is not None:
                    whole = self._whole(cls)
                    if module.name not in self._own_modules(whole):
                        found[Assignment(whole.name, target.attr, module.name)] += 1
        return found


def _stores(
    node: ast.AST,
    classes: Classes,
    module: str,
    names: Mapping[str, Class | None] = {},
    around: Class | None = None,
) -> Iterator[tuple[ast.Attribute, Mapping[str, Class | None]]]:
    """Yield the attributes that are assigned, with the classes of the names around them.

    Without public fields that are counted up: that is what a counter is for.
    """
    for child in ast.iter_child_nodes(node):
        inner, cls = names, around
        if isinstance(child, ast.ClassDef):
            cls = classes.found.get((module, child.name))
        elif isinstance(child, FUNCTIONS):
            arguments = [*child.args.posonlyargs, *child.args.args, *child.args.kwonlyargs]
            inner = {
                **names,
                **{one.arg: classes.meant(module, one.annotation) for one in arguments},
                **{
                    one.target.id: classes.meant(module, one.annotation)
                    for one in ast.walk(child)
                    if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)
                },
            }
            if arguments and arguments[0].arg in {"self", "cls"}:
                inner["self"] = inner["cls"] = cls
        elif isinstance(child, ast.Attribute) and isinstance(child.ctx, ast.Store):
            its_own = isinstance(child.value, ast.Name) and child.value.id in {"self", "cls"}
            counted = isinstance(node, ast.AugAssign) and not child.attr.startswith("_")
            if not its_own and not counted and not child.attr.startswith("__"):
                yield child, names
        yield from _stores(child, classes, module, inner, cls)
