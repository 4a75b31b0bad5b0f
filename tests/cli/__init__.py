"""The stoker command against a daemon that only knows its lines."""
