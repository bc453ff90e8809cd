"""`connect`: a bridge from a host's standard input and output to a server that others share."""
