"""One file an endpoint, with its request and its reply."""
