"""`config` and `check`."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tidemill.adapters.sqlite import SQLite
from tidemill.engine.clock import SystemClock
from tidemill.model import Swap

from .conftest import APP, Run

FILE = "sqlite:///work.db"


def _write(folder: Path, *keys: str) -> None:
    """Records as workers of these names left them."""

    async def write() -> None:
        database = SQLite(folder / "work.db", SystemClock())
        await database.open((), ())
        await database.store().swap([Swap(key, None, {"format": 1}) for key in keys])
        await database.close()

    asyncio.run(write())


# --- config -------------------------------------------------------------------------------------------------


def test_each_setting_says_where_it_comes_from(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "tidemill.toml").write_text('grace = "9s"\n[queues.invoices]\nurl = "sqlite:///apart.db"\n')
    monkeypatch.setenv("TIDEMILL_LOG_LEVEL", "debug")
    ran = run("config", "--database", FILE, "--json")
    assert ran.code == 0
    told = json.loads(ran.out)
    assert told["settings"]["grace"] == {"value": "9 s", "from": "in tidemill.toml"}
    assert told["settings"]["log_level"] == {"value": "debug", "from": "TIDEMILL_LOG_LEVEL"}
    assert told["settings"]["database"] == {"value": FILE, "from": "--database"}
    assert told["settings"]["health_port"] == {"value": "8081", "from": "the defaults"}
    assert told["settings"]["queues.invoices.url"]["value"] == "sqlite:///apart.db"
    assert told["homes"] == {
        "queue invoices": "sqlite:///apart.db",
        "collection orders": FILE,
        "members, leases, timers": FILE,
    }


def test_a_password_is_not_shown(run: Run, folder: Path) -> None:
    (folder / "app.py").unlink()
    ran = run("config", "--database", "postgresql://app:s3cret@db/avalon")
    assert ran.code == 0
    assert "postgresql://app:***@db/avalon" in ran.out
    assert "s3cret" not in ran.out + ran.err


def test_what_is_missing_is_told_below_the_settings(run: Run) -> None:
    ran = run("config")
    assert ran.code == 2
    assert "health_port" in ran.out
    assert ran.err.startswith("tidemill: no database for queue 'invoices'")


# --- check --------------------------------------------------------------------------------------------------


def test_what_fits_is_said(run: Run) -> None:
    ran = run("check", "--database", FILE)
    assert ran.code == 0
    assert "avalon: 5 worker(s), 1 queue(s), 1 collection(s)" in ran.out
    assert "SQLite" in ran.out


def test_nothing_is_opened_unless_asked(run: Run, folder: Path) -> None:
    assert run("check", "--database", FILE).code == 0
    assert not (folder / "work.db").exists()


def test_all_mistakes_are_told_together(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "app.py").write_text(APP.replace("async def send_invoice(invoice: dict[str, int])", "def send_invoice()"))
    monkeypatch.setenv("TIDEMILL_QUEUES__INVOICE__URL", "memory:")
    ran = run("check")
    assert ran.code == 2
    told = ran.err.splitlines()
    assert any("queue 'invoice' is not declared" in line for line in told)
    assert any("no database for queue 'invoices'" in line for line in told)
    assert any("worker 'send_invoice'" in line for line in told)


def test_settings_and_app_may_both_be_wrong(run: Run) -> None:
    ran = run("check", "nothing:app", "--database", "mysql://h/d")
    assert ran.code == 2
    assert "there is no module 'nothing'" in ran.err


def test_names_that_are_no_longer_declared_are_told_with_the_near_miss(run: Run, folder: Path) -> None:
    _write(folder, "lease/bil/0", "lease/bill/0", "timer/nightly_report", "control/worker/gone")
    ran = run("check", "--online", "--database", FILE, "--json")
    assert ran.code == 0
    told = {finding["told"] for finding in json.loads(ran.out) if finding["what"] == "names"}
    assert told == {
        "feed 'bil' is no longer declared: if it is 'bill' now, run: tidemill feed rename bil bill",
        "timer 'nightly_report' is no longer declared: if it is 'nightly' now, run: tidemill timer rename"
        " nightly_report nightly",
        "pause of worker 'gone' is no longer declared: declare it again, or leave it: nobody works it",
    }


def test_online_says_what_was_seen(run: Run) -> None:
    ran = run("check", "--online", "--database", FILE, "--json")
    assert ran.code == 0
    seen = {(finding["what"], finding["level"]) for finding in json.loads(ran.out)}
    assert {("rights", "ok"), ("replicas", "warning"), ("app", "ok")} <= seen


def test_a_database_that_does_not_answer_is_a_problem(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tidemill.errors import Unavailable

    async def away(self: SQLite, *_: object) -> None:
        raise Unavailable("sqlite work.db: no answer")

    monkeypatch.setattr(SQLite, "open", away)
    ran = run("check", "--online", "--database", FILE)
    assert ran.code == 1
    assert "no answer" in ran.out
