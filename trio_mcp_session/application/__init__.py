"""How user code is called: the router, the request's context, tools."""
