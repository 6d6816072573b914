"""Real processes on one file, told to stop, killed, stopped and blocked: what Tidemill must show."""
