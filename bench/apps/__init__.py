"""The hello of each peer: a small JSON object in, a small JSON object out. Each runs in the peer's own environment."""
