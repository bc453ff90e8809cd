"""Options of ``serve`` for authentication, TLS and Unix sockets: parsed, and as real programs."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import ssl
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.cli.programs import SERVE, connect_unix, running, serving, write_toy
from tests.helpers import initialize
from tests.transports.http.live import Wire, connect
from trio_mcp_session import BearerAuth, BoundAddress, Principal
from trio_mcp_session.cli.command import make_parser
from trio_mcp_session.cli.failure import CommandFailed
from trio_mcp_session.cli.http_security import (
    check_options,
    load_authenticate,
    parse_mode,
    parse_owner,
)

TOKEN = "0123456789abcdef"  # noqa: S105  # of a test
PEER = """
from toy import router
from trio_mcp_session import RequestContext

@router.tool()
async def me(ctx: RequestContext) -> str:
    return f"{ctx.principal.subject} {ctx.principal.issuer}"
"""


def options(*given: str) -> argparse.Namespace:
    return make_parser().parse_args(["serve", "toy:router", *given])


class Hook:
    """An object that can be called, and a class that cannot authenticate."""

    async def __call__(self, scope: Any, headers: Mapping[str, str]) -> Principal:
        raise AssertionError  # pragma: no cover  # not called


async def hook(scope: Any, headers: Mapping[str, str]) -> Principal:
    raise AssertionError  # pragma: no cover  # not called


def not_async(scope: Any, headers: Mapping[str, str]) -> Principal:
    raise AssertionError  # pragma: no cover  # not called


hook_object, bearer = Hook(), BearerAuth(hook)  # type: ignore[arg-type]  # not called
HERE = __name__


# Which options go together.


@pytest.mark.parametrize(
    "given, message",
    [
        (["--token-file", "t"], "--token-file is for --http: other transports ignore it"),
        (["--tcp", "0", "--authenticate", "a:b"], "--authenticate is for --http"),
        (["--tls-cert", "c"], "--tls-cert is for --http"),
        (["--tls-key", "c"], "--tls-key is for --http"),
        (["--http", "unix:s", "--unix-peers"], "--unix-peers is for --unix: .*authenticate_unix_"),
        (
            ["--http", "0", "--authenticate", "a:b", "--token-file", "t"],
            "choose one of --authenticate and --token-file",
        ),
        (["--http", "0", "--tls-key", "k"], "--tls-key needs --tls-cert"),
    ],
)
def test_options_that_would_have_no_effect_are_refused(given: list[str], message: str) -> None:
    with pytest.raises(CommandFailed, match=message) as caught:
        check_options(options(*given))
    assert caught.value.status == 2


def test_options_that_complete_each_other_are_accepted() -> None:
    check_options(options())
    check_options(options("--http", "0", "--token-file", "t"))
    check_options(options("--http", "unix:/run/x", "--authenticate", "a:b"))


@pytest.mark.parametrize("text, mode", [("600", 0o600), ("0660", 0o660), ("0o777", 0o777)])
def test_a_mode_is_octal(text: str, mode: int) -> None:
    assert parse_mode(text) == mode


@pytest.mark.parametrize("text", ["", "rw", "888", "1000", "-1"])
def test_a_malformed_mode_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="must be octal permissions"):
        parse_mode(text)


@pytest.mark.parametrize(
    "text, owner",
    [
        ("root", ("root", None)),
        ("root:0", ("root", 0)),
        (":0", (None, 0)),
        ("12:34", (12, 34)),
    ],
)
def test_an_owner_is_a_user_a_group_or_both(text: str, owner: tuple[object, object]) -> None:
    assert parse_owner(text) == owner


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "must be USER, USER:GROUP or :GROUP"),
        (":", "must be USER"),
        ("not-there", "known user"),
    ],
)
def test_an_unknown_owner_is_refused(text: str, message: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=message):
        parse_owner(text)


# The hook.


@pytest.mark.parametrize("name", ["hook", "hook_object", "bearer", "hook_object.__call__"])
def test_a_hook_is_loaded_by_its_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hooks", sys.modules[HERE])
    assert callable(load_authenticate(options("--http", "0", "--authenticate", f"hooks:{name}")))


@pytest.mark.parametrize(
    "name, what",
    [
        ("Hook", "the class Hook"),
        ("not_async", "of type function"),
        ("HERE", "of type str"),
    ],
)
def test_an_object_that_cannot_authenticate_is_refused(
    name: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "hooks", sys.modules[HERE])
    with pytest.raises(CommandFailed, match=f"hooks:{name} is {what}, not an async function"):
        load_authenticate(options("--http", "0", "--authenticate", f"hooks:{name}"))


@pytest.mark.parametrize(
    "reference, message",
    [("hook", "expected MODULE:NAME, not 'hook'"), ("trio:nothing", "has no 'nothing'$")],
)
def test_a_hook_that_does_not_exist_is_refused(reference: str, message: str) -> None:
    with pytest.raises(CommandFailed, match=message):
        load_authenticate(options("--http", "0", "--authenticate", reference))


def test_without_these_options_requests_are_not_authenticated() -> None:
    assert load_authenticate(options("--http", "0")) is None


# Programs.


def bound(line: str) -> BoundAddress:
    url = line.removeprefix("listening on ").removesuffix("/mcp")
    scheme, _, place = url.partition("://")
    host, _, port = place.rpartition(":")
    return BoundAddress(host=host, port=int(port), secure=scheme == "https")


async def opened(wire: Wire, token: str | None) -> int:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return (await wire.request("POST", initialize(), headers)).status


async def test_a_token_file_lets_only_its_tokens_in(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(f"{TOKEN} ada\n")
    async with serving(tmp_path, "--http", "0", "--token-file", "tokens") as program:
        async with await connect(bound(await program.stderr.next())) as wire:
            assert await opened(wire, None) == 401
            assert await opened(wire, "another-token-00") == 401
            assert await opened(wire, TOKEN) == 200
        program.process.send_signal(signal.SIGTERM)
        assert await program.wait() == 0


async def test_a_bad_token_file_ends_the_program_at_once(tmp_path: Path) -> None:
    async with serving(tmp_path, "--http", "0", "--token-file", "missing") as program:
        (line,) = await program.stderr.rest()
        assert await program.wait() == 1
    assert line == "trio_mcp_session: --token-file: cannot read missing: No such file or directory"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, str]:
    """A certificate that only the tests trust, its key, and a file with both."""
    folder = tmp_path_factory.mktemp("certificate")
    openssl = shutil.which("openssl")
    if openssl is None:  # pragma: no cover  # the machine decides
        pytest.skip("no openssl on this machine")
    cert, key = str(folder / "certificate.pem"), str(folder / "key.pem")
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-addext", "keyUsage=critical,digitalSignature,keyCertSign"),
            *("-days", "2", "-keyout", key, "-out", cert),
        ],
        check=True,
        capture_output=True,
    )
    both = folder / "both.pem"
    both.write_text(Path(cert).read_text() + Path(key).read_text())
    return cert, key, str(both)


@pytest.mark.parametrize("files", ["two", "one"])
async def test_https_is_served_with_a_certificate(
    files: str, certificate: tuple[str, str, str], tmp_path: Path
) -> None:
    cert, key, both = certificate
    given = ["--tls-cert", cert, "--tls-key", key] if files == "two" else ["--tls-cert", both]
    context = ssl.create_default_context(cafile=cert)
    async with serving(tmp_path, "--http", "0", *given) as program:
        address = bound(await program.stderr.until("listening on"))
        assert address.secure
        stream = await trio.open_ssl_over_tcp_stream(
            address.host, address.port, ssl_context=context, https_compatible=True
        )
        async with Wire(stream, address) as wire:
            assert await opened(wire, None) == 200
        program.process.send_signal(signal.SIGTERM)
        assert await program.wait() == 0


@pytest.mark.parametrize("broken", ["missing", "empty"])
def test_a_certificate_that_cannot_be_used_is_named(
    broken: str, certificate: tuple[str, str, str], tmp_path: Path
) -> None:
    path = tmp_path / broken
    if broken == "empty":
        path.touch()
    with pytest.raises(CommandFailed, match=f"--tls-cert: cannot use .*{broken} with the key in"):
        check_options(options("--http", "0", "--tls-cert", str(path)))


def test_tls_without_hypercorn_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hypercorn", None)
    message = r"--tls-cert needs the extra 'hypercorn', .*: python -m pip install .*\[hypercorn\]"
    with pytest.raises(CommandFailed, match=message):
        check_options(options("--http", "0", "--tls-cert", "c"))


async def test_unix_sockets_have_a_mode_and_peers_a_principal(tmp_path: Path) -> None:
    write_toy(tmp_path)
    (tmp_path / "peer.py").write_text(PEER)
    serve = [*SERVE[:-1], "peer:router", "--unix", "s", "--unix-mode", "660", "--unix-peers"]
    serve += ["--unix-owner", f"{os.getuid()}:{os.getgid()}", "--http", "unix:h"]
    serve += ["--authenticate", "trio_mcp_session:authenticate_unix_peer"]
    async with running(serve, tmp_path) as program:
        lines = [await program.stderr.next() for _ in range(2)]
        assert lines[1] == "listening on http+unix://h/mcp"
        for name in ("s", "h"):
            assert (tmp_path / name).stat().st_mode & 0o777 == 0o660
        client = await connect_unix(f"listening on unix {tmp_path / 's'}")
        async with client.sink:
            await client.initialize()
            await client.call("me")
            assert await client.text() == f"{os.getuid()} unix"
        async with await connect(BoundAddress(unix_path=str(tmp_path / "h"))) as wire:
            assert await opened(wire, None) == 200
        program.process.send_signal(signal.SIGTERM)
        assert await program.wait() == 0
    assert not (tmp_path / "h").exists()


def test_the_command_refuses_an_unknown_owner(
    capsys: pytest.CaptureFixture[str],
) -> None:
    parse = partial(options, "--unix", "s", "--unix-owner", "not-there")
    with pytest.raises(SystemExit) as caught:
        parse()
    assert caught.value.code == 2
    assert "must be a known user, not 'not-there'" in capsys.readouterr().err
