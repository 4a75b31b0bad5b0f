"""The ``stoker`` command: a client of the HTTP APIs, with no private door into the daemon."""

__version__ = "0.1.0"
"""Equal to the distribution's version (a test compares); reading the metadata would cost a third of the start-up."""
