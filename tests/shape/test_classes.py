from __future__ import annotations

import pytest

from .classes import Classes
from .modules import made_up

SESSION = """
from .fields import Fields
from . import speaking

class Session(Fields, speaking.Speaking[int]):
    __slots__ = ("_x",)
    LIMIT = 1
    first, second = 1, 2

    def name(self) -> str:
        self._here = 1
"""
FIELDS = "class Fields:\n    _state: int = 0\n    client: str\n    owner: Session"
SPEAKING = "class Speaking:\n    async def speak(self) -> None: ..."


def session_and(source: str) -> Classes:
    return Classes(
        made_up(
            sessions__session=SESSION,
            sessions__fields="from .session import Session\n" + FIELDS,
            sessions__speaking=SPEAKING,
            sessions__other="from .session import Session\nfrom . import session as s\n" + source,
        )
    )


def assignments(source: str) -> list[str]:
    return sorted(map(str, session_and(source).foreign_assignments()))


def test_a_class_in_three_files_is_a_chain() -> None:
    (chain,) = session_and("class Small(s.Fields): ...").chains()
    assert str(chain) == "sessions.session.Session from sessions.fields, sessions.speaking"
    # LIMIT, name, _here; _state, client, owner; speak
    assert chain.size == (3, 3, 7)


def test_a_chain_is_counted_once_by_the_class_at_its_end() -> None:
    (chain,) = session_and("class Special(Session): ...").chains()
    assert chain.cls.full_name == "sessions.other.Special"


@pytest.mark.parametrize(
    "source",
    [
        "class One(s.Fields): ...",
        "class Base: ...\nclass Two(Base, s.Speaking): ...",
        "class Mine(int, generic()): ...",
    ],
)
def test_a_class_with_bases_in_one_other_file_is_not_a_chain(source: str) -> None:
    assert [chain.cls.name for chain in session_and(source).chains()] == ["Session"]


def test_errors_may_have_bases_in_several_files() -> None:
    modules = made_up(
        core__a="class A(Exception): ...",
        core__b="from .a import A\nclass B(A): ...",
        core__c="from .b import B\nclass C(B): ...",
    )
    assert Classes(modules).chains() == []


@pytest.mark.parametrize(
    "statement",
    [
        "session._state = 1",
        "session._state += 1",
        "other, session._state = 1, 2",
        "if True:\n        session._state = 1",
    ],
)
def test_an_assignment_from_another_module_is_found(statement: str) -> None:
    source = f"def f(session: Session) -> None:\n    {statement}"
    assert assignments(source) == ["Session._state in sessions.other"]


@pytest.mark.parametrize(
    "annotation", ["Session", "s.Session", "Session | None", "None | 'Session'", "Session[int]"]
)
def test_the_class_is_told_from_an_annotation(annotation: str) -> None:
    for source in (
        f"def f(x: {annotation}) -> None:\n    x.client = 1",
        f"def f() -> None:\n    x: {annotation} = g()\n    x.client = 1",
        f"class H:\n    x: {annotation}\n    def f(self) -> None:\n        self.x.client = 1",
        f"class H:\n    x: {annotation}\n    def f(self) -> None:\n        self.x.owner.client = 1",
        f"class H:\n    def x(self) -> {annotation}: ...\n    async def f(self): self.x.client = 1",
    ):
        assert assignments(source) == ["Session.client in sessions.other"]


def test_the_class_is_told_from_a_private_name_of_one_class() -> None:
    assert assignments("for x in y:\n    x._state = 1") == ["Session._state in sessions.other"]
    assert assignments("for x in y:\n    x.client = 1") == []
    assert assignments("f()._state = 1") == ["Session._state in sessions.other"]


def test_a_private_name_of_no_class_or_of_several_is_found_without_one() -> None:
    assert assignments("x._z = 1") == ["?._z in sessions.other"]
    double = "class Twin:\n    _state: int\n"
    assert assignments(f"{double}x._state = 1") == []  # it may be its own
    modules = made_up(a="class A:\n    _x: int", b="class B:\n    _x: int", c="y._x = 1")
    assert list(map(str, Classes(modules).foreign_assignments())) == ["?._x in c"]


@pytest.mark.parametrize(
    "source",
    [
        "class Own:\n    _x: int\ndef f(own: Own) -> None:\n    own._x = 1",
        "class Own:\n    def f(self) -> None:\n        self._x = 1",
        "class Own:\n    @staticmethod\n    def f() -> None: ...",
        "def f(session: Session) -> None:\n    session.client += 1",  # a counter
        "error.__cause__ = None",
        "def f(x: Session | Own) -> None:\n    x.client = 1\nclass Own: ...",
        "def f(x: int | str, y: 3) -> None:\n    x.client = y.client = 1",
        "def f(x: Session) -> None:\n    x.unknown.client = 1",
        "import trio\ndef f(x: trio.Event) -> None:\n    x.client = 1",
    ],
)
def test_other_assignments_are_not_found(source: str) -> None:
    assert assignments(source) == []


def test_the_modules_of_a_chain_assign_its_fields() -> None:
    modules = made_up(
        sessions__session=SESSION,
        sessions__fields=FIELDS + "\ndef f(session: Session) -> None:\n    session._here = 1",
        sessions__speaking=SPEAKING + "\ndef f(x) -> None:\n    x._here = 1",
    )
    assert Classes(modules).foreign_assignments() == {}
