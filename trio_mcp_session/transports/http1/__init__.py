"""A small and strict HTTP/1.1 server that runs ASGI applications on Trio."""
