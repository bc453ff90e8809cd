"""What property tests draw from: JSON, ids, messages, frames and configuration.

Everything that a peer may send is here in three strengths: well-formed (`messages` and what they
are made of), odd but JSON (`json_frames`), and hostile (`frames`, which holds all of it).
"""

from __future__ import annotations

import json
from math import inf
from typing import Any, TypeAlias

import attrs
from hypothesis import strategies as st

from trio_mcp_session import (
    AdmissionPolicy,
    CleanupConfig,
    RateLimit,
    SessionConfig,
    SessionKind,
    SessionLimits,
)
from trio_mcp_session.protocol.jsonrpc import Notification, Request, RequestId, Response

Json: TypeAlias = Any

# --- JSON values ---

# What a scanner of JSON may trip over, and what an encoder has to escape.
_tricky_text = st.text(alphabet='[]{}"\\/,:nu\x00\x1f\x7f \u2028é\U0001f600', max_size=12)

texts = st.one_of(_tricky_text, st.text(max_size=12))
"""Unicode text (no lone surrogates)."""

whole_numbers = st.one_of(
    st.integers(-(2**70), 2**70),
    st.sampled_from([0, 1, -1, 2**53, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63) - 1, 10**30]),
)
"""Whole numbers, also those that do not fit into 64 bits."""

numbers = st.one_of(whole_numbers, st.floats(allow_nan=False, allow_infinity=False))
"""Numbers that JSON has."""


def _containers(leaves: st.SearchStrategy[Json]) -> st.SearchStrategy[Json]:
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)
        ),
        max_leaves=20,
    )


json_values: st.SearchStrategy[Json] = _containers(
    st.one_of(st.none(), st.booleans(), numbers, texts)
)
"""Values that encode to JSON and decode to the same."""

json_objects: st.SearchStrategy[dict[str, Json]] = st.dictionaries(texts, json_values, max_size=5)
"""JSON objects."""

# --- messages ---

request_ids: st.SearchStrategy[RequestId] = st.one_of(
    whole_numbers, texts, st.sampled_from(["", "0", "1", "true", "null"])
)
"""Ids of requests, with those that look like each other."""

methods = st.one_of(
    st.sampled_from(
        [
            "initialize",
            "ping",
            "tools/list",
            "tools/call",
            "logging/setLevel",
            "resources/subscribe",
            "server/discover",
            "notifications/initialized",
            "notifications/cancelled",
            "notifications/progress",
        ]
    ),
    texts,
)
"""Names of methods: the protocol's, and any text."""

params = json_objects
"""Parameters of requests and notifications."""

requests = st.builds(Request, request_ids, methods, params)
"""Well-formed requests."""

notifications = st.builds(Notification, methods, params)
"""Well-formed notifications."""

errors = st.fixed_dictionaries(
    {"code": st.integers(-32_999, 32_999), "message": texts}, optional={"data": json_values}
)
"""Error objects."""

responses = st.one_of(
    st.builds(Response, request_ids, json_objects), st.builds(Response, request_ids, error=errors)
)
"""Well-formed responses, good ones and errors."""

messages = st.one_of(requests, notifications, responses)
"""Well-formed messages."""


def as_json(message: Request | Notification | Response) -> dict[str, Json]:
    """Return a message as the JSON object that stands for it."""
    match message:
        case Request():
            members = {"id": message.id, "method": message.method, "params": message.params}
        case Notification():
            members = {"method": message.method, "params": message.params}
        case Response(error=dict()):
            members = {"id": message.id, "error": message.error}
        case _:
            members = {"id": message.id, "result": message.result}
    return {"jsonrpc": "2.0", **members}


# --- frames ---


@st.composite
def encoded(draw: st.DrawFn, values: st.SearchStrategy[Json]) -> bytes:
    """JSON of ``values`` in one of the many ways to write it (over several lines, too)."""
    separators = draw(st.sampled_from([(",", ":"), (", ", ": "), (" \t,\r\n", "\r:\n ")]))
    text = json.dumps(
        draw(values),
        ensure_ascii=draw(st.booleans()),
        indent=draw(st.sampled_from([None, 0, 1])),
        separators=separators,
    )
    return draw(st.sampled_from(["", " ", "\t\r\n"])).encode() + text.encode(errors="surrogatepass")


message_frames = encoded(messages.map(as_json))
"""Well-formed messages as bytes."""

batch_frames = encoded(st.lists(messages.map(as_json), min_size=1, max_size=5))
"""Well-formed batches as bytes."""

json_frames = encoded(json_values)
"""Any JSON as bytes."""

# What `json` writes although it is none: NaN, Infinity and lone surrogates.
_nearly_json_frames = encoded(
    _containers(st.one_of(st.floats(), st.text(st.characters(categories=["Cs", "Ll"]))))
)

_odd_members: dict[str, st.SearchStrategy[Json]] = {
    "jsonrpc": st.sampled_from(["2.0", "2.0", "1.0", 2.0, None]),
    "id": st.one_of(request_ids, json_values),
    "method": st.one_of(methods, json_values),
    "params": st.one_of(params, json_values),
    "result": json_values,
    "error": st.one_of(errors, json_values),
}
odd_message_frames = encoded(st.fixed_dictionaries({}, optional=_odd_members))
"""Objects with the members of messages, in any combination and of any type."""

_HOSTILE = [
    b"",
    b"\x00",
    b"\xef\xbb\xbf{}",
    b"\xff",
    b"\xed\xa0\x80",
    b'"\\ud800"',
    b"[",
    b"]",
    b"{",
    b"}",
    b'"',
    b"\\",
    b"1e999",
    b"-",
    b"NaN",
    b"1" * 5_000,
    b"null",
    b",",
    b"[" * 70,
    b'{"a":' * 2_000,
]


@st.composite
def mutated(draw: st.DrawFn, valid: st.SearchStrategy[bytes]) -> bytes:
    """Frames of ``valid`` after some accidents: pieces cut out, put in twice, replaced."""
    frame = draw(valid)
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(frame)))
        end = draw(st.integers(start, min(len(frame), start + 8)))
        piece = draw(
            st.one_of(
                st.just(b""),
                st.just(2 * frame[start:end]),
                st.sampled_from(_HOSTILE),
                st.binary(max_size=4),
            )
        )
        frame = frame[:start] + piece + frame[end:]
    return frame


frames = st.one_of(
    message_frames,
    batch_frames,
    json_frames,
    odd_message_frames,
    _nearly_json_frames,
    st.lists(st.one_of(odd_message_frames, json_frames), max_size=4).map(
        lambda elements: b"[%b]" % b",".join(elements)
    ),
    mutated(st.one_of(message_frames, batch_frames, odd_message_frames)),
    st.sampled_from(_HOSTILE),
    st.binary(max_size=64),
)
"""Whatever a peer may send as one frame."""

# --- configuration ---

_some = st.integers(1, 10_000)
_few = st.integers(0, 1_000)
_seconds = st.floats(1e-3, 1e6)
_seconds_or_off = st.one_of(_seconds, st.just(inf))
_budgets = st.one_of(st.just(0.0), _seconds)

_rates = st.builds(RateLimit, st.floats(1e-3, 1e6), burst=_some)
_rates_or_off = st.just(RateLimit(inf)) | _rates

LIMITS: dict[str, st.SearchStrategy[Any]] = {
    "max_sessions": _some,
    "max_sessions_of": st.dictionaries(st.sampled_from(SessionKind), _some),
    "max_sessions_per_principal": _some,
    "max_tasks_per_principal": _some,
    "max_task_result": _some,
    "admission": st.sampled_from(AdmissionPolicy),
    "max_in_flight": _some,
    "max_queued": _few,
    "opening_rate": _rates_or_off,
    "max_stateless_requests": _some,
    "max_stateless_per_principal": _some,
    "max_stateless_queued": _few,
    "request_rate": _rates_or_off,
    "method_rates": st.dictionaries(st.text(), _rates),
    "max_questions": _some,
    "max_values": _some,
    "max_initialize_size": _some,
    "max_session_bytes": _some,
    "max_party_bytes": _some,
    "max_bytes": _some,
    "max_message_size": _some,
    "max_nesting": _some,
    "max_batch": _some,
    "max_subscriptions": _few,
    "max_listens": _few,
    "max_listens_per_principal": _few,
    "max_output": _some,
    "max_ended_handles": _few,
    "max_waiting_hooks": _some,
}
"""What each field of `SessionLimits` may be."""

CLOCKS: dict[str, st.SearchStrategy[Any]] = {
    "handshake_timeout": _seconds_or_off,
    "idle_after": _seconds_or_off,
    "max_idle_time": _seconds_or_off,
    "connection_handshake_timeout": st.none() | _seconds_or_off,
    "connection_idle_time": _seconds_or_off,
    "max_session_time": _seconds_or_off,
    "lifetime_notice": _budgets,
    "cleanup_interval": _budgets,
    "request_timeout": _seconds_or_off,
    "ending_notice": _budgets,
    "question_timeout": _seconds_or_off,
    "ended_handle_time": _budgets,
    "request_state_timeout": _seconds,
    "task_timeout": _seconds,
    "task_retention": _seconds,
    "task_poll_interval": _seconds,
    "send_timeout": _seconds_or_off,
    "eof_grace": _budgets,
    "flush_budget": _budgets,
    "cleanup_budget": _budgets,
    "hook_budget": _seconds_or_off,
    "admission_budget": _budgets,
    "retire_grace": st.one_of(_budgets, st.just(inf)),
    "drain_grace": _budgets,
    "shutdown_timeout": _seconds_or_off,
    # In real time, in a thread: it must not report that this machine is slow.
    "loop_blocked_after": st.sampled_from((None, 600.0, inf)),
    "ping_interval": _seconds_or_off,
    "ping_timeout": _seconds_or_off,
    "ping_strikes": _some,
}
"""What each field of `CleanupConfig` may be."""

session_limits = st.fixed_dictionaries({}, optional=LIMITS).map(lambda set_: SessionLimits(**set_))
"""Limits, some of them at their defaults."""

cleanup_configs = st.fixed_dictionaries({}, optional=CLOCKS).map(lambda set_: CleanupConfig(**set_))
"""Clocks, some of them at their defaults."""

session_configs = st.builds(SessionConfig, limits=session_limits, cleanup=cleanup_configs)
"""Configurations of managers."""

assert LIMITS.keys() == attrs.fields_dict(SessionLimits).keys(), "a new limit joins the strategies"
assert CLOCKS.keys() == attrs.fields_dict(CleanupConfig).keys(), "a new clock joins the strategies"
