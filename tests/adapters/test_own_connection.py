"""`connection=`: sends and writes that are part of the user's own transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest
import sqlalchemy

from tidemill import App
from tidemill.errors import BadOption, Conflict


@dataclass
class Order:
    number: str
    customer: str
    total: int


app = App("own")
orders = app.collection("orders", Order, id="number", key="customer")
invoices = app.queue("invoices", Order)
steps = app.queue("steps", Order, key="customer")
plain = App("plain")
plain_orders = plain.collection("orders", Order, id="number", key="customer")
plain_invoices = plain.queue("invoices", Order)

Open = Callable[[str, bool], AbstractAsyncContextManager[Any]]


@asynccontextmanager
async def by_asyncpg(url: str, commit: bool) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(url)
    transaction = connection.transaction()
    await transaction.start()
    yield connection
    await (transaction.commit() if commit else transaction.rollback())
    await connection.close()


@asynccontextmanager
async def by_psycopg(url: str, commit: bool) -> AsyncIterator[Any]:
    connection = await psycopg.AsyncConnection.connect(url)
    yield connection
    await (connection.commit() if commit else connection.rollback())
    await connection.close()


@asynccontextmanager
async def by_plain_psycopg(url: str, commit: bool) -> AsyncIterator[Any]:
    connection = psycopg.connect(url)
    yield connection
    connection.commit() if commit else connection.rollback()
    connection.close()


@asynccontextmanager
async def by_sqlalchemy(url: str, commit: bool) -> AsyncIterator[Any]:
    engine = sqlalchemy.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.connect() as connection:
        yield connection
        connection.commit() if commit else connection.rollback()
    engine.dispose()


@asynccontextmanager
async def by_sqlite3(url: str, commit: bool) -> AsyncIterator[Any]:
    connection = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    yield connection
    connection.execute("COMMIT" if commit else "ROLLBACK")
    connection.close()


@pytest.mark.parametrize("opened", [by_asyncpg, by_psycopg, by_plain_psycopg, by_sqlalchemy])
async def test_what_is_sent_and_written_shares_the_transaction(opened: Open, postgres_url: str) -> None:
    async with app.client(database=postgres_url):
        for commit in (False, True):
            async with opened(postgres_url, commit) as connection:
                await orders.create(Order("1", "ann", 5), connection=connection)
                await orders.put(Order("2", "ann%", 6), connection=connection)
                await invoices.send(Order("1", "ann", 5), dedup="1", connection=connection)
                await invoices.send_many([Order("1", "ann", 5)], dedup="1", connection=connection)
                await steps.send(Order("1", "ann", 5), headers={"a": "b"}, connection=connection)
            found = await orders.get("1")
            assert (found is not None) == commit
        assert found is not None
        async with opened(postgres_url, False) as connection:
            with pytest.raises(Conflict):
                await orders.create(Order("1", "bob", 1), connection=connection)
        async with opened(postgres_url, True) as connection:
            await orders.replace(Order("1", "bob", 1), found.etag, connection=connection)
        async with opened(postgres_url, False) as connection:
            with pytest.raises(Conflict):
                await orders.replace(Order("1", "eve", 1), found.etag, connection=connection)
        found = await orders.get("1")
        assert found is not None
        assert found.value == Order("1", "bob", 1)
    link = await asyncpg.connect(postgres_url)
    assert await link.fetchval("SELECT count(*) FROM tidemill.message_invoices") == 1
    assert await link.fetchval('SELECT count(*) FROM tidemill."log_queue/steps"') == 1
    assert await link.fetchval("SELECT count(*) FROM tidemill.log_orders") == 3
    await link.close()


async def test_sqlite(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/own.db"
    async with plain.client(database=url):
        for commit in (False, True):
            async with by_sqlite3(url, commit) as connection:
                await plain_orders.create(Order("1", "ann", 5), connection=connection)
                await plain_invoices.send(Order("1", "ann", 5), connection=connection)
            assert (await plain_orders.get("1") is not None) == commit


async def test_what_is_no_connection(postgres_url: str) -> None:
    async with app.client(database=postgres_url):
        with pytest.raises(BadOption, match="connection=str"):
            await invoices.send(Order("1", "ann", 5), connection="x")
    async with plain.client(database="memory:"):
        with pytest.raises(BadOption, match="memory is no SQL database"):
            await plain_invoices.send(Order("1", "ann", 5), connection=object())
