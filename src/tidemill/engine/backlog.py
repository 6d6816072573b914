"""What the groups of this replica have to do, from what was measured anyway: it asks no backend.

Queues: their depth, which counts what all replicas have claimed. Feeds: each replica measures the partitions it holds
and notes how far behind they are in its member record, which is renewed and read by the others in any case; so each
knows the sum. A partition that moves may stand in two notes for a few seconds and is counted once; one whose holder was
buried is counted again when the next holder has measured it. What others hold is older than our own by up to two
renewals.
"""

from __future__ import annotations

from collections.abc import Sequence

from tidemill.core.backlog import Backlog, Source
from tidemill.engine.engine import Engine
from tidemill.engine.feeds import FeedWorker
from tidemill.engine.queues import QueueWorker
from tidemill.model import Depth, StreamSpec


def backlogs(engine: Engine) -> tuple[Backlog, ...]:
    """One for each group that has a queue or a feed here."""
    groups = dict.fromkeys([*(q.worker.group for q in engine.queues), *(f.group for f in engine.feeds)])
    return tuple(_backlog(group, engine) for group in sorted(groups))


def _backlog(group: str, engine: Engine) -> Backlog:
    queues = [queue for queue in engine.queues if queue.worker.group == group]
    feeds = [feed for feed in engine.feeds if feed.group == group]
    sources = {queue.source: _of_queue(queue) for queue in queues}
    for feed in feeds:
        name = _name(feed)
        name = name if name not in sources else f"feed/{name}"
        sources[name] = Source(name, _behind(feed), 0)
    return Backlog(group, _oldest([*(q.measured for q in queues), *(f.measured for f in feeds)]), (*sources.values(),))


def _of_queue(queue: QueueWorker) -> Source:
    depth = queue.depth or Depth(0, 0, 0, 0.0)
    return Source(queue.source, depth.ready, depth.claimed)


def _behind(feed: FeedWorker) -> int:
    """Changes that are not done: in our partitions as we measured, in those of others as they noted."""
    found: dict[str, int] = {}
    for member in feed.others():
        found |= member.behind.get(feed.worker, {})
    found |= feed.behind()
    return sum(found.values())


def _name(feed: FeedWorker) -> str:
    """A queue with a key is worked as a feed, and still is that queue to people."""
    source = feed.trigger.source
    return source.queue if isinstance(source, StreamSpec) else feed.worker


def _oldest(measured: Sequence[float | None]) -> float | None:
    known = [at for at in measured if at is not None]
    return min(known) if len(known) == len(measured) else None
