"""A lock between processes that start the same server. It belongs to processes, not to a file.

The system releases it when the last process that holds it has ended, whatever ended it. A server
that is being started inherits it: if the process that starts it is killed, the lock is held until
the server has ended, and no second server is started beside it.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from typing import Final, final

from ..failure import CommandFailed


@final
class StartLock:
    """The lock at a path. The file is removed as soon as the server listens.

    Args:
        path: Where the file is made.
    """

    def __init__(self, path: str) -> None:
        self.path: Final = path
        self._fd = -1

    def acquire_nowait(self) -> bool:
        """Take the lock if no other process has it; return whether it was taken. Not a checkpoint.

        Raises:
            CommandFailed: The file cannot be opened, or belongs to another user.
        """
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise CommandFailed(
                f"--start needs a lock at {self.path}, which cannot be opened: {error.strerror}"
            ) from error
        is_held = False
        try:
            status = os.fstat(fd)
            if status.st_uid != os.geteuid():
                raise CommandFailed(
                    f"the lock {self.path} belongs to another user: remove it, or set "
                    "XDG_RUNTIME_DIR to a folder of your own"
                )
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The holder before may have removed the file after it was opened here.
            is_held = os.path.samestat(status, os.stat(self.path))
        except (BlockingIOError, FileNotFoundError):
            pass
        finally:
            if is_held:
                self._fd = fd
            else:
                os.close(fd)
        return is_held

    def inherit(self) -> None:
        """Let the processes that are started from now on hold the lock, too. Not a checkpoint."""
        os.set_inheritable(self._fd, True)  # noqa: FBT003

    def release(self) -> None:
        """Remove the file, and release the lock for all that hold it. Not a checkpoint."""
        if self._fd >= 0:
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._fd), os.stat(self.path)):
                    self.remove_file()
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        self.leave()

    def remove_file(self) -> None:
        """Remove the file: the server listens, so the lock is no longer needed. Not a checkpoint.

        Also for a process that does not hold it: the process that started the server may have been
        killed, and the server, which holds the lock, does not know of the file.
        """
        with suppress(FileNotFoundError):
            os.unlink(self.path)

    def leave(self) -> None:
        """Hold the lock no longer; processes that inherited it still do. Not a checkpoint."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
