"""Voice: thoughts to codec ids, codec ids to sound. No message, request or socket is ever seen here."""
