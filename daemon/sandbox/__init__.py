"""The walls around functions as the daemon sees them: groups, networks, users, memory, and what this machine can do."""
