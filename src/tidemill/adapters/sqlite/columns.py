"""A page of rows as one row of columns, cut up in Python.

`sqlite3` hands the interpreter's lock to whoever wants it at each row it steps to. Beside busy threads a row then
costs a change of threads: with one busy thread a page of 500 rows took 120 ms, and 4 ms as one row (`bench`). So what
is read in pages on the way of messages and changes is put together by SQLite, with the lock free all the while: of
each column one value with all rows' texts and one with their lengths.

Numbers come as decimal integers; reals as multiples of 2⁻³⁰ seconds, which is exact for all times since April 1970
that a float can tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain
from typing import Any

_SCALE = 2.0**-30


def pack(rows: str, *columns: str) -> str:
    """One SELECT that packs these columns (each of `integers`, `reals`, `texts`, `blobs`) of a subquery."""
    return f"SELECT count(*), {', '.join(columns)} FROM ({rows})"


def integers(column: str) -> str:
    return f"group_concat({column})"


def reals(column: str) -> str:
    return f"group_concat(CAST({column} * {1 << 30}.0 AS INTEGER))"


def texts(column: str) -> str:
    """Three values: how many are not NULL, their lengths in bytes (-1: NULL), their bytes."""
    size = f"group_concat(coalesce(length(CAST({column} AS BLOB)), -1))"
    return f"count({column}), {size}, CAST(group_concat({column}, '') AS BLOB)"


def blobs(column: str) -> str:
    return texts(column)


class Packed:
    """The values of such a row, taken column by column in the order of the SELECT."""

    def __init__(self, row: Sequence[Any]) -> None:
        self._values: Iterator[Any] = iter(row)
        self.count: int = next(self._values)

    def integers(self) -> list[int]:
        return list(map(int, next(self._values).split(",")))

    def reals(self) -> list[float]:
        return [int(value) * _SCALE for value in next(self._values).split(",")]

    def texts(self) -> Sequence[Any]:
        """`str`, or None for NULL. What is no UTF-8 (foreign programs) is replaced: a row must not stop its page."""
        present, sizes, joined = self._three()
        if not joined and present in (0, self.count):
            return ("" if present else None,) * self.count
        if joined.isascii():
            return _cut(joined.decode("ascii"), sizes, present < self.count)
        return [
            piece if piece is None else piece.decode(errors="replace")
            for piece in _cut(joined, sizes, present < self.count)
        ]

    def blobs(self) -> Sequence[Any]:
        """`bytes`, or None for NULL."""
        present, sizes, joined = self._three()
        return _cut(joined, sizes, present < self.count) if present else (None,) * self.count

    def value(self) -> Any:
        """A value that was selected as it is."""
        return next(self._values)

    def _three(self) -> tuple[int, Iterable[int], bytes]:
        present, sizes, joined = next(self._values), next(self._values), next(self._values)
        return present, map(int, sizes.split(",")), joined or b""


def _cut(joined: Any, sizes: Iterable[int], nulls: bool) -> list[Any]:
    if nulls:
        given = list(sizes)
        pieces = iter(_cut(joined, (size for size in given if size >= 0), False))
        return [None if size < 0 else next(pieces) for size in given]
    ends = list(accumulate(sizes))
    return [joined[start:end] for start, end in zip(chain((0,), ends), ends, strict=False)]
