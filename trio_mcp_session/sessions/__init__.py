"""Sessions as Trio scopes: their tasks, their table, their manager.

Members whose names begin with an underscore are private to this package, not to their module.
"""
