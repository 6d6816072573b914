"""`make demo`: Avalon on this machine with its real orders, from the first request to the last invoice.

Starts Avalon in a process of its own on a SQLite file, sends every order through its HTTP API, waits until the last
invoice is written, then reads everything back and prints what it found. It goes on serving until Ctrl-C, unless
DEMO_EXIT=1.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from examples.avalon.books import Books, audit
from examples.avalon.system import Row, System, rows

PATIENCE = 600.0

console = Console()


async def demo(folder: Path, orders: list[Row]) -> int:
    """Run the demo in a folder; the exit code."""
    system = System(folder)
    system.start()
    try:
        console.print(f"Avalon is starting on a SQLite file in {folder.name}/ …")
        await system.ready()
        began = time.monotonic()
        await work(system, orders)
        seconds = time.monotonic() - began
        metrics = await system.metrics()
        books = await audit(system.database, orders)
        right = report(books, metrics, seconds)
        if os.environ.get("DEMO_EXIT") != "1":
            await serve(system)
    finally:
        code = await asyncio.to_thread(system.stop)
    if code:
        console.print(f"[red]Avalon ended with exit code {code}; its log is {system.log}")
    return 0 if right and code == 0 else 1


async def work(system: System, orders: list[Row]) -> None:
    """Send all orders and wait for all invoices, with a bar for each."""
    columns = (TextColumn("{task.description:>8}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        sending = progress.add_task("orders", total=len(orders))
        billing = progress.add_task("invoices", total=len(orders))
        watching = asyncio.create_task(watch(system, len(orders), lambda n: progress.update(billing, completed=n)))
        await system.send(orders, sent=lambda: progress.advance(sending))
        await asyncio.wait_for(watching, PATIENCE)


async def watch(system: System, total: int, tell: Callable[[int], object]) -> None:
    """Until as many messages were done as there are orders, by the system's own metrics."""
    done = 0
    while done < total:
        await asyncio.sleep(0.25)
        samples = await system.metrics()
        done = int(samples.get('tidemill_handled_total{worker="send_invoice",verdict="done"}', 0))
        tell(done)


def report(books: Books, metrics: dict[str, float], seconds: float) -> bool:
    """Print what was found; whether it is right."""
    handled = 'tidemill_handled_total{{worker="{}",verdict="done"}}'
    letters = int(sum(value for name, value in metrics.items() if name.startswith("tidemill_dead_letters")))
    table = Table(title="Avalon", show_header=False)
    table.add_column("what")
    table.add_column("count", justify="right")
    counts: dict[str, int | str] = {
        "orders": books.orders,
        "changes": int(metrics.get(handled.format("bill"), 0)),
        "messages": int(metrics.get(handled.format("send_invoice"), 0)),
        "invoices": books.invoices,
        "dead letters": letters,
        "lost": books.lost + books.wrong,
        "duplicates": books.duplicates,
        "seconds": f"{seconds:.1f}",
        "orders a second": f"{books.orders / seconds:.0f}",
    }
    for name, value in counts.items():
        table.add_row(name, f"{value:,}" if isinstance(value, int) else value)
    console.print(table)
    return books.right and not letters


async def serve(system: System) -> None:
    """Until Ctrl-C, or until Avalon ends."""
    console.print(f"Try it: http://127.0.0.1:{system.api}/docs  http://127.0.0.1:{system.probes}/health")
    console.print("Ctrl-C stops it.")
    assert system.process is not None
    try:
        while system.process.poll() is None:
            await asyncio.sleep(0.2)
    except asyncio.CancelledError:
        console.print("stopping …")


def main() -> int:
    """In DEMO_FOLDER if it is set, else in a temporary folder that goes with it."""
    orders = rows(int(os.environ.get("DEMO_ORDERS", "0")) or None)
    kept = os.environ.get("DEMO_FOLDER")
    if kept:
        Path(kept).mkdir(parents=True, exist_ok=True)
        return run(Path(kept), orders)
    with TemporaryDirectory(prefix="avalon-") as folder:
        return run(Path(folder), orders)


def run(folder: Path, orders: list[Row]) -> int:
    try:
        return asyncio.run(demo(folder, orders))
    except KeyboardInterrupt:
        return 0
    except (RuntimeError, TimeoutError) as error:
        console.print(f"[red]{error}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
