"""What the health server answers: a request's bytes and a snapshot in, a response's bytes out. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import unquote

from tidemill.core import backlog, probes
from tidemill.core.health import Check, Report, Status
from tidemill.core.probes import Snapshot, Thresholds

Metrics: TypeAlias = Callable[[Snapshot, float], str]
"""All metrics in the Prometheus text format, version 0.0.4."""

_Probe: TypeAlias = Callable[[Snapshot, float, Thresholds], Report]

_PROBES: Mapping[str, _Probe] = {"/livez": probes.livez, "/readyz": probes.readyz, "/startupz": probes.startupz}
_DOTNET: Mapping[Status, str] = {"healthy": "Healthy", "degraded": "Degraded", "unhealthy": "Unhealthy"}
SCALE = "/scale/"
_TEXT = "text/plain; charset=utf-8"
_JSON = "application/json"
_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"

TOO_LONG = "414 URI Too Long"
NOT_A_REQUEST = "400 Bad Request"
NOT_ALLOWED = "405 Method Not Allowed"
NOT_FOUND = "404 Not Found"
UNAVAILABLE = "503 Service Unavailable"
SERVER_FAULT = "500 Internal Server Error"


@dataclass(frozen=True, slots=True)
class Page:
    """What is answered: a status line's end, a content type, a text."""

    status: str
    kind: str
    text: str


def answer(request: bytes, snapshot: Snapshot, now: float, limits: Thresholds, metrics: Metrics) -> bytes:
    """The response to a complete request head."""
    head = request.decode("latin-1").splitlines()
    parts = head[0].split(" ")
    if len(parts) != 3 or not parts[1].startswith("/"):
        return refuse(NOT_A_REQUEST)
    method, target, _ = parts
    if method not in ("GET", "HEAD"):
        return refuse(NOT_ALLOWED)
    path, _, query = target.partition("?")
    as_json = any(_JSON in line.lower() for line in head[1:] if line.lower().startswith("accept:"))
    verbose = any(field.partition("=")[0] == "verbose" for field in query.split("&"))
    if path == "/metrics":
        page = Page("200 OK", _PROMETHEUS, metrics(snapshot, now))
    elif path.startswith(SCALE):
        page = scale_page(unquote(path.removeprefix(SCALE)), snapshot, now)
    else:
        page = probe_page(path, snapshot, now, limits, as_json=as_json, verbose=verbose)
    response = _response(page)
    return response if method == "GET" else response[: response.index(b"\r\n\r\n") + 4]


def refuse(status: str) -> bytes:
    """A response that says no."""
    return _response(_refusal(status))


def probe_page(
    path: str, snapshot: Snapshot, now: float, limits: Thresholds, *, as_json: bool = False, verbose: bool = False
) -> Page:
    """The page of a probe or of `/health`."""
    if path in ("/health", "/healthz"):
        report = probes.health(snapshot, now, limits)
        return Page(_status(report), _JSON, dotnet(report))
    if path in _PROBES:
        report = _PROBES[path](snapshot, now, limits)
        if as_json:
            return Page(_status(report), _JSON, dotnet(report))
        return Page(_status(report), _TEXT, plain(report, verbose=verbose))
    return _refusal(NOT_FOUND)


def scale_page(group: str, snapshot: Snapshot, now: float) -> Page:
    """The work of a group, for an autoscaler: 503 where it is not known, so that who asks falls back."""
    found = {one.group: one for one in snapshot.backlogs}.get(group)
    if found is None and snapshot.started:
        there = ", ".join(one.group for one in snapshot.backlogs) or "none"
        why = f"no queue and no feed of group {group!r} is worked here (groups with one: {there})"
        return Page(NOT_FOUND, _TEXT, why + "\n")
    if found is None or found.at is None:
        return Page(UNAVAILABLE, _TEXT, "not measured yet\n")
    age = now - found.at
    if age > backlog.OLD:
        return Page(UNAVAILABLE, _TEXT, f"not measured for {age:.0f} s\n")
    return Page("200 OK", _JSON, backlog.text(found, age))


def _refusal(status: str) -> Page:
    return Page(status, _TEXT, f"{status.partition(' ')[2].lower()}\n")


def plain(report: Report, *, verbose: bool = False) -> str:
    """`ok`, or the failing checks, one a line with why; all of them with their status if `verbose`."""
    if verbose:
        return "".join(f"{c.health.status} {_line(c)}\n" for c in report.checks) + f"{report.status()}\n"
    failing = probes.failing(report)
    return "".join(f"{_line(check)}\n" for check in failing) if failing else "ok\n"


def dotnet(report: Report) -> str:
    """The report in the shape of .NET's `HealthReport`."""
    entries = {
        check.name: {
            "status": _DOTNET[check.health.status],
            "description": check.health.why or None,
            "duration": _duration(check.seconds),
            "tags": sorted(check.probes),
        }
        for check in report.checks
    }
    total = _duration(sum(check.seconds for check in report.checks))
    return json.dumps({"status": _DOTNET[report.status()], "totalDuration": total, "entries": entries}) + "\n"


def _line(check: Check) -> str:
    return f"{check.name}: {check.health.why}" if check.health.why else check.name


def _status(report: Report) -> str:
    return UNAVAILABLE if report.status() == "unhealthy" else "200 OK"


def _duration(seconds: float) -> str:
    """As .NET writes a TimeSpan: hh:mm:ss.fffffff."""
    ticks = round(seconds * 10_000_000)
    whole, fraction = divmod(ticks, 10_000_000)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours:02}:{minute:02}:{second:02}.{fraction:07}"


def _response(page: Page) -> bytes:
    body = page.text.encode()
    allow = "Allow: GET, HEAD\r\n" if page.status == NOT_ALLOWED else ""
    head = (
        f"HTTP/1.1 {page.status}\r\nContent-Type: {page.kind}\r\nContent-Length: {len(body)}\r\n{allow}"
        "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
