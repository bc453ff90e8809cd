from __future__ import annotations

from .circles import circles
from .modules import Import, imports, made_up


def test_modules_that_import_each_other_are_one_circle() -> None:
    arrows = ["a b", "b c", "c a", "c d", "d e", "e d", "e f"]
    found = [Import(source, target) for source, target in map(str.split, arrows)]
    assert circles(found) == [("a", "b", "c"), ("d", "e")]


def test_imports_for_type_checkers_close_a_circle() -> None:
    modules = made_up(
        sessions__a="from .b import B",
        sessions__b="if TYPE_CHECKING:\n    from .a import A",
        sessions__c="from .b import B",
    )
    assert circles(imports(modules)) == [("sessions.a", "sessions.b")]


def test_a_module_that_imports_itself_or_other_packages_is_not_in_a_circle() -> None:
    found = [Import("a", "a"), Import("a", "trio", inside=False)]
    assert circles(found) == []
