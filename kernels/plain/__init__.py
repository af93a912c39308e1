"""The plain truth of every operation, in torch: readable, and what the tests compare with."""
