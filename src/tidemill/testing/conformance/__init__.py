"""What each port promises, as tests that every adapter runs. A backend is one class that passes them.

    from tidemill.testing import conformance

    class TestMine(conformance.QueueConformance, conformance.StoreConformance):
        @pytest.fixture
        async def bench(self, tmp_path):
            clock = SystemClock()
            async with conformance.opened(Mine(tmp_path, clock), clock) as bench:
                yield bench

Each test gets a fresh, empty backend. The methods are plain `async def test_…`; they need pytest and pytest-asyncio
with `asyncio_mode = "auto"`. What a backend does not declare in `features` is skipped, by name. In real time no single
wait is longer than a second. Reads that may be old must be fresh here: the tests read back what they have just written.
`pytest.register_assert_rewrite("tidemill.testing.conformance")` in `conftest.py` shows the values of a failed assert.
"""

from tidemill.testing.conformance.bench import COLLECTION, QUEUE, Bench, opened
from tidemill.testing.conformance.commit import CommitConformance
from tidemill.testing.conformance.database import DatabaseConformance
from tidemill.testing.conformance.dead_letters import DeadLettersConformance
from tidemill.testing.conformance.documents import DocumentsConformance
from tidemill.testing.conformance.feed import FeedConformance
from tidemill.testing.conformance.key_commit import KeyCommitConformance
from tidemill.testing.conformance.queue import QueueConformance
from tidemill.testing.conformance.store import StoreConformance

__all__ = [
    "COLLECTION",
    "QUEUE",
    "Bench",
    "CommitConformance",
    "DatabaseConformance",
    "DeadLettersConformance",
    "DocumentsConformance",
    "FeedConformance",
    "KeyCommitConformance",
    "QueueConformance",
    "StoreConformance",
    "opened",
]
