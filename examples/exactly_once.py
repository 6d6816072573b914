"""Effects exactly once: payments move money although handlers fail at random and the worker is killed on the way.

    python exactly_once.py

A message is delivered at least once. `context.transaction` makes its *effects* happen once: the new balance and the end
of the message are one commit, so there is no moment at which one of them is there without the other. Here one try in
three fails *after* it has said what to write, and the worker is killed once with SIGKILL; in the end each account holds
what was paid to it, to the cent.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from tidemill import App, Backoff, Context

ACCOUNTS = 10
PAYMENTS = 300
PATIENCE = 120.0


@dataclass(frozen=True)
class Account:
    """What somebody has: `balance` in cents, and how many payments made it."""

    id: str
    balance: int = 0
    payments: int = 0


@dataclass(frozen=True)
class Payment:
    """So many cents for an account."""

    account: str
    cents: int


chance = Random(7)
app = App("bank")
accounts = app.collection("accounts", Account, id="id")
payments = app.queue("payments", Payment)


@app.on_message(payments, concurrency=4, retry=Backoff(attempts=100, first=0.02, factor=1.5, longest=0.5))
async def pay(payment: Payment, context: Context) -> None:
    """Who else has paid into the account meanwhile makes the etag stale: then the commit fails, and this runs again."""
    found = await accounts.get(payment.account)
    assert found is not None
    account = found.value
    paid = replace(account, balance=account.balance + payment.cents, payments=account.payments + 1)
    context.transaction.put(accounts, paid, etag=found.etag)
    if chance.random() < 1 / 3:
        raise RuntimeError("failed after it said what to write")


def start(database: str) -> subprocess.Popen[bytes]:
    """A replica of its own. What fails on purpose needs no log."""
    here = Path(__file__)
    command = [sys.executable, "-m", "tidemill", "run", f"{here.stem}:app", "--database", database]
    options = ["--health-host", "127.0.0.1", "--health-port", "0", "--log-level", "error"]
    return subprocess.Popen(command + options, cwd=here.parent, stdin=subprocess.DEVNULL)


async def paid() -> dict[str, Account]:
    return {document.id: document.value async for document in accounts.all()}


async def until(count: int, process: subprocess.Popen[bytes]) -> None:
    """Until so many payments have arrived. Raises what has gone wrong."""
    end = time.monotonic() + PATIENCE
    while sum(account.payments for account in (await paid()).values()) < count:
        if process.poll() is not None:
            raise RuntimeError(f"the worker ended with exit code {process.returncode}")
        if time.monotonic() > end:
            raise TimeoutError(f"fewer than {count} payments after {PATIENCE:g} s")
        await asyncio.sleep(0.1)


async def show(database: str) -> int:
    """Pay, kill, go on, count; the exit code."""
    random = Random(7)
    due = {f"account-{n}": 0 for n in range(ACCOUNTS)}
    orders = [Payment(random.choice(list(due)), random.randint(1, 10_000)) for _ in range(PAYMENTS)]
    for order in orders:
        due[order.account] += order.cents
    async with app.client(database=database):
        await accounts.put_many([Account(id) for id in due])
        await payments.send_many(orders)
        process = start(database)
        try:
            await until(PAYMENTS // 3, process)
            process.kill()
            process.wait()
            process = start(database)
            await until(PAYMENTS, process)
            process.terminate()
            code = await asyncio.to_thread(process.wait, 60)
        finally:
            process.kill()
        found = await paid()
    wrong = {id: (account.balance, due[id]) for id, account in found.items() if account.balance != due[id]}
    done = sum(account.payments for account in found.values())
    print(f"{PAYMENTS} payments sent, {done} have taken effect; the worker was killed once, and ended with {code}")
    print(f"{len(found) - len(wrong)} of {ACCOUNTS} balances are right")
    for id, (balance, expected) in wrong.items():
        print(f"{id}: {balance} instead of {expected}")
    return 0 if not wrong and done == PAYMENTS and code == 0 else 1


def main() -> int:
    with TemporaryDirectory() as folder:
        return asyncio.run(show(f"sqlite:///{Path(folder) / 'bank.db'}"))


if __name__ == "__main__":
    sys.exit(main())
