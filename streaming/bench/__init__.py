"""The server measured at its clients."""
