"""What running replicas tell of themselves at `/metrics`, as the values that advice is made of."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.parse import urlsplit, urlunsplit
from urllib.request import ProxyHandler, Request, build_opener

from tidemill.deploy.advice import Advice, Calls, Measured, Silence, advise
from tidemill.errors import ConfigurationError, TidemillError

PATH = "/metrics"
TIMEOUT = 10.0
MOST = 16 * 1024 * 1024
"""Bytes of an answer: what is longer is not ours."""

_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)(?: \S+)?")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')
_ESCAPED = {"n": "\n", "\\": "\\", '"': '"'}


@dataclass(frozen=True, slots=True)
class Sample:
    """One line of the text format."""

    name: str
    labels: Mapping[str, str]
    value: float


def probes_from(urls: Sequence[str], *, now: Callable[[], float] = time.time) -> Advice:
    """Ask each of these replicas once, and say what follows.

    Raises `ConfigurationError` for a URL that cannot be one or leads to something else, `TidemillError` if there is no
    answer.
    """
    addresses = [address(url) for url in urls]
    return advise([measured(url, fetch(url), now()) for url in addresses])


def address(url: str) -> str:
    """The whole URL of what was said: `http://host:8081` means its `/metrics`."""
    wrong = ConfigurationError(f"{url}: write http://host:port, where the probes of a replica answer (port 8081)")
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise wrong from None
    if not fits:
        raise wrong
    path = PATH if parts.path in ("", "/") else parts.path
    return urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))


def fetch(url: str) -> str:
    """The page. Asked directly, whatever proxy there is: a replica is a pod or a forwarded port."""
    opener = build_opener(ProxyHandler({}))
    try:
        with opener.open(Request(url, headers={"Accept": "text/plain"}), timeout=TIMEOUT) as reply:
            return str(reply.read(MOST).decode("utf-8", "replace"))
    except HTTPError as error:
        error.close()
        if error.code >= 500:
            raise TidemillError(f"{url}: answers {error.code}") from None
        raise ConfigurationError(f"{url}: answers {error.code}; metrics stand on the port of the probes") from None
    except (OSError, HTTPException, ValueError) as error:
        raise TidemillError(f"{url}: no answer: {getattr(error, 'reason', None) or error}") from None


def measured(url: str, page: str, now: float) -> Measured:
    """What a page says. `now`: seconds since the epoch. Raises `ConfigurationError` for one that is not a replica's."""
    samples = list(read(page))
    if not any(sample.name == "tidemill_info" for sample in samples):
        raise ConfigurationError(f"{url}: these are not the metrics of a Tidemill replica")
    groups = [sample.labels.get("group", "") for sample in samples if sample.name == "tidemill_group"]
    if not groups:
        raise ConfigurationError(f"{url}: this replica's release does not say enough; deploy this one and ask again")
    began = _value(samples, "process_start_time_seconds")
    return Measured(
        url,
        tuple(groups),
        _value(samples, "tidemill_ready_seconds"),
        None if began is None else max(now - began, 0.0),
        _value(samples, "tidemill_grace_seconds"),
        _silence(samples, "handlers"),
        _silence(samples, "engine"),
        tuple(_calls(samples)),
    )


def read(page: str) -> Iterator[Sample]:
    """The samples of a page in the Prometheus text format. What is no sample is passed over."""
    for line in page.splitlines():
        found = None if line.startswith("#") else _SAMPLE.fullmatch(line)
        if found is None:
            continue
        name, labels, value = found.groups()
        try:
            number = float(value)
        except ValueError:
            continue
        yield Sample(name, {key: _plain(text) for key, text in _LABEL.findall(labels or "")}, number)


def quantile(buckets: Mapping[float, float], share: float, longest: float) -> float:
    """Seconds that this share of the calls did not exceed: the upper bound of the bucket it falls into, for who is
    careful; never more than the longest call."""
    total = max(buckets.values(), default=0.0)
    return next((min(bound, longest) for bound in sorted(buckets) if buckets[bound] >= share * total), longest)


def _calls(samples: Sequence[Sample]) -> Iterator[Calls]:
    """In the order in which the replica declares its workers."""
    for limit in [sample for sample in samples if sample.name == "tidemill_time_limit_seconds"]:
        worker = limit.labels.get("worker", "")
        own = [sample for sample in samples if sample.labels.get("worker") == worker]
        buckets = {
            float(sample.labels["le"]): sample.value
            for sample in own
            if sample.name == "tidemill_handler_seconds_bucket" and "le" in sample.labels
        }
        longest = _value(own, "tidemill_handler_longest_seconds") or 0.0
        yield Calls(
            worker,
            limit.labels.get("group", ""),
            int(_value(own, "tidemill_handler_seconds_count") or 0),
            quantile(buckets, 0.5, longest),
            quantile(buckets, 0.99, longest),
            longest,
            limit.value if math.isfinite(limit.value) else None,
        )


def _silence(samples: Sequence[Sample], loop: str) -> Silence:
    for sample in samples:
        if sample.name == "tidemill_loop_longest_silent_seconds" and sample.labels.get("loop") == loop:
            return Silence(sample.value, sample.labels.get("worker", ""), sample.labels.get("where", ""))
    return Silence()


def _value(samples: Sequence[Sample], name: str) -> float | None:
    return next((sample.value for sample in samples if sample.name == name), None)


def _plain(text: str) -> str:
    return re.sub(r"\\(.)", lambda found: _ESCAPED.get(found[1], found[0]), text)
