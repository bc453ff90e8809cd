"""The MCP server: connections of clients, their requests, stateless requests, subscriptions.

Members whose names begin with an underscore are private to this package, not to their module.
"""
