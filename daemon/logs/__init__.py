"""What functions print: kept, searched, followed, and sent elsewhere."""
