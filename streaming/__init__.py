"""Server: bytes on a wire, a turn's clock, a status code."""
