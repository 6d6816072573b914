"""What becomes of a delivery whose handler did not simply succeed. Pure: values in, a verdict out."""

from __future__ import annotations

from random import Random

from tidemill.core.backoff import Backoff
from tidemill.core.breaker import Failure
from tidemill.model import Dead, Later, Verdict

UNFIT = "unfit: "
UNFIT_WAIT = 600.0
SNOOZED_AT_MOST = 14 * 86_400.0
KILLER_AFTER = 6
HELD_WAIT = 30.0


def judge_failure(
    error: str,
    *,
    attempt: int,
    failure: Failure,
    retry: Backoff,
    random: Random,
    delay: float | None = None,
) -> Verdict:
    """The handler failed; `attempt` failures were recorded before, `delay` is what the handler asked for.

    A last attempt condemns only where the breaker says so; until then the delivery comes again uncounted. Who
    declares a single attempt wants no second one, whatever the reason.
    """
    if retry.attempts == 1:
        return Dead(f"failed: {error}")
    if not failure.burns:
        return Later(1.0 if delay is None else delay, error, attempt=False)
    usual = retry.delay(attempt + 1, random)
    if usual is not None:
        return Later(usual if delay is None else delay, error)
    if failure.may_die:
        return Dead(f"failed {attempt + 1} times: {error}")
    return Later(HELD_WAIT, error, attempt=False)


def judge_misfit(why: str, *, no_json: bool, reason: str) -> Verdict:
    """The body does not fit. `reason` is that of the last `Later`: it waits once, for a newer release may know it."""
    if no_json:
        return Dead(why)
    if reason.startswith(UNFIT):
        return Dead(UNFIT + why)
    return Later(UNFIT_WAIT, UNFIT + why, attempt=False)


def judge_snooze(verdict: Later, *, sent_at: float, now: float) -> Verdict:
    """Not yet, said the handler; but not for ever."""
    if now - sent_at > SNOOZED_AT_MOST:
        return Dead(f"snoozed for more than 14 days: {verdict.reason}")
    return verdict


def killed(deliveries: int) -> Dead | None:
    """A delivery that came back again and again without any verdict ended its process each time."""
    return Dead("the process ended during it") if deliveries >= KILLER_AFTER else None
