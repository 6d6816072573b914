"""Pages packed into one row come back as they were."""

from __future__ import annotations

import sqlite3

from hypothesis import given
from hypothesis import strategies as st

from tidemill.adapters.sqlite.columns import Packed, blobs, integers, pack, reals, texts

texts_ = st.none() | st.text(alphabet=st.characters(exclude_categories=("Cs",)))
times = st.floats(min_value=2.0**23, max_value=2.0**33)
rows_ = st.lists(st.tuples(st.integers(-(2**62), 2**62), texts_, st.none() | st.binary(), times), max_size=20)


def _packed(rows: list[tuple[object, ...]]) -> Packed:
    base = sqlite3.connect(":memory:")
    base.execute("CREATE TABLE r (n INTEGER, t TEXT, b BLOB, at REAL)")
    base.executemany("INSERT INTO r VALUES (?, ?, ?, ?)", rows)
    query = pack("SELECT * FROM r ORDER BY rowid", integers("n"), texts("t"), blobs("b"), reals("at"), "max(n)")
    found = Packed(base.execute(query).fetchone())
    base.close()
    return found


@given(rows_)
def test_what_is_packed_comes_back_as_it_was(rows: list[tuple[int, str | None, bytes | None, float]]) -> None:
    found = _packed([*rows])
    assert found.count == len(rows)
    if rows:
        columns = (found.integers(), found.texts(), found.blobs(), found.reals())
        assert list(zip(*columns, strict=True)) == rows
        assert found.value() == max(row[0] for row in rows)


def test_a_text_that_is_no_utf_8_is_replaced_and_costs_no_other() -> None:
    base = sqlite3.connect(":memory:")
    base.execute("CREATE TABLE r (t TEXT)")
    base.execute("INSERT INTO r VALUES ('fine'), (CAST(x'ff41' AS TEXT)), ('größer')")
    found = Packed(base.execute(pack("SELECT t FROM r ORDER BY rowid", texts("t"))).fetchone())
    base.close()
    assert found.texts() == ["fine", "\N{REPLACEMENT CHARACTER}A", "größer"]
