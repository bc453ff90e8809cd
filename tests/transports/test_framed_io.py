"""What readers and writers of all kinds have in common."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from trio_mcp_session.transports import byte_stream, descriptors, threaded_descriptors
from trio_mcp_session.transports.framed_io import FrameReader, FrameWriter

# They are found by their base class, so they have to be imported.
assert all((byte_stream, descriptors, threaded_descriptors))


def classes_below(base: type[Any]) -> Iterator[type[Any]]:
    for one in base.__subclasses__():
        yield one
        yield from classes_below(one)


def test_assigning_to_a_field_of_a_reader_or_writer_runs_no_python_code() -> None:
    found = {one for base in (FrameReader, FrameWriter) for one in classes_below(base)}
    ours = {one for one in found if one.__module__.startswith("trio_mcp_session.")}
    assert len(ours) >= 6
    setters: set[object] = {one.__setattr__ for one in ours}
    assert setters == {object.__setattr__}
