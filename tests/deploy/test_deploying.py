"""`tidemill deploy` and `rollback`: the order of the steps and what is told, on a double of a cluster."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.doubles.cluster import STATE, DoubleOfACluster
from tidemill.cli.deploy import named
from tidemill.cli.main import main
from tidemill.deploy import release
from tidemill.errors import ConfigurationError
from tidemill.signals import Signals

APP = """
from pydantic import BaseModel
from tidemill import App, Change

app = App("shop")


class Order(BaseModel):
    id: str
    total: int = 0


orders = app.collection("orders", Order, id="id")


@app.on_change(orders, group="feeds")
async def count(change: Change[Order]) -> None: ...
"""
DIGEST = "sha256:" + "0f" * 32
IMAGE = f"registry.example.com/team/shop@{DIGEST}"

Play = Callable[..., DoubleOfACluster]


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Play]:
    """A project in the working folder, and a cluster whose revisions have these fates."""
    project = tmp_path / "project"
    project.mkdir()
    (project / "app.py").write_text(APP, "utf-8")
    (project / "pyproject.toml").write_text('[project]\nname = "shop"\nversion = "1.2.0"\n', "utf-8")
    monkeypatch.chdir(project)
    monkeypatch.syspath_prepend(str(project))
    sys.modules.pop("app", None)
    monkeypatch.setattr(release, "LOOK", 0.01)

    def made(*fates: str, history: int = 0) -> DoubleOfACluster:
        double = DoubleOfACluster.make(tmp_path, *fates)
        double.write({**double.read(), "history": list(range(1, history + 1))})
        monkeypatch.setenv(STATE, str(double.state))
        monkeypatch.setenv("PATH", str(double.programs), prepend=":")
        monkeypatch.setenv("TIDEMILL_DATABASE", "postgresql://db/shop")
        return double

    yield made
    sys.modules.pop("app", None)


def run(*words: str) -> int:
    return main(words, Signals())


def test_the_image_is_named_by_its_digest_in_the_namespace_that_kubectl_is_set_to(
    play: Play, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = play("well")
    mine = tmp_path / "mine.yaml"
    mine.write_text("groups: {}\n", "utf-8")
    assert run("deploy", "--image", IMAGE, "-f", str(mine), "--set", "tmpSize=1Mi") == 0
    told = capsys.readouterr().err.splitlines()
    assert told[0] == f"release shop in namespace stage: revision 1, {IMAGE}"
    assert told[1:3] == ["  feeds: 1 of 1 new, 0 available", "  feeds: 1 of 1 new, 1 available"]
    ended = rf"release shop, revision 1: all groups run {re.escape(IMAGE)}, \d+ s; 1 containers had to be started"
    assert re.match(ended, told[-1])
    mine_said, image_said = cluster.read()["values"]
    assert mine_said == "groups: {}\n"
    parts = {"registry": "registry.example.com", "repository": "team/shop", "digest": DIGEST, "tag": ""}
    assert json.loads(image_said) == {"image": parts}
    upgrade = next(call for call in cluster.calls("helm") if call[0] == "upgrade")
    assert upgrade[1:3] == ["--install", "shop"]
    assert upgrade[-2:] == ["--namespace", "stage"]
    assert upgrade[upgrade.index("--set") :][:2] == ["--set", "tmpSize=1Mi"]
    assert "--create-namespace" not in upgrade


def test_what_does_not_come_up_is_explained_and_what_ran_before_comes_back(
    play: Play, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = play("well", "refused", "well", history=1)
    assert run("deploy", "--image", IMAGE, "--json") == 1
    out, err = capsys.readouterr()
    assert "feeds: the container ends with exit code 2, because its configuration is refused" in err
    assert "(pod shop-feeds-new-1)" in err
    assert "| tidemill: TIDEMILL_DATABASE=postgresql://shop:***@db/shop: no such database" in err
    assert "likely: the log names the setting, its value and the fix" in err
    assert err.splitlines()[-1] == (
        "tidemill: release shop: revision 2 does not come up; what ran before is back, as revision 3"
    )
    assert "hidden" not in out + err
    told = json.loads(out)
    assert (told["outcome"]["well"], told["outcome"]["revision"]) == (False, 2)
    assert (told["back"]["well"], told["back"]["revision"]) == (True, 3)
    assert next(call[1:3] for call in cluster.calls("helm") if call[0] == "rollback") == ["shop", "1"]


@pytest.mark.parametrize(("history", "words"), [(0, ()), (1, ("--no-rollback",))])
def test_a_first_release_stays_and_so_does_one_that_is_to_be_looked_at(
    play: Play, capsys: pytest.CaptureFixture[str], history: int, words: tuple[str, ...]
) -> None:
    cluster = play("refused", "refused", history=history)
    assert run("deploy", "--image", IMAGE, *words) == 1
    assert capsys.readouterr().err.splitlines()[-1].endswith("mend it and deploy again")
    assert not [call for call in cluster.calls("helm") if call[0] == "rollback"]


def test_what_is_brought_back_may_not_come_up_either(play: Play, capsys: pytest.CaptureFixture[str]) -> None:
    play("well", "refused", "refused", history=1)
    assert run("deploy", "--image", IMAGE) == 1
    assert "what was brought back does not either" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "back"), [((), [["shop", "1"]]), (("--no-rollback",), [])])
def test_an_upgrade_that_fails_in_the_middle_is_taken_back(
    play: Play, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], back: list[list[str]]
) -> None:
    cluster = play("well", "broken", "well", history=1)
    assert run("deploy", "--image", IMAGE, *words) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("tidemill: helm upgrade ended with 1: Error: UPGRADE FAILED: conflict")
    assert told.endswith("; what it had changed is as in revision 1 again") == bool(back)
    assert [call[1:3] for call in cluster.calls("helm") if call[0] == "rollback"] == back


def test_time_is_over(play: Play, capsys: pytest.CaptureFixture[str]) -> None:
    play("unready")
    assert run("deploy", "--image", IMAGE, "--timeout", "200ms") == 1
    told = capsys.readouterr().err
    assert "feeds: it runs, and is not ready after" in told
    assert '| {"status": "unhealthy", "checks": [{"name": "database", "detail": "no answer for 12 s"}]}' in told


def test_another_deploy_that_has_not_ended(play: Play, capsys: pytest.CaptureFixture[str]) -> None:
    cluster = play("well", "well", history=2)
    cluster.write({**cluster.read(), "status": "pending-upgrade"})
    assert run("deploy", "--image", IMAGE) == 1
    assert "revision 2 is pending-upgrade: another deploy runs, or was ended in the middle" in capsys.readouterr().err
    assert not [call for call in cluster.calls("helm") if call[0] == "upgrade"]


def test_rollback(play: Play, capsys: pytest.CaptureFixture[str]) -> None:
    cluster = play("well", "refused", "well", "well", history=2)
    assert run("rollback") == 0
    assert "release shop, revision 3: all groups run" in capsys.readouterr().err
    assert run("rollback", "2", "--release", "shop") == 0
    assert [call[1:3] for call in cluster.calls("helm") if call[0] == "rollback"] == [["shop", "1"], ["shop", "2"]]


@pytest.mark.parametrize(("helm", "words"), [("v3.17.2", []), ("v4.1.4", ["--force-conflicts"])])
def test_what_was_scaled_by_hand_is_no_conflict(play: Play, helm: str, words: list[str]) -> None:
    cluster = play("well", "well", "well", history=1)
    cluster.write({**cluster.read(), "helm": helm})
    assert run("deploy", "--image", IMAGE) == 0
    assert run("rollback") == 0
    changes = [call for call in cluster.calls("helm") if call[0] in ("upgrade", "rollback")]
    assert [[word for word in call if "conflicts" in word] for call in changes] == [words, words]


def test_a_dry_run_asks_no_cluster(play: Play, capsys: pytest.CaptureFixture[str]) -> None:
    cluster = play()
    assert run("deploy", "--dry-run") == 0
    out, err = capsys.readouterr()
    assert out == "kind: Deployment\n"
    assert err == "note: nothing is built in a dry run, so the image has its version for a tag, and no digest\n"
    assert [call[0] for call in cluster.calls("helm")] == ["template"]
    assert cluster.calls("kubectl") == []


def test_a_chart_that_is_not_of_the_app_as_it_is_now(play: Play, capsys: pytest.CaptureFixture[str]) -> None:
    cluster = play("well")
    assert run("chart") == 0
    assert run("deploy", "--image", IMAGE) == 0
    values = Path("chart/values.yaml")
    values.write_text(values.read_text("utf-8").replace("replicas: 2", "replicas: 3"), "utf-8")
    before = len(cluster.read()["history"])
    assert run("deploy", "--image", IMAGE) == 2
    assert "chart/ is not the chart of the app as it is now" in capsys.readouterr().err
    assert len(cluster.read()["history"]) == before


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("deploy", "--image", "shop"), "--image shop: write NAME@sha256:… as `tidemill image --push` tells it, or"
         " NAME:TAG"),
        (("deploy", "--image", IMAGE, "-f", "none.yaml"), "--values none.yaml: there is no such file"),
        (("deploy", "--timeout", "soon"), "--timeout soon: write a length of time, as 10m or 90s"),
        (("rollback", "--timeout", "0s"), "--timeout 0s: write a length of time, as 10m or 90s"),
        (("rollback",), "release shop is not in this cluster and namespace"),
    ],
)  # fmt: skip
def test_mistakes(play: Play, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], line: str) -> None:
    play()
    assert run(*words) == 2
    assert capsys.readouterr().err == f"tidemill: {line}\n"


@pytest.mark.parametrize(
    ("history", "words", "line"),
    [
        (1, ("rollback",), "release shop has one revision only: there is nothing to go back to"),
        (2, ("rollback", "9"), "revision 9: release shop has 1, 2; write one of them"),
    ],
)
def test_nothing_to_go_back_to(
    play: Play, capsys: pytest.CaptureFixture[str], history: int, words: tuple[str, ...], line: str
) -> None:
    play("well", "well", history=history)
    assert run(*words) == 2
    assert capsys.readouterr().err == f"tidemill: {line}\n"


@pytest.mark.parametrize("missing", ["helm", "kubectl"])
def test_a_program_that_is_not_there(
    play: Play, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    cluster = play("well")
    (cluster.programs / missing).unlink()
    monkeypatch.setenv("PATH", str(cluster.programs))
    assert run("deploy", "--image", IMAGE) == 1
    assert f"tidemill: {missing} is not there; install" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("image", "parts"),
    [
        ("shop:1.2", {"registry": "", "repository": "shop", "digest": "", "tag": "1.2"}),
        ("localhost:5000/shop:1", {"registry": "localhost:5000", "repository": "shop", "digest": "", "tag": "1"}),
        (f"shop:1@{DIGEST}", {"registry": "", "repository": "shop", "digest": DIGEST, "tag": ""}),
    ],
)
def test_the_parts_of_an_image(image: str, parts: dict[str, Any]) -> None:
    assert named(image) == parts


def test_a_port_is_no_tag() -> None:
    with pytest.raises(ConfigurationError, match="NAME:TAG"):
        named("localhost:5000/shop")
