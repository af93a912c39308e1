"""The programs that train, and what they learn from."""
