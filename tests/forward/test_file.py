"""`[[forward]]` in tidemill.toml: the same workers as from Python, and a line for each mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tidemill import App, settings
from tidemill.errors import ConfigurationError
from tidemill.forwards import extended


def shop() -> App:
    app = App("shop")
    app.collection("orders", dict[str, Any], id="number", key="customer")
    app.table("stock", id="id")
    app.queue("jobs", dict[str, Any])
    return app


def written(folder: Path, text: str) -> Path:
    (folder / "tidemill.toml").write_text(text, "utf-8")
    return folder


GOOD = """
grace = 5

[[forward]]
name = "tell-partner"
from = "orders"
webhook = "https://partner.example.com/hook"
secret = "${PARTNER_SECRET}"
headers = { "x-functions-key" = "${FUNCTION_KEY}" }
time_limit = "10s"
batch = 100
start = "now"
attempts = 3

[[forward]]
name = "thumbnails"
from = "jobs"
command = ["resize", "--to", "80"]
concurrency = 4
group = "images"

[[forward]]
name = "bill"
from = "stock"
queue = "jobs"
"""


def test_each_is_a_worker(tmp_path: Path) -> None:
    app = shop()
    made = extended(app, written(tmp_path, GOOD))
    found = {worker.name: worker for worker in made.declared().workers}
    assert {name: worker.group for name, worker in found.items()} == {
        "tell-partner": "feeds", "thumbnails": "images", "bill": "feeds",
    }  # fmt: skip
    assert found["tell-partner"].policy.batch == 100
    assert found["tell-partner"].policy.time_limit == 20.0
    assert found["tell-partner"].policy.retry.attempts == 3
    assert found["thumbnails"].policy.concurrency == 4
    assert app.declared().workers == (), "the app itself stays as it is"
    assert len(extended(app, tmp_path).declared().workers) == 3, "so it can be read again"


def test_they_are_no_settings(tmp_path: Path) -> None:
    assert settings.load({}, folder=written(tmp_path, GOOD), options={}).grace == 5


def test_without_a_file_or_a_table_the_app_is_as_it_was(tmp_path: Path) -> None:
    app = shop()
    assert extended(app, tmp_path) is app
    assert extended(app, written(tmp_path, "grace = 5\n")) is app


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('name = "a"\nfrom = "order"\nqueue = "jobs"',
         "from = 'order': the app has no such collection, table or queue; did you mean orders?"),
        ('name = "a"\nfrom = "orders"\nqueue = "job"', "queue = 'job': the app has no such queue; did you mean jobs?"),
        ('name = "a"\nfrom = "orders"', "write one of webhook, command and queue, not none"),
        ('name = "a"\nfrom = "orders"\nqueue = "jobs"\nwebhook = "https://h/"',
         "write one of webhook, command and queue, not webhook and queue"),
        ('name = "a"\nfrom = "orders"\nqueue = "jobs"\nsecret = "x"', "secret and headers are for a webhook"),
        ('name = "a"\nform = "orders"\nqueue = "jobs"', "form: there is no such key; did you mean from?"),
        ('from = "orders"\nqueue = "jobs"', "name is missing"),
        ('name = "a"\nfrom = "orders"\nqueue = "jobs"\nbatch = 0', "batch = 0: Input should be greater"),
        ('name = "a"\nfrom = "orders"\ncommand = "ls -l"', "command = 'ls -l': Input should be a valid tuple"),
        ('name = "a"\nfrom = "orders"\nwebhook = "https://h/"\ntime_limit = "soon"', "time_limit = 'soon'"),
        ('name = "a b"\nfrom = "orders"\nqueue = "jobs"', "a b"),
    ],
)  # fmt: skip
def test_mistakes(tmp_path: Path, text: str, line: str) -> None:
    with pytest.raises(ConfigurationError) as told:
        extended(shop(), written(tmp_path, f"[[forward]]\n{text}\n"))
    assert any(problem.startswith("tidemill.toml, forward 1: ") and line in problem for problem in told.value.problems)


def test_all_mistakes_are_told_together(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as told:
        extended(
            shop(), written(tmp_path, '[[forward]]\nname = "a"\n[[forward]]\nname = "b"\nfrom = "x"\nqueue = "y"\n')
        )
    assert len(told.value.problems) == 2


def test_one_table_is_no_list_of_tables(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"write \[\[forward\]\] over each"):
        extended(shop(), written(tmp_path, '[forward]\nname = "a"\n'))
