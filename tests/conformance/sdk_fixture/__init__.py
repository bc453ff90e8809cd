"""What the suite asks for by name, as an application of the official SDK.

The names, arguments and texts are those that its scenarios expect. It does not import this library:
`TASKS` says from outside which tools become tasks.
"""

from __future__ import annotations

# Importing them registers what they hold. The suite calls the first tool blindly: it has to be one
# without arguments.
from . import answering, asking, prompts, resources, rounds, tasks, telling
from .app import app as app
from .tasks import TASKS as TASKS

__all__ = [
    "TASKS",
    "answering",
    "app",
    "asking",
    "prompts",
    "resources",
    "rounds",
    "tasks",
    "telling",
]
