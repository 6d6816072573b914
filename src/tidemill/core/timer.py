"""Timers: who runs which occurrence, as a record and its transitions; `engine.timers` writes them.

A timer, `timer/<name>`, remembers two things: `last`, the newest occurrence that was decided, and the claim on
the occurrence `at` that is being run. An occurrence is claimed by the swap that moves `last` onto it, so each is
claimed once however many replicas try, and a clock that goes back finds it decided. The next is claimed only when
the state is done, and what runs is taken over only when its owner is buried: never two at once.

A claim is recognised by its *nonce*. Others may write the record meanwhile only to put a new schedule in, which
leaves the claim as it is; so a stale write of the owner that meets its own nonce is tried again, and one that
meets another nonce has lost.

A schedule that changes starts from now. In a rolling update two releases with two schedules live side by side:
who starts last puts its own in, and the others stand aside as long as that member (`setter`) lives.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, fields, replace
from hashlib import blake2b
from typing import Literal, TypeAlias

from tidemill.core.schedule import Schedule, due
from tidemill.errors import FormatTooNew
from tidemill.model import FORMAT, Json, Value

State: TypeAlias = Literal["running", "done"]


@dataclass(frozen=True, slots=True)
class Timer:
    """The record. Times are seconds since the epoch.

    While the state is running, `owner` (nobody: it was given back) has the occurrence `at`, in its try number
    `attempts`. When it is done these tell of the run before, and `error` how it ended ("" is well). `ran` names
    the newest wish to run now that was claimed.
    """

    schedule: str
    setter: str
    last: float
    state: State = "done"
    at: float = 0.0
    owner: str = ""
    nonce: str = ""
    attempts: int = 0
    past_due: bool = False
    ran: str = ""
    error: str = ""
    write: str = field(default="", compare=False)
    extra: Value = field(default_factory=dict)

    def to_value(self) -> Value:
        return {
            **self.extra,
            "format": FORMAT,
            "schedule": self.schedule,
            "setter": self.setter,
            "last": self.last,
            "state": self.state,
            "at": self.at,
            "owner": self.owner,
            "nonce": self.nonce,
            "attempts": self.attempts,
            "past_due": self.past_due,
            "ran": self.ran,
            "error": self.error,
            "write": self.write,
        }


_KNOWN = frozenset({"format", *(field.name for field in fields(Timer))} - {"extra"})


def key_of(name: str) -> str:
    """Where the record of a timer stands."""
    return f"timer/{name}"


def from_value(value: Value) -> Timer:
    """A record as it was stored. Raises `FormatTooNew` for one that a newer release wrote."""
    _readable(value, "timer")
    return Timer(
        schedule=_text(value, "schedule"),
        setter=_text(value, "setter"),
        last=_number(value, "last"),
        state="running" if value.get("state") == "running" else "done",
        at=_number(value, "at"),
        owner=_text(value, "owner"),
        nonce=_text(value, "nonce"),
        attempts=int(_number(value, "attempts")),
        past_due=value.get("past_due") is True,
        ran=_text(value, "ran"),
        error=_text(value, "error"),
        write=_text(value, "write"),
        extra={name: item for name, item in value.items() if name not in _KNOWN},
    )


# --- transitions --------------------------------------------------------------------------------------------


def begin(schedule: Schedule, member: str, now: float) -> Timer:
    """A timer that never ran: it starts from now."""
    return Timer(schedule.identity, member, now)


def adopt(timer: Timer, schedule: Schedule, member: str, now: float) -> Timer:
    """Another schedule: from now on, with no catch-up over what did not exist. A claim stays what it is."""
    return replace(timer, schedule=schedule.identity, setter=member, last=max(timer.last, now))


def claim(timer: Timer, at: float, *, member: str, nonce: str, past_due: bool) -> Timer:
    """Take the occurrence `at`, which is later than `last`; the first try of it begins."""
    return replace(_taken(timer, at, member, nonce), last=at, past_due=past_due)


def skip(timer: Timer, at: float) -> Timer:
    """Occurrences up to `at` were missed, and stay so."""
    return replace(timer, last=at)


def claim_wish(timer: Timer, wish: str, now: float, *, member: str, nonce: str) -> Timer:
    """Take a wish to run now: an occurrence of its own, beside the schedule."""
    return replace(_taken(timer, now, member, nonce), ran=wish, past_due=False)


def retake(timer: Timer, *, member: str, nonce: str) -> Timer:
    """Take the running occurrence that its owner left, by dying or by giving it back: one more try begins."""
    return replace(timer, owner=member, nonce=nonce, attempts=timer.attempts + 1)


def again(timer: Timer) -> Timer:
    """The owner begins one more try."""
    return replace(timer, attempts=timer.attempts + 1)


def give_back(timer: Timer, *, counts: bool) -> Timer:
    """Let anybody take the occurrence now. `counts`: its last try has failed; else that try never was."""
    return replace(timer, owner="", attempts=timer.attempts if counts else timer.attempts - 1)


def end(timer: Timer, error: str = "") -> Timer:
    """The occurrence is over, well or not; it never runs again."""
    return replace(timer, state="done", error=error[:500])


def _taken(timer: Timer, at: float, member: str, nonce: str) -> Timer:
    return replace(timer, state="running", at=at, owner=member, nonce=nonce, attempts=1, error="")


# --- controls -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Control:
    """What people wish of a timer, `control/timer/<name>`.

    `since` is when it was paused or resumed last: there is no catch-up over a pause. `run` names the newest wish
    to run now, which is served once, also while it is paused.
    """

    paused: bool = False
    since: float = 0.0
    run: str = ""

    def to_value(self, write: str) -> Value:
        return {
            "format": FORMAT,
            "paused": self.paused,
            "since": self.since,
            "run": self.run,
            "write": write,
        }


def control_key(name: str) -> str:
    """Where the wishes for a timer stand."""
    return f"control/timer/{name}"


def control_of(value: Value | None) -> Control:
    """The wishes as stored; none where there is no record."""
    if value is None:
        return Control()
    _readable(value, "timer's control")
    return Control(value.get("paused") is True, _number(value, "since"), _text(value, "run"))


def pause(control: Control, now: float) -> Control:
    """No occurrence is claimed any more; one that runs goes on."""
    return control if control.paused else replace(control, paused=True, since=now)


def resume(control: Control, now: float) -> Control:
    """From now on as the schedule says."""
    return replace(control, paused=False, since=now) if control.paused else control


def run_now(control: Control, wish: str) -> Control:
    """Run once, as soon as nothing runs; `wish` is a name that was never used before."""
    return replace(control, run=wish)


# --- what to do ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Adopt:
    """Put my schedule in."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Claim an occurrence; `skipped` ones before it are passed over."""

    at: float
    past_due: bool
    skipped: int


@dataclass(frozen=True, slots=True)
class Skip:
    """Pass over what was missed, up to `at`: so many occurrences."""

    at: float
    skipped: int


@dataclass(frozen=True, slots=True)
class ClaimWish:
    """Claim a wish to run now."""

    wish: str


@dataclass(frozen=True, slots=True)
class Retake:
    """Run again what its owner left; `buried` when it was by dying, so that it may have run already."""

    buried: bool


@dataclass(frozen=True, slots=True)
class Lose:
    """Its owner died, and it may run at most once: mark it lost."""


Step: TypeAlias = Adopt | Claim | Skip | ClaimWish | Retake | Lose


@dataclass(frozen=True, slots=True)
class Rules:
    """What the declaration says."""

    schedule: Schedule
    misfire: Literal["skip", "once", "all"] = "once"
    once: Literal["at_least", "at_most"] = "at_least"


def decide(
    timer: Timer, rules: Rules, control: Control, *, now: float, owner_is_dead: bool, may_adopt: bool
) -> Step | None:
    """What a replica that holds no claim on this timer should write, None for nothing.

    `may_adopt`: this process has just started, or who put the other schedule in lives no more.
    """
    if timer.schedule != rules.schedule.identity and may_adopt:
        return Adopt()
    if timer.state == "running":
        return _of_running(timer, rules, owner_is_dead)
    if control.run and control.run != timer.ran:
        return ClaimWish(control.run)
    if timer.schedule != rules.schedule.identity or control.paused:
        return None
    found = due(rules.schedule, start_of(timer, control), now, rules.misfire)
    if found.newest is None:
        return None
    if not found.run:
        return Skip(found.newest, found.skipped)
    return Claim(found.run[0].at, found.run[0].past_due, found.skipped)


def start_of(timer: Timer, control: Control) -> float:
    """Occurrences up to here are decided."""
    return max(timer.last, control.since)


def _of_running(timer: Timer, rules: Rules, owner_is_dead: bool) -> Step | None:
    if timer.owner == "":
        return Retake(buried=False)
    if not owner_is_dead:
        return None
    return Lose() if rules.once == "at_most" else Retake(buried=True)


def preferred(name: str, members: Collection[str]) -> str | None:
    """The member that tries first (rendezvous hashing: the same on all replicas, even over the timers)."""
    return max(members, key=lambda member: blake2b(f"{name}\0{member}".encode()).digest(), default=None)


# --- reading ------------------------------------------------------------------------------------------------


def _readable(value: Value, what: str) -> None:
    version = _number(value, "format")
    if version > FORMAT:
        raise FormatTooNew(f"a {what} record has format {version:g}, this release reads up to {FORMAT}")


def _text(value: Value, name: str) -> str:
    found: Json = value.get(name)
    return found if isinstance(found, str) else ""


def _number(value: Value, name: str) -> float:
    found: Json = value.get(name)
    return float(found) if isinstance(found, int | float) else 0.0
