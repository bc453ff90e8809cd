"""``--token-file``: what a file of tokens may look like, and what its errors do not show."""

from __future__ import annotations

from pathlib import Path

import pytest

from trio_mcp_session import Principal
from trio_mcp_session.cli.failure import CommandFailed
from trio_mcp_session.cli.token_file import read_token_file

ADA, BOB, ANON = "ada-1234567890abcdef", "bob-1234567890abcdef", "anon-1234567890abcd="


def write(folder: Path, text: str | bytes) -> str:
    path = folder / "tokens"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


async def test_a_line_has_a_token_a_subject_and_scopes(tmp_path: Path) -> None:
    text = f"# of the team\n\n{ADA} ada notes:read notes:write\n  {BOB}\tbob\r\n{ANON}\n"
    tokens = read_token_file(write(tmp_path, text))
    ada, bob, anonymous = [await tokens(one) for one in (ADA, BOB, ANON)]
    assert ada == Principal("ada", "token file")
    assert ada.scopes == {"notes:read", "notes:write"}
    assert bob == Principal("bob", "token file")
    assert bob.scopes == frozenset()
    assert anonymous is not None
    assert anonymous.subject.startswith("token-")
    for unknown in ("", ADA[:-1], f"{ADA}x", ADA.upper(), "ada"):
        assert await tokens(unknown) is None
    # Neither logs nor tracebacks show a token.
    assert ADA not in repr(tokens)


async def test_tokens_without_a_subject_are_different_principals(tmp_path: Path) -> None:
    tokens = read_token_file(write(tmp_path, f"{ADA}\n{BOB}\n"))
    assert await tokens(ADA) != await tokens(BOB)


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "has no token"),
        ("# nothing\n", "has no token"),
        (f"{ADA}\n{ADA[:15]}\n", r"line 2 of .*: a token needs at least 16 characters"),
        (f'"{ADA}"\n', r"line 1 of .*: a token has letters, digits and "),
        (f"{ADA} ada\n{ADA} bob\n", r"line 2 of .* repeats a token"),
        (f'{ADA} ada no"tes\n', r"line 1 of .* is not a scope"),
        (b"\xff", "it is not UTF-8"),
    ],
    ids=range(7),
)
def test_a_malformed_file_is_refused_without_showing_a_token(
    text: str | bytes, message: str, tmp_path: Path
) -> None:
    with pytest.raises(CommandFailed, match=message) as caught:
        read_token_file(write(tmp_path, text))
    assert ADA not in str(caught.value)
    assert ADA[:15] not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match=r"cannot read .*missing: No such file"):
        read_token_file(str(tmp_path / "missing"))
