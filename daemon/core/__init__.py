"""The pure core: what can happen, what to do. No I/O, no clock, no randomness of its own."""
