"""Real servers, started by the tests themselves: each in a folder of its own, on a free port of the loopback."""
