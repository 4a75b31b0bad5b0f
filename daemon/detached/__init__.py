"""Calls that nobody waits for: kept, run, retried, delivered."""
