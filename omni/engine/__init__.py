"""The loop that turns requests into events."""
