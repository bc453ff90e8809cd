"""The keys of an issuer: fetched in a thread, kept, and fetched again, but not too often."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_mcp_session import AuthenticationFailed
from trio_mcp_session.transports.http import jwks
from trio_mcp_session.transports.http.jwks import (
    MAX_BYTES,
    Key,
    KeySet,
    KeysUnavailable,
    check_url,
    fetch,
    read_keys,
)

ONE, TWO = {"kid": "one", "kty": "RSA"}, {"kid": "two", "kty": "EC"}


# Fetching.


@contextmanager
def issuer(body: bytes, status: int = 200, *, location: str | None = None) -> Iterator[str]:
    """A server that answers every request in the same way; the value is its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            if location is not None:
                self.send_header("Location", location)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/keys"
        finally:
            server.shutdown()
            thread.join()


def test_keys_are_read_from_a_server() -> None:
    with issuer(json.dumps({"keys": [ONE, TWO]}).encode()) as url:
        assert fetch(url, 5) == (ONE, TWO)


@pytest.mark.parametrize(
    "body, status, what",
    [
        (b"{}", 404, "answers with status 404"),
        (b'{"keys": []}', 302, "answers with status 302"),
        (b"not JSON", 200, "sends no keys"),
        (b"\xff", 200, "sends no keys"),
        (b"[" * 100_000, 200, "sends no keys"),
        (b"{}", 200, "does not have a set of up to 100 keys"),
        (b" " * (MAX_BYTES + 1), 200, "sends more than 1048576 bytes"),
    ],
    ids=range(7),
)
def test_an_answer_without_keys_is_refused(body: bytes, status: int, what: str) -> None:
    location = "http://127.0.0.1:1/" if status == 302 else None
    with issuer(body, status, location=location) as url:
        with pytest.raises(KeysUnavailable, match=what):
            fetch(url, 5)


def test_an_unreachable_server_has_no_keys() -> None:
    with issuer(b"") as url:
        pass
    with pytest.raises(KeysUnavailable, match="sends no keys"):
        fetch(url, 5)


def test_an_answer_that_trickles_in_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 4.0, 6.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(times))
    monkeypatch.setattr(jwks, "_CHUNK", 1)
    with issuer(b"{}") as url, pytest.raises(KeysUnavailable, match="took longer than 5 s"):
        fetch(url, 5)


@pytest.mark.parametrize(
    "document",
    [[], "keys", None, {"keys": {}}, {"keys": None}, {"keys": [ONE] * 101}],
    ids=range(6),
)
def test_a_document_that_is_not_a_set_of_keys_is_refused(document: object) -> None:
    with pytest.raises(KeysUnavailable, match="does not have a set"):
        read_keys(document, "https://id.example.com/keys")


def test_keys_that_do_not_sign_are_left_out() -> None:
    keys = [ONE, {"kid": "x", "use": "enc"}, {"kid": "y", "use": "sig"}, 7, None]
    assert read_keys({"keys": keys}, "") == (ONE, {"kid": "y", "use": "sig"})


@pytest.mark.parametrize(
    "url", ["https://id.example.com/keys", "http://localhost:1/keys", "http://[::1]/keys"]
)
def test_safe_addresses_of_keys(url: str) -> None:
    check_url(url)


@pytest.mark.parametrize("url", ["http://id.example.com/keys", "file:///etc/passwd", "keys", ""])
def test_unsafe_addresses_of_keys_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="keys must come from an https URL"):
        check_url(url)


# Keeping.


class Fetches:
    """In place of the network."""

    def __init__(self) -> None:
        self.count = 0
        self.keys: tuple[Key, ...] | None = (ONE,)
        self.begun = threading.Event()
        self.may_answer = threading.Event()
        self.may_answer.set()

    def __call__(self, url: str, timeout: float) -> tuple[Key, ...]:
        assert (url, timeout) == ("https://id.example.com/keys", 5)
        self.count += 1
        self.begun.set()
        assert self.may_answer.wait(30)
        if self.keys is None:
            raise KeysUnavailable("it is down")
        return self.keys


@pytest.fixture
def fetches(monkeypatch: pytest.MonkeyPatch) -> Fetches:
    fake = Fetches()
    monkeypatch.setattr(jwks, "fetch", fake)
    return fake


def key_set(**given: Any) -> KeySet:
    return KeySet("https://id.example.com/keys", max_age=3600, cooldown=30, timeout=5, **given)


async def test_keys_are_fetched_once_and_again_when_they_are_old(
    fetches: Fetches, mock_clock: MockClock
) -> None:
    keys = key_set()
    for _ in range(3):
        assert await keys.find("one") == (ONE,)
        assert await keys.find(None) == (ONE,)
    assert (fetches.count, keys.generation) == (1, 1)
    mock_clock.jump(3599.9)
    await keys.find("one")
    assert fetches.count == 1
    mock_clock.jump(0.1)
    fetches.keys = (TWO,)
    assert await keys.find("one") == ()
    assert await keys.find("two") == (TWO,)
    assert (fetches.count, keys.generation) == (2, 2)


async def test_an_unknown_key_has_the_keys_fetched_again_but_not_often(
    fetches: Fetches, mock_clock: MockClock
) -> None:
    keys = key_set()
    assert await keys.find("one") == (ONE,)
    fetches.keys = (ONE, TWO)
    for number in range(50):
        assert await keys.find(f"made up {number}") == ()
    assert fetches.count == 1
    mock_clock.jump(29.9)
    assert await keys.find("two") == ()
    mock_clock.jump(0.1)
    assert await keys.find("two") == (TWO,)
    assert fetches.count == 2
    for number in range(50):
        assert await keys.find(f"made up {number}") == ()
    assert fetches.count == 2


async def test_tasks_that_need_keys_share_one_fetch(
    fetches: Fetches, mock_clock: MockClock
) -> None:
    keys = key_set()
    fetches.may_answer.clear()
    found: list[tuple[Key, ...]] = []

    async def find() -> None:
        found.append(await keys.find("one"))

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(find)
        await wait_all_tasks_blocked()
        fetches.may_answer.set()
    assert found == [(ONE,)] * 10
    assert fetches.count == 1


async def test_old_keys_are_used_while_new_ones_are_fetched(
    fetches: Fetches, mock_clock: MockClock
) -> None:
    keys = key_set()
    await keys.find("one")
    mock_clock.jump(3600)
    fetches.may_answer.clear()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keys.find, "one")
        await wait_all_tasks_blocked()
        assert await keys.find("one") == (ONE,)
        fetches.may_answer.set()
    assert fetches.count == 2


async def test_old_keys_outlive_a_failure_of_the_issuer_for_a_while(
    fetches: Fetches, mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    keys = key_set()
    await keys.find("one")
    fetches.keys = None
    mock_clock.jump(3600)
    for _ in range(3):
        assert await keys.find("one") == (ONE,)
    assert fetches.count == 2
    mock_clock.jump(3599.9)
    assert await keys.find("one") == (ONE,)
    mock_clock.jump(0.1)
    with pytest.raises(AuthenticationFailed) as caught:
        await keys.find("one")
    assert caught.value.status == 503
    assert fetches.count == 3
    assert [one.getMessage() for one in caplog.records] == [
        "keys cannot be fetched; the next attempt is made in 30 s at the earliest"
    ] * 2
    fetches.keys = (ONE,)
    mock_clock.jump(30)
    assert await keys.find("one") == (ONE,)


async def test_without_keys_there_is_an_attempt_once_in_the_cooldown(
    fetches: Fetches, mock_clock: MockClock
) -> None:
    keys = key_set()
    fetches.keys = None
    for _ in range(3):
        with pytest.raises(AuthenticationFailed, match="Tokens cannot be checked now"):
            await keys.find("one")
    assert fetches.count == 1


async def test_a_cancelled_fetch_counts_as_an_attempt(
    fetches: Fetches, mock_clock: MockClock
) -> None:
    keys = key_set()
    fetches.may_answer.clear()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keys.find, "one")
        await wait_all_tasks_blocked()
        # The thread runs when the system lets it.
        await trio.to_thread.run_sync(fetches.begun.wait)
        nursery.cancel_scope.cancel()
    with pytest.raises(AuthenticationFailed):
        await keys.find("one")
    fetches.may_answer.set()
    assert fetches.count == 1


def test_the_clock_of_another_run_makes_keys_old(fetches: Fetches) -> None:
    keys = key_set()

    async def find() -> None:
        assert await keys.find("one") == (ONE,)

    late = MockClock()
    late.jump(1000)
    trio.run(find, clock=late)
    trio.run(find, clock=MockClock())
    assert fetches.count == 2
