"""What an operator sees and does, over the ports only: the same on every backend and for every front (the command
line, the HTTP operations API)."""

from tidemill.operations.dead_letters import Acted, Manner, Pace, Selection, drop, letters, replay
from tidemill.operations.feeds import FeedState, Resumed, Step, feeds, pause_feed, plan_reset, reset, resume_feed
from tidemill.operations.overview import (
    FeedWork,
    GroupState,
    Partition,
    Status,
    Timer,
    groups_without_members,
    is_served,
    status,
)
from tidemill.operations.rename import Renamed, rename_feed
from tidemill.operations.timers import TimerState, pause_timer, rename_timer, resume_timer, run_timer, timers

__all__ = [
    "Acted",
    "FeedState",
    "FeedWork",
    "GroupState",
    "Manner",
    "Pace",
    "Partition",
    "Renamed",
    "Resumed",
    "Selection",
    "Status",
    "Step",
    "Timer",
    "TimerState",
    "drop",
    "feeds",
    "groups_without_members",
    "is_served",
    "letters",
    "pause_feed",
    "pause_timer",
    "plan_reset",
    "rename_feed",
    "rename_timer",
    "replay",
    "reset",
    "resume_feed",
    "resume_timer",
    "run_timer",
    "status",
    "timers",
]
