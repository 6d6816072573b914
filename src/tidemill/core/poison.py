"""What becomes of a change whose handler did not succeed. Pure: values in, a decision out.

Short waits hold the key in place, in memory. Longer ones, or any while the read-ahead fills up, become durable: the
key goes by the park, so that a failing key never holds the mark and keeps its attempts across a hand-over.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal, TypeAlias

from tidemill.core.backoff import Backoff
from tidemill.core.breaker import Failure

IN_PLACE = 5.0
UNFIT_WAIT = 600.0
UNFIT = "unfit: "

OnPoison: TypeAlias = Literal["park", "skip", "halt"]


@dataclass(frozen=True, slots=True)
class Wait:
    """Again in place after `delay` seconds."""

    delay: float
    failures: int


@dataclass(frozen=True, slots=True)
class Keep:
    """By the park: `waiting` for `delay` seconds, or `parked` until somebody decides."""

    state: Literal["waiting", "parked"]
    delay: float
    attempts: int
    error: str


@dataclass(frozen=True, slots=True)
class Pass:
    """To the dead letters, and on: the key's order is given up."""

    attempts: int
    error: str


@dataclass(frozen=True, slots=True)
class Halt:
    """The partition stops here until somebody decides."""

    error: str


Decision: TypeAlias = Wait | Keep | Pass | Halt


def after_failure(
    error: str,
    *,
    failures: int,
    failure: Failure,
    retry: Backoff,
    on_poison: OnPoison,
    crowded: bool,
    random: Random,
    delay: float | None = None,
) -> Decision:
    """The handler failed; `failures` were counted before. `delay` is what the handler asked for, if it did.

    `failure` is the breaker's word: whether this counts, and whether the change may be given up at all.
    """
    if not failure.burns:
        return Wait(min(delay or 1.0, IN_PLACE), failures)
    counted = failures + 1
    usual = retry.delay(counted, random)
    if usual is None:
        if failure.may_die or retry.attempts == 1:  # who wants a single attempt wants no second one
            return poisoned(f"failed {counted} times: {error}", attempts=counted, on_poison=on_poison)
        return Wait(IN_PLACE, failures)
    wait = usual if delay is None else delay
    return again(wait, failures=counted, error=error, crowded=crowded)


def again(delay: float, *, failures: int, error: str, crowded: bool) -> Decision:
    """It comes again after `delay` seconds: in place if that is short and there is room, else durably."""
    if delay <= IN_PLACE and not crowded:
        return Wait(delay, failures)
    return Keep("waiting", delay, failures, error)


def after_misfit(why: str, *, no_json: bool, failures: int, last: str, on_poison: OnPoison) -> Decision:
    """The body does not fit. It waits once, for a newer release may know it; bytes that are no JSON never will."""
    if no_json or last.startswith(UNFIT):
        return poisoned(why, attempts=failures, on_poison=on_poison)
    return Keep("waiting", UNFIT_WAIT, failures, UNFIT + why)


def poisoned(error: str, *, attempts: int, on_poison: OnPoison) -> Decision:
    """It will not succeed by trying: what the worker's declaration says about that."""
    match on_poison:
        case "park":
            return Keep("parked", 0.0, attempts, error)
        case "skip":
            return Pass(attempts, error)
        case "halt":
            return Halt(error)
