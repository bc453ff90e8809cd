"""OAuth scopes."""

from __future__ import annotations

import pytest

from trio_mcp_session.core.scopes import as_scopes, checked_scopes


def test_text_is_split_at_spaces() -> None:
    assert as_scopes("files:read  files:write") == {"files:read", "files:write"}
    assert as_scopes("") == frozenset()
    assert as_scopes(["a", "b"]) == {"a", "b"}


def test_checked_scopes_keep_their_order_once_each() -> None:
    assert checked_scopes(["b", "a", "b"]) == ("b", "a")
    assert checked_scopes("b a b") == ("b", "a")
    assert checked_scopes(()) == ()


@pytest.mark.parametrize("scope", ["", "a b", 'a"b', "a\\b", "a\n", "\x7f", "é"])
def test_a_malformed_scope_is_refused(scope: str) -> None:
    with pytest.raises(ValueError, match="is not a scope: use printable ASCII"):
        checked_scopes([scope])
