"""Sound as bytes, its tempo, and who is speaking when."""
