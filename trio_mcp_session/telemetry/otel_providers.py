"""Which providers of OpenTelemetry record something."""

from __future__ import annotations

from opentelemetry import metrics, trace


def tracer_provider(given: trace.TracerProvider | None) -> trace.TracerProvider | None:
    """Return the given provider, or the global one; None if it records nothing."""
    provider = trace.get_tracer_provider() if given is None else given
    return None if _is_of_the_api(provider) else provider


def meter_provider(given: metrics.MeterProvider | None) -> metrics.MeterProvider | None:
    """Return the given provider, or the global one; None if it records nothing."""
    provider = metrics.get_meter_provider() if given is None else given
    return None if _is_of_the_api(provider) else provider


def _is_of_the_api(provider: object) -> bool:
    """Return whether a provider is one of the API itself: they stand for none, and do nothing."""
    package = type(provider).__module__
    return package.startswith(("opentelemetry.trace", "opentelemetry.metrics"))
