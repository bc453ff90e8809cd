"""Directives whose content is made from code."""

from __future__ import annotations

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

import trio_mcp_session
import trio_mcp_session.testing
from trio_mcp_session.core import errors
from trio_mcp_session.protocol import error_codes

from . import diagram, read
from .public import PUBLIC


class _Markdown(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        return self.parse_text_to_nodes(self._text())

    def _text(self) -> str:
        raise NotImplementedError


class Settings(_Markdown):
    """All fields of a class of settings: name, default, meaning."""

    required_arguments = 1

    def _text(self) -> str:
        owner = getattr(trio_mcp_session, self.arguments[0])
        rows = [
            (f"`{owner.__name__}.{setting.name}`", f"`{setting.default}`", setting.meaning)
            for setting in read.settings(owner)
        ]
        return read.table(("Setting", "Default", "Meaning"), rows)


class Members(_Markdown):
    """All members of an enumeration, or all fields of a class: name, meaning."""

    required_arguments = 1

    def _text(self) -> str:
        name = self.arguments[0]
        meanings = read.meanings(getattr(trio_mcp_session, name))
        rows = [(f"`{name}.{member}`", meaning) for member, meaning in meanings.items()]
        return read.table(("Name", "Meaning"), rows)


class ErrorTree(_Markdown):
    """The classes of errors, each below its base."""

    def _text(self) -> str:
        return read.error_tree(value for name, value in vars(errors).items() if name in PUBLIC)


class ErrorNumbers(_Markdown):
    """The numbers of JSON-RPC errors: number, name, meaning."""

    def _text(self) -> str:
        rows = [
            (f"\N{MINUS SIGN}{-getattr(error_codes, name)}", f"`{name}`", meaning)
            for name, meaning in read.meanings(error_codes).items()
        ]
        return read.table(("Number", "Name", "Meaning"), rows)


class StateDiagram(SphinxDirective):
    """The transition table, as a picture."""

    def run(self) -> list[nodes.Node]:
        """Draw it."""
        states = [state.value for state in trio_mcp_session.SessionState]
        table = trio_mcp_session.TRANSITIONS
        moves = [(old.value, new.value) for old, news in table.items() for new in news]
        return [nodes.raw("", diagram.svg(states, moves), format="html")]
