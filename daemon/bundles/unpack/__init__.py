"""Unpacking a bundle: a program of its own that runs confined (see ``__main__``), standard library only."""
