"""`tidemill schema`, on a PostgreSQL server."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from tests.servers.postgres import Postgres
from tidemill.cli.main import main
from tidemill.signals import Signals

from .conftest import Run

APP = """
from tidemill import App, Change

app = App("avalon")
orders = app.collection("orders", dict, id="number")
stock = app.table("stock", dict, id="sku")
invoices = app.queue("invoices", dict)


@app.on_change(orders)
async def bill(change: Change[dict]) -> None: ...


@app.on_change(stock)
async def restock(change: Change[dict]) -> None: ...


@app.on_message(invoices)
async def send_invoice(invoice: dict) -> None: ...
"""


@pytest.fixture
def url(folder: Path, postgres: Postgres, postgres_url: str) -> str:
    (folder / "app.py").write_text(APP)
    postgres.psql("CREATE TABLE stock (sku text PRIMARY KEY)", name(postgres_url))
    return postgres_url


def name(url: str) -> str:
    return url.rpartition("/")[2]


def states(out: str) -> dict[str, str]:
    return {piece["name"]: piece["state"] for piece in json.loads(out) if piece["name"] != "server"}


def test_the_script_needs_no_database(run: Run, folder: Path) -> None:
    (folder / "app.py").write_text(APP)
    ran = run("schema", "sql")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith('-- Tidemill in schema "tidemill"')
    assert ran.out.endswith("\nCOMMIT;\n")
    for line in ("-- Queue invoices", "-- Queue outbox", "-- Capture of table stock", 'CREATE ROLE "tidemill_worker"'):
        assert line in ran.out
    other = run("schema", "sql", "--database", "postgresql:///?schema=shop", "--role", "shop_worker")
    assert 'CREATE SCHEMA IF NOT EXISTS "shop"' in other.out
    assert 'GRANT USAGE ON SCHEMA "shop" TO "shop_worker"' in other.out


def test_the_script_does_what_apply_does(run: Run, url: str, postgres: Postgres) -> None:
    postgres.psql(run("schema", "sql", "--role", f"w_{name(url)}").out, name(url))
    ran = run("schema", "check", "--database", url)
    assert (ran.code, ran.err) == (0, "")
    ran = run("schema", "apply", "--database", url, "--json")
    assert set(states(ran.out).values()) == {"there"}
    postgres.psql(f"DROP OWNED BY w_{name(url)}; DROP ROLE w_{name(url)}", name(url))


def test_apply_check_drop(run: Run, url: str, postgres: Postgres) -> None:
    ran = run("schema", "check", "--database", url)
    assert ran.code == 1
    assert "missing: run tidemill schema apply" in ran.out
    ran = run("schema", "apply", "--database", url)
    assert (ran.code, ran.err) == (0, "")
    assert "triggers of stock  made" in ran.out
    ran = run("schema", "check", "--database", url, "--json")
    assert ran.code == 0
    assert set(states(ran.out).values()) == {"ok"}
    ran = run("schema", "drop", "--database", url)
    assert ran.code == 2
    assert "0 documents, 0 changes, 0 messages, 0 dead letters, 0 records; the triggers of stock" in ran.out
    assert "nothing was dropped: add --yes" in ran.err
    ran = run("schema", "drop", "--database", url, "--yes")
    assert (ran.code, ran.out.splitlines()[-1], ran.err) == (0, "dropped", "")
    ran = run("schema", "drop", "--database", url)
    assert (ran.code, ran.out) == (0, 'schema "tidemill": there is none\n')
    assert postgres.psql("SELECT count(*) FROM pg_trigger", name(url)) == "0"


def test_drop_asks_a_person(run: Run, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run("schema", "apply", "--database", url)

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for answer, code in (("n", 2), ("y", 0)):
        monkeypatch.setattr(sys, "stdin", Terminal(f"{answer}\n"))
        assert main(["schema", "drop", "--database", url], Signals()) == code


def test_drop_takes_nothing_that_is_not_ours(run: Run, url: str, postgres: Postgres) -> None:
    run("schema", "apply", "--database", url)
    postgres.psql("CREATE VIEW tidemill.theirs AS SELECT 1", name(url))
    ran = run("schema", "drop", "--database", url, "--yes")
    assert (ran.code, ran.err) == (2, "tidemill: this is not ours: view tidemill.theirs; move or drop it first\n")
    assert run("schema", "check", "--database", url).code == 0


@pytest.mark.parametrize("verb", ["sql", "apply", "check", "drop"])
def test_other_backends_make_what_they_need(run: Run, folder: Path, verb: str) -> None:
    ran = run("schema", verb, "--database", "sqlite:///x.db")
    assert ran.code == 2
    assert ran.err == (
        "tidemill: the database is SQLite, which makes what it needs by itself; tidemill schema is for postgresql:\n"
    )
    assert not (folder / "x.db").exists()


def test_parts_that_live_elsewhere(run: Run, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEMILL_QUEUES__INVOICES__URL", "sqlite:///x.db")
    ran = run("schema", "apply", "--database", url, "--json")
    assert states(ran.out).keys() == {
        "base", "collection orders", "table stock", "queue outbox", "triggers of stock",
    }  # fmt: skip
