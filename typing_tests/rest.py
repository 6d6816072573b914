# pyright: strict, reportUnnecessaryTypeIgnoreComment=true, reportUnusedFunction=false
"""Read by type checkers only. What is marked must be an error: a mark without one fails the check."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, assert_type

from tidemill import App, Backoff, Context, Depends, Health, run, wait

app = App("typed")
numbers = app.queue("numbers", int)


# --- tasks --------------------------------------------------------------------------------------------------


@app.task(retry=Backoff(attempts=3))
def thumbnail(image_id: int, width: int = 200) -> str:
    return f"{image_id}x{width}"


@app.task()
async def mail(to: str, *, subject: str) -> bool:
    return bool(to and subject)


async def tasks() -> None:
    assert_type(thumbnail(7), str)
    assert_type(await mail("a@b.example", subject="hello"), bool)
    assert_type(await thumbnail.send(7, width=80), str)
    assert_type(await mail.send_after("1m", "a@b.example", subject="later"), str)
    await thumbnail.send("7")  # type: ignore[arg-type]
    await thumbnail.send()  # type: ignore[call-arg]
    await thumbnail.send(7, height=80)  # type: ignore[call-arg]
    await mail.send("a@b.example", "not by position")  # type: ignore[call-arg]
    await mail.send_after([], "a@b.example", subject="when?")  # type: ignore[arg-type]


# --- timers -------------------------------------------------------------------------------------------------


def clock() -> float:
    return 0.0


@app.every("30s", per_replica=True, misfire="skip")
async def often() -> None: ...


@app.every(timedelta(hours=1), group="feeds")
def hourly(context: Context, now: Annotated[float, Depends(clock)]) -> None: ...


@app.cron("0 3 * * *", tz="Europe/Berlin", once="at_most")
def nightly() -> None: ...


async def direct_calls(context: Context) -> None:
    """The function is what it was, down to the names of its parameters."""
    await often()
    hourly(context=context, now=1.0)
    nightly(1)  # type: ignore[call-arg]


app.every("30s", misfire="maybe")  # type: ignore[arg-type]
app.cron(5)  # type: ignore[arg-type]


# --- health -------------------------------------------------------------------------------------------------


@app.health("fresh", of=often, probes=("ready", "live"))
def fresh() -> Health:
    return Health.degraded("not refreshed")


@app.health("thumbnails", of=[thumbnail, hourly])
async def thumbnails() -> Health:
    return Health.healthy()


@app.health("wrong")  # type: ignore[type-var]
def wrong() -> bool:
    return True


app.health("odd", probes=("often",))  # type: ignore[arg-type]
Health("poorly")  # type: ignore[arg-type]


# --- outside of a worker ------------------------------------------------------------------------------------


async def client() -> None:
    async with app.client(database="sqlite:///work.db"):
        assert_type(await numbers.send(7), str)


def plain_client() -> None:
    with app.client():
        assert_type(wait(numbers.send(7)), str)
        wait(numbers.send("7"))  # type: ignore[arg-type]
        wait(7)  # type: ignore[arg-type]


def running() -> int:
    return run(app, database="memory:", groups=("queues",))


run("app")  # type: ignore[arg-type]
