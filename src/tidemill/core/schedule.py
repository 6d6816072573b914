"""When a timer is due: intervals, cron expressions, and what to do about occurrences that were missed.

A cron expression is iterated over *wall times* without any zone, and each wall time is then mapped to the
instants it stands for. That mapping is the whole of daylight saving time:

- in a spring gap it stands for the first instant after the gap (all wall times of one gap: that one, once);
- in a repeated hour it stands for the first of its two instants, and also for the second if the expression
  runs in each hour (its hour field begins with `*`);
- else for the one instant it names.

The only module that imports cronsim.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from itertools import islice
from math import floor
from sys import maxsize
from typing import Literal, Protocol
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from tidemill.errors import ConfigurationError

MOST_MISSED = 1_000
"""Occurrences that are caught up (misfire "all"), and to which missed ones are counted."""

_MICRO = 1_000_000
_SECOND = timedelta(seconds=1)
_ALIASES = (
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
)


class Schedule(Protocol):
    """The occurrences of a timer, each named by its instant: seconds since the epoch."""

    @property
    def identity(self) -> str:
        """Text that changes when the schedule does, and only then."""
        ...

    @property
    def description(self) -> str:
        """The schedule for people."""
        ...

    def next(self, after: float) -> float:
        """The first occurrence strictly later than `after`."""
        ...

    def between(self, after: float, until: float, limit: int) -> list[float]:
        """The first `limit` occurrences later than `after` and not later than `until`, oldest first."""
        ...


# --- intervals ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Interval:
    """Multiples of an interval since the epoch, in whole microseconds: ten times 0.1 s is 1 s exactly."""

    micros: int

    @property
    def identity(self) -> str:
        return f"every {self.micros} us"

    @property
    def description(self) -> str:
        return f"every {self.micros / _MICRO:g} s"

    def next(self, after: float) -> float:
        multiple = round(after * _MICRO) // self.micros
        while multiple * self.micros / _MICRO <= after:
            multiple += 1
        return multiple * self.micros / _MICRO

    def between(self, after: float, until: float, limit: int) -> list[float]:
        return _between(self, after, until, limit)


def every(interval: float) -> Interval:
    """The schedule of an interval in seconds, aligned to the epoch. Raises `ConfigurationError`."""
    if not 0.001 <= interval < float("inf"):
        raise ConfigurationError(f"every({interval!r}): the interval is a millisecond at least, as in every(30)")
    return Interval(round(interval * _MICRO))


# --- cron ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Crontab:
    """A cron expression, upper case and without aliases, in a time zone. No slots: it caches its parse."""

    expression: str
    zone: ZoneInfo

    @property
    def identity(self) -> str:
        return f"cron {self.expression} {self.zone.key}"

    @property
    def description(self) -> str:
        return f"cron {self.expression} ({self.zone.key})"

    def next(self, after: float) -> float:
        now = floor(after)
        local = datetime.fromtimestamp(now, self.zone)
        wall = local.replace(tzinfo=None, fold=0)
        found = self._first(wall, after)
        again = self._stamp(wall, 1)
        if self._each_hour and local.fold == 0 and again > now:
            # `now` is in the first pass of a repeated hour: the second begins where the clock is turned back,
            # with wall times that are earlier than this one.
            turn = self._turn(now, again)
            if found >= turn:
                return self._first(self._wall(turn) - _SECOND, turn - 1)
        return found

    def between(self, after: float, until: float, limit: int) -> list[float]:
        return _between(self, after, until, limit)

    @cached_property
    def _template(self) -> CronSim:
        return CronSim(self.expression, datetime(1970, 1, 1))

    @cached_property
    def _each_hour(self) -> bool:
        return self._template.parts[2].startswith("*")

    def _first(self, wall: datetime, after: float) -> float:
        """The first instant later than `after` among those of the wall times later than `wall`."""
        walls = copy(self._template)  # parsing costs more than a step
        walls.dt = wall
        return next(instant for each in walls for instant in self._instants(each) if instant > after)

    def _instants(self, wall: datetime) -> tuple[int, ...]:
        """What a wall time stands for, in order (the module's docstring has the rules)."""
        first, second = self._stamp(wall, 0), self._stamp(wall, 1)
        if first > second:  # PEP 495: in a gap, fold 0 reads the clock before it and lands after it
            return (self._turn(second, first),)
        return (first, second) if first < second and self._each_hour else (first,)

    def _stamp(self, wall: datetime, fold: int) -> int:
        return int(wall.replace(tzinfo=self.zone, fold=fold).timestamp())

    def _wall(self, instant: int) -> datetime:
        return datetime.fromtimestamp(instant, self.zone).replace(tzinfo=None, fold=0)

    def _turn(self, before: int, after: int) -> int:
        """The first instant with the offset of `after`; the clock is changed once between the two."""
        offset = datetime.fromtimestamp(after, self.zone).utcoffset()
        while after - before > 1:
            middle = (before + after) // 2
            if datetime.fromtimestamp(middle, self.zone).utcoffset() == offset:
                after = middle
            else:
                before = middle
        return after


def cron(expression: str, tz: str = "UTC") -> Crontab:
    """The schedule of a cron expression: five fields, six with seconds first, or an alias such as `@daily`.

    Raises `ConfigurationError` for one that cannot be read or never happens, and for an unknown time zone.
    """
    text = " ".join(expression.split())
    text = dict(_ALIASES).get(text.lower(), text).upper()
    try:
        next(CronSim(text, datetime(2000, 1, 1)))
    except CronSimError as error:
        raise ConfigurationError(f'cron({expression!r}): {_mistake(text, error)}; an example: "0 3 * * *"') from error
    except StopIteration as error:
        raise ConfigurationError(f'cron({expression!r}): never happens; an example: "0 3 * * *"') from error
    return Crontab(text, _zone(tz))


def _mistake(text: str, error: CronSimError) -> str:
    if text.startswith("@"):
        return "no such alias (there are " + " ".join(alias for alias, _ in _ALIASES) + ")"
    count = len(text.split())
    if count not in (5, 6):
        return f"{count} fields, not 5 (minute hour day month weekday) or 6 (seconds first)"
    return str(error).lower()


def _zone(tz: str) -> ZoneInfo:
    try:
        return ZoneInfo(tz)
    except (KeyError, ValueError, OSError) as error:  # an unknown name, no name of a file, a folder's name
        raise ConfigurationError(
            f'cron(tz={tz!r}): no such time zone here; an example: "Europe/Berlin" (package tzdata has all)'
        ) from error


def _between(schedule: Schedule, after: float, until: float, limit: int) -> list[float]:
    def occurrences() -> Iterator[float]:
        at = after
        while (at := schedule.next(at)) <= until:
            yield at

    return list(islice(occurrences(), limit))


# --- what is due, and what was missed -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Planned:
    """One occurrence to run; `past_due` when it is late, or stands for others that were missed."""

    at: float
    past_due: bool


@dataclass(frozen=True, slots=True)
class Due:
    """What to run now, oldest first; `skipped` occurrences are passed over (counted up to `MOST_MISSED`).

    `newest` is the last occurrence that this decides about; None when there was none.
    """

    run: tuple[Planned, ...] = ()
    skipped: int = 0
    newest: float | None = None


def grace(schedule: Schedule, at: float) -> float:
    """Seconds after which an occurrence is late: a tenth of the time to the next one, but 2 s to 60 s.

    A take-over or a store's fail-over is no reason to call a nightly job missed.
    """
    return min(max((schedule.next(at) - at) / 10, 2.0), 60.0)


def due(schedule: Schedule, last: float, now: float, misfire: Literal["skip", "once", "all"]) -> Due:
    """What to do at `now` about the occurrences after `last`.

    "skip": only the newest runs, and only if it is not late. "once": the newest runs, once for all that were
    missed. "all": each runs, the newest `MOST_MISSED` of them.
    """
    if schedule.next(last) > now:
        return Due()
    missed = _newest(schedule, last, now, MOST_MISSED if misfire == "all" else 1)
    newest = missed[-1]
    skipped = len(schedule.between(last, missed[0], MOST_MISSED + 1)) - 1
    late = now - newest > grace(schedule, newest)
    match misfire:
        case "all":
            return Due(tuple(Planned(at, now - at > grace(schedule, at)) for at in missed), skipped, newest)
        case "once":
            return Due((Planned(newest, late or skipped > 0),), skipped, newest)
        case "skip":
            return Due((), skipped + 1, newest) if late else Due((Planned(newest, False),), skipped, newest)


def _newest(schedule: Schedule, after: float, until: float, limit: int) -> list[float]:
    """The last `limit` occurrences up to `until`; there is one at least.

    Looks back twice as far each time: a schedule of seconds that slept for a month is not walked through.
    """
    span = 1.0
    while True:
        start = max(after, until - span)
        found = schedule.between(start, until, maxsize)
        if len(found) >= limit or start == after:
            return found[-limit:]
        span *= 2
