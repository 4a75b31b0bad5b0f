"""The daemon: pure core, mechanisms, services, HTTP; see docs/explanation/architecture.md."""

VERSION = "0.1.0"
"""Stoker's own version; a test keeps it equal to pyproject.toml."""
FN_VERSION = "0.3.753"
"""The Fn server version whose API and behaviour we speak; GET /version answers it, as the fn CLI expects."""
