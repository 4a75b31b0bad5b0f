"""Every seeded fault gives a message that names its cause and its cure."""
