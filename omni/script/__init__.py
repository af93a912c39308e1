"""Text that is to be spoken word for word: cut into pieces, put into words that a voice has, and told piece by piece."""
