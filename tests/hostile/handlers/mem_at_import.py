"""A bomb in the module's body, armed by the configuration. Must happen: an init error, and the daemon is fine."""

import mmap
import os
import time

if os.environ.get("ARMED"):
    memory = mmap.mmap(-1, 512 << 20)
    for step in range(512):
        memory[step << 20 : (step + 1) << 20] = b"x" * (1 << 20)
    time.sleep(30)


def handler(ctx, data=None):
    return '{"violations": ["memory-over-limit: the import went through"]}'
