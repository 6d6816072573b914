"""Who waits for what. Lives on the loop: no locks.

Topics are the adapter's own. A waiter listens *before* it looks, so a commit between its look and its wait is never
missed; a bell may ring for nothing.
"""

from __future__ import annotations

from asyncio import Event
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class Bell:
    """Events by topic."""

    def __init__(self) -> None:
        self._events: dict[str, set[Event]] = {}

    @contextmanager
    def listen(self, topic: str) -> Iterator[Event]:
        """An event that is set whenever the topic rings."""
        event = Event()
        self._events.setdefault(topic, set()).add(event)
        try:
            yield event
        finally:
            self._events[topic].discard(event)

    @property
    def anybody(self) -> bool:
        """Whether somebody waits for anything."""
        return any(self._events.values())

    def ring(self, topics: Iterable[str]) -> None:
        for topic in topics:
            for event in self._events.get(topic, ()):
                event.set()

    def ring_all(self) -> None:
        """Another process committed something: everybody looks."""
        self.ring(tuple(self._events))
