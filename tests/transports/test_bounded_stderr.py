"""Standard error that nothing reads: in processes, and its writer by itself."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from trio_mcp_session.transports import bounded_stderr as module
from trio_mcp_session.transports.bounded_stderr import (
    OutputWriter,
    bounded_stderr,
    install,
    installed_writer,
)

LINES = "for number in range(5_000): print('x' * 99, file=sys.stderr)\n"
"""Half a megabyte: a pipe takes 64 KiB."""


def buffered() -> dict[str, str]:
    """The environment, without the setting that turns buffers off."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


def run(
    program: str, *, unread: bool = False, redirect: str = "", unbuffered: bool = False
) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end; with ``unread``, its standard error is read after it has ended."""
    text = "import logging, os, sys, time\n" + textwrap.dedent(program)
    environment = buffered() | ({"PYTHONUNBUFFERED": "1"} if unbuffered else {})
    command = ["/bin/sh", "-c", f'exec "$@" {redirect}', "sh", sys.executable, "-c", text]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            if unread:
                process.wait(timeout=50)
            out, err = process.communicate(timeout=50)
        finally:
            process.kill()
    return subprocess.CompletedProcess(command, process.returncode, out, err)


INSTALL = "from trio_mcp_session.transports.bounded_stderr import *\ninstall(2)\n"


@pytest.mark.parametrize("unbuffered", [False, True])
def test_a_program_whose_standard_error_is_not_read_ends(unbuffered: bool) -> None:
    result = run(INSTALL + 4 * LINES + "print('done')", unread=True, unbuffered=unbuffered)
    assert (result.returncode, result.stdout) == (0, b"done\n")
    assert set(result.stderr.split(b"\n")[:-1]) <= {b"x" * 99, b"x" * (len(result.stderr) % 100)}


def test_handlers_of_logging_that_were_made_before_are_included() -> None:
    program = """
    handler = logging.StreamHandler()
    logging.basicConfig(handlers=[handler])
    {}
    for _ in range(20_000): logging.error("x" * 99)
    print("done", handler.stream is sys.stderr)
    """
    program = textwrap.dedent(program).format(INSTALL)
    result = run(program, unread=True)
    assert (result.returncode, result.stdout) == (0, b"done True\n")


def test_a_reader_gets_everything_in_order_and_the_traceback_of_the_end() -> None:
    result = run(
        "print('before', end=' ', file=sys.stderr)\n"
        + INSTALL
        + LINES
        + "print('end', end=' ', file=sys.stderr)\nraise ValueError('fatal')"
    )
    assert result.returncode == 1
    lines = result.stderr.splitlines()
    assert lines[0] == b"before " + b"x" * 99
    assert lines[1:5_000] == [b"x" * 99] * 4_999
    assert lines[5_000] == b"end Traceback (most recent call last):"
    assert lines[-1] == b"ValueError: fatal"


@pytest.mark.parametrize("size", [2**10, 2**20])
def test_what_was_printed_before_needs_no_folder_for_temporary_files(size: int) -> None:
    """A container may have none. A stream may also hold more than a pipe takes."""
    result = run(
        f"""
        import io, tempfile
        tempfile.tempdir = "/nowhere"
        raw = io.FileIO(2, "w", closefd=False)
        sys.stderr = io.TextIOWrapper(io.BufferedWriter(raw, {size}), "ascii")
        print({size // 2} * "x", file=sys.stderr)
        {INSTALL.strip().replace(chr(10), "; ")}
        print("after", installed_writer() is None, file=sys.stderr)
        """
    )
    assert result.stderr.split() == [size // 2 * b"x", b"after", b"False"]
    assert result.returncode == 0


def test_printing_to_a_pipe_without_a_reader_raises_nothing() -> None:
    """Without the writer, ``print`` would raise."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-c", f"import sys\n{INSTALL}{LINES}print('done')"],
            stdout=subprocess.PIPE,
            stderr=writer,
            timeout=50,
            check=False,
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stdout) == (0, b"done\n")


def test_a_pipe_that_the_other_side_made_non_blocking() -> None:
    """It is written as its reader reads, and the mode stays: others share it."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    program = f"import os, sys\n{INSTALL}{LINES}print(os.get_blocking(2))"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=writer
    ) as process:
        os.close(writer)
        with os.fdopen(reader, "rb") as stream:
            received = stream.read()
        out, _ = process.communicate(timeout=50)
    assert (process.returncode, out) == (0, b"False\n")
    assert received == (b"x" * 99 + b"\n") * 5_000


def test_a_file_is_written_directly(tmp_path: Path) -> None:
    path = tmp_path / "log"
    result = run(
        INSTALL + "print(installed_writer())\nprint('told', file=sys.stderr)\nos._exit(0)",
        redirect=f"2>{path}",
        unbuffered=True,
    )
    assert (result.stdout, path.read_bytes()) == (b"None\n", b"told\n")


@pytest.mark.parametrize(
    "before, redirect",
    [
        ("", "2>&-"),
        ("sys.stderr = None\n", ""),
        ("import io; sys.stderr = io.StringIO()\n", ""),
        ("sys.stderr = sys.stdout\n", ""),
        ("sys.stderr.close()\n", ""),
    ],
)
def test_streams_that_are_not_standard_error_are_left(before: str, redirect: str) -> None:
    result = run(
        before + INSTALL + "print(installed_writer(), flush=True)\nos._exit(0)", redirect=redirect
    )
    assert result.stdout == b"None\n"


def test_a_forked_process_writes_for_itself() -> None:
    result = run(
        f"""
        {INSTALL.strip().replace(chr(10), "; ")}
        import warnings
        warnings.simplefilter("ignore")  # Python 3.12 warns about threads.
        if os.fork() == 0:
            print("child", installed_writer(), file=sys.stderr)
        else:
            os.wait()
            print("parent", file=sys.stderr)
        """
    )
    assert result.stderr.splitlines() == [b"child None", b"parent"]


def test_the_streams_behave_as_before() -> None:
    result = run(
        f"""
        before = (sys.stderr.fileno(), sys.stderr.isatty(), sys.stderr.encoding, sys.stderr.errors)
        {INSTALL.strip().replace(chr(10), "; ")}
        assert before == (
            sys.stderr.fileno(), sys.stderr.isatty(), sys.stderr.encoding, sys.stderr.errors
        )
        assert sys.stderr.writable() and not sys.stderr.readable() and not sys.stderr.seekable()
        assert sys.stderr.name == "<stderr>" and sys.stderr is sys.__stderr__
        sys.stderr.write("text ")
        sys.stderr.buffer.write(b"bytes\\n")
        sys.stderr.flush()
        print("\\udcff", file=sys.stderr)
        """
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == b"bytes\ntext \\udcff\n"


BLOCK = "from trio_mcp_session import bounded_stderr\n"


def test_a_block_of_another_program() -> None:
    result = run(
        BLOCK
        + """
inner = sys.stderr.buffer
with bounded_stderr():
    assert sys.stderr.buffer is not inner
    with bounded_stderr():
        print("one", file=sys.stderr)
    assert sys.stderr.buffer is not inner
    print("two", file=sys.stderr)
assert sys.stderr.buffer is inner
print("three", file=sys.stderr)
with bounded_stderr():
    print("four", file=sys.stderr)
"""
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr.split() == [b"one", b"two", b"three", b"four"]


def test_a_block_that_is_left_while_nothing_reads() -> None:
    """Its end takes half a second, and what is printed after it does not block either."""
    result = run(
        BLOCK + "with bounded_stderr(max_bytes=200_000):\n    " + LINES + LINES + "print('done')",
        unread=True,
    )
    assert (result.returncode, result.stdout) == (0, b"done\n")


def test_the_limit_of_a_block_is_checked() -> None:
    with pytest.raises(ValueError, match="max_bytes must be at least 1, not 0"), bounded_stderr(0):
        raise AssertionError  # pragma: no cover


def test_replaced_streams_of_the_tests_are_left(capsys: pytest.CaptureFixture[str]) -> None:
    with bounded_stderr():
        install(2)
        assert installed_writer() is None
        print("told", file=sys.stderr)
    assert capsys.readouterr().err == "told\n"


# The writer.


class Reader:
    """Takes what is written, when it is told to."""

    def __init__(self) -> None:
        self.read = b""
        self.wanted = threading.Semaphore(0)
        self.asked = threading.Semaphore(0)
        self.error: OSError | None = None

    def write(self, number: int, data: bytes) -> None:
        assert number == 2
        self.asked.release()
        self.wanted.acquire()
        if self.error is not None:
            raise self.error
        self.read += data

    def take_all(self) -> None:
        self.wanted.release(1000)


@pytest.fixture
def reader() -> Reader:
    return Reader()


@pytest.fixture
def writer(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> Iterator[OutputWriter]:
    """A writer with room for 100 bytes, whose thread has the first line in its hands."""
    monkeypatch.setattr(module, "PATIENCE", 0.001)
    writer = OutputWriter(2, 100, reader.write)
    writer.start()
    writer.write(b"first\n")
    reader.asked.acquire()
    yield writer
    reader.take_all()
    writer.close()


def test_what_fits_is_written_in_order(writer: OutputWriter, reader: Reader) -> None:
    for number in range(8):
        writer.write(b"line %d ...\n" % number)
    writer.write(b"")
    reader.take_all()
    assert writer.flush(10)
    assert reader.read == b"first\n" + b"".join(b"line %d ...\n" % n for n in range(8))


def test_what_does_not_fit_is_dropped_and_the_place_says_how_much(
    writer: OutputWriter, reader: Reader
) -> None:
    writer.write(b"a" * 93)
    writer.write(b"b" * 30 + b"\n")
    writer.write(b"c\n")  # It would fit, but would stand in the wrong place.
    reader.take_all()
    assert writer.flush(10)
    writer.write(b"later\n")
    assert writer.flush(10)
    told = module.describe_drop(2, 33, 2).encode()
    assert reader.read == b"first\n" + b"a" * 93 + b"\n" + told + b"later\n"


def test_no_note_before_half_of_it_is_written(writer: OutputWriter, reader: Reader) -> None:
    """A reader that takes a little now and then does not get a note for each line."""
    writer.write(b"a" * 80 + b"\n")
    writer.write(b"b" * 80 + b"\n")
    reader.wanted.release()  # It takes the first line: 81 bytes are left.
    reader.asked.acquire()
    writer.write(b"c\n")
    reader.take_all()
    assert writer.flush(10)
    assert reader.read == b"first\n" + b"a" * 80 + b"\n" + module.describe_drop(2, 83, 2).encode()


def test_one_text_that_is_larger_than_all_room_is_written(
    writer: OutputWriter, reader: Reader
) -> None:
    reader.take_all()
    assert writer.flush(10)
    writer.write(b"x" * 1000)
    assert writer.flush(10)
    assert reader.read == b"first\n" + b"x" * 1000


def test_the_last_words_are_taken_however_many_wait(writer: OutputWriter, reader: Reader) -> None:
    writer.write(b"a" * 90 + b"\n")
    writer.write(b"b" * 90 + b"\n")
    writer.write_last(b"last words\n")
    reader.take_all()
    assert writer.flush(10)
    note = module.describe_drop(2, 91, 1).encode()
    assert reader.read == b"first\n" + b"a" * 90 + b"\n" + note + b"last words\n"


def test_a_flush_ends_also_if_nothing_reads(writer: OutputWriter) -> None:
    assert not writer.flush(0.01)


def test_after_a_failure_everything_is_dropped(writer: OutputWriter, reader: Reader) -> None:
    reader.error = BrokenPipeError()
    writer.write(b"second\n")
    reader.take_all()
    assert writer.flush(10)
    writer.write(b"third\n")
    writer.write_last(b"last\n")
    assert writer.flush(10)
    assert reader.read == b""


def test_it_may_be_used_in_a_handler_of_a_signal(writer: OutputWriter, reader: Reader) -> None:
    """The handler can interrupt a call in the same thread, which holds the lock."""
    with writer._changed:
        writer.write(b"in a handler\n")
    reader.take_all()
    assert writer.flush(10)
    assert reader.read == b"first\nin a handler\n"


def test_a_descriptor_that_is_not_ready_is_written_later(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces: list[bytes] = []

    def write(number: int, data: bytes) -> int:
        pieces.append(data)
        if len(pieces) == 1:
            raise BlockingIOError
        return 2

    pauses: list[float] = []
    monkeypatch.setattr(os, "write", write)
    monkeypatch.setattr(time, "sleep", pauses.append)
    module.write_to_descriptor(2, b"abc")
    assert pieces == [b"abc", b"abc", b"c"]
    assert pauses == [module.RETRY]
