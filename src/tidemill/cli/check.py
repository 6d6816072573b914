"""`check`: what is wrong, or will be, before a replica starts."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from random import SystemRandom

import tidemill
from tidemill import settings as settings_module
from tidemill.app.app import App
from tidemill.cli.show import Table, print_json, show
from tidemill.cli.target import find
from tidemill.core.scrub import scrub
from tidemill.engine.clock import SystemClock
from tidemill.errors import ConfigurationError
from tidemill.locate import locate, transactional
from tidemill.operations.checks import Finding, handlers_fit, online
from tidemill.settings import DEV_DATABASE, Settings


def check(target: str | None, options: Mapping[str, object], *, look_online: bool, as_json: bool) -> int:
    """Print the findings: 0 fine (warnings too), 1 a problem with a database, 2 a mistake of the configuration."""
    findings = [_versions()]
    folder = Path.cwd()
    read: list[Settings] = []
    apps: list[App] = []
    mistakes = [
        *_mistakes(lambda: read.append(_load(folder, options))),
        *_mistakes(lambda: apps.append(find(target, folder))),
    ]
    if read and apps:
        mistakes += _mistakes(lambda: _fit(apps[0], read[0]))
    if mistakes:
        raise ConfigurationError(*mistakes)
    declared = apps[0].declared()
    count = (
        f"{len(declared.workers)} worker(s), {len(declared.queues)} queue(s), {len(declared.collections)} collection(s)"
    )
    findings += [Finding("settings", "ok", "fit"), Finding("app", "ok", f"{declared.name}: {count}")]
    if look_online:
        findings += asyncio.run(_online(apps[0], read[0]))
    findings = [replace(finding, told=scrub(finding.told)) for finding in findings]
    if as_json:
        print_json(findings)
    else:
        show([Table("checks", ("what", "", "seen"), [(one.what, one.level, one.told) for one in findings])])
    return 1 if any(finding.level == "problem" for finding in findings) else 0


def _mistakes(attempt: Callable[[], object]) -> list[str]:
    try:
        attempt()
    except ConfigurationError as error:
        return [*(error.problems or (str(error),))]
    return []


def _load(folder: Path, options: Mapping[str, object]) -> Settings:
    there = (folder / DEV_DATABASE.removeprefix("sqlite:///")).exists()
    defaults = {"database": DEV_DATABASE} if there else {}
    return settings_module.load(os.environ, folder=folder, options=options, defaults=defaults)


def _fit(app: App, settings: Settings) -> None:
    """What a start would find before it opens anything."""
    declared = app.declared()
    mistakes = _mistakes(lambda: settings.fit(declared))
    clock = SystemClock()
    if not mistakes:
        places = locate(declared, settings, clock, None)
        handlers_fit(declared, clock, transactional(declared.workers, places))
        return
    mistakes += _mistakes(lambda: handlers_fit(declared, clock, frozenset()))
    raise ConfigurationError(*mistakes)


async def _online(app: App, settings: Settings) -> list[Finding]:
    clock = SystemClock()
    declared = app.declared()
    places = locate(declared, settings, clock, None)
    try:
        return await online(places, declared, clock=clock, random=SystemRandom())
    finally:
        await places.close()


def _versions() -> Finding:
    python = ".".join(map(str, sys.version_info[:3]))
    return Finding(
        "versions", "ok", f"tidemill {tidemill.__version__}, Python {python}, SQLite {sqlite3.sqlite_version}"
    )
