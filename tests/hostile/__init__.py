"""Hostile functions against a real daemon, judged from inside and from outside (see README.md here)."""
