"""A checkpoint's files to weights in memory."""
