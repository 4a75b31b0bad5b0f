"""The console: the daemon's pages for people, rendered on the server, with a little JavaScript they work without."""
