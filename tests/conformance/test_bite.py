"""The suites bite: each defect breaks one promise of the memory backend, and the test that holds it fails."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import pytest

from tidemill.adapters.memory import Memory
from tidemill.adapters.memory.documents import MemoryDocuments, write
from tidemill.adapters.memory.queue import MemoryQueue, _delivery
from tidemill.adapters.memory.state import QueueState
from tidemill.adapters.memory.store import swap_one
from tidemill.model import Done, Later, Record, Swap
from tidemill.testing import conformance as suites
from tidemill.testing.clock import FakeClock

MEMORY = "tidemill.adapters.memory."


@dataclass(frozen=True, slots=True)
class Defect:
    """`broken` in the place of `place`; `test` of `suite` must fail then."""

    place: str
    broken: Any
    suite: type
    test: str
    arguments: dict[str, Any] | None = None


def never(*_: object) -> bool:
    return False


def always(*_: object) -> bool:
    return True


def nothing(*_: object) -> None:
    return None


def blind(state: Any, swap: Swap) -> Any:
    """A swap that looks at no version."""
    current = state.records.get(swap.key)
    return swap_one(state, replace(swap, version=current.version if current else None))


def by_content(state: Any, swap: Swap) -> Any:
    """A version that comes again with the same value."""
    reply = swap_one(state, swap)
    if isinstance(reply, Record):
        reply = state.records[swap.key] = replace(reply, version=f"v{reply.value}")
    return reply


async def from_after_on(store: Any, prefix: str, after: str, limit: int) -> Any:
    """A scan that brings `after` once more."""
    keys = sorted(key for key in store._state.records if key.startswith(prefix) and key >= after)
    return [store._state.records[key] for key in keys[:limit]]


def last_first(queue: MemoryQueue, owner: str, limit: int, claim: Any = MemoryQueue._claim) -> Any:
    return list(reversed(claim(queue, owner, limit)))


def not_counted(held: Any) -> Any:
    return _delivery(held)._replace(deliveries=1)


def all_at_once(queue: QueueState, now: float) -> None:
    """Dedup keys that end with their message."""
    for key in queue.ending:
        del queue.dedup[key]
    queue.ending.clear()


async def all_of_it(queue: MemoryQueue) -> int:
    """A purge that takes also what somebody holds."""
    count = len(queue._queue.messages)
    queue._queue.messages.clear()
    return count


async def keys_stay(queue: MemoryQueue) -> int:
    """A purge after which nobody can send it again."""
    doomed = [id for id, held in queue._queue.messages.items() if not held.claim]
    for id in doomed:
        del queue._queue.messages[id]
    return len(doomed)


def any_claim(queue: QueueState, delivery: Any) -> bool:
    return delivery.id in queue.messages


def any_outcome(queue: QueueState, outcome: Any) -> bool:
    return outcome.delivery.claim in queue.settled


def not_in_the_log(log: Any, upto: int, oldest: float) -> int:
    """A trim that does not remember what it took."""
    gone = [change for change in log.changes if change.order <= upto or change.at < oldest]
    log.changes = [change for change in log.changes if change not in gone]
    return len(gone)


def skipping(log: Any, cursor: int) -> Any:
    """A resumed read that leaves out one change."""
    return [change for change in log.changes if change.order > cursor][1 if cursor else 0 :]


async def all_or_none(documents: MemoryDocuments, writes: Any) -> Any:
    """Writes of one call that do not see each other."""
    before = dict(documents._collection.documents)
    replies = []
    for one in writes:
        documents._collection.documents = dict(before)
        replies.append(write(documents._state, documents._collection, one))
    return replies


def alphabetic(document: Any, order: str | None) -> Any:
    return (2, str(document.body), document.id)


numbers = count()

D, S, Q, F, L, C, K = (
    suites.DocumentsConformance,
    suites.StoreConformance,
    suites.QueueConformance,
    suites.FeedConformance,
    suites.DeadLettersConformance,
    suites.CommitConformance,
    suites.KeyCommitConformance,
)

DEFECTS = {
    "any version swaps": Defect("store.swap_one", blind, S, "test_of_fifty_swaps_at_once_one_wins"),
    "increments lost": Defect("store.swap_one", blind, S, "test_no_increment_of_a_record_is_lost"),
    "versions come again": Defect("store.swap_one", by_content, S, "test_a_version_never_comes_again"),
    "scan repeats": Defect("store.MemoryStore.scan", from_after_on, S, "test_scan_pages_through_everything_once"),
    "last first": Defect("queue.MemoryQueue._claim", last_first, Q, "test_oldest_first"),
    "low before high": Defect("queue.MemoryQueue._claim", last_first, Q, "test_priority_is_strict"),
    "deliveries not counted": Defect(
        "queue._delivery", not_counted, Q, "test_deliveries_without_a_verdict_are_counted"
    ),
    "dedup ends at once": Defect(
        "queue._forget", all_at_once, Q, "test_a_dedup_key_is_unique_for_a_window_after_the_end", {"verdict": Done()}
    ),
    "dedup never ends": Defect(
        "queue._forget", nothing, Q, "test_a_dedup_key_is_unique_for_a_window_after_the_end", {"verdict": Done()}
    ),
    "any claim settles": Defect("queue.claimed", any_claim, Q, "test_a_stale_claim_is_lost_and_disturbs_nobody"),
    "repeated is lost": Defect(
        "queue.repeated",
        never,
        Q,
        "test_a_repeated_settle_is_settled_and_does_nothing",
        {"verdict": Later(0.0, "x"), "started": True},
    ),
    "any outcome is repeated": Defect(
        "queue.repeated", any_outcome, Q, "test_another_outcome_for_a_settled_claim_is_lost"
    ),
    "peek starts anew": Defect(
        "queue._parsed", lambda _: (float("-inf"), 0.0, 0), Q, "test_peek_pages_through_everything_once"
    ),
    "peek hides the order": Defect(
        "queue._place", lambda held: (0, 0.0, held.serial), Q, "test_peek_is_in_the_order_of_claiming"
    ),
    "purge takes what is held": Defect("queue.MemoryQueue.purge", all_of_it, Q, "test_purge_leaves_what_is_claimed"),
    "purge keeps dedup keys": Defect("queue.MemoryQueue.purge", keys_stay, Q, "test_what_was_purged_may_be_sent_again"),
    "nobody is woken by a send": Defect("state.Bell.ring", nothing, Q, "test_a_waiting_receive_is_woken_by_a_send"),
    "nobody is woken by a return": Defect(
        "state.Bell.ring", nothing, Q, "test_a_waiting_receive_is_woken_by_what_comes_back"
    ),
    "nobody is woken by a write": Defect("state.Bell.ring", nothing, F, "test_a_waiting_read_is_woken_by_a_write"),
    "nobody is woken by a commit": Defect("commit._ring", nothing, C, "test_a_commit_wakes_who_waits"),
    "a key has no partition": Defect(
        "documents.partition_of", lambda *_: f"{next(numbers) % 4:04d}", F, "test_a_key_has_one_partition"
    ),
    "a cursor skips": Defect("documents._after", skipping, F, "test_concurrent_writers_lose_and_swap_nothing"),
    "trimmed without a word": Defect(
        "documents._trim", not_in_the_log, F, "test_what_is_older_than_retention_goes_and_its_readers_are_told"
    ),
    "any etag replaces": Defect("documents.expected", always, D, "test_replace_needs_the_etag"),
    "writes are blind": Defect(
        "documents.MemoryDocuments.write", all_or_none, D, "test_each_write_is_by_itself_and_sees_the_earlier_ones"
    ),
    "numbers by letters": Defect("documents._sort_key", alphabetic, D, "test_query_ordered_by_number", {"limit": 3}),
    "nothing comes back": Defect("letters.revive", nothing, L, "test_release_puts_messages_back"),
    "stale swaps pass": Defect("commit._stale", nothing, C, "test_a_stale_swap_undoes_all"),
    "mismatches pass": Defect("commit._mismatch", nothing, C, "test_a_mismatch_undoes_all"),
    "mismatches of one key pass": Defect("commit._mismatch", nothing, K, "test_a_create_of_what_is_there_undoes_all"),
    "etags of one key pass": Defect("commit._mismatch", nothing, K, "test_etags_guard_the_whole_of_it"),
    "lost leases pass": Defect(
        "commit._lease_holds",
        always,
        C,
        "test_a_lost_lease_fences",
        {"key": "lease/bill/0", "epoch": 2, "nonce": "n3"},
    ),
    "lost claims pass": Defect("commit.claimed", always, C, "test_a_lost_claim_fences"),
    "finished twice": Defect(
        "commit.finished_key", lambda _: f"finished/{next(numbers)}", C, "test_a_finished_change_is_applied_once"
    ),
}


async def run(suite: type, test: str, arguments: dict[str, Any]) -> None:
    """One test of a suite over a fresh memory backend, with the fixtures it asks for."""
    clock = FakeClock()
    method: Callable[..., Any] = getattr(suite(), test)
    async with suites.opened(Memory(clock), clock) as bench:
        await bench.store.swap([Swap("lease/bill/0", None, {"epoch": 3, "nonce": "n3"})] if suite is C else [])
        asked = set(inspect.signature(method).parameters) - set(arguments)
        given = {"bench": bench, "whole": bench, "many": bench, "lease": "lease/bill/0"}
        await method(**arguments, **{name: given[name] if name in given else getattr(bench, name) for name in asked})


@pytest.mark.parametrize("name", DEFECTS)
async def test_a_defect_is_noticed(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    defect = DEFECTS[name]
    await run(defect.suite, defect.test, defect.arguments or {})
    monkeypatch.setattr(MEMORY + defect.place, defect.broken)
    with pytest.raises((AssertionError, ValueError)):
        await run(defect.suite, defect.test, defect.arguments or {})


def test_the_names_of_all_tests_differ() -> None:
    """One class may take all suites: a test that hides another would be lost."""
    all_suites = [getattr(suites, name) for name in suites.__all__ if name.endswith("Conformance")]
    names = [name for suite in all_suites for name in dir(suite) if name.startswith("test_")]
    assert len(all_suites) == 8
    assert sorted(names) == sorted(set(names))
