"""Settings of hypothesis for the whole suite."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# The same examples every time, on every machine, however slow. pytest-trio makes the fixtures of
# an async test anew for each test, not for each example; tests that use them know.
settings.register_profile(
    "suite",
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
# To look for what nobody has thought of: `pytest --hypothesis-profile=search`.
settings.register_profile(
    "search", settings.get_profile("suite"), derandomize=False, max_examples=5_000
)
settings.load_profile("suite")
