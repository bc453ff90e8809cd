from __future__ import annotations

from abc import abstractmethod

import attrs
import pytest

from trio_mcp_session.core.construction import NoPublicConstructor


@attrs.define
class Thing(metaclass=NoPublicConstructor):
    size: int
    colour: str = "red"


class Special(Thing):
    pass


class Unfinished(metaclass=NoPublicConstructor):
    @abstractmethod
    def finish(self) -> None: ...


@pytest.mark.parametrize("one", [Thing, Special])
def test_class_without_public_constructor_raises(one: type[Thing]) -> None:
    with pytest.raises(TypeError, match=rf"{__name__}\.{one.__name__} has no public constructor"):
        one(1)
    made = one._create(1, colour="blue")
    assert type(made) is one
    assert (made.size, made.colour) == (1, "blue")


def test_create_checks_its_arguments() -> None:
    with pytest.raises(TypeError):
        Thing._create()


def test_abstract_class_cannot_be_created() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Unfinished._create()
