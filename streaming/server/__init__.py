"""Who may come in, what they may send, and what all endpoints of one server share."""
