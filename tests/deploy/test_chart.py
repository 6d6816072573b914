"""`tidemill chart`: what is written, what is kept, what is told; without Helm."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tidemill.cli.main import main
from tidemill.deploy.chart import NOTE, chart, chart_version, compare
from tidemill.deploy.values import split
from tidemill.errors import ConfigurationError
from tidemill.signals import Signals

from .apps import CASES, Case

TREE = Path(__file__).parent.parent.parent

APP = """
from tidemill import App

app = App({name!r})
jobs = app.queue("jobs", dict)


@app.on_message(jobs, group={group!r})
async def work(job: dict) -> None: ...
"""


def run(*words: str) -> int:
    return main(words, Signals())


def project(folder: Path, *, name: str = "shop", group: str = "queues", version: str = 'version = "1.2.0"') -> None:
    sys.modules.pop("app", None)
    (folder / "app.py").write_text(APP.format(name=name, group=group), "utf-8")
    (folder / "pyproject.toml").write_text(f'[project]\nname = "shop"\n{version}\n', "utf-8")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project in the working folder."""
    project(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("TIDEMILL_DATABASE", "postgresql://db/shop")
    yield tmp_path
    sys.modules.pop("app", None)


def test_avalons_is_what_is_written(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(TREE / "examples/avalon")
    assert run("chart", "examples.avalon.app:app", "--check") == 0, capsys.readouterr().out


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_values_and_schema_are_yaml_and_json_and_agree(case: Case) -> None:
    made = chart(case.plan(), "registry.example.com/team/shop")
    values, schema = yaml.safe_load(made["values.yaml"]), json.loads(made["values.schema.json"])
    assert set(values) | {"enabled"} == set(schema["properties"])
    assert set(values["groups"]) == set(schema["properties"]["groups"]["properties"])
    for name, group in values["groups"].items():
        assert set(group) == set(schema["properties"]["groups"]["properties"][name]["properties"])
    assert yaml.safe_load(made["Chart.yaml"])["name"] == case.app


def test_it_is_written_and_then_is_as_it_was(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("chart", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["folder"] == "chart"
    assert {"Chart.yaml", "values.yaml", "values.schema.json", "templates/deployment.yaml"} <= set(told["written"])
    assert all((here / "chart" / path).is_file() for path in told["written"])
    assert run("chart") == 0
    assert capsys.readouterr().out == "chart is as it was\n"
    assert run("chart", "--check") == 0


def test_a_change_of_the_app_is_told_and_written(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("chart")
    project(here, group="slow")
    capsys.readouterr()
    assert run("chart", "--check") == 1
    assert "values.yaml" in capsys.readouterr().out
    assert "slow:" not in (here / "chart/values.yaml").read_text("utf-8")
    assert run("chart") == 0
    assert "slow:" in (here / "chart/values.yaml").read_text("utf-8")


def test_what_was_changed_by_hand_is_kept(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("chart")
    values = here / "chart/values.yaml"
    values.write_text(values.read_text("utf-8") + "# mine\n", "utf-8")
    project(here, group="slow")
    assert run("chart") == 2
    assert "chart has files that were changed by hand: values.yaml" in capsys.readouterr().err
    assert values.read_text("utf-8").endswith("# mine\n")
    assert run("chart", "--force") == 0
    assert not values.read_text("utf-8").endswith("# mine\n")


def test_a_file_of_others_is_left_and_one_of_ours_that_is_not_needed_goes(here: Path) -> None:
    run("chart", "--out", "deploy/shop")
    folder = here / "deploy/shop"
    (folder / "README.md").write_text("mine", "utf-8")
    note = json.loads((folder / NOTE).read_text("utf-8"))
    old = folder / "templates/old.yaml"
    old.write_text("", "utf-8")
    note["files"]["templates/old.yaml"] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    (folder / NOTE).write_text(json.dumps(note), "utf-8")
    assert run("chart", "--out", "deploy/shop") == 0
    assert not old.exists()
    assert (folder / "README.md").read_text("utf-8") == "mine"


def test_a_note_that_leads_outside_removes_nothing(here: Path) -> None:
    run("chart")
    note = here / "chart" / NOTE
    note.write_text(json.dumps({"files": {"../app.py": "x", str(here / "app.py"): "x"}}), "utf-8")
    assert compare({}, here / "chart").removed == ()


@pytest.mark.parametrize(
    ("name", "group", "line"),
    [
        ("My_Shop", "queues", "app 'My_Shop' cannot name things in Kubernetes (no DNS-1123 label); call it 'my-shop'"
         " in App"),
        ("shop", "Slow_Ones", "group 'Slow_Ones' cannot name things in Kubernetes (no DNS-1123 label); call it"
         " 'slow-ones' in group="),
    ],
)  # fmt: skip
def test_a_name_that_does_not_fit(
    here: Path, capsys: pytest.CaptureFixture[str], name: str, group: str, line: str
) -> None:
    project(here, name=name, group=group)
    assert run("chart") == 2
    assert f"tidemill: {line}\n" in capsys.readouterr().err
    assert not (here / "chart").exists()


def test_a_project_without_a_version(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project(here, version="")
    assert run("chart") == 2
    assert "pyproject.toml has no version under [project]; say it with --version" in capsys.readouterr().err
    assert run("chart", "--version", "2.0rc1") == 0
    about = yaml.safe_load((here / "chart/Chart.yaml").read_text("utf-8"))
    assert (about["version"], about["appVersion"]) == ("2.0.0-rc.1", "2.0rc1")


def test_a_folder_that_cannot_be_written(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "chart").write_text("a file", "utf-8")
    assert run("chart") == 2
    assert "chart cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("version", "made"),
    [
        ("1.4", "1.4.0"),
        ("1", "1.0.0"),
        ("1.2.3", "1.2.3"),
        ("1.2.3-rc.1+b2", "1.2.3-rc.1+b2"),
        ("2.0rc1", "2.0.0-rc.1"),
        ("2.0a", "2.0.0-a.0"),
        ("1.0.dev3+gab12", "1.0.0-dev.3+gab12"),
        ("1.2.3.post1", "1.2.3+post.1"),
        ("1!2.0", "2.0.0+epoch.1"),
        ("1.2.3.4", "1.2.3+4"),
    ],
)
def test_versions_as_helm_writes_them(version: str, made: str) -> None:
    assert chart_version(version) == made


@pytest.mark.parametrize("version", ["", "one", "1.x"])
def test_what_is_no_version(version: str) -> None:
    with pytest.raises(ConfigurationError, match="is no version"):
        chart_version(version)


@pytest.mark.parametrize(
    ("image", "parts"),
    [
        ("shop", ("", "shop")),
        ("team/shop", ("", "team/shop")),
        ("registry.example.com/team/shop", ("registry.example.com", "team/shop")),
        ("localhost/shop", ("localhost", "shop")),
        ("host:5000/shop", ("host:5000", "shop")),
    ],
)
def test_registry_and_repository(image: str, parts: tuple[str, str]) -> None:
    assert split(image) == parts
