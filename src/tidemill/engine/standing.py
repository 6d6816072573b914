"""What makes claims ours: a member record where claims belong to members, else the deadline of each claim alone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from tidemill.core.fence import Fence
from tidemill.engine.membership import Listener


class Standing(Protocol):
    """As who a queue worker claims, and whether that holds. A membership is one."""

    fence: Fence

    @property
    def member(self) -> str:
        """The id under which claims are made."""
        ...

    def frees(self, free: Callable[[Sequence[str]], Awaitable[Sequence[str]]]) -> None:
        """End the claims of the dead with this (`Queue.free`)."""
        ...

    def listen(self, listener: Listener) -> None:
        """Tell this one of fence, resume and burial."""
        ...


class Unbound:
    """Stands for a membership on a backend without a store, such as a broker: each claim ends by its own deadline, so
    nobody is buried, and no record of ours is asked whether something may start."""

    def __init__(self, name: str) -> None:
        self.fence: Fence = Fence(float("inf"))
        self._name = name

    @property
    def member(self) -> str:
        return self._name

    def frees(self, free: Callable[[Sequence[str]], Awaitable[Sequence[str]]]) -> None:
        """There are no dead to free."""

    def listen(self, listener: Listener) -> None:
        """There is nothing to tell."""
