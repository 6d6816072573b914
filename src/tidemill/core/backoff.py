"""How long to wait before the next try."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from tidemill.core.duration import Duration, seconds
from tidemill.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Backoff:
    """Up to `attempts` tries in all, the waits between them growing by `factor` from `first` up to `longest`.

    Each wait is spread over `jitter`…1 of itself, so that what failed together does not come back together.
    The defaults give 10 tries within about half an hour.
    """

    attempts: int = 10
    first: Duration = 1.0
    factor: float = 3.0
    longest: Duration = 600.0
    jitter: float = 0.5

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ConfigurationError(f"Backoff(attempts={self.attempts}): at least 1, the first try counts")
        if self.factor < 1 or not 0 <= self.jitter <= 1:
            raise ConfigurationError(f"Backoff(factor={self.factor}, jitter={self.jitter}): factor ≥ 1, jitter 0…1")
        for name, value in (("first", self.first), ("longest", self.longest)):
            try:
                seconds(value)
            except (ValueError, TypeError) as error:
                raise ConfigurationError(f"Backoff({name}={value!r}): {error}") from None

    def delay(self, failures: int, random: Random) -> float | None:
        """Seconds to wait after the `failures`-th failure (from 1); None when no try is left."""
        if failures >= self.attempts:
            return None
        longest = seconds(self.longest)
        exponent = min(failures - 1, 64)  # 3.0 ** 700 would overflow long before anybody waits that long
        wait = min(seconds(self.first) * self.factor**exponent, longest)
        return wait * (self.jitter + (1 - self.jitter) * random.random())
