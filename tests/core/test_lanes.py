"""Lanes: order per key, the oldest first, and a mark that passes nothing that is not done."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tidemill.core.lanes import Entry, Lanes
from tidemill.model import Logged, Page


def logged(order: int, key: str) -> Logged:
    return Logged(f"c{order}", "00", order, f"{order}", "put", f"{key}{order}", key, b"{}", None, 0.0)


def page(first: int, keys: str) -> Page:
    changes = tuple(logged(first + n, key) for n, key in enumerate(keys))
    return Page(changes, f"{first + len(keys) - 1}")


def orders(entries: list[Entry]) -> list[int]:
    return [entry.change.order for entry in entries]


def test_the_oldest_that_may_start_comes_first() -> None:
    lanes = Lanes("0")
    lanes.add(page(1, "aabc"))
    [first] = lanes.take(1, 0.0)
    lanes.finish([first])
    assert lanes.mark == "1"
    assert orders(lanes.take(9, 0.0)) == [2, 3, 4], "the next of the same key is the oldest now"


def test_what_comes_back_comes_before_what_is_newer() -> None:
    lanes = Lanes("0")
    lanes.add(page(1, "abcd"))
    first, second = lanes.take(2, 0.0)
    lanes.put_back(second, 0.0, 0.0)
    lanes.put_back(first, 5.0, 0.0)
    assert orders(lanes.take(1, 0.0)) == [2]
    assert orders(lanes.take(1, 5.0)) == [1]
    assert orders(lanes.take(9, 5.0)) == [3, 4]


def test_a_key_that_goes_another_way_takes_all_of_its_own() -> None:
    lanes = Lanes("0")
    lanes.add(page(1, "abab"))
    first, other = lanes.take(2, 0.0)
    lanes.put_back(other, 0.0, 0.0)
    assert orders(lanes.hand_over([first])) == [1, 3]
    assert orders(lanes.withdraw("b")) == [2, 4]
    assert lanes.ready == 0


def test_a_trial_takes_the_one_that_failed_least() -> None:
    lanes = Lanes("0")
    lanes.add(page(1, "abc"))
    [first] = lanes.take_trial(0.0)
    first.failures = 1
    lanes.put_back(first, 0.0, 0.0)
    assert orders(lanes.take_trial(0.0)) == [2]
    assert orders(lanes.take_trial(0.0)) == [3]
    assert orders(lanes.take_trial(0.0)) == [1]
    assert lanes.take_trial(0.0) == []


@given(
    keys=st.text("abc", min_size=1, max_size=30),
    steps=st.lists(st.tuples(st.sampled_from(["take", "finish", "back", "sleep", "wake"]), st.integers(0, 9))),
)
def test_whatever_happens_keys_keep_their_order_and_the_mark_waits(keys: str, steps: list[tuple[str, int]]) -> None:
    lanes = Lanes("0")
    lanes.add(page(1, keys))
    running: list[Entry] = []
    done: dict[str, list[int]] = {key: [] for key in keys}
    now = 0.0

    def finish(entry: Entry) -> None:
        running.remove(entry)
        lanes.finish([entry])
        done[entry.change.key].append(entry.change.order)

    for step, number in steps:
        if step == "take":
            running += lanes.take(number, now)
        elif step == "wake":
            now += number
        elif running and step == "finish":
            finish(running[number % len(running)])
        elif running and step in ("back", "sleep"):
            entry = running.pop(number % len(running))
            lanes.put_back(entry, now + number if step == "sleep" else now, now)
        assert len({entry.change.key for entry in running}) == len(running), "one of each key at a time"
        missing = set(range(1, len(keys) + 1)) - {order for found in done.values() for order in found}
        assert int(lanes.mark) == min(missing, default=len(keys) + 1) - 1
    now += 100
    while running or lanes.startable(now):
        running += lanes.take(3, now)
        finish(running[0])
    assert all(found == sorted(found) for found in done.values())
    assert (lanes.mark, len(lanes)) == (f"{len(keys)}", 0)
