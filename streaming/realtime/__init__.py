"""OpenAI's Realtime API: the protocol, which does no I/O, its effects, and the connection that runs them."""
