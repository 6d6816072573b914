"""Queue workers through the harness: verdicts, retries, unfit bodies, killers, outages."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from pydantic import BaseModel

from tidemill import App, Backoff, Context, Dead, Done, Later, Reject, Retry, Snooze
from tidemill.model import Message
from tidemill.testing.harness import Harness


class Job(BaseModel):
    n: int


def app_with(handler: object, **options: object) -> tuple[App, object]:
    app = App("test")
    jobs = app.queue("jobs", Job)
    app.on_message(jobs, name="work", **options)(handler)  # type: ignore[arg-type, call-overload]
    return app, jobs


async def test_a_message_is_done_once() -> None:
    async def work(job: Job) -> None: ...

    app, jobs = app_with(work)
    async with Harness(app) as harness:
        await jobs.send(Job(n=1))
        await harness.idle()
        assert harness.verdicts == [("work", "done")]
        await harness.advance("1h")
        assert len(harness.verdicts) == 1


async def test_a_handler_that_always_raises_ends_in_the_dead_letters() -> None:
    async def work(job: Job) -> None:
        if job.n == 1:
            raise ValueError("never")

    app, jobs = app_with(work)
    async with Harness(app) as harness:
        for n in range(5):
            await jobs.send(Job(n=n))
        await harness.advance("45m")
        [letter] = await harness.dead_letters(jobs)
        assert letter.attempts == 10
        assert "ValueError: never" in letter.reason
        assert "test_queue_worker.py" in letter.error
        assert sum(seen.verdict == "failed" for seen in harness.verdicts) == 10


async def test_the_waits_grow_as_the_backoff_says() -> None:
    times: list[float] = []

    async def work(job: Job) -> None:
        times.append(harness.clock.monotonic())
        raise ValueError

    app, jobs = app_with(work, retry=Backoff(attempts=4, first=1, factor=10, longest=60, jitter=1.0))
    async with Harness(app) as harness:
        await jobs.send(Job(n=1))
        await harness.advance("20m")
        waits = [b - a for a, b in pairwise(times)][:3]
        assert [round(wait) for wait in waits] == [1, 10, 60]


async def test_words_of_the_handler() -> None:
    said = {
        0: Reject("no"),
        1: Snooze(30, "later"),
        2: Retry(5, "busy"),
        3: Done(),
        4: Later(7.0, "hm", attempt=False),
        5: Dead("gone"),
    }
    seen: dict[int, list[int]] = {}

    async def work(job: Job, context: Context) -> object:
        seen.setdefault(job.n, []).append(context.attempt)
        word = said[job.n]
        if len(seen[job.n]) > 1:
            return None
        if isinstance(word, Exception):
            raise word
        return word

    app, jobs = app_with(work)
    async with Harness(app) as harness:
        for n in said:
            await jobs.send(Job(n=n))
        await harness.advance("5m")
        assert seen == {0: [1], 1: [1, 1], 2: [1, 2], 3: [1], 4: [1, 1], 5: [1]}
        assert sorted(letter.reason for letter in await harness.dead_letters(jobs)) == ["gone", "no"]


async def test_bytes_that_are_no_json_are_dead_at_once() -> None:
    async def work(job: Job) -> None: ...

    app, jobs = app_with(work)
    async with Harness(app) as harness:
        await harness.places.queue("jobs").send([Message("jobs", "m", b"{no json")])
        await harness.idle()
        [letter] = await harness.dead_letters(jobs)
        assert "not JSON" in letter.reason
        assert letter.body == b"{no json"


async def test_what_does_not_fit_waits_for_a_deploy_and_then_fits() -> None:
    async def work(job: dict[str, object]) -> None: ...

    async def strict(job: Job) -> None: ...

    old, _ = app_with(strict)
    new = App("test")
    jobs = new.queue("jobs", dict)
    new.on_message(jobs, name="work")(work)
    async with Harness(old) as harness:
        await harness.places.queue("jobs").send([Message("jobs", "m", b'{"n": "seven"}')])
        await harness.idle()
        assert harness.verdicts == [("work", "unfit")]
        assert await harness.dead_letters("queue/jobs") == []
        database, clock = harness.places.main, harness.clock
        await harness.advance("5m")
        assert len(harness.verdicts) == 1
    async with Harness(new, database=database, clock=clock, replica="deployed") as harness:
        await harness.advance("6m")
        assert harness.verdicts == [("work", "m", "done")]


async def test_what_never_fits_is_dead_with_the_path_of_the_field() -> None:
    async def work(job: Job) -> None: ...

    app, jobs = app_with(work)
    async with Harness(app) as harness:
        await harness.places.queue("jobs").send([Message("jobs", "m", b'{"n": "seven"}')])
        await harness.advance("11m")
        [letter] = await harness.dead_letters(jobs)
        assert letter.reason.startswith("unfit: n: ")
        assert "seven" not in letter.reason
        assert letter.attempts == 1


async def test_an_outage_of_ten_minutes_kills_nothing() -> None:
    calls = 0

    async def work(job: Job) -> None:
        nonlocal calls
        calls += 1
        if harness.clock.monotonic() < healthy_at:
            raise ConnectionError("the bank is away")

    app, jobs = app_with(work, concurrency=4)
    async with Harness(app) as harness:
        healthy_at = harness.clock.monotonic() + 600
        for n in range(50):
            await jobs.send(Job(n=n))
        await harness.advance("10m")
        assert await harness.dead_letters(jobs) == []
        assert calls < 60  # the breaker tries once in a while, it does not hammer
        await harness.advance("30m")
        assert await harness.dead_letters(jobs) == []
        assert sum(seen.verdict == "done" for seen in harness.verdicts) == 50


async def test_a_single_poisonous_message_is_not_condemned_before_five_minutes() -> None:
    async def work(job: Job) -> None:
        raise ValueError("alone")

    app, jobs = app_with(work, retry=Backoff(attempts=3, first=0.1))
    async with Harness(app) as harness:
        await jobs.send(Job(n=1))
        await harness.advance("4m")
        assert await harness.dead_letters(jobs) == []
        await harness.advance("2m")
        assert len(await harness.dead_letters(jobs)) == 1


async def test_a_message_that_ends_its_process_is_dead_and_its_neighbours_pass() -> None:
    """Each round a replica takes what there is, begins, and vanishes; the next one goes on."""

    async def work(job: Job) -> None:
        if job.n == 3:
            running.append(job.n)
            await harness.clock.sleep(3600)  # it is inside of it when its process ends

    app, jobs = app_with(work, concurrency=3)
    running: list[int] = []
    async with Harness(app) as harness:
        for n in range(8):
            await jobs.send(Job(n=n))
        database, clock = harness.places.main, harness.clock
        await harness.advance("1s")
        done = [seen.verdict for seen in harness.verdicts]
        await harness.kill()
    assert done.count("done") == 7
    for n in range(5):
        assert await harness.dead_letters(jobs) == []
        async with Harness(app, database=database, clock=clock, replica=f"r{n}") as harness:
            await harness.advance("5s")
            await harness.kill()
    assert len(running) == 5
    [letter] = await harness.dead_letters(jobs)
    assert letter.reason == "the process ended during it"


async def test_batches_get_a_verdict_per_item() -> None:
    sizes: list[int] = []

    async def work(batch: list[Job]) -> list[object]:
        sizes.append(len(batch))
        return [Dead("odd") if job.n % 2 else Done() for job in batch]

    app, jobs = app_with(work, batch=4, concurrency=1)
    async with Harness(app) as harness:
        await jobs.send_many([Job(n=n) for n in range(10)])
        await harness.idle()
        assert max(sizes) <= 4
        assert sum(sizes) == 10
        assert len(await harness.dead_letters(jobs)) == 5


async def test_dead_letters_are_released_and_pass() -> None:
    healed = False

    async def work(job: Job) -> None:
        if not healed:
            raise Reject("not yet")

    app, jobs = app_with(work)
    async with Harness(app) as harness:
        await jobs.send(Job(n=1))
        await harness.idle()
        [letter] = await harness.dead_letters(jobs)
        healed = True
        await harness.places.main.dead_letters().release(letter.source, [letter.id])
        await harness.idle()
        assert harness.verdicts == [("work", letter.id, "rejected"), ("work", letter.id, "done")]


async def test_a_task_travels_with_its_arguments() -> None:
    app = App("test")
    made: list[tuple[int, int]] = []

    @app.task(retry=Backoff(attempts=3))
    async def thumbnail(image: int, width: int = 200) -> None:
        made.append((image, width))

    async with Harness(app) as harness:
        await thumbnail.send(7, width=80)
        await thumbnail.send(8)
        await harness.idle()
        await thumbnail(9)
        assert made == [(7, 80), (8, 200), (9, 200)]


async def test_a_rerun_sends_nothing_twice() -> None:
    app = App("test")
    first = app.queue("first", Job)
    second = app.queue("second", Job)
    tries = 0
    got: list[int] = []

    @app.on_message(first, retry=Backoff(attempts=5, first=1))
    async def forward(job: Job) -> None:
        nonlocal tries
        tries += 1
        await second.send(job)
        await second.send(Job(n=job.n + 100))
        if tries < 3:
            raise ConnectionError("after the send")

    @app.on_message(second)
    async def take(job: Job) -> None:
        got.append(job.n)

    async with Harness(app) as harness:
        await first.send(Job(n=1))
        await harness.advance("2m")
        assert tries == 3
        assert sorted(got) == [1, 101]


@pytest.mark.parametrize("verdict", ["done", "failed"])
async def test_effects_are_committed_with_the_ack_or_not_at_all(verdict: str) -> None:
    app = App("test")
    jobs = app.queue("jobs", Job)
    out = app.queue("out", Job)
    things = app.collection("things", dict, id="id")

    @app.on_message(jobs, retry=Backoff(attempts=1))
    async def work(job: Job, context: Context) -> None:
        context.transaction.put(things, {"id": "t"})
        context.transaction.send(out, Job(n=2))
        if verdict == "failed":
            raise ValueError

    async with Harness(app) as harness:
        await jobs.send(Job(n=1))
        await harness.idle()
        [stored] = await harness.places.documents("things").get(["t"])
        depth = await harness.places.queue("out").depth()
        assert (stored is not None, depth.ready) == ((True, 1) if verdict == "done" else (False, 0))
        if stored is not None:
            assert json.loads(stored.body) == {"id": "t"}
