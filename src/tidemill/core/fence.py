"""The fence: how long we may trust that what we hold is still ours.

State: one deadline per store, `send` time of the last good renewal + the fence length, on the monotonic clock.
It is a *comparison, not a timer*: after a freeze the loop may run a late reply before the timer that was due,
and a reply that extends first would hide the gap. So the deadline is compared before each user call, before
each checkpoint or settle is sent, and before a renewal's reply extends it.
"""

from __future__ import annotations


class Fence:
    """The deadline of one store. Written by the engine only; read from any thread (a float read is atomic).

    One with another `above` it is that of a single lease: it holds only while the other does.
    """

    __slots__ = ("above", "deadline")

    def __init__(self, deadline: float = float("-inf"), above: Fence | None = None) -> None:
        self.deadline: float = deadline
        self.above: Fence | None = above

    def holds(self, now: float) -> bool:
        """Whether what depends on this store may start or be written now."""
        return now < self.deadline and (self.above is None or self.above.holds(now))

    def extend(self, sent: float, length: float) -> None:
        """A renewal that was sent at `sent` has succeeded. Never moves the deadline back."""
        self.deadline = max(self.deadline, sent + length)

    def drop(self) -> None:
        """Trust nothing any more."""
        self.deadline = float("-inf")
