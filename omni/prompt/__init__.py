"""Messages to ids and positions."""
