"""Who speaks, what they say, and the codes of speech."""
