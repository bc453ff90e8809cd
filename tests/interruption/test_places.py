"""Whatever foreign code raises, wherever it is called: its own session bears it, and no other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from .faults import Fault, Kind, Stage
from .world import (
    Act,
    channel_client,
    http_client,
    legacy_client,
    modern_client,
    modern_http_client,
    outlet_client,
    own_session,
    quiet_outlet_client,
    strike,
    task_client,
)

OPENS, WORKS, ENDS, LEFT = Stage.OPENING, Stage.WORKING, Stage.ENDING, Stage.LEAVING

PLACES: Mapping[Act, Mapping[str, tuple[Stage, ...]]] = {
    own_session: {
        "lifespan.make": (OPENS,),
        "lifespan.enter": (OPENS,),
        "lifespan.task": (WORKS,),
        "lifespan.leave": (ENDS, LEFT),
        "held.enter": (OPENS,),
        "held.task": (WORKS,),
        "held.leave": (ENDS, LEFT),
        "task": (WORKS,),
        "hook.created": (OPENS,),
        "hook.state_changed": (OPENS, WORKS, ENDS, LEFT),
        "hook.terminated": (ENDS, LEFT),
        "principal.hash": (OPENS,),  # It is kept.
        "principal.eq": (WORKS,),
        "wall_clock": (WORKS,),
    },
    legacy_client: {
        "application.lifespan": (OPENS,),
        "application.server_info": (OPENS,),
        "application.capabilities": (OPENS,),
        "application.instructions": (OPENS,),
        "application.handles_notification": (OPENS, WORKS),
        "application.handle": (WORKS,),
        "application.handle.leave": (WORKS, ENDS, LEFT),
        "lifespan.make": (OPENS,),
        "lifespan.enter": (OPENS,),
        "lifespan.task": (WORKS,),
        "lifespan.leave": (ENDS, LEFT),
        "opener.make": (WORKS,),
        "opener.enter": (WORKS,),
        "opener.task": (WORKS,),
        "opener.leave": (LEFT,),
        "hook.created": (OPENS,),
        "hook.state_changed": (OPENS, ENDS, LEFT),
        "hook.terminated": (ENDS, LEFT),
        "hook.error": (WORKS,),
        "log.emit": (WORKS,),
    },
    modern_client: {
        "application.server_info": (OPENS, WORKS),
        "application.capabilities": (OPENS, WORKS),
        "application.instructions": (OPENS,),
        "application.cache_hint": (OPENS, WORKS),
        "application.handles_request": (OPENS, WORKS),
        "application.handle": (WORKS,),
        "application.handle.leave": (WORKS, ENDS, LEFT),
        "opener.make": (WORKS,),
        "opener.enter": (WORKS,),
        "opener.task": (WORKS,),
        "opener.leave": (LEFT,),
        "wall_clock": (WORKS,),
        "log.emit": (WORKS,),
    },
    task_client: {
        "application.capabilities": (OPENS, WORKS),
        "application.server_info": (OPENS, WORKS),
        "application.cache_hint": (OPENS, WORKS),
        "application.handles_request": (OPENS, WORKS),
        "application.handle": (WORKS,),
        "application.handle.leave": (WORKS, ENDS, LEFT),
        "hook.created": (WORKS,),
        "hook.state_changed": (WORKS, ENDS, LEFT),
        "hook.terminated": (ENDS, LEFT),
        "wall_clock": (WORKS,),
        "log.emit": (WORKS,),
    },
    http_client: {
        "event_store.open_log": (OPENS,),
        "event_log.append": (WORKS,),
        "event_log.after": (WORKS,),
        "event_log.close": (ENDS, LEFT),
        "lifespan.enter": (OPENS,),
        "hook.created": (OPENS,),
        "application.handle": (WORKS,),
    },
    modern_http_client: {
        "application.header_parameters": (WORKS,),
        "application.capabilities": (WORKS,),
        "application.server_info": (WORKS,),
        "application.cache_hint": (WORKS,),
        "application.handle": (WORKS,),
        "application.handle.leave": (WORKS, LEFT),
        "wall_clock": (WORKS,),
        "log.emit": (WORKS,),
    },
    outlet_client: {
        "outlet.reachable": (OPENS, WORKS),
        "outlet.send_result": (OPENS, WORKS, ENDS, LEFT),
        "outlet.send_no_result": (WORKS,),
        "outlet.send_message": (OPENS, WORKS),
        "outlet.wait_writable": (WORKS,),
        "outlet.close_stream": (WORKS,),
        "outlet.finish": (ENDS, LEFT),
    },
    quiet_outlet_client: {
        "outlet.connected": (WORKS,),
        "outlet.reachable": (WORKS,),
        "outlet.send_message": (WORKS,),
    },
    channel_client: {
        "channel.receive": (OPENS, WORKS),
        "channel.receive.late": (OPENS, WORKS),
        "channel.send": (OPENS, WORKS, ENDS, LEFT),
        "channel.aclose": (ENDS, LEFT),
    },
}


def cases() -> Iterator[Any]:
    for act, places in PLACES.items():
        for place, stages in places.items():
            for stage in stages:
                for kind in Kind:
                    name = f"{act.__name__}-{place}-{stage.value}-{kind.value}"
                    yield pytest.param(act, place, stage, kind, id=name)


@pytest.mark.parametrize("act, place, stage, kind", list(cases()))
def test_a_fault_ends_no_more_than_its_own_session(
    act: Act, place: str, stage: Stage, kind: Kind
) -> None:
    assert strike(Fault(place, stage, kind), act) == []
