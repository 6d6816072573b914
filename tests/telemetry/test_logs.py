"""Log lines: one per record, with who and what, and without secrets."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from tidemill.app.context import Context
from tidemill.model import Fact
from tidemill.telemetry.facts import log_fact
from tidemill.telemetry.logs import Format, configure


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def out() -> io.StringIO:
    return io.StringIO()


def test_a_line_names_worker_replica_and_message(out: io.StringIO) -> None:
    configure("console", replica="pod-1", stream=out)
    Context("4711", None, "send_invoice").log.info("sent %d", 3)
    line = out.getvalue()
    assert line[23:] == " INFO    send_invoice@pod-1 [4711] sent 3\n"
    assert line[4] == line[7] == "-"


def test_other_loggers_are_named(out: io.StringIO) -> None:
    configure(stream=out)
    logging.getLogger("avalon.rates").warning("old")
    assert out.getvalue()[23:] == " WARNING avalon.rates old\n"


def test_json_has_the_same_as_fields(out: io.StringIO) -> None:
    configure("json", replica="pod-1", stream=out)
    Context("4711", None, "send_invoice").log.info("sent")
    record = json.loads(out.getvalue())
    assert record.pop("time").endswith("Z")
    assert record == {
        "level": "info",
        "logger": "tidemill.send_invoice",
        "worker": "send_invoice",
        "replica": "pod-1",
        "id": "4711",
        "text": "sent",
    }


@pytest.mark.parametrize("format", ["console", "json"])
def test_what_a_caller_adds_is_shown(out: io.StringIO, format: Format) -> None:
    configure(format, stream=out)
    logging.getLogger("x").info("done", extra={"rows": 3})
    assert ("rows=3" if format == "console" else '"rows": 3') in out.getvalue()


def test_a_traceback_is_indented_and_in_json_one_line(out: io.StringIO) -> None:
    formats: tuple[Format, ...] = ("console", "json")
    for format in formats:
        configure(format, stream=out)
        try:
            raise ValueError("postgresql://u:s3cret@db")
        except ValueError:
            logging.getLogger("x").exception("failed")
    text, _, last = out.getvalue().rpartition("\n{")
    assert "x failed\n    Traceback (most recent call last):\n" in text
    record = json.loads("{" + last)
    assert record["error"].endswith("ValueError: postgresql://u:***@db")
    assert "s3cret" not in out.getvalue()


@pytest.mark.parametrize("format", ["console", "json"])
def test_nothing_can_forge_a_record(out: io.StringIO, format: Format) -> None:
    configure(format, stream=out)
    logging.getLogger("x").info("name: %s", "a\n2026-01-01 00:00:00.000 INFO  forged\x1b[31m")
    assert out.getvalue().count("\n") == 1
    assert "\x1b" not in out.getvalue()


@pytest.mark.parametrize("format", ["console", "json"])
def test_passwords_are_masked_everywhere(out: io.StringIO, format: Format) -> None:
    configure(format, stream=out)
    logging.getLogger("x").info("to %s", "postgresql://u:s3cret@db", extra={"url": "amqp://u:s3cret@mq"})
    assert "s3cret" not in out.getvalue()
    assert out.getvalue().count("***") == 2


def test_the_level_holds(out: io.StringIO) -> None:
    configure(level="warning", stream=out)
    logging.getLogger("x").info("not shown")
    logging.getLogger("x").warning("shown")
    assert out.getvalue().count("\n") == 1


def test_configuring_twice_logs_once(out: io.StringIO) -> None:
    configure(stream=out)
    configure(stream=out)
    logging.getLogger("x").info("once")
    assert out.getvalue().count("once") == 1


# --- facts --------------------------------------------------------------------------------------------------


def test_facts_for_people_are_lines(out: io.StringIO) -> None:
    configure(stream=out)
    log_fact(Fact("dead", "bill", detail={"id": "7", "reason": "no rate"}))
    log_fact(Fact("poll_failed", "bill", detail={"error": "postgresql://u:s3cret@h is away"}))
    dead, failed = out.getvalue().splitlines()
    assert dead[23:].startswith(" WARNING bill [7] ")
    assert "no rate" in dead
    assert failed.endswith("error=postgresql://u:***@h is away")


def test_facts_for_machines_are_not(out: io.StringIO) -> None:
    configure(stream=out)
    log_fact(Fact("handled", "bill", 3, detail={"verdict": "done"}))
    assert out.getvalue() == ""
