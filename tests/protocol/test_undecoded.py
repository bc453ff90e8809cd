"""JSON objects that are kept as text."""

from __future__ import annotations

from hypothesis import given

from tests import strategies
from tests.strategies import Json
from trio_mcp_session.protocol.handshake import USUAL_SIZE, read_initialize
from trio_mcp_session.protocol.jsonrpc import encode_json
from trio_mcp_session.protocol.undecoded import UndecodedObject


@given(strategies.json_objects)
def test_an_object_that_is_kept_as_text_is_as_it_was(value: dict[str, Json]) -> None:
    kept = UndecodedObject.of(value)
    assert kept == value
    assert value == kept
    assert (len(kept), list(kept), repr(kept)) == (len(value), list(value), repr(value))
    assert all(kept[key] == value[key] for key in value)
    assert encode_json(kept) == encode_json(value)
    assert kept.size == len(encode_json(value))


def test_only_an_unusually_large_client_is_kept_as_text_and_counted() -> None:
    def told(count: int) -> dict[str, object]:
        return {
            "protocolVersion": "2025-11-25",
            "capabilities": {"roots": {}, "x": [{}] * count},
            "clientInfo": {"name": "c", "version": "1", "title": "C"},
        }

    usual = read_initialize(told(10))
    assert (type(usual.client.capabilities), usual.size) == (dict, 0)
    large = read_initialize(told(USUAL_SIZE // 64))
    assert type(large.client.capabilities) is type(large.client.metadata) is UndecodedObject
    assert large.client.capabilities["roots"] == {}
    assert large.client.metadata == {"title": "C"}
    assert 3 * USUAL_SIZE // 64 <= large.size < USUAL_SIZE
