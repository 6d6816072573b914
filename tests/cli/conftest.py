"""Commands in this process, each in a folder of its own."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tidemill.cli.main import main
from tidemill.signals import Signals

APP = """
from tidemill import App, Change, Deletion, Reject

app = App("avalon")
orders = app.collection("orders", dict[str, int], id="number", partitions=2)
invoices = app.queue("invoices", dict[str, int])


@app.on_change(orders)
async def bill(change: Change[dict[str, int]]) -> None: ...


@app.on_change(orders, concurrency=16, time_limit=None, batch=10)
async def audit(changes: list[Change[dict[str, int]] | Deletion[dict[str, int]]]) -> None: ...


@app.on_message(invoices, time_limit=30)
async def send_invoice(invoice: dict[str, int]) -> None: ...


@app.every("30s", per_replica=True, group="queues")
def refresh() -> None: ...


@app.cron("0 3 * * *", tz="Europe/Berlin")
def nightly() -> None: ...
"""


@dataclass(frozen=True)
class Ran:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with an app.py, where the command is run; what it imports is forgotten afterwards."""
    (tmp_path / "app.py").write_text(APP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in [name for name in os.environ if name.startswith("TIDEMILL_")]:
        monkeypatch.delenv(name)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "") or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def run(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `tidemill` with these words, and with this on stdin."""

    def run(*words: str, stdin: str = "") -> Ran:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        code = main(words, Signals())
        said = capsys.readouterr()
        return Ran(code, said.out, said.err)

    return run
