from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given, strategies as st

from trio_mcp_session.core.byte_budget import FREE, ByteBudget
from trio_mcp_session.protocol.framing import BadFrame, Frame, LineDecoder, Loss
from trio_mcp_session.protocol.unread_messages import SCANNED

MAX = 8

pieces = st.lists(
    st.one_of(
        st.sampled_from([b"\n", b"\r\n", b"\r", b"\n\n", b"x" * MAX, b"x" * (MAX + 1)]),
        st.binary(max_size=2 * MAX),
    ),
    max_size=12,
)


def decode(*chunks: bytes, max_size: int = MAX) -> list[Frame]:
    decoder = LineDecoder(max_size)
    frames = list(itertools.chain.from_iterable(map(decoder.feed, chunks)))
    return frames + decoder.close()


def model(data: bytes) -> list[Frame]:
    """The same, by looking at the whole."""
    *lines, rest = data.split(b"\n")
    stripped = [line.removesuffix(b"\r") for line in lines]
    frames: list[Frame] = [
        line if len(line) <= MAX else BadFrame(Loss.TOO_LONG) for line in stripped if line
    ]
    if len(rest) > MAX + rest.endswith(b"\r"):
        frames.append(BadFrame(Loss.TOO_LONG))
    elif rest not in (b"", b"\r"):
        frames.append(BadFrame(Loss.TRUNCATED))
    return frames


@given(pieces)
@example([b"x" * MAX, b"\r", b"\n"])
@example([b"x" * MAX, b"\r", b"x", b"\n", b"y\n"])
@example([b"x" * MAX, b"\r", b"\r", b"\n", b"y\n"])
def test_any_split_gives_the_frames_of_the_whole(chunks: list[bytes]) -> None:
    whole = b"".join(chunks)
    expected = model(whole)
    assert decode(whole) == expected
    assert decode(*chunks) == expected
    assert decode(*(whole[i : i + 1] for i in range(len(whole)))) == expected


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
def test_the_limit_is_exact(ending: bytes) -> None:
    fits = b"x" * MAX
    assert decode(fits + ending) == [fits]
    assert decode(fits, ending) == [fits]
    assert decode(fits + b"x" + ending + b"y\n") == [BadFrame(Loss.TOO_LONG), b"y"]
    assert decode(fits, b"x" + ending, b"y\n") == [BadFrame(Loss.TOO_LONG), b"y"]


def test_splits_at_newlines_only() -> None:
    line = "a\u2028b\x0bc\x0cd\x85e\rf\x00".encode()
    assert decode(line + b"\n" + line + b"\r\n", max_size=100) == [line, line]


def test_only_one_carriage_return_belongs_to_the_ending() -> None:
    assert decode(b"a\r\r\n\r\n\r\r\n") == [b"a\r", b"\r"]


def test_empty_lines_are_skipped() -> None:
    assert decode(b"\n\r\n\n", b"\n", b"a\n\n", b"\r", b"\n") == [b"a"]
    assert decode(b" \n") == [b" "]


def test_a_line_that_is_too_long_is_reported_once_and_with_its_ends() -> None:
    decoder = LineDecoder(MAX)
    assert decoder.feed(b"a\nfirst" + b"x" * MAX) == [b"a"]
    for _ in range(1000):
        assert decoder.feed(b"y" * 1000) == []
        assert not decoder._pending
        assert decoder._skipped is not None
        assert max(map(len, decoder._skipped[1:])) <= SCANNED
    frame, b = decoder.feed(b"last\nb\nc")
    assert (frame, b) == (BadFrame(Loss.TOO_LONG), b"b")
    assert isinstance(frame, BadFrame)
    assert frame.head == b"first" + b"x" * MAX
    assert frame.tail == b"y" * (SCANNED - 4) + b"last"
    assert decoder.feed(b"\n") == [b"c"]
    assert decoder.close() == []


def test_a_line_that_is_too_long_and_cut_short_is_reported_once() -> None:
    decoder = LineDecoder(MAX)
    assert decoder.feed(b"x" * 2 * MAX) == []
    (frame,) = decoder.close()
    assert frame == BadFrame(Loss.TOO_LONG)
    assert decoder.close() == []


@pytest.mark.parametrize(
    "data, frames",
    [
        (b"", []),
        (b"\r", []),
        (b"a\n", [b"a"]),
        (b"a\nb", [b"a", BadFrame(Loss.TRUNCATED)]),
        (b"\r\r", [BadFrame(Loss.TRUNCATED)]),
        (b"x" * 100, [BadFrame(Loss.TOO_LONG)]),
    ],
)
def test_the_end_of_the_stream_marks_a_partial_frame_as_truncated(
    data: bytes, frames: list[Frame]
) -> None:
    assert decode(data) == frames


def test_a_decoder_starts_afresh_after_its_end() -> None:
    decoder = LineDecoder(MAX)
    for leftover in (b"a", b"x" * 100):
        decoder.feed(leftover)
        decoder.close()
        assert decoder.feed(b"b\n") == [b"b"]


@pytest.mark.parametrize("size", [7, 65536])
def test_a_long_line_in_small_pieces(size: int) -> None:
    line = bytes(5 * 2**20 if size > 7 else 2**18)
    chunks = (line[i : i + size] for i in range(0, len(line), size))
    assert decode(*chunks, b"\n", max_size=len(line)) == [line]


# The budget of what has come of a line.


class Session:
    def __init__(self, limit: int) -> None:
        self.budget = ByteBudget("session", limit)

    def _byte_budget(self) -> ByteBudget:
        return self.budget


def counting(limit: int, *, max_size: int = 100_000) -> tuple[LineDecoder, ByteBudget]:
    decoder = LineDecoder(max_size)
    session = Session(limit)
    decoder.count_for(session)
    return decoder, session.budget


def test_a_line_counts_from_some_size_on_until_it_is_complete() -> None:
    decoder, budget = counting(10_000)
    assert decoder.feed(b"x" * FREE) == []
    assert budget.held == 0
    assert decoder.feed(b"x") == []
    assert budget.held == 1
    assert decoder.feed(b"x" * 9_999) == []
    assert budget.held == 10_000
    assert decoder.feed(b"\ny") == [b"x" * (FREE + 10_000)]
    assert budget.held == 0


def test_a_line_without_room_is_dropped_and_the_next_one_follows() -> None:
    decoder, budget = counting(10_000)
    assert decoder.feed(b"x" * (FREE + 10_000)) == []
    assert decoder.feed(b"y") == []
    assert budget.held == 0
    assert decoder.feed(b"z" * 200_000) == []
    frame, following = decoder.feed(b"end\nnext\n")
    assert (frame, following) == (BadFrame(Loss.NO_ROOM), b"next")
    assert isinstance(frame, BadFrame)
    assert frame.head == b"x" * SCANNED
    assert frame.tail == b"z" * (SCANNED - 3) + b"end"
    assert budget.held == 0


def test_a_line_without_room_that_is_cut_short_is_reported_once() -> None:
    decoder, budget = counting(10_000)
    assert decoder.feed(b"x" * (FREE + 10_001)) == []
    assert decoder.close() == [BadFrame(Loss.NO_ROOM)]
    assert decoder.close() == []
    assert budget.held == 0


def test_a_line_that_is_too_long_or_cut_short_counts_no_longer() -> None:
    decoder, budget = counting(2**30, max_size=10_000)
    assert decoder.feed(b"x" * 10_000) == []
    assert budget.held == 10_000 - FREE
    assert decoder.feed(b"x") == []
    assert budget.held == 0
    assert decoder.feed(b"\n" + b"x" * 9_000) == [BadFrame(Loss.TOO_LONG)]
    assert budget.held == 9_000 - FREE
    assert decoder.close() == [BadFrame(Loss.TRUNCATED)]
    assert budget.held == 0
