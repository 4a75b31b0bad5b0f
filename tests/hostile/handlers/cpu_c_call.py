"""One long call into C, which no timer inside the process interrupts. Must happen: 504 at the timeout."""

import re


def handler(ctx, data=None):
    re.match(r"(a*)*b", "a" * 64)
    return '{"violations": ["cpu: it ended"]}'
