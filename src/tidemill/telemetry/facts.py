"""The observer that writes facts as log lines: what an operator would want to be told, once each."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from tidemill.model import Fact

_log = logging.getLogger("tidemill")

_LEVELS: Mapping[str, int] = {
    "claims_lost": logging.WARNING,
    "dead": logging.WARNING,
    "expired": logging.ERROR,
    "halted": logging.ERROR,
    "parked": logging.WARNING,
    "poll_failed": logging.WARNING,
    "stalled": logging.ERROR,
    "recovered": logging.WARNING,
    "fenced": logging.WARNING,
    "housekeeping_failed": logging.WARNING,
    "profile_mismatch": logging.ERROR,
    "breaker": logging.WARNING,
    "buried": logging.WARNING,
    "waiting": logging.INFO,
    "foreign_owner": logging.INFO,
}

_SENTENCES: Mapping[str, str] = {
    "claims_lost": "claims went to another replica before they were settled",
    "dead": "to the dead letters",
    "expired": "changes were removed by retention before this worker read them",
    "halted": "a partition stands still until somebody decides",
    "parked": "a key was parked; its later changes queue up behind it",
    "poll_failed": "the backend fails",
    "stalled": "the handlers' loop is silent; unstarted work goes back",
    "recovered": "the handlers' loop ticks again",
    "housekeeping_failed": "housekeeping did not get through; it tries again in a minute",
    "profile_mismatch": "replicas of one group run different clockworks; set the same profile for all",
    "breaker": "handlers fail in a row: the worker pauses and tries one now and then",
    "fenced": "no renewal in time: nothing is started or written until one succeeds",
    "waiting": "a replica is silent (killed?): what it holds is taken over if that lasts so long",
    "foreign_owner": "a host that is no member of ours holds a partition: left to it while it lives",
    "buried": "this replica was taken for dead and comes back under a new name",
}


def log_fact(fact: Fact) -> None:
    """Write the facts that people should see; the others are only counted."""
    level = _LEVELS.get(fact.name)
    if level is None:
        return
    details = " ".join(f"{name}={value}" for name, value in fact.detail.items())
    count = f" ({fact.count})" if fact.count != 1 else ""
    extra = {"worker": fact.worker, "id": str(fact.detail.get("id", ""))}
    _log.log(level, "%s%s %s", _SENTENCES[fact.name], count, details, extra=extra)
