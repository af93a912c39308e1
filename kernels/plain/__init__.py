"""The plain truth of every operation, in torch: what the tests compare with, and what runs on a CPU."""
