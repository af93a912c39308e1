"""A conversation with a server from Python."""
