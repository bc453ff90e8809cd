"""Questions that a handler has asked together, until all of their answers are there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, final

import attrs
import trio

if TYPE_CHECKING:
    from ..protocol.input_required import AskedFor


@final
@attrs.define(eq=False)
class PendingQuestions:
    """Questions that are asked together, and the task that waits for their answers."""

    questions: Mapping[str, AskedFor]
    answers: dict[str, Any] = attrs.field(factory=dict[str, Any], init=False)
    held: int = attrs.field(default=0, init=False)
    """Bytes of the answers that are counted for them."""
    answered: trio.Event = attrs.field(factory=trio.Event, init=False)
    """Set when all answers are there, and when none will come."""
