"""The store as it really is: judges each write as it takes effect, and remembers the past for old reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from tests.simulation.history import History
from tidemill.adapters.memory import Memory
from tidemill.adapters.memory.queue import claimed
from tidemill.model import Delivery, Gone, Record, Swap, Swapped, Value
from tidemill.testing.clock import FakeClock

KEPT = 6.0
"""Seconds of the past that are kept."""


class Truth:
    """One for all hosts of a run."""

    def __init__(self, memory: Memory, clock: FakeClock, history: History, partition_of: Callable[[str], str]) -> None:
        self._inner = memory.store()
        self._memory = memory
        self._clock = clock
        self._history = history
        self._partition_of = partition_of
        self._past: dict[str, list[tuple[float, Record | None]]] = {}
        self._versions: set[tuple[str, str]] = set()
        self.records: dict[str, Record] = {}
        self.handovers: list[tuple[float, str]] = []
        self.acquired: dict[tuple[str, int], float] = {}
        self._started: dict[str, int] = {}
        self.unresolved: Counter[str] = Counter()
        """Claims of each message that ended without a verdict: their process died, or was buried, or had no reply."""

    async def get(self, keys: Sequence[str], age: float) -> Sequence[Record | None]:
        if age:
            return [self._at(key, self._clock.monotonic() - age) for key in keys]
        return await self._inner.get(keys)

    async def scan(self, prefix: str, after: str, limit: int, age: float) -> Sequence[Record]:
        if not age:
            return await self._inner.scan(prefix, after, limit)
        moment = self._clock.monotonic() - age
        keys = sorted(key for key in self._past if key.startswith(prefix) and key > after)
        return [record for key in keys if (record := self._at(key, moment)) is not None][:limit]

    async def swap(self, swaps: Sequence[Swap], host: str) -> Sequence[Swapped]:
        replies: list[Swapped] = []
        for swap in swaps:
            before = self.records.get(swap.key)
            [reply] = await self._inner.swap([swap])
            replies.append(reply)
            if isinstance(reply, Record):
                self._written(swap.key, before, reply, host)
            elif isinstance(reply, Gone) and before is not None:
                self._keep(swap.key, None)
                self._history.note(f"{host} deletes {swap.key}")
        return replies

    def lives(self, member: str) -> bool:
        """Whether it has a record that is no tombstone."""
        record = self.records.get(f"member/{member}")
        return record is not None and record.value.get("state") == "live"

    def claimed(self, delivery: Delivery) -> bool:
        """Whether this claim is the one in the queue; a settle that is repeated may come after it."""
        return claimed(self._memory._state.queue(delivery.queue), delivery)

    def known(self, record: Record, now: float) -> None:
        """A host knows that this lease is its own."""
        self.acquired.setdefault((record.key, _number(record.value, "epoch")), now)

    # --- judging --------------------------------------------------------------------------------------------

    def _written(self, key: str, before: Record | None, after: Record, host: str) -> None:
        if (key, after.version) in self._versions:
            self._history.blame("J2", f"{key}: version {after.version} again")
        self._versions.add((key, after.version))
        self._keep(key, after)
        old = before.value if before else {}
        if key.startswith("member/") and old.get("state", "live") != "live":
            self._history.blame("J1", f"{key}: a tombstone was overwritten")
        if key.startswith("lease/"):
            self._lease(key, old, after.value, host)
        if key.startswith("park/"):
            self._park(key, old, after.value, host)
        if key.startswith("timer/"):
            self._timer(key, old, after.value, host)

    def _lease(self, key: str, old: Value, new: Value, host: str) -> None:
        epochs = _number(old, "epoch"), _number(new, "epoch")
        if epochs[1] < epochs[0]:
            self._history.blame("I3", f"{key}: the epoch fell from {epochs[0]} to {epochs[1]}")
        if _cursor(new) < _cursor(old):
            self._history.blame("J15", f"{key}: the cursor went back without a reset")
        if epochs[1] == epochs[0] and old and old.get("nonce") != new.get("nonce"):
            self._history.blame("I4", f"{key}: another nonce in the same epoch")
        before, after = old.get("owner"), new.get("owner")
        if before == after:
            return
        self._history.note(f"{host} {key} epoch {epochs[1]} at {new.get('cursor')}: {_short(before)} → {_short(after)}")
        self.handovers.append((self._clock.monotonic(), key))
        if before is not None and after is not None and self.lives(str(before)):
            self._history.blame("J1", f"{key}: {host} took it from {_short(before)}, who is not buried")
        if after is None:
            partition = key.rsplit("/", 1)[1]
            for run in self._history.running(host):
                if run.worker == "watch" and self._partition_of(run.key) == partition:
                    self._history.blame("J8", f"{host} gave {key} away while {run.key}#{run.number} runs")

    def _park(self, key: str, old: Value, new: Value, host: str) -> None:
        self._history.note(f"{host} {key} epoch {new.get('epoch')}: {_states(new)}")
        if _number(new, "epoch") < _number(old, "epoch"):
            self._history.blame("J4", f"{key}: {host} wrote it with an older epoch")
        if _number(new, "epoch") < self._started.get(key, 0):
            self._history.blame("J4", f"{key}: {host} wrote it after a later owner had begun")

    def _timer(self, key: str, old: Value, new: Value, host: str) -> None:
        owner = old.get("owner")
        taken = old.get("state") == "running" and new.get("nonce") != old.get("nonce") and owner != new.get("owner")
        if taken and owner and self.lives(str(owner)):
            self._history.blame("J10", f"{key}: {host} took a run from {_short(owner)}, who is not buried")

    # --- the past -------------------------------------------------------------------------------------------

    def started(self, partition: str, epoch: int) -> None:
        """A handler has started a change of this partition in this epoch."""
        key = f"park/watch/{partition}"
        self._started[key] = max(self._started.get(key, 0), epoch)

    def _keep(self, key: str, record: Record | None) -> None:
        if record is None:
            self.records.pop(key, None)
        else:
            self.records[key] = record
        now = self._clock.monotonic()
        past = self._past.setdefault(key, [])
        past.append((now, record))
        while len(past) > 1 and past[1][0] <= now - KEPT:
            del past[0]

    def _at(self, key: str, moment: float) -> Record | None:
        return next((record for when, record in reversed(self._past.get(key, ())) if when <= moment), None)


def _cursor(value: Value) -> int:
    cursor = value.get("cursor")
    return int(cursor) if isinstance(cursor, str) and cursor else 0


def _number(value: Value, name: str) -> int:
    found = value.get(name)
    return found if isinstance(found, int) else 0


def _short(owner: object) -> str:
    return owner[:6] if isinstance(owner, str) else "nobody"


def _states(value: Value) -> str:
    keys = value.get("keys")
    if not isinstance(keys, dict):
        return "?"
    return ", ".join(f"{k} {p['state']} {p['first']}-{p['last']} ×{p['count']}" for k, p in keys.items()) or "empty"
