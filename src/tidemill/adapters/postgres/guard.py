"""Data that came into another cluster: a dump that was restored, or a logical copy (blue/green).

Transactions are counted anew there, so the numbers in the log and in the ticks mean nothing any more. All that came
along is committed, so the old era is closed by a tick that sees everything, and a new one begins with a tick that
sees nothing of it. Changes that were written here before anybody looked carry numbers of the new cluster: they are
those whose `seq` is above that of the last tick, and are made such that no old tick knows them. Who writes meanwhile
is waited for: he has the number of the old era in hand. At most what was read since that last tick comes twice. A
promoted standby keeps its numbers, and the system's name too; pg_upgrade keeps the numbers alone, and an era more does
no harm.
"""

from __future__ import annotations

from tidemill.adapters.postgres.link import Link
from tidemill.adapters.postgres.names import Names, literal, quoted

ALL = (1 << 63) - 1
"""Above every transaction."""


LOCKED = "5s"
"""How long a writer with an open transaction is waited for, until the next try."""

SYSTEM = "SELECT system_identifier::text FROM pg_control_system()"


async def check(link: Link, names: Names) -> bool:
    """Begin a new era if this is another cluster than the one the data come from. True if so."""
    s = names.schema
    here = await link.fetchval(SYSTEM)
    if not await moved(link, names, here):
        return False
    await link.execute(f"SELECT pg_advisory_xact_lock(hashtext('tidemill tick'), hashtext({literal(s)}))")
    if not await moved(link, names, here):
        return False  # another process has done it
    last = await link.fetchrow(f"SELECT id, seq, era FROM {s}.tick ORDER BY id DESC LIMIT 1")
    assert last is not None
    id, seq, era = last
    highest = seq
    for (log,) in await link.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace($1) AND relkind = 'p'"
        " AND relname LIKE 'log\\_%'",
        s,
    ):
        table = f"{s}.{quoted(log)}"
        await link.execute(f"SET LOCAL lock_timeout = '{LOCKED}'")
        await link.execute(f"LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE")
        await link.execute(f"UPDATE {table} SET xid = '{ALL - 1}' WHERE seq > $1 AND era = $2", seq, era)
        highest = max(highest, await link.fetchval(f"SELECT coalesce(max(seq), 0) FROM {table}"))
    await link.execute(f"SELECT setval('{s}.change_seq', greatest($1, last_value)) FROM {s}.change_seq", highest)
    await link.execute(f"UPDATE {s}.source SET era = $1", era + 1)
    add = f"INSERT INTO {s}.tick VALUES ($1, $2, $3, clock_timestamp(), '', $4::text::pg_snapshot, '2', '{{}}')"
    await link.execute(add, id + 1, highest, era, f"{ALL}:{ALL}:")
    await link.execute(add, id + 2, highest, era + 1, "3:3:")
    await link.execute(f"UPDATE {s}.meta SET value = $1 WHERE name = 'system'", here)
    return True


async def moved(link: Link, names: Names, here: str) -> bool:
    """Whether the data were last used in another cluster."""
    return bool(await link.fetchval(f"SELECT value <> $1 FROM {names.schema}.meta WHERE name = 'system'", here))
