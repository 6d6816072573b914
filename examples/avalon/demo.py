"""`make demo`: Avalon on this machine with its real orders, from the first request to the last invoice.

Starts Avalon in a process of its own on a SQLite file (or on what TIDEMILL_DATABASE names), sends every order through
its HTTP API, waits until the last invoice is written, then reads everything back and prints what it found. It goes on
serving until Ctrl-C, unless DEMO_EXIT=1.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from examples.avalon.books import Books, audit
from examples.avalon.system import Row, System, rows

PATIENCE = 600.0
INTERRUPTED = 130

console = Console()


async def demo(system: System, orders: list[Row], *, serving: bool) -> int:
    """Start Avalon, let it work, report, serve on; the exit code. However this ends, Avalon is stopped."""
    told = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    showing = asyncio.create_task(show(system, orders))
    stopping = asyncio.create_task(told.wait())
    try:
        await asyncio.wait((showing, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not showing.done():
            return INTERRUPTED
        right = showing.result()
        if serving:
            await serve(system, told)
    finally:
        showing.cancel()
        stopping.cancel()
        code = await asyncio.to_thread(system.stop)
    if code:
        console.print(f"[red]Avalon ended with exit code {code}; its log is {system.log}")
    return 0 if right and code == 0 else 1


async def show(system: System, orders: list[Row]) -> bool:
    """From the start to the report; whether all is right."""
    kind, _, where = system.database.partition(":")
    place = where.rpartition("@")[2] or where if system.url else f"a file in {system.folder}"
    console.print(f"Avalon is starting on {kind}, {place} …")
    system.start()
    await system.ready()
    began = time.monotonic()
    await work(system, orders)
    seconds = time.monotonic() - began
    return report(await audit(system.database, orders), await system.metrics(), seconds)


async def work(system: System, orders: list[Row]) -> None:
    """Send all orders and wait for all invoices, with a bar for each. Raises if Avalon ends meanwhile."""
    columns = (TextColumn("{task.description:>8}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        sending = progress.add_task("orders", total=len(orders))
        billing = progress.add_task("invoices", total=len(orders))
        watching = watch(system, len(orders), lambda done: progress.update(billing, completed=done))
        posting = system.send(orders, sent=lambda: progress.advance(sending))
        both = [asyncio.ensure_future(watching), asyncio.ensure_future(posting)]
        try:
            done, late = await asyncio.wait(both, timeout=PATIENCE, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
            if late:
                raise TimeoutError(f"Avalon did not get done within {PATIENCE:g} s; its log is {system.log}")
        finally:
            for task in both:
                task.cancel()


async def watch(system: System, total: int, tell: Callable[[int], object]) -> None:
    """Until as many messages were done as there are orders, by the system's own metrics."""
    done = 0
    while done < total:
        await asyncio.sleep(0.25)
        system.check()
        try:
            samples = await system.metrics()
        except httpx.TransportError:
            continue  # it may be about to end; then the next look says so
        done = int(samples.get('tidemill_handled_total{worker="send_invoice",verdict="done"}', 0))
        tell(min(done, total))


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
        "lost": books.lost,
        "duplicates": books.duplicates,
        "wrong sums": books.wrong,
        "seconds": f"{seconds:.1f}",
        "orders a second": f"{books.orders / seconds:.0f}",
    }
    for name, value in counts.items():
        table.add_row(name, f"{value:,}" if isinstance(value, int) else value)
    console.print(table)
    return books.right and not letters


async def serve(system: System, told: asyncio.Event) -> None:
    """Until Ctrl-C, or until Avalon ends."""
    console.print(f"Try it: http://127.0.0.1:{system.api}/docs  http://127.0.0.1:{system.probes}/health")
    console.print("Ctrl-C stops it.")
    while system.running and not told.is_set():
        await asyncio.sleep(0.2)
    console.print("stopping …")


def main() -> int:
    """In DEMO_FOLDER if it is set, else in a temporary folder that goes with it."""
    try:
        orders = rows(int(os.environ.get("DEMO_ORDERS", "0")) or None)
    except ValueError:
        console.print(f"[red]DEMO_ORDERS={os.environ['DEMO_ORDERS']} is no number")
        return 2
    kept = os.environ.get("DEMO_FOLDER")
    if kept:
        Path(kept).mkdir(parents=True, exist_ok=True)
        return run(Path(kept), orders)
    with TemporaryDirectory(prefix="avalon-") as folder:
        return run(Path(folder), orders)


def run(folder: Path, orders: list[Row]) -> int:
    try:
        system = System(folder, os.environ.get("TIDEMILL_DATABASE", ""))
        return asyncio.run(demo(system, orders, serving=os.environ.get("DEMO_EXIT") != "1"))
    except (RuntimeError, TimeoutError) as error:
        console.print(f"[red]{error}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
