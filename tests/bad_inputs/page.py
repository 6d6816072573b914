"""The table as a page of the docs: `python -m tests.bad_inputs.page` writes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.bad_inputs import table
from tests.bad_inputs.cosmos import COSMOS
from tests.bad_inputs.postgres import POSTGRES
from tests.bad_inputs.requests import REQUESTS
from tests.bad_inputs.service_bus import SERVICE_BUS
from tests.bad_inputs.storage_queue import STORAGE_QUEUE
from tests.bad_inputs.table import Row

PAGE = Path(__file__).parent.parent.parent / "docs" / "bad-inputs.md"

HEAD = """# What a mistake gets

Each line begins with `tidemill: ` and stands on stderr; there is no traceback. Exit code 2: a mistake in what was
asked for. Exit code 1: it could not be done. A test runs every row (`tests/bad_inputs`, in `make test`); the lines are
shown from their beginning, as far as they are the same everywhere.
"""

PLACES = {
    "port": "PORT",
    "folder": "FOLDER",
    "url": "postgresql://postgres@HOST/DB",
    "host": "HOST",
    "base": "DB",
    "shown": "postgresql HOST/DB",
    "bouncer": "postgresql://postgres@PGBOUNCER/DB",
    "bouncer_shown": "postgresql PGBOUNCER/DB",
}
"""What stands for what is another one at each run."""

OF_COSMOS = {"account": "cosmos://:KEY@127.0.0.1/shop?tls=no", "other": "cosmos://:OTHER_KEY@127.0.0.1/shop?tls=no"}
OF_STORAGE_QUEUE = {
    "queue": "azure-storage-queue://:KEY@ACCOUNT?tls=no",
    "wrong": "azure-storage-queue://:WRONG_KEY@ACCOUNT",
    "shown": "azure-storage-queue://ACCOUNT",
    "prefix": "",
    "large": "large.json",
}
OF_SERVICE_BUS = {"bus": "azure-service-bus://:KEY@NAMESPACE?policy=POLICY", "host": "NAMESPACE"}


def text() -> str:
    families = {
        "Settings": table.SETTINGS,
        "Forwarding": table.FORWARD,
        "Commands and targets": table.COMMANDS,
        "Declarations": table.DECLARATIONS,
        "Messages and other verbs": table.MESSAGES,
        "Databases and ports": table.DATABASES,
        "Images": table.IMAGES,
        "PostgreSQL": POSTGRES,
        "Cosmos DB": COSMOS,
        "Azure Storage Queue": STORAGE_QUEUE,
        "Service Bus": SERVICE_BUS,
    }
    places = {"Cosmos DB": OF_COSMOS, "Azure Storage Queue": OF_STORAGE_QUEUE, "Service Bus": OF_SERVICE_BUS}
    lines = [line for name, rows in families.items() for line in _family(name, rows, places.get(name, {}))]
    return "\n".join([HEAD, *lines, *_requests()])


def _requests() -> Iterator[str]:
    yield from ("## Requests to the document API", "", "`application/problem+json`; `errors` names each field.", "")
    yield from ("| mistake | request | status | detail |", "|---|---|---|---|")
    for row in REQUESTS:
        yield f"| {row.what} | `{row.method} {row.path}` | {row.status} | `{row.detail} …` |"
    yield ""


def _family(name: str, rows: Sequence[Row], more: Mapping[str, str]) -> Iterator[str]:
    places = PLACES | more
    yield from (f"## {name}", "", "| mistake | command | line | exit |", "|---|---|---|---|")
    for row in rows:
        words = row.words.format(**{**places, "good": f"'{table.GOOD}'"})
        line = row.line.format(**places).replace("|", "\\|").strip()
        yield f"| {row.what} | `tidemill {words}` | `{line} …` | {row.code} |"
    yield ""


if __name__ == "__main__":
    PAGE.write_text(text())
