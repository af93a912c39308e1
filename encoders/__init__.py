"""Senses: media to rows. A file, a frame or a wave becomes `Features`; no token id is ever seen here."""
