"""What OCI Functions has beyond Fn: sources of functions, work requests, runtimes, pre-built functions."""
