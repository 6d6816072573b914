"""The values that cross every border: frozen, without behaviour, in the words of the field.

Times of day are seconds since the epoch, UTC (`at`, `sent_at`, `due`); durations are seconds as float; bodies
are the user's JSON as bytes; versions, etags, claims and cursors are opaque strings, compared for equality only.
"""

from __future__ import annotations

from tidemill.model.changes import Expired, Kind, Lag, Logged, Moved, Page, Start
from tidemill.model.commits import Commit, CommitResult, Committed, Conflicted, Fenced, Finished, Statement
from tidemill.model.common import FORMAT, MAX_WAIT, Fact, Json, Observer, Value
from tidemill.model.documents import Delete, Expect, Filter, Mismatch, Put, Query, Rows, Stored, Write, Written
from tidemill.model.messages import (
    Dead,
    DeadLetter,
    Delivery,
    Depth,
    Done,
    Later,
    Lost,
    Message,
    Outcome,
    Settled,
    Verdict,
    Waiting,
)
from tidemill.model.records import Gone, Record, Stale, Swap, Swapped
from tidemill.model.schemas import Contents, Piece
from tidemill.model.specs import CollectionSpec, Limits, QueueSpec, Source, StreamSpec, TableSpec

__all__ = [
    "CollectionSpec",
    "Commit",
    "CommitResult",
    "Committed",
    "Conflicted",
    "Contents",
    "Dead",
    "DeadLetter",
    "Delete",
    "Delivery",
    "Depth",
    "Done",
    "Expect",
    "Expired",
    "FORMAT",
    "Fact",
    "Fenced",
    "Filter",
    "Finished",
    "Gone",
    "Json",
    "Kind",
    "Lag",
    "Later",
    "Limits",
    "Logged",
    "Lost",
    "MAX_WAIT",
    "Message",
    "Mismatch",
    "Moved",
    "Observer",
    "Outcome",
    "Page",
    "Piece",
    "Put",
    "Query",
    "QueueSpec",
    "Record",
    "Rows",
    "Settled",
    "Source",
    "Stale",
    "Start",
    "Statement",
    "StreamSpec",
    "Stored",
    "Swap",
    "Swapped",
    "TableSpec",
    "Value",
    "Verdict",
    "Waiting",
    "Write",
    "Written",
]
