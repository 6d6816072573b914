"""What an operator sees and does, over the ports only: the same on every backend and for every front (the command
line, the HTTP operations API)."""

from tidemill.operations.dead_letters import Acted, Selection, drop, letters, replay
from tidemill.operations.overview import Partition, Status, Timer, groups_without_members, status

__all__ = [
    "Acted",
    "Partition",
    "Selection",
    "Status",
    "Timer",
    "drop",
    "groups_without_members",
    "letters",
    "replay",
    "status",
]
