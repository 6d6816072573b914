"""The `memory:` backend: the reference for what a backend does, and the fake for tests.

All ports on plain dicts and lists, complete, for one loop. Several engines in one process may share one `Memory`, which
then is their database. Nothing is kept beyond the process; everything else is as real as it gets.
"""

from tidemill.adapters.memory.memory import Memory

__all__ = ["Memory"]
