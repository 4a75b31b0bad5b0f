"""Settings of the daemon, section by section, and how they are read."""
