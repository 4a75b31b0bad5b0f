import io
import time


def handler(ctx, data: io.BytesIO = None):
    """Sleep for as many seconds as the body says (default 1)."""
    seconds = float(data.getvalue() or 1)
    time.sleep(seconds)
    return f"slept {seconds:g} s\n"
