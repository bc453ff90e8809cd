"""Applications that were written for other libraries: the official SDK (`mcp`) and FastMCP.

Nothing of these libraries is imported before an application of theirs is served.
"""
