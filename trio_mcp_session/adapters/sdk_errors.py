"""Errors between this library and the official SDK, in both directions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

import attrs

from ..core.errors import (
    CapabilityMissing,
    McpError,
    NoChannel,
    QuestionError,
    QuestionTimeout,
    SessionError,
    SessionTerminated,
)
from ..protocol.capabilities import as_object
from ..protocol.error_codes import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    MISSING_CLIENT_CAPABILITY,
)

if TYPE_CHECKING:
    from .sdk_names import Sdk

REQUEST_TIMEOUT = -32001
"""The code of their error for a question that was not answered in time."""


@final
@attrs.frozen
class Errors:
    """Translates errors. None of its methods is a checkpoint."""

    _sdk: Sdk

    def for_client(self, error: BaseException) -> McpError | None:
        """Return the answer that an error of their handler stands for.

        Returns:
            The answer; None for all other errors, which are crashes.
        """
        if isinstance(error, self._sdk.error):
            theirs: Any = error
            return McpError(theirs.error.code, theirs.error.message, theirs.error.data)
        if isinstance(error, self._sdk.invalid):
            # As in their servers: the text of pydantic may contain secrets.
            return McpError(INVALID_PARAMS, "Invalid request parameters", "")
        return None

    def for_handler(self, error: Exception, method: str, *, modern: bool) -> Exception:
        """Return the error of a question in the form that their handlers know."""
        sdk = self._sdk
        translated: Exception
        match error:
            case McpError():
                translated = sdk.error(error.code, error.message, error.data)
            case CapabilityMissing() if modern:
                needed = {"requiredCapabilities": as_object(error.capability)}
                translated = sdk.error(MISSING_CLIENT_CAPABILITY, str(error), needed)
            case CapabilityMissing():
                translated = sdk.error(INVALID_REQUEST, str(error))
            case NoChannel() | SessionTerminated():
                translated = sdk.no_channel(method)
            case QuestionTimeout():
                translated = sdk.error(REQUEST_TIMEOUT, str(error))
            case SessionError() | QuestionError():
                translated = sdk.error(INTERNAL_ERROR, str(error))
            case _:
                return error
        translated.__cause__ = error
        return translated
