"""Functions' code as it is kept: uploads, unpacking, interpreters, compiled modules."""
