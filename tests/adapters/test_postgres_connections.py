"""How PostgreSQL is reached, and what happens when it is not: addresses, TLS, poolers, servers that go and come."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.servers import postgres as servers
from tests.servers import process
from tests.servers.fixtures import server_folder
from tests.servers.pgbouncer import PgBouncer
from tests.servers.postgres import Postgres as Server
from tidemill.adapters.postgres import Postgres
from tidemill.adapters.postgres.address import Address, parse
from tidemill.engine.clock import SystemClock
from tidemill.errors import ConfigurationError, TidemillError, Unavailable
from tidemill.model import CollectionSpec, Gone, Put, QueueSpec, Record, Swap
from tidemill.testing import conformance

ORDERS = CollectionSpec("orders", 2)
JOBS = QueueSpec("jobs")
SECRET = "s3:c/r@e?t#%& +ü"
ENCODED = "s3%3Ac%2Fr%40e%3Ft%23%25%26%20%2B%C3%BC"


def database(url: str) -> Postgres:
    return Postgres.from_url(url, SystemClock())


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Postgres]:
    found = database(url)
    await found.open([ORDERS], [JOBS])
    try:
        yield found
    finally:
        await found.close()


async def refused(url: str) -> str:
    """The line that an open gets."""
    with pytest.raises(ConfigurationError) as raised:
        async with opened(url):
            pass
    [line] = str(raised.value).splitlines()
    return line


async def write(found: Postgres) -> None:
    [made] = await found.store().swap([Swap("a", None, {"x": 1})])
    assert isinstance(made, Record)
    assert await found.store().swap([Swap("a", made.version, None)]) == [Gone("a")]
    await found.documents(ORDERS).write([Put("orders", "1", "k", b"{}")])


# --- addresses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://", "postgresql (PGHOST)/"),
        ("postgresql:", "postgresql (PGHOST)/"),
        ("postgres://me@h/shop", "postgresql h/shop"),
        ("postgresql://me:secret@h:6432/shop?sslmode=require", "postgresql h:6432/shop"),
        ("postgresql://me:se@cret@h/shop", "postgresql h/shop"),
        ("postgresql://a:1,b:2/shop?target_session_attrs=primary", "postgresql a:1,b:2/shop"),
        ("postgresql://%2Fvar%2Frun/shop", "postgresql /var/run/shop"),
        ("postgresql:///shop?host=/var/run", "postgresql /var/run/shop"),
        ("postgresql://[::1]:5432/shop", "postgresql [::1]:5432/shop"),
        ("postgresql://h/shop?user=me%40tenant&password=secret", "postgresql h/shop"),
    ],
)
def test_an_address_is_shown_without_its_password(url: str, shown: str) -> None:
    address = parse(url)
    assert address.shown == shown
    assert "secret" not in address.shown
    assert "se%40cret" in address.dsn or "se@cret" not in url


def test_parameters_of_ours_are_not_sent() -> None:
    url = "postgresql://h/d?schema=shop_2&pool=3&pooler=transaction&application_name=x&connect_timeout=9&sslmode=prefer"
    address = parse(url)
    assert address == Address("postgresql://h/d?sslmode=prefer", "postgresql h/d", "shop_2", 3, "transaction")
    assert (address.pooled, parse("postgresql://h/d?pooler=session").pooled) == (True, False)


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("postgresql://me:pa/ssw0rd@h/d", "in a user or password write @ as %40, / as %2F"),
        ("postgresql://me:pa?ssw0rd@h/d", "in a user or password write @ as %40, / as %2F"),
        ("postgresql://me:pa#ssw0rd@h/d", "in a user or password write @ as %40, / as %2F"),
        ("postgresql://me:ssw0rd", r"a port is a number from 1 to 65535 \(in a user or password write"),
        ("postgresql://me:ssw0rd@h/d#1", "what does # stand for"),
        ("postgresql://me:ssw0rd@h:many/d", "a port is a number from 1 to 65535: 'h:many'"),
        ("postgresql://h:0/d", "a port is a number from 1 to 65535"),
        ("postgresql://h:70000/d", "a port is a number from 1 to 65535"),
        ("postgresql://[::1/d", "Invalid IPv6 URL"),
        ("postgresql://h/d?pol=3", r"there is no parameter 'pol' \(did you mean pool\?\)"),
        ("postgresql://h/d?zzz=3", "there is no parameter 'zzz' .ours are schema, pool, pooler"),
        ("postgresql://h/d?pool=0", "pool='0': write a whole number from 1 to 100"),
        ("postgresql://h/d?pool=101", "pool='101'"),
        ("postgresql://h/d?pool=many", "pool='many'"),
        ("postgresql://h/d?schema=My-Shop", "schema='My-Shop': write small letters"),
        ("postgresql://h/d?schema=public", "schema='public': Tidemill needs one of its own"),
        ("postgresql://h/d?schema=pg_x", "schema='pg_x': Tidemill needs one of its own"),
        ("postgresql://h/d?pooler=statement", "pooler='statement': write transaction or session"),
        ("postgresql://h/d?target_session_attrs=leader", "target_session_attrs=leader: write any, read-write"),
        ("postgresql://h/d?sslrootcert=/no.pem", "sslrootcert=/no.pem: there is no such file"),
        ("postgresql://h/d?sslkey=/no.key", "sslkey=/no.key: there is no such file"),
    ],
)
def test_what_does_not_fit_is_told_without_the_password(url: str, line: str) -> None:
    with pytest.raises(ConfigurationError, match=line) as raised:
        parse(url)
    assert "ssw0rd" not in str(raised.value)


# --- a server that asks for passwords and speaks TLS --------------------------------------------------------

HBA = """
host all postgres 127.0.0.1/32 trust
local all postgres trust
host all guarded 127.0.0.1/32 scram-sha-256
hostssl all certified 127.0.0.1/32 cert
"""


def openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)


def certificates(folder: Path) -> None:
    """`ca.pem` and `other.pem`; `server` for localhost, `client` for the user certified."""
    for ca in ("ca", "other"):
        openssl(folder, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                "-keyout", f"{ca}.key", "-out", f"{ca}.pem", "-subj", f"/CN=tidemill {ca}")  # fmt: skip
    for who, name in (("server", "localhost"), ("client", "certified")):
        openssl(folder, "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout",
                f"{who}.key", "-out", f"{who}.csr", "-subj", f"/CN={name}")  # fmt: skip
        (folder / "names").write_text(f"subjectAltName=DNS:{name}")
        openssl(folder, "x509", "-req", "-in", f"{who}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                "-days", "2", "-extfile", "names", "-out", f"{who}.pem")  # fmt: skip


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    """A server with TLS, passwords and a socket; and a folder with what its clients need."""
    if servers.find() is None or shutil.which("openssl") is None:
        pytest.skip("PostgreSQL or openssl is not here")
    ours = tmp_path_factory.mktemp("certificates")
    certificates(ours)
    with server_folder("strict") as folder:
        process.own(folder)
        for name in ("server.pem", "server.key", "ca.pem"):
            shutil.copy(ours / name, folder / name)
            (folder / name).chmod(0o600)
            if (account := process.account()) is not None:
                shutil.chown(folder / name, account)
        (folder / "hba").write_text(HBA)
        (folder / "hba").chmod(0o644)
        server = Server.start_in(
            folder, ssl=True, ssl_cert_file=f"{folder}/server.pem", ssl_key_file=f"{folder}/server.key",
            ssl_ca_file=f"{folder}/ca.pem", hba_file=f"{folder}/hba", unix_socket_directories=str(folder),
        )  # fmt: skip
        password = SECRET.replace("'", "''")
        server.psql(f"CREATE ROLE guarded LOGIN SUPERUSER PASSWORD '{password}'; CREATE ROLE certified LOGIN SUPERUSER")
        try:
            yield server, ours
        finally:
            server.stop()


async def test_a_password_of_any_letters(strict: tuple[Server, Path]) -> None:
    server, _ = strict
    async with opened(f"postgresql://guarded:{ENCODED}@127.0.0.1:{server.port}/postgres") as found:
        await write(found)
    async with opened(f"postgresql://127.0.0.1:{server.port}/postgres?user=guarded&password={ENCODED}") as found:
        await write(found)


async def test_a_wrong_password_is_not_told(strict: tuple[Server, Path]) -> None:
    server, _ = strict
    line = await refused(f"postgresql://guarded:hunter2@127.0.0.1:{server.port}/postgres")
    assert 'password authentication failed for user "guarded"; check user, password and pg_hba.conf' in line
    assert "hunter2" not in line


async def test_what_the_url_leaves_out_comes_from_variables(
    strict: tuple[Server, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, _ = strict
    monkeypatch.setenv("PGHOST", "127.0.0.1")
    monkeypatch.setenv("PGPORT", str(server.port))
    monkeypatch.setenv("PGUSER", "guarded")
    monkeypatch.setenv("PGPASSWORD", SECRET)
    monkeypatch.setenv("PGDATABASE", "postgres")
    monkeypatch.setenv("PGSSLMODE", "require")
    async with opened("postgresql://") as found:
        await write(found)
        rows = server.psql("SELECT DISTINCT ssl, usename FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)"
                           " WHERE application_name LIKE 'tidemill %'")  # fmt: skip
        assert rows == "t|guarded"


@pytest.mark.parametrize("url", ["postgresql:", "postgresql:?service=shop"])
async def test_a_service(
    strict: tuple[Server, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    server, _ = strict
    (tmp_path / "services").write_text(f"[shop]\nhost=127.0.0.1\nport={server.port}\nuser=postgres\ndbname=postgres\n")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    if "service" not in url:
        monkeypatch.setenv("PGSERVICE", "shop")
    assert parse(url).shown == "postgresql (service shop)/"
    async with opened(url) as found:
        await write(found)


async def test_a_socket(strict: tuple[Server, Path]) -> None:
    server, _ = strict
    folder = str(server.folder)
    for url in (
        f"postgresql://postgres@/postgres?host={folder}&port={server.port}",
        f"postgresql://postgres@{folder.replace('/', '%2F')}:{server.port}/postgres",
    ):
        async with opened(url) as found:
            await write(found)


async def test_several_hosts(strict: tuple[Server, Path]) -> None:
    server, _ = strict
    hosts = f"127.0.0.1:1,127.0.0.1:{server.port}"
    async with opened(f"postgresql://postgres@{hosts}/postgres?target_session_attrs=primary") as found:
        await write(found)
    line = await refused(f"postgresql://postgres@127.0.0.1:{server.port}/postgres?target_session_attrs=standby")
    assert "no server there has the attributes asked for" in line


@pytest.mark.parametrize(
    ("host", "query", "line"),
    [
        ("localhost", "sslmode=verify-full&sslrootcert={ours}/ca.pem", None),
        ("127.0.0.1", "sslmode=verify-ca&sslrootcert={ours}/ca.pem", None),
        ("127.0.0.1", "sslmode=require", None),
        ("127.0.0.1", "sslmode=disable", None),
        ("127.0.0.1", "sslmode=verify-full&sslrootcert={ours}/ca.pem", "IP address mismatch"),
        (
            "localhost",
            "sslmode=verify-full&sslrootcert={ours}/other.pem",
            "TLS: the server's certificate does not fit: ",
        ),
        ("localhost", "sslmode=verify-full&sslrootcert={ours}/server.key", "TLS: NO_CERTIFICATE_OR_CRL_FOUND"),
        ("localhost", "sslmode=verify-full", "does not exist or cannot be accessed"),
        ("localhost", "sslmode=strict", "`sslmode` parameter must be one of: disable"),
    ],
)
async def test_tls(
    strict: tuple[Server, Path], host: str, query: str, line: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, ours = strict
    monkeypatch.setenv("HOME", str(ours))
    url = f"postgresql://postgres@{host}:{server.port}/postgres?{query.format(ours=ours)}"
    if line is None:
        async with opened(url) as found:
            await write(found)
    else:
        told = await refused(url)
        assert line in told
        assert told.startswith(f"postgresql {host}:{server.port}/postgres: ")


async def test_a_certificate_as_the_login(strict: tuple[Server, Path]) -> None:
    server, ours = strict
    url = f"postgresql://certified@localhost:{server.port}/postgres?sslmode=verify-full&sslrootcert={ours}/ca.pem"
    async with opened(f"{url}&sslcert={ours}/client.pem&sslkey={ours}/client.key") as found:
        await write(found)
    assert "check user, password and pg_hba.conf" in await refused(url)


async def test_a_server_without_tls(postgres_url: str) -> None:
    assert "the server has none: turn it on there, or say sslmode=disable" in await refused(
        f"{postgres_url}?sslmode=require"
    )


# --- PgBouncer ----------------------------------------------------------------------------------------------


class TestPooled(
    conformance.DatabaseConformance,
    conformance.StoreConformance,
    conformance.QueueConformance,
    conformance.DocumentsConformance,
    conformance.FeedConformance,
    conformance.DeadLettersConformance,
    conformance.CommitConformance,
):
    """All of it in transaction mode, where each transaction has another connection."""

    @pytest.fixture
    async def bench(self, pgbouncer: PgBouncer, postgres_url: str) -> AsyncIterator[conformance.Bench]:
        clock = SystemClock()
        url = f"{pgbouncer.url(postgres_url.rpartition('/')[2])}?pooler=transaction&pool=4"
        found, peer = (Postgres.from_url(url, clock) for _ in range(2))
        async with conformance.opened(found, clock, peer=peer) as bench:
            yield bench


async def test_a_pooler_that_was_not_named(pgbouncer: PgBouncer, postgres_url: str) -> None:
    line = await refused(pgbouncer.url(postgres_url.rpartition("/")[2]))
    assert "a pooler refuses this: unsupported startup parameter: jit; add pooler=transaction to the URL" in line


async def test_a_pooler_in_session_mode(postgres: Server, postgres_url: str) -> None:
    with server_folder("session") as folder:
        bouncer = PgBouncer.start_in(folder, postgres, "session")
        try:
            async with opened(f"{bouncer.url(postgres_url.rpartition('/')[2])}?pooler=session") as found:
                await write(found)
        finally:
            bouncer.stop()


# --- connections --------------------------------------------------------------------------------------------

OURS = "application_name LIKE 'tidemill %' AND datname = '{}'"


async def test_connections_are_few_and_have_names(postgres: Server, postgres_url: str) -> None:
    ours = OURS.format(postgres_url.rpartition("/")[2])
    counted = f"SELECT application_name, count(*) FROM pg_stat_activity WHERE {ours} GROUP BY 1 ORDER BY 1"
    async with opened(f"{postgres_url}?pool=3") as found:
        assert postgres.psql(counted) == "tidemill control|1\ntidemill data|1\ntidemill watch|1"
        documents, store = found.documents(ORDERS), found.store()
        await asyncio.gather(
            *(documents.write([Put("orders", str(n), "k", b"{}")]) for n in range(200)),
            *(store.swap([Swap(str(n), None, {})]) for n in range(200)),
        )
        assert postgres.psql(counted) == "tidemill control|2\ntidemill data|3\ntidemill watch|1"
    await asyncio.sleep(0.1)
    assert postgres.psql(counted) == ""


async def test_a_call_that_is_cancelled_while_it_connects(postgres_url: str) -> None:
    logged: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: logged.append(context))
    chance = random.Random(1)
    async with opened(f"{postgres_url}?pool=2") as found:
        for _ in range(50):
            await asyncio.sleep(0)
            calling = [asyncio.create_task(found.queue(JOBS).depth()) for _ in range(3)]
            found._session.data._pool._holders[0].terminate()
            await asyncio.sleep(chance.random() * 0.004)
            for call in calling:
                call.cancel()
            await asyncio.gather(*calling, return_exceptions=True)
        await write(found)
        await asyncio.sleep(0.2)
        assert found._session.data._pool.get_idle_size() == found._session.data._pool.get_size()
    gc.collect()
    await asyncio.sleep(0)
    assert logged == []


async def test_a_connection_that_is_lost_while_it_is_given_back(postgres_url: str) -> None:
    async with opened(f"{postgres_url}?pool=1") as found:
        data = found._session.data
        async with data.link() as link:
            assert await link.fetchval("SELECT 1") == 1
            asyncio.get_running_loop().call_soon(data._pool._holders[0].terminate)
        assert await data.value("SELECT 2") == 2


# --- a server that goes and comes ---------------------------------------------------------------------------


@pytest.fixture
def own() -> Iterator[Server]:
    """A server that a test may stop."""
    if servers.find() is None:
        pytest.skip(servers.MISSING)
    with server_folder("own") as folder:
        server = Server.start_in(folder, max_connections=20)
        try:
            yield server
        finally:
            server.stop()


async def calls(found: Postgres) -> dict[str, str]:
    """Each kind of call once: what came of it."""
    feed, queue = found.feed(ORDERS), found.queue(JOBS)
    kinds: dict[str, Callable[[], Awaitable[Any]]] = {
        "swap": lambda: found.store().swap([Swap("none", "1", None)]),
        "get": lambda: found.store().get(["a"]),
        "write": lambda: found.documents(ORDERS).write([Put("orders", "1", "k", b"{}")]),
        "read": lambda: feed.read({"0": "b1"}, 10, 0.0),
        "start": lambda: feed.start("0", "now"),
        "receive": lambda: queue.receive("me", 1, 0.0),
        "depth": queue.depth,
    }
    done: dict[str, str] = {}

    async def attempt(name: str) -> None:
        try:
            await asyncio.wait_for(kinds[name](), 9)
        except TidemillError as error:
            done[name] = type(error).__name__
        except TimeoutError:
            done[name] = "hung"
        else:
            done[name] = "ok"

    await asyncio.gather(*map(attempt, kinds))
    return done


async def works_again(found: Postgres) -> float:
    """Seconds until all calls work."""
    began = time.monotonic()
    while set(last := (await calls(found)).values()) != {"ok"}:
        assert time.monotonic() - began < 10, last
        await asyncio.sleep(0.05)
    return time.monotonic() - began


async def test_all_connections_ended(own: Server) -> None:
    url = own.create("shop")
    async with opened(url) as found:
        assert set((await calls(found)).values()) == {"ok"}
        for _ in range(3):
            own.psql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {OURS.format('shop')}")
            assert set((await calls(found)).values()) <= {"ok", "Unavailable"}
            assert await works_again(found) < 1.0


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_the_server_is_restarted(own: Server, mode: Any) -> None:
    async with opened(own.create("shop")) as found:
        await write(found)
        await asyncio.to_thread(own.restart, mode)
        assert await works_again(found) < 1.0
        await write(found)


async def test_the_server_is_away_for_a_while(own: Server) -> None:
    attempts = 0
    original = asyncpg.connect_utils._connect_addr

    async def counted(**words: Any) -> Any:
        nonlocal attempts
        attempts += 1
        return await original(**words)

    async with opened(own.create("shop")) as found:
        await write(found)
        cpu = time.process_time()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(asyncpg.connect_utils, "_connect_addr", counted)
            await asyncio.to_thread(own.stop)
            end, made = time.monotonic() + 5, 0
            while time.monotonic() < end:
                began = time.monotonic()
                assert set((await calls(found)).values()) == {"Unavailable"}
                assert time.monotonic() - began < 1.0
                made += 7
                await asyncio.sleep(0.5)
            assert attempts <= 2 * made + 30, (attempts, made)
        assert time.process_time() - cpu < 3.0
        await asyncio.to_thread(own.start)
        assert await works_again(found) < 1.0


async def take_all(server: Server) -> list[Any]:
    """As many connections as the server still gives."""
    taken: list[Any] = []
    try:
        while True:
            taken.append(await asyncpg.connect(server.url("postgres")))
    except asyncpg.TooManyConnectionsError:
        return taken


async def test_others_took_all_connections(own: Server) -> None:
    async with opened(own.create("shop")) as found:
        await write(found)
        taken = await take_all(own)
        try:
            own_ones = OURS.format("shop")
            await taken[0].execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {own_ones}")
            taken += await take_all(own)
            assert set((await calls(found)).values()) <= {"Unavailable"}
            with pytest.raises(Unavailable, match=r"too many clients already; lower \?pool= in the URL, or raise"):
                await found.store().get(["a"])
            with pytest.raises(Unavailable, match="too many clients"):
                await database(own.url("shop")).open([ORDERS], [JOBS])
        finally:
            await asyncio.gather(*(link.close() for link in taken))
        assert await works_again(found) < 1.0


async def test_read_only_is_a_mistake_at_the_start_and_an_outage_later(own: Server) -> None:
    url = own.create("shop")
    async with opened(url) as found:
        own.psql("ALTER DATABASE shop SET default_transaction_read_only = on")
        own.psql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {OURS.format('shop')}")
        done = await calls(found)
        assert done["write"] == "Unavailable"
        assert set(done.values()) <= {"ok", "Unavailable"}
        assert "the server is a read-only standby, or default_transaction_read_only is on" in await refused(url)
        own.psql("SET default_transaction_read_only = off; ALTER DATABASE shop RESET default_transaction_read_only")
        own.psql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {OURS.format('shop')}")
        assert await works_again(found) < 1.0


async def test_a_process_without_a_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under a random user id in a container."""

    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 1000710000")

    monkeypatch.setattr("getpass.getuser", nobody)
    monkeypatch.delenv("PGUSER", raising=False)
    assert "which user? This process has none by name" in await refused("postgresql://127.0.0.1:1/shop")
    assert os.environ.get("PGUSER") is None
