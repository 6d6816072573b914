"""`docs/tour.md`, run as a stranger would run it: from the wheel, in a fresh environment."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from examples.avalon.system import free_port
from tests.acceptance.transcript import Step, pattern, steps

ROOT = Path(__file__).parent.parent.parent
LONG = 40.0


class Terminal:
    """A shell that remembers its folder, and one command in the background."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self.folder = folder
        self.environ = dict(environ)
        self.log = folder / "dev.log"
        self.seen = 0
        self.background: subprocess.Popen[bytes] | None = None

    def play(self, step: Step) -> None:
        if not step.command:
            self.expect(step)
        elif step.command.startswith("cd "):
            self.folder /= step.command.removeprefix("cd ")
        elif step.command.endswith(" &"):
            self.start(step.command.removesuffix(" &"))
            self.expect(step)
        else:
            self.run(step)

    def run(self, step: Step) -> None:
        """Run it until it prints what it should: other processes may need a moment for what it shows."""
        end = time.monotonic() + (LONG if step.lines else 0)
        while True:
            ran = subprocess.run(
                ["bash", "-c", step.command], cwd=self.folder, env=self.environ, capture_output=True, text=True,
                stdin=subprocess.DEVNULL, timeout=120, check=False,
            )  # fmt: skip
            said = ran.stdout if ran.stdout.endswith("\n") or not ran.stdout else ran.stdout + "\n"
            if ran.returncode == 0 and pattern(step.lines).fullmatch(said):
                return
            assert time.monotonic() < end, f"$ {step.command}\n{said}{ran.stderr}\nexpected:\n" + "\n".join(step.lines)
            time.sleep(0.3)

    def start(self, command: str) -> None:
        with self.log.open("wb") as out:
            self.background = subprocess.Popen(
                ["bash", "-c", f"exec {command}"], cwd=self.folder, env=self.environ, stdin=subprocess.DEVNULL,
                stdout=out, stderr=out,
            )  # fmt: skip

    def expect(self, step: Step) -> None:
        """Wait until the lines have come, below those seen before."""
        end = time.monotonic() + LONG
        for line in step.lines:
            while (found := re.compile(f"^{pattern([line]).pattern}", re.M).search(self.new())) is None:
                assert time.monotonic() < end, f"{line!r} not in:\n{self.log.read_text()}"
                time.sleep(0.05)
            self.seen += found.end()

    def new(self) -> str:
        return self.log.read_text()[self.seen :]


@contextmanager
def stranger(folder: Path) -> Iterator[Terminal]:
    """A fresh environment with the wheel, and nothing of this folder in sight."""
    for command in (
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder / "dist"), str(ROOT)],
        [sys.executable, "-m", "venv", str(folder / "venv")],
    ):
        subprocess.run(command, check=True, capture_output=True)
    [wheel] = (folder / "dist").glob("*.whl")
    pins = re.findall(r"^([A-Za-z0-9._-]+==[^ ;]+)", (ROOT / "requirements" / "dev.txt").read_text(), re.M)
    (folder / "pins.txt").write_text("\n".join(pins))
    plain = {n: v for n, v in os.environ.items() if not n.startswith(("TIDEMILL_", "COV", "PYTHON", "VIRTUAL"))}
    ports = {"TIDEMILL_HEALTH_PORT": str(free_port()), "TIDEMILL_API_PORT": str(free_port())}
    environ = {"WHEEL": str(wheel), "PIP_CONSTRAINT": str(folder / "pins.txt"), "PYTHONUNBUFFERED": "1"}
    path = {"PATH": f"{folder / 'venv' / 'bin'}:{os.environ['PATH']}"}
    (folder / "home").mkdir()
    terminal = Terminal(folder / "home", plain | ports | environ | path)
    try:
        yield terminal
    finally:
        if terminal.background is not None and terminal.background.poll() is None:
            terminal.background.send_signal(signal.SIGINT)
            terminal.background.wait(30)


def _here(step: Step, environ: Mapping[str, str]) -> Step:
    """The same with the ports of this run, and the wheel in the place of the package."""

    def put(text: str) -> str:
        text = text.replace("8081", environ["TIDEMILL_HEALTH_PORT"]).replace("8000", environ["TIDEMILL_API_PORT"])
        return text.replace("pip install 'tidemill[", f"pip -q install '{environ['WHEEL']}[")

    return Step(put(step.command), tuple(map(put, step.lines)))


@pytest.mark.chaos
@pytest.mark.timeout(600)
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_tour_is_as_it_is_told(tmp_path: Path) -> None:
    told = list(steps((ROOT / "docs" / "tour.md").read_text()))
    assert len(told) > 20
    with stranger(tmp_path) as terminal:
        for step in told:
            terminal.play(_here(step, terminal.environ))
        assert terminal.background is not None
        terminal.background.send_signal(signal.SIGINT)
        assert terminal.background.wait(30) == 0
        assert "Traceback" not in terminal.log.read_text()
