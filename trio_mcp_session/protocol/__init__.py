"""The protocol's own rules, as pure functions: bytes and values in, bytes and values out."""
