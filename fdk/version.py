"""The version of the official Python FDK whose behaviour this package has.

It goes out in the ``fn-fdk-version`` header of every answer, so clients that look at it see what they know. The
version of this distribution itself is in ``pyproject.toml``.
"""

VERSION = "0.1.128"
