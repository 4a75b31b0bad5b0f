"""The processes beneath the daemon: started, talked to, read from, stopped."""
