"""What a queue takes in: messages that its backend can keep, and no more of them than its limit.

The one place for this, in front of every adapter. The limit is judged by the last reading of the depth and by what was
sent from here since; a new reading is taken when the last is a second old, or when it seems full, so a queue that was
worked off meanwhile refuses nobody. What others send between two readings is not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tidemill.engine.places import Places
from tidemill.errors import BadOption, QueueFull, TooLarge
from tidemill.model import Limits, Message

AGE = 1.0
"""Seconds after which a reading of the depth is taken anew."""


@dataclass(slots=True)
class Level:
    """Messages in a queue at the last reading, and those sent from here since; when that reading was."""

    count: int
    at: float


class Admission:
    """For the senders of one process. `monotonic` in seconds."""

    def __init__(self, places: Places, monotonic: Callable[[], float]) -> None:
        self._places = places
        self._monotonic = monotonic
        self._takes: dict[str, tuple[frozenset[str], Limits]] = {}
        self._levels: dict[str, Level] = {}

    def check(self, queue: str, messages: Sequence[Message]) -> None:
        """Raises `BadOption` or `TooLarge` for what the backend does not take, before anything is sent. Any thread."""
        features, limits = self._taken_by(queue)
        for message in messages:
            if len(message.body) > limits.body:
                raise TooLarge(
                    f"queue {queue!r}: the body has {len(message.body):,} bytes, its backend takes {limits.body:,};"
                    " keep the content elsewhere and send where it is"
                )
            if message.delay > limits.delay:
                raise BadOption(
                    f"queue {queue!r}: delay={message.delay:g} s, its backend takes {limits.delay:g} s at most; let the"
                    " handler raise Snooze for the rest"
                )
            if message.delay and "delay" not in features:
                raise BadOption(f"queue {queue!r}: delay={message.delay:g} s: its backend has no delays; leave it out")
            if message.priority and "priority" not in features:
                raise BadOption(
                    f"queue {queue!r}: priority={message.priority}: its backend has none; use a queue for each priority"
                )

    async def admit(self, queue: str, counts: Sequence[int]) -> Sequence[QueueFull | None]:
        """For each of these sends, in order, whether it is one too many. On the engine's loop, one call at a time for a
        queue, and the sends that were admitted by the last are answered: a reading then knows all of them."""
        limit = self._places.queues[queue][0].limit if queue in self._places.queues else None
        if limit is None:
            return [None] * len(counts)
        level = self._levels.get(queue)
        if level is None or self._monotonic() - level.at >= AGE or level.count + sum(counts) > limit:
            at, depth = self._monotonic(), await self._places.queue(queue).depth()
            level = self._levels[queue] = Level(depth.ready + depth.delayed + depth.claimed, at)
        return [_admit(queue, level, count, limit) for count in counts]

    def _taken_by(self, queue: str) -> tuple[frozenset[str], Limits]:
        known = self._takes.get(queue)
        if known is None:
            database = self._places.queue_database(queue)
            known = self._takes[queue] = database.features, database.limits
        return known


def _admit(queue: str, level: Level, count: int, limit: int) -> QueueFull | None:
    if level.count + count <= limit:
        level.count += count
        return None
    return QueueFull(
        f"queue {queue!r} is full: {level.count:,} of limit={limit:,} messages are in it and {count:,} more were to be"
        " sent; nothing of this call was sent"
    )
