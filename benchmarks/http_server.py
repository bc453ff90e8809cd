"""A server subprocess that serves MCP over HTTP: started, observed, and ended."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from time import monotonic, sleep
from typing import Final

from load import ServerFailed
from processes import processor_seconds

PATIENCE: Final = 30.0


class HttpServer:
    """A program that prints `listening on URL`, and ends at SIGTERM.

    Whatever happens, the process is ended: by SIGTERM, or, if it has not left within ten seconds,
    by SIGKILL; both to this one process.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed in close())
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
        )
        self.pid = self._process.pid
        try:
            self.port = self._read_port()
        except BaseException:
            self.close()
            raise

    def _read_port(self) -> int:
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        end = monotonic() + PATIENCE
        text = b""
        while b"\n" not in text:
            left = max(0.0, end - monotonic())
            chunk = os.read(fd, 4096) if select.select([fd], [], [], left)[0] else b""
            if not chunk:
                raise ServerFailed(f"the server does not listen\n{self.complaints()}".strip())
            text += chunk
        found = re.search(rb"http://[^/\s]*:(\d+)", text)
        if found is None:
            raise ServerFailed(f"the server says {text!r}")
        return int(found[1])

    def complaints(self) -> str:
        """Return the end of its standard error."""
        self._errors.seek(0)
        return self._errors.read()[-2000:].decode(errors="replace").strip()

    def processor_seconds(self) -> float:
        """Return the processor seconds used so far; 0 if the system does not report them."""
        try:
            return processor_seconds(self.pid)
        except FileNotFoundError:
            return 0.0

    def terminate(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float) -> bool:
        """Wait for it to end.

        Returns:
            whether it has.
        """
        end = monotonic() + seconds
        while self._process.poll() is None:
            if monotonic() > end:
                return False
            sleep(0.001)  # `Popen.wait` polls less and less often
        return True

    def last_words(self) -> str:
        """Return its further output, until its end or for ten seconds."""
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        end = monotonic() + 10
        text = b""
        while select.select([fd], [], [], max(0.0, end - monotonic()))[0]:
            chunk = os.read(fd, 4096)
            if not chunk:
                break
            text += chunk
        return text.decode().strip()

    def close(self) -> int:
        """End it, if it has not ended.

        Returns:
            its exit status; negative if a signal ended it.
        """
        assert self._process.stdout is not None
        try:
            if self._process.poll() is None:
                self.terminate()
            return self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()
        finally:
            self._process.stdout.close()
            self._errors.close()
