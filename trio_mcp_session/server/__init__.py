"""The MCP server: the clients of sessions, their requests, and what belongs to no session.

Members whose names begin with an underscore are private to this package, not to their module.
"""
