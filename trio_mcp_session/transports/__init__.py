"""Transports: how frames reach a session and leave it."""
