from __future__ import annotations

import attrs
import pytest
from hypothesis import given

from tests import strategies
from trio_mcp_session.protocol.revisions import (
    HANDSHAKE_REVISIONS,
    LATEST_HANDSHAKE,
    STATELESS_REVISIONS,
    V2026_07_28,
    Revision,
    negotiate,
)

# What each revision has, and the one before it did not (or, with a minus, has no longer).
CHANGES = {
    "2024-11-05": "",
    "2025-03-26": "batches progress_messages completions audio",
    "2025-06-18": "-batches structured_content resource_links elicitation",
    "2025-11-25": "icons multiple_choice url_elicitation elicitation_ids sampling_tools polling",
    "2026-07-28": "-elicitation_ids -polling extensions stateless",
}
HANDSHAKES = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"]


def test_features_of_each_revision() -> None:
    revisions = {**HANDSHAKE_REVISIONS, **STATELESS_REVISIONS}
    assert list(revisions) == list(CHANGES) == sorted(CHANGES)
    features: set[str] = set()
    ever: set[str] = set()
    for version, changes in CHANGES.items():
        for change in changes.split():
            if change.startswith("-"):
                features.remove(change[1:])
            else:
                features.add(change)
        ever |= features
        revision = revisions[version]
        assert revision.version == version
        has = {name for name, value in attrs.asdict(revision).items() if value is True}
        assert has == features, version
    assert ever | {"version"} == attrs.fields_dict(Revision).keys()


def test_a_revision_either_has_a_handshake_or_needs_none() -> None:
    assert list(HANDSHAKE_REVISIONS) == HANDSHAKES
    assert not any(revision.stateless for revision in HANDSHAKE_REVISIONS.values())
    assert STATELESS_REVISIONS == {"2026-07-28": V2026_07_28}
    assert all(revision.stateless for revision in STATELESS_REVISIONS.values())


@pytest.mark.parametrize("version", HANDSHAKES)
def test_known_revision_is_negotiated(version: str) -> None:
    assert negotiate(version).version == version


@pytest.mark.parametrize(
    "version", ["2026-07-28", "2025-01-01", "1999-01-01", "9999-12-31", "", "latest", " 2024-11-05"]
)
def test_unknown_revision_negotiates_the_latest(version: str) -> None:
    assert negotiate(version).version == "2025-11-25"


@given(strategies.texts)
def test_any_request_negotiates_a_handshake_revision(version: str) -> None:
    assert negotiate(version) is HANDSHAKE_REVISIONS.get(version, LATEST_HANDSHAKE)


def test_latest_handshake_revision() -> None:
    assert list(HANDSHAKE_REVISIONS.values())[-1] is LATEST_HANDSHAKE
