"""Fuzzers: `nox -s fuzz`, or `pytest tests/fuzz --hypothesis-profile=search`."""
