"""What is behind the readers: how far they are, and what goes.

Trimming moves a mark for each partition: what lies before it counts as removed at once. The children of the log are
emptied by TRUNCATE, once everything in one lies before the marks: no row is ever deleted, so the log has no dead rows
and needs no vacuum. A writer that has the child open, or a reader, is never waited for: it is tried again next time.
"""

from __future__ import annotations

from collections.abc import Mapping

from tidemill.adapters.postgres.names import SLOTS
from tidemill.adapters.postgres.session import Session
from tidemill.adapters.postgres.windows import END, FIRST, NOTHING, Cursor, Tick, Ticks, parse_cursor, tick_of
from tidemill.errors import Unavailable
from tidemill.model import Lag, Source

SLICE = 50_000
"""Numbers of changes that one call looks at."""

COUNTED = 1_000_000
"""A lag is not counted beyond this."""

ROTATE = 64 << 20
"""Bytes after which a child of the log is full and the next one is written, if that is empty."""

SETTLED = 10
"""Seconds for which a mark must have stood before anything is really removed: readers have seen it then."""

TICKS_KEPT = 10_000

LAG = """
SELECT part, count(*), date_part('epoch', clock_timestamp() - min(at)) FROM (
    SELECT part, at FROM {log} WHERE part = ANY ($1) AND seq > $2 AND (era = $4 AND xid > $3::text::xid8 OR era > $4)
        AND kind < $5
    UNION ALL SELECT part, at FROM {log}
    WHERE part = ANY ($1) AND xid = ANY ($6::text::xid8[]) AND seq > $7 AND era = $4 AND kind < $5
    LIMIT {most}) behind
GROUP BY part
"""
"""(Of a later era everything is behind; its transactions are counted anew.)"""

BELOW = """(pg_visible_in_snapshot(l.xid, {g}.tick) OR l.seq <= {g}.seq AND pg_visible_in_snapshot(l.xid, {g}.next))"""
"""A change lies before a cursor: its tick knows it, or the tick of the window that was begun does, up to `seq`."""

PASSED = """
WITH old AS (SELECT * FROM unnest($1::int[], $2::text[]::pg_snapshot[], $3::text[]::pg_snapshot[], $4::bigint[])
        AS o (part, tick, next, seq)),
    new AS (SELECT * FROM unnest($1::int[], $5::text[]::pg_snapshot[], $6::text[]::pg_snapshot[], $7::bigint[])
        AS n (part, tick, next, seq))
SELECT l.part, l.xid, max(l.seq), count(*)
FROM {log} l JOIN old USING (part) JOIN new USING (part)
WHERE (l.seq > $8 AND l.seq <= $9 OR l.xid = ANY ($10::text::xid8[])) AND l.era = $11
    AND {below_new} AND NOT {below_old}
GROUP BY l.part, l.xid
"""

UNDONE = """
SELECT EXISTS (
    SELECT FROM {child} l LEFT JOIN unnest($1::int[], $2::text[]::pg_snapshot[], $3::text[]::pg_snapshot[],
        $4::bigint[], $5::int[]) AS m (part, tick, next, seq, era) USING (part)
    WHERE m.part IS NULL OR l.era > m.era OR l.era = m.era AND NOT {below})
"""

THIN = """
DELETE FROM {s}.tick t USING (
    SELECT id, era, lag(id) OVER w AS former, lead(era) OVER w AS later FROM {s}.tick
    WHERE id > 1 AND at < clock_timestamp() - interval '10 minutes' WINDOW w AS (ORDER BY id) LIMIT 20000) o
WHERE t.id = o.id AND o.id / 60000 = o.former / 60000 AND o.era = o.later
    AND NOT EXISTS (SELECT FROM unnest($1::bigint[], $2::bigint[]) AS kept (low, high) WHERE o.id BETWEEN low AND high)
"""
"""Of old ticks one a minute stays, and all that a reader may need again after a crash, exactly as they were."""


async def marks(session: Session, source: str) -> dict[int, Cursor]:
    """By partition, the place up to which its changes were trimmed."""
    rows = await session.data.fetch(
        f"SELECT part, cursor FROM {session.names.schema}.trimmed WHERE source = $1", source
    )
    return {row[0]: parse_cursor(row[1]) for row in rows}


async def lag(session: Session, source: str, log: str, cursors: Mapping[str, Cursor]) -> Mapping[str, Lag]:
    groups: dict[tuple[int, int, int, bool], list[str]] = {}
    for name, cursor in cursors.items():
        groups.setdefault((cursor.tick, cursor.next, cursor.seq, cursor.backfill), []).append(name)
    found = dict.fromkeys(cursors, Lag(0, 0.0))
    for (tick, _, seq, backfilled), names in groups.items():
        base = await tick_at(session, tick)
        rows = await session.data.fetch(
            LAG.format(log=log, most=COUNTED),
            [int(name) for name in names],
            max(base.seq, seq),
            base.latest,
            base.era,
            3 + backfilled,
            base.running,
            seq,
        )
        by_part = {row[0]: Lag(row[1], max(0.0, row[2])) for row in rows}
        found |= {name: by_part[int(name)] for name in names if int(name) in by_part}
    return found


async def trim(session: Session, spec: Source, log: str, before: Mapping[int, Cursor], retention: float) -> int:
    """See `ports.Feed.trim`."""
    s, data = session.names.schema, session.data
    await _clear(session, spec)
    there = await marks(session, spec.name)
    expired = await data.value(
        f"SELECT max(id) FROM {s}.tick WHERE at <= clock_timestamp() - make_interval(secs => $1)", min(retention, 3e9)
    )
    goals = {
        part: max(before.get(part, Cursor(FIRST)), Cursor(expired), key=Cursor.place) for part in range(spec.partitions)
    }
    moving = {
        part: (there.get(part, Cursor(FIRST)), goal)
        for part, goal in goals.items()
        if goal.place() > there.get(part, Cursor(FIRST)).place()
    }
    if not moving:
        return 0
    low = min(old.tick for old, _ in moving.values())
    rows = await data.fetch(
        f"SELECT id, seq, era, snapshot::text, xact::text FROM {s}.tick"
        f" WHERE id >= (SELECT max(id) FROM {s}.tick WHERE id <= $1) ORDER BY id",
        low,
    )
    ticks = Ticks([tick_of(*row) for row in rows])
    removed = 0
    while not removed and moving:
        removed, moving = await _step(session, spec, log, ticks, moving)
    if len(before) == spec.partitions:
        await _thin(session, spec.name, min(cursor.tick for cursor in before.values()))
    return removed


async def _step(
    session: Session, spec: Source, log: str, ticks: Ticks, moving: Mapping[int, tuple[Cursor, Cursor]]
) -> tuple[int, dict[int, tuple[Cursor, Cursor]]]:
    """Move the marks over the next slice; how many changes they passed, and what is left to do."""
    here = {part: (ticks.settle(old), goal) for part, (old, goal) in moving.items()}
    first = min((old for old, _ in here.values()), key=Cursor.place)
    window = ticks.window(Cursor(first.tick), SLICE)
    if window is None:
        return 0, {}
    steps = {
        part: (old, min(goal, Cursor(window.last.id), key=Cursor.place))
        for part, (old, goal) in here.items()
        if old.place() < (window.last.id, END)
    }
    left = {
        part: (max(old, steps[part][1] if part in steps else old, key=Cursor.place), goal)
        for part, (old, goal) in here.items()
    }
    left = {part: pair for part, pair in left.items() if pair[0].place() < pair[1].place()}
    if window.empty:
        return 0, left
    base = window.base
    parts = sorted(steps)
    old, new = ([ticks.bounds(steps[part][which]) for part in parts] for which in (0, 1))
    rows = await session.data.fetch(
        PASSED.format(log=log, below_old=BELOW.format(g="old"), below_new=BELOW.format(g="new")),
        parts,
        *zip(*old, strict=True),
        *zip(*new, strict=True),
        base.seq,
        window.upto,
        base.running,
        window.last.era,
    )
    removed = 0
    last: dict[int, Cursor] = {}
    for part, xid, seq, count in rows:
        index = window.index_of(xid)
        place = Cursor(window.ticks[index - 1].id if index else base.id, window.ticks[index].id, seq)
        last[part] = max(last.get(part, place), place, key=Cursor.place)
        removed += count
    if last:
        await session.data.execute(
            f"INSERT INTO {session.names.schema}.trimmed (source, part, cursor)"
            " SELECT $1, * FROM unnest($2::int[], $3::text[])"
            " ON CONFLICT (source, part) DO UPDATE SET cursor = excluded.cursor, moved = clock_timestamp()",
            spec.name,
            list(last),
            [str(cursor) for cursor in last.values()],
        )
    return removed, left


async def _clear(session: Session, spec: Source) -> None:
    """Empty the children of the log that lie wholly before the marks, and go on to the next when one is full."""
    names, data, s = session.names, session.data, session.names.schema
    slot = await data.value(f"SELECT slot FROM {s}.source WHERE name = $1", spec.name)
    following = (slot + 1) % SLOTS
    if await data.value(
        f"SELECT count(*) FROM {s}.trimmed WHERE source = $1 AND moved > clock_timestamp() - make_interval(secs => $2)",
        spec.name,
        float(SETTLED),
    ):
        return
    marked = await marks(session, spec.name)
    for other in range(SLOTS):
        child = names.log_slot(spec.name, other)
        if other != slot and marked and await data.value(f"SELECT EXISTS (SELECT FROM {child})"):
            await _empty(session, child, marked)
    child = names.log_slot(spec.name, following)
    size = await data.value("SELECT pg_relation_size($1::text::regclass)", names.log_slot(spec.name, slot))
    if size >= ROTATE and not await data.value(f"SELECT EXISTS (SELECT FROM {child})"):
        await data.execute(f"UPDATE {s}.source SET slot = $2, switched = now() WHERE name = $1", spec.name, following)


async def _empty(session: Session, child: str, marked: Mapping[int, Cursor]) -> None:
    """Empty a child if nobody needs it and nobody has it open. Looked at before the lock, and again under it."""
    ticks: list[tuple[Tick, str]] = []
    for cursor in marked.values():
        following = await tick_at(session, cursor.next) if cursor.next else None
        ticks.append((await tick_at(session, cursor.tick), following.text if following else NOTHING))
    args = (
        list(marked),
        [tick.text for tick, _ in ticks],
        [text for _, text in ticks],
        [cursor.seq for cursor in marked.values()],
        [tick.era for tick, _ in ticks],
    )
    undone = UNDONE.format(child=child, below=BELOW.format(g="m"))
    if await session.data.value(undone, *args):
        return
    try:
        async with session.data.transaction() as link:
            await link.execute("SET LOCAL lock_timeout = '50ms'")
            await link.execute(f"LOCK TABLE {child} IN ACCESS EXCLUSIVE MODE")
            if not await link.fetchval(undone, *args):
                await link.execute(f"TRUNCATE {child}")
    except Unavailable:
        return  # somebody has it open


async def _thin(session: Session, source: str, low: int) -> None:
    s, data = session.names.schema, session.data
    await data.execute(f"UPDATE {s}.source SET low = $2 WHERE name = $1", source, low)
    rows = await data.fetch(
        f"SELECT low, (SELECT max(id) FROM (SELECT id FROM {s}.tick WHERE id >= low ORDER BY id LIMIT {TICKS_KEPT}) k)"
        f" FROM {s}.source WHERE low IS NOT NULL"
    )
    await data.execute(THIN.format(s=s), [row[0] for row in rows], [row[1] or row[0] for row in rows])


async def tick_at(session: Session, id: int) -> Tick:
    """A tick, or the nearest before it that is left."""
    row = await session.data.row(
        f"SELECT id, seq, era, snapshot::text, xact::text FROM {session.names.schema}.tick"
        " WHERE id <= $1 ORDER BY id DESC LIMIT 1",
        id,
    )
    assert row is not None
    return tick_of(*row)
