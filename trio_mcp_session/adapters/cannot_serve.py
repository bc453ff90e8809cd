"""Why an application of another library cannot be served."""

from __future__ import annotations


class UnsupportedVersion(ImportError):
    """The installed version of another library does not have what the adapter uses.

    The message names the version, what it lacks, and the versions that fit.
    """


class CannotServe(Exception):
    """A part of an application cannot run here. The message names the part and the way out.

    Args:
        part: What cannot run.
        why: Why not.
        instead: The way out.
    """

    def __init__(self, part: str, why: str, instead: str) -> None:
        super().__init__(f"{part} cannot be served by trio_mcp_session: {why}; {instead}")
        self.part = part
        """What cannot run."""
