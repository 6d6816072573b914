"""`make bench`: every figure in one run, interleaved, medians, each beside the raw driver or a peer of the same run.

    python -m bench [--rounds 5] [--only queue|feed|…|web|pg-feed|pg-latency|pg-capture|pg-queue|
        storage-queue|service-bus|cosmos]

Lost, doubled and disordered items are counted in each; a figure without those zeroes is void and the exit code is 1.
Absolute numbers depend on the machine; the ratios are what holds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench import azure, feeds, inject, postgres, processes, queues, trimming, web
from tidemill.run import tune

Figures = dict[str, Any]


def queue(rounds: int) -> Figures:
    """The queue beside Huey (durable, and as it comes) and a raw claim and delete loop in batches of 100."""
    raw, huey, plain, ours, void = [], [], [], [], 0
    for _ in range(rounds):
        before = queues.raw(100_000)
        ours_round, lost, doubled = queues.tidemill(100_000)
        ours.append(ours_round)
        raw.append((before + queues.raw(100_000)) / 2)
        huey.append(queues.huey(2_000, fsync=True))
        plain.append(queues.huey(2_000, fsync=False))
        void += lost + doubled
    of_raw = [a / b for a, b in zip(ours, raw, strict=True)]
    return {
        "messages/s": statistics.median(ours),
        "× raw (≥ 0.3)": statistics.median(of_raw),
        "× Huey durable (≥ 10)": statistics.median(ours) / statistics.median(huey),
        "× Huey without fsync": statistics.median(ours) / statistics.median(plain),
        "lost and doubled": void,
    }


def feed(rounds: int) -> Figures:
    """The feed beside a raw read, decode (and await) loop."""
    found = [feeds.run(100_000) for _ in range(rounds)]
    each = [r["each"][0] / r["raw each"] for r in found]
    batch = [r["batch"][0] / r["raw batch"] for r in found]
    return {
        "changes/s, one by one": statistics.median(r["each"][0] for r in found),
        "× raw (≥ 0.2)": statistics.median(each),
        "changes/s, batches of 500": statistics.median(r["batch"][0] for r in found),
        "× raw batch (≥ 0.4)": statistics.median(batch),
        "lost and doubled and disordered": sum(sum(r["each"][1:]) + sum(r["batch"][1:]) for r in found),
    }


def crossing(rounds: int) -> Figures:
    """What it costs a queue that handlers run on a loop of their own: a whole replica, inline against across."""
    costs, void = [], 0
    for _ in range(rounds):
        inline, *wrong = queues.tidemill(50_000, inline=True)
        across, *also = queues.tidemill(50_000)
        costs.append((1 - across / inline) * 100)
        void += sum(wrong) + sum(also)
    return {"% of the throughput (≤ 15)": statistics.median(costs), "lost and doubled": void}


def backlog(rounds: int) -> Figures:
    """A thousand against a million waiting messages."""
    ratios = []
    for _ in range(rounds):
        few, _, _ = queues.tidemill(50_000, 1_000)
        many, _, _ = queues.tidemill(50_000, 1_000_000)
        ratios.append(many / few)
    return {"1,000,000 waiting against 1,000 (≥ 0.8)": statistics.median(ratios)}


def trim(rounds: int) -> Figures:
    """A million changes written and trimmed behind a reader: the file stays as large as it was."""
    with TemporaryDirectory() as folder:
        return asyncio.run(trimming.run(Path(folder) / "trim.db", 1_000_000))


def latency(rounds: int) -> Figures:
    """Send → handler at 100/s."""
    found = [(processes.inside(), processes.across()) for _ in range(rounds)]

    def median(which: int, figure: str) -> float:
        return statistics.median(pair[which][figure] for pair in found)

    return {
        "same process p50 ms (≤ 3)": median(0, "p50"),
        "same process p99 ms (≤ 15)": median(0, "p99"),
        "other process p50 ms (≤ 8)": median(1, "p50"),
        "other process p99 ms (≤ 30)": median(1, "p99"),
        "lost and doubled": sum(one[key] for pair in found for one in pair for key in ("lost", "doubled")),
    }


def idle(rounds: int) -> Figures:
    """An idle `tidemill run --group queues`."""
    found = [processes.idle() for _ in range(max(rounds // 2, 1))]
    return {
        "ready s (≤ 0.7)": statistics.median(f["ready"] for f in found),
        "RSS MB (≤ 70)": statistics.median(f["rss"] for f in found),
        "CPU % (≤ 1)": statistics.median(f["cpu"] for f in found),
    }


def web_api(rounds: int) -> Figures:
    """Document POST over HTTP, 16 clients, beside a bare route that commits each and one on the same group commit."""
    found = [{kind: web.measure(kind, 3_000) for kind in web.KINDS} for _ in range(rounds)]

    def ratio(kind: str, peer: str) -> float:
        return statistics.median(one[kind][0] / one[peer][0] for one in found)

    return {
        **{f"{kind}: posts/s": statistics.median(one[kind][0] for one in found) for kind in web.KINDS},
        "idle × bare, a commit each (≥ 1.5)": ratio("idle", "commit"),
        "idle × bare, group commit (≥ 0.6)": ratio("idle", "group"),
        "busy × bare, a commit each": ratio("busy", "commit"),
        "busy × bare, group commit": ratio("busy", "group"),
        "lost and doubled": sum(lost + doubled for one in found for _, lost, doubled in one.values()),
    }


PARTS: dict[str, Callable[[int], Figures]] = {
    "queue": queue,
    "feed": feed,
    "crossing": crossing,
    "backlog": backlog,
    "trim": trim,
    "inject": inject.measure,
    "latency": latency,
    "idle": idle,
    "web": web_api,
    "pg-feed": postgres.feed,
    "pg-latency": postgres.latency,
    "pg-capture": postgres.capture,
    "pg-queue": postgres.queue,
    "storage-queue": azure.storage_queue,
    "service-bus": azure.service_bus,
    "cosmos": azure.cosmos,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=PARTS, action="append")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    tune()
    void = 0
    everything: dict[str, Figures] = {}
    for name in options.only or PARTS:
        print(f"{name} …", file=sys.stderr, flush=True)
        figures = everything[name] = PARTS[name](options.rounds)
        void += sum(int(value) for key, value in figures.items() if key.startswith("lost"))
        if not options.json:
            print(f"{name}: {PARTS[name].__doc__}")
            for key, value in figures.items():
                print(f"    {key:45} {value:>14,.2f}")
    if options.json:
        print(json.dumps(everything))
    return 1 if void else 0


if __name__ == "__main__":
    sys.exit(main())
