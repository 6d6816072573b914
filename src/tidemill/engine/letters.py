"""Changes as dead letters and back: a parked change keeps all that its handler was shown."""

from __future__ import annotations

from tidemill.model import FORMAT, DeadLetter, Json, Logged


def letter_of(source: str, change: Logged, *, attempts: int, error: str, now: float) -> DeadLetter:
    """The change as it is kept in the dead letters under (feed, partition, change)."""
    meta: dict[str, Json] = {
        "format": FORMAT,
        "partition": change.partition,
        "kind": change.kind,
        "document": change.document,
        "before": None if change.before is None else change.before.decode("utf-8", "surrogateescape"),
        "at": change.at,
    }
    reason = error.splitlines()[0][:500] if error else "behind an earlier change of its key"
    return DeadLetter(
        source, change.id, change.key, change.order, change.body, attempts, reason, error[:4000], now, {}, meta
    )


def logged_of(letter: DeadLetter) -> Logged:
    """The change again."""
    meta = letter.meta
    kind = meta["kind"]
    before = meta.get("before")
    at = meta["at"]
    assert kind in ("put", "delete", "truncate")
    assert isinstance(at, int | float)
    return Logged(
        id=letter.id,
        partition=str(meta["partition"]),
        order=letter.order,
        cursor=None,
        kind="put" if kind == "put" else "delete" if kind == "delete" else "truncate",
        document=str(meta["document"]),
        key=letter.key or "",
        body=letter.body,
        before=before.encode("utf-8", "surrogateescape") if isinstance(before, str) else None,
        at=float(at),
    )
