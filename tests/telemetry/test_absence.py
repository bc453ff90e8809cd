"""Without instrumentation nothing of telemetry is imported by OpenTelemetry, or executed."""

from __future__ import annotations

import subprocess
import sys
from types import CodeType

import pytest
import trio
from trio.testing import MockClock

from tests.telemetry.test_open_telemetry import router
from tests.telemetry.ways import Telemetry, traced, way_to
from trio_mcp_session import OpenTelemetry, SessionManager, open_session_manager
from trio_mcp_session.sessions import instruments
from trio_mcp_session.transports.extras import MissingExtra

IMPORT = """
import sys
import trio_mcp_session
import trio_mcp_session.__main__
from trio_mcp_session.testing import connect_client
assert "opentelemetry" not in sys.modules
assert "prometheus_client" not in sys.modules
"""


def test_the_library_imports_nothing_of_opentelemetry() -> None:
    subprocess.run([sys.executable, "-c", IMPORT], check=True)


@pytest.mark.parametrize("module", ["opentelemetry", "opentelemetry.trace"])
def test_a_missing_api_is_named_with_the_way_out(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(sys.modules):
        if name.partition(".")[0] == "opentelemetry" or "telemetry.otel_" in name:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    from trio_mcp_session import telemetry

    monkeypatch.delattr(telemetry, "otel_providers", raising=False)
    with pytest.raises(MissingExtra, match=r"OpenTelemetry needs the extra 'otel', which is not"):
        OpenTelemetry()


class Lines:
    """Counts the lines of some files that are executed."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(  # pragma: no cover  # nothing is traced within
        self, frame: object, event: str, argument: object
    ) -> object:
        code: CodeType = frame.f_code  # type: ignore[attr-defined]  # a frame
        watched = "/telemetry/" in code.co_filename and "/tests/" not in code.co_filename
        if watched or code.co_filename == instruments.__file__:
            # `__bool__` says whether there is any; that is asked where it costs least.
            self.count += code.co_name != "__bool__"
        return None


async def calls(manager: SessionManager) -> int:
    """Call every kind of request; return how many functions of telemetry ran meanwhile."""
    lines = Lines()
    async with way_to(manager, "memory", is_modern=False) as legacy:
        async with way_to(manager, "memory", is_modern=True) as modern:
            sys.setprofile(lines)
            try:
                for client in (legacy, modern):
                    for _ in range(10):
                        await client.call("tools/call", {"name": "work"})
                        await client.call("tools/list")
                    await client.call("resources/read", {"uri": "file:///x"})
                await legacy.call("ping")
                await legacy.call("logging/setLevel", {"level": "error"})
                await modern.call("server/discover")
                created = await modern.call("tools/call", {"name": "build"})
                await modern.call("tasks/get", {"taskId": created["result"]["taskId"]})
            finally:
                sys.setprofile(None)
    return lines.count


async def test_without_instrumentation_no_function_of_it_runs(autojump_clock: MockClock) -> None:
    with trio.fail_after(1_000):
        async with open_session_manager(router) as manager:
            assert await calls(manager) == 0
        # The API is there, and no SDK: the global providers stand for none.
        async with open_session_manager(router, instrumentation=OpenTelemetry()) as manager:
            assert await calls(manager) == 0
        telemetry = Telemetry()
        async with traced(router, telemetry) as manager:
            assert await calls(manager) > 100
