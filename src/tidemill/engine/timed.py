"""One timer in one replica: decides what to claim, start, try again, give back and write. Talks to nobody.

State: the record as it was seen last; `pending`, the one write that is under way; `run`, the occurrence that this
replica has claimed. `engine.timers` calls `turn` whenever something may have changed, sends what is pending and
reports the answer. An end is sent again as it is until it is answered: its own `write` id or nonce in a stale answer
tells that it was committed before. A claim that is not answered is decided afresh.

Trust: a run belongs to the member id that claimed it, and starts only while the fence holds. A fence that lapses
cancels it: the owner may be buried soon, and then somebody else begins. An end that comes after that is still
written, for the claim's nonce in the record decides. A timer of each replica is the same machine without members:
its record is in memory, and its writes stand at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Literal, Protocol, TypeAlias, assert_never

from tidemill.app.worker import Worker
from tidemill.core import timer as records
from tidemill.core.fence import Fence
from tidemill.core.member import Member
from tidemill.core.schedule import grace
from tidemill.core.timer import Adopt, Claim, ClaimWish, Control, Lose, Retake, Rules, Skip, Step, Timer
from tidemill.engine.membership import Listener
from tidemill.engine.work import Call, Cancelled, End, Ended, Failed, Misfit, Occurrence, Sink, Unstarted
from tidemill.model import Dead, Fact, Later, Observer, Record
from tidemill.ports import Clock

HEAD_START = 0.5
"""Seconds that the preferred replica has for itself."""

FRESH = 0.2
"""A record that was read this many seconds ago is good enough for a claim after the preferred replica's time."""

BLOCKED = 0.25
"""Seconds until a look at something that cannot go on now and is not told when it can."""

Then: TypeAlias = Literal["noted", "claimed", "again", "over"]


class Members(Protocol):
    """What timers need of `engine.membership`."""

    @property
    def member(self) -> str: ...

    @property
    def fence(self) -> Fence: ...

    def members(self, group: str | None = None) -> Sequence[Member]: ...

    def is_buried(self, member: str) -> bool: ...

    async def certainly_buried(self, member: str) -> bool: ...

    def listen(self, listener: Listener) -> None: ...


@dataclass(slots=True, eq=False)
class Replica:
    """What the timers of one process share. `closed`: claim nothing, give back what is not begun; `looked`, `look_at`
    (monotonic): when records were and will be read."""

    sink: Sink
    cancel: Callable[[Call, str], None]
    clock: Clock
    random: Random
    observe: Observer
    closed: bool = False
    looked: float = float("-inf")
    look_at: float = float("-inf")

    def id(self) -> str:
        """A name that was never used before."""
        return f"{self.random.getrandbits(128):032x}"


@dataclass(slots=True, eq=False)
class Pending:
    """One write: the record as it shall be, over the version it was derived from, and what it means when it stands."""

    value: Timer
    version: str | None
    then: Then
    fact: Fact | None = None
    sent: bool = False


@dataclass(slots=True, eq=False)
class Run:
    """The occurrence that this replica has. `recorded`: the try that comes next stands in the record."""

    member: str
    call: Call | None = None
    cancelled: bool = False
    recorded: bool = True
    not_before: float = 0.0


class Timed:
    """One timer. `members` is None for one of each replica."""

    def __init__(self, worker: Worker, rules: Rules, replica: Replica, members: Members | None) -> None:
        self.worker = worker
        self.rules = rules
        self.control: Control = Control()
        self.timer: Timer | None = None
        self.version: str | None = None
        self.pending: Pending | None = None
        self.run: Run | None = None
        self.buried_owner = ""
        self.shared: bool = members is not None
        self._replica = replica
        self._members = members
        self._fence = Fence(float("inf")) if members is None else members.fence
        self._seen = members is None
        self._agreed = False
        self._control_seen = False
        self._due = (float("nan"), 0.0)

    @property
    def me(self) -> str:
        return "" if self._members is None else self._members.member

    def trusted(self) -> bool:
        """Whether anything may start or be written now."""
        return self._fence.holds(self._replica.clock.monotonic())

    # --- what to do now -------------------------------------------------------------------------------------

    def turn(self) -> Call | None:
        """Look at the clock and the record: a call to hand over now, if any; `pending` is what to write."""
        pending = self.pending
        if pending is not None and self._outdated(pending):
            self.pending = pending = None
        if pending is None and self.run is None and self._seen and not self._replica.closed and self.trusted():
            self._consider()
        if self.pending is None and self.run is not None:
            return self._go_on(self.run)
        return None

    def _outdated(self, pending: Pending) -> bool:
        """Not to be sent (again): nobody may start what was claimed by an id that is not ours any more."""
        if pending.then == "noted":
            return self._replica.closed
        if pending.then != "claimed":
            return False
        unsent = not pending.sent and (self._replica.closed or not self.trusted())
        return unsent or pending.value.owner != self.me

    def unanswered(self, pending: Pending) -> None:
        """Whether it took effect is unknown. An end is sent again as it is; a claim is decided afresh, for time has
        passed: if it was committed, the next is refused and shows a claim of ours that never began."""
        if self.pending is pending and pending.then in ("claimed", "noted"):
            self.pending = None

    def _go_on(self, run: Run) -> Call | None:
        timer = self._known()
        if run.call is not None:
            if not run.cancelled and (run.member != self.me or not self.trusted()):
                run.cancelled = True
                self._replica.cancel(run.call, "this replica may not be the only one any more")
        elif run.member != self.me:
            self.run = None  # that id is buried: whoever sees it takes the occurrence
        elif self._replica.closed:
            self._write(records.give_back(timer, counts=not run.recorded), "over")
        elif self.trusted() and self._early(run) <= 0:
            if not run.recorded:
                self._write(records.again(timer), "again")
            if run.recorded:
                return self._start(run, self._known())
        return None

    def _start(self, run: Run, timer: Timer) -> Call:
        late = self._replica.clock.now() - timer.at > grace(self.rules.schedule, timer.at)
        occurrence = Occurrence(self.worker.name, timer.at, timer.attempts, timer.past_due or late)
        run.call = Call(self.worker, (occurrence,), self._fence, self._replica.sink, timer.attempts)
        return run.call

    def _early(self, run: Run) -> float:
        """Seconds until the next try may start; the wall clock may have gone back since the claim."""
        clock = self._replica.clock
        return max(self._known().at - clock.now(), run.not_before - clock.monotonic())

    def _consider(self) -> None:
        """Nothing is held here: see whether there is something to take."""
        timer, now = self.timer, self._replica.clock.now()
        if timer is None:
            self._write(records.begin(self.rules.schedule, self.me, now), "noted")
            return
        if timer.state == "running" and timer.owner == self.me:
            timer = records.give_back(timer, counts=False)  # a claim whose answer was lost: it never began
        dead = timer.owner != "" and timer.owner == self.buried_owner
        may_adopt = self._may_adopt(timer)
        step = records.decide(timer, self.rules, self.control, now=now, owner_is_dead=dead, may_adopt=may_adopt)
        if step is not None and not (isinstance(step, Claim | Skip) and self._is_others(step.at, now)):
            self._take(timer, step, now)

    def _take(self, timer: Timer, step: Step, now: float) -> None:
        me, nonce, schedule = self.me, self._replica.id(), self.rules.schedule
        match step:
            case Adopt():
                fact = self._fact("timer_rescheduled", schedule=schedule.description)
                self._write(records.adopt(timer, schedule, me, now), "noted", fact)
            case Claim(at, past_due, skipped):
                claimed = records.claim(timer, at, member=me, nonce=nonce, past_due=past_due)
                self._write(claimed, "claimed", self._fact("timer_missed", skipped) if skipped else None)
            case Skip(at, skipped):
                self._write(records.skip(timer, at), "noted", self._fact("timer_missed", skipped))
            case ClaimWish(wish):
                self._write(records.claim_wish(timer, wish, now, member=me, nonce=nonce), "claimed")
            case Retake(buried):
                repeated = self._fact("timer_repeated", at=timer.at) if buried else None
                self._write(records.retake(timer, member=me, nonce=nonce), "claimed", repeated)
            case Lose():
                lost = self._fact("timer_lost", at=timer.at, owner=timer.owner)
                self._write(records.end(timer, "lost: its owner ended"), "noted", lost)
            case _:
                assert_never(step)

    def _is_others(self, at: float, now: float) -> bool:
        """Whether another replica goes first. Who comes after it looks again, so as not to swap in vain."""
        if self._members is None:
            return False
        able = [member.id for member in self._members.members(self.worker.group)]
        if records.preferred(self.worker.name, able) in (None, self.me):
            return False
        if now < at + HEAD_START:
            return True
        mono = self._replica.clock.monotonic()
        if mono - self._replica.looked <= FRESH:
            return False
        self._replica.look_at = mono
        return True

    def _may_adopt(self, timer: Timer) -> bool:
        """This process has just come with its schedule, or who put the other one in is gone."""
        if self._members is None or not self._agreed:
            return True
        alive = {member.id for member in self._members.members()}
        return self.me in alive and timer.setter not in alive

    def wait(self) -> float:
        """Seconds until `turn` may have something to do by the clock alone."""
        clock, run, timer = self._replica.clock, self.run, self.timer
        if self.pending is not None:
            return BLOCKED
        if run is not None and run.call is not None:
            return float("inf") if run.cancelled else self._fence.deadline - clock.monotonic()
        if run is not None:
            early = self._early(run)
            return early if early > 0 else BLOCKED
        if self._replica.closed or timer is None or timer.state == "running" or self.control.paused:
            return float("inf")
        early = self._next_due(timer) - clock.now()
        return early if early > 0 else HEAD_START / 5

    def _next_due(self, timer: Timer) -> float:
        """The first occurrence that is not decided; kept, for it is asked for at each turn."""
        start = records.start_of(timer, self.control)
        if start != self._due[0]:
            self._due = (start, self.rules.schedule.next(start))
        return self._due[1]

    # --- how a call ended -----------------------------------------------------------------------------------

    def ended(self, call: Call, end: End) -> None:
        """A call has ended; of one that is not ours any more nothing is written."""
        run = self.run
        if run is None or run.call is not call:
            return
        run.call, run.cancelled = None, False
        match end:
            case Ended(Later(delay, reason, counts)):
                self._retry(run, reason, delay=delay, counts=counts)
            case Ended(Dead(reason)):
                self._over("timer_failed", reason)
            case Ended():
                self._over()
            case Failed(error):
                self._retry(run, error)
            case Misfit(why):
                self._over("timer_failed", why)
            case Cancelled(why):
                if self.rules.once == "at_most":
                    self._over("timer_lost", f"lost: {why}")
            case Unstarted():
                pass  # as after `Cancelled`: it starts again when it may, or is given back; no try is counted
            case _:
                assert_never(end)

    def _retry(self, run: Run, error: str, *, delay: float | None = None, counts: bool = True) -> None:
        """Once more, as long as the next occurrence is not due."""
        timer = self._known()
        usual = self.worker.policy.retry.delay(timer.attempts, self._replica.random) if counts else 0.0
        wait = usual if delay is None else delay
        if wait is None or usual is None or self.rules.once == "at_most" or self._too_late(timer, wait):
            self._over("timer_failed", error or "failed")
            return
        run.not_before = self._replica.clock.monotonic() + wait
        run.recorded = not counts

    def _too_late(self, timer: Timer, wait: float) -> bool:
        return self._replica.clock.now() + wait >= self.rules.schedule.next(timer.at)

    def _over(self, fact: str = "", error: str = "") -> None:
        timer = self._known()
        told = self._fact(fact, at=timer.at, attempts=timer.attempts, error=error) if fact else None
        self._write(records.end(timer, error), "over", told)

    # --- writes ---------------------------------------------------------------------------------------------

    def _write(self, value: Timer, then: Then, fact: Fact | None = None) -> None:
        self.pending = Pending(replace(value, write=self._replica.id()), self.version, then, fact)
        if not self.shared:
            self.stands(self.pending, self.pending.value, None)

    def stands(self, pending: Pending, value: Timer, version: str | None) -> None:
        """What was pending has taken effect; the record is now `value`."""
        self.pending, self.timer, self.version = None, value, version
        self._agreed = self._agreed or value.schedule == self.rules.schedule.identity
        match pending.then:
            case "claimed":
                self.run = Run(value.owner)
            case "again":
                if self.run is not None:
                    self.run.recorded = True
            case "over":
                self.run = None
            case "noted":
                pass
            case _:
                assert_never(pending.then)
        if pending.fact is not None:
            self._replica.observe(pending.fact)

    def refused(self, pending: Pending, current: Record | None) -> None:
        """Another version stands there: our own lost reply, a new schedule over our claim, or somebody's claim."""
        found = None if current is None else records.from_value(current.value)
        version = None if current is None else current.version
        mine = found is not None and found.nonce == pending.value.nonce
        if found is not None and (found.write == pending.value.write or (mine and _says(found, pending))):
            self.stands(pending, found, version)
            return
        self.pending, self.timer, self.version = None, found, version
        if self.run is None:
            return
        if found is not None and mine and found.state == "running":
            new = pending.value
            self._write(
                replace(found, state=new.state, owner=new.owner, attempts=new.attempts, error=new.error),
                pending.then,
                pending.fact,
            )
            return
        self.run = None
        self._replica.observe(self._fact("timer_overtaken"))

    def saw(self, record: Record | None) -> None:
        """The record as it was read. What is held here is known better than by any read."""
        self._seen = True
        if self.pending is None and self.run is None:
            self.timer = None if record is None else records.from_value(record.value)
            self.version = None if record is None else record.version
            if self.timer is not None and self.timer.schedule == self.rules.schedule.identity:
                self._agreed = True

    def saw_control(self, control: Control) -> None:
        """The wishes as they were read. A timer of each replica does not serve one that is older than its process."""
        if not self._control_seen and not self.shared and self.timer is not None:
            self.timer = replace(self.timer, ran=control.run)
        self.control, self._control_seen = control, True

    def stranger(self) -> str | None:
        """Who has the running occurrence, if it is somebody else: it may have died."""
        timer = self.timer
        if timer is None or timer.state == "done" or self.run is not None or self.pending is not None:
            return None
        return timer.owner if timer.owner not in ("", self.me, self.buried_owner) else None

    def _known(self) -> Timer:
        assert self.timer is not None, "a run has a record"
        return self.timer

    def _fact(self, name: str, count: int = 1, **detail: str | float) -> Fact:
        return Fact(name, self.worker.name, count, detail=detail)


def _says(found: Timer, pending: Pending) -> bool:
    """Whether the record of our claim already tells what was to be written (with somebody's new schedule over it)."""
    if pending.then == "over":
        return found.state == "done" or found.owner == ""
    return pending.then == "claimed" and found.owner == pending.value.owner
