"""``GET /metrics``: the metrics of a manager, for Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..telemetry.exposition import OPEN_METRICS, TEXT, is_open_metrics, write
from ..telemetry.prometheus_metrics import PrometheusMetrics, metrics_of
from ..transports.asgi import ASGIApplication, Receive, Scope, Send
from ..transports.http.headers import values_of
from ..transports.http.json_response import respond
from .admin_app import PLAIN, READING

if TYPE_CHECKING:
    from ..sessions.manager import SessionManager

METRICS_PATH: Final = "/metrics"


def metrics_page(manager: SessionManager) -> ASGIApplication:
    """Return the page of a manager: its statistics, and what its `PrometheusMetrics` counts."""
    counted = manager._instruments.find(PrometheusMetrics)

    async def page(scope: Scope, _receive: Receive, send: Send) -> None:
        if scope["method"] not in READING:
            allow = (b"allow", b"GET, HEAD")
            await respond(send, 405, b"Method not allowed\n", (*PLAIN, allow))
            return
        open_metrics = is_open_metrics(", ".join(values_of(scope["headers"], b"accept")))
        metrics = list(metrics_of(manager.statistics()))
        if counted is not None:
            metrics += counted.metrics()
        content_type = OPEN_METRICS if open_metrics else TEXT
        headers = (
            (b"content-type", content_type.encode()),
            (b"cache-control", b"no-store"),
            (b"vary", b"accept"),
        )
        await respond(send, 200, write(metrics, open_metrics=open_metrics), headers)

    return page
