"""Our numbers in `docs/from-azure.md` are those of the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidemill import App, Backoff
from tidemill.adapters.cosmos.address import POLL
from tidemill.engine.leases import CHECKPOINT_EVERY, LOOK_EVERY
from tidemill.engine.work import FAST, NORMAL, Budget
from tidemill.settings import Settings

PAGE = (Path(__file__).parents[1] / "docs" / "from-azure.md").read_text()


def row(there: str) -> str:
    """The line of the table that begins with this option of theirs."""
    (found,) = [line for line in PAGE.splitlines() if line.startswith(f"| {there}")]
    return found


def policy_of(kind: str) -> tuple[int, float | None]:
    app = App("test")
    decorate = (
        app.on_message(app.queue("jobs", int)) if kind == "message" else app.on_change(app.table("rows", id="id"))
    )

    async def work(item: object) -> None: ...

    decorate(work)  # type: ignore[operator]
    (worker,) = app.declared().workers
    return worker.policy.concurrency, worker.policy.time_limit


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ("`WithPollInterval`", f"{POLL:g} s at most"),
        ("`feedPollDelay`", f"{POLL:g} s at most"),
        ("lease expiration", f"after {NORMAL.bury_after:g} s of silence (`fast`: {FAST.bury_after:g} s)"),
        ("lease renew interval", f"the member every {NORMAL.renew:g} s"),
        ("lease acquire interval", f"all leases every {LOOK_EVERY:g} s"),
        ("checkpoint, automatic", "once a second" if CHECKPOINT_EVERY == 1 else "?"),
        ("`retry` (fixed, exp", f"{Backoff().attempts} attempts, {Backoff().first:g} s × {Backoff().factor:g}"),
        ("`visibilityTimeout`", f"{Backoff().first:g} s × {Backoff().factor:g} up to {Backoff().longest / 60:g} min"),  # type: ignore[operator]
        ("`maxDequeueCount`", f"| {Backoff().attempts} |"),
        ("`batchSize`", f"| {policy_of('message')[0]} |"),
        ("`functionTimeout`", f"| {(policy_of('message')[1] or 0) / 60:g} min |"),
        ("`ShutdownTimeout`", f"| {Budget().grace:g} s |"),
        ("a publisher or a web host", f"port {Settings().health_port}"),
    ],
)
def test_a_number_is_that_of_the_code(there: str, said: str) -> None:
    assert said in row(there)
