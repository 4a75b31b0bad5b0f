"""Unpacking a bundle: a program of its own that runs confined (`daemon.unpack.__main__`), standard library only."""
