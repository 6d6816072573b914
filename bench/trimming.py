"""Changes written, read and trimmed for a long time: the file must not grow with what went through it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tidemill.adapters.sqlite import SQLite
from tidemill.engine.clock import SystemClock
from tidemill.model import CollectionSpec, Page, Put

SPEC = CollectionSpec("things", partitions=4)
BATCH = 5_000


async def run(file: Path, count: int) -> dict[str, Any]:
    """Rewrites 5,000 documents again and again; after each batch everything is read, and trimmed behind."""
    database = SQLite(file, SystemClock())
    await database.open([SPEC], [])
    documents, feed = database.documents(SPEC), database.feed(SPEC)
    cursors = {p: await feed.start(p, "beginning") for p in await feed.partitions()}
    body = b'{"pad": "' + b"x" * 300 + b'"}'
    sizes: list[int] = []
    read = 0
    for _ in range(count // BATCH):
        await documents.write([Put("things", f"{n}", f"k{n % 100}", body) for n in range(BATCH)])
        while True:
            pages = await feed.read(cursors, 1_000, 0.0)
            got = 0
            for name, page in pages.items():
                assert isinstance(page, Page)
                cursors[name] = page.cursor
                got += len(page.changes)
            read += got
            if not got:
                break
        while await feed.trim(cursors, 7 * 86_400.0):
            pass
        sizes.append(file.stat().st_size)
    await database.close()
    tenth = max(len(sizes) // 10, 1)
    return {
        "changes": read,
        "MB after the first tenth": sizes[tenth - 1] / 1e6,
        "MB at the end": sizes[-1] / 1e6,
        "end / first tenth (flat: ≤ 1.2)": sizes[-1] / sizes[tenth - 1],
        "lost": count - read,
    }
