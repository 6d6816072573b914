"""A double of the programs `docker` and `podman`: it writes down how it was called, and answers as it was told to.

Nothing is built. What an engine and a registry really say is tested in `tests/deploy/test_image_built.py`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ID = "sha256:" + "1" * 64
DIGEST = "sha256:" + "2" * 64

_PROGRAM = """#!PYTHON
import json, os, sys, time
from pathlib import Path

folder = Path(FOLDER)
left = {"--iidfile": "ID", "--digestfile": "DIGEST"}
words = sys.argv[1:]
with (folder / "calls").open("a") as calls:
    calls.write(json.dumps(words) + "\\n")
for option in left:
    if option in words:
        Path(words[words.index(option) + 1]).write_text(left[option])
said = json.loads((folder / "answers").read_text())
for key in (" ".join(words[:2]), words[0]):
    if key in said:
        code, out, err, seconds = said[key]
        time.sleep(seconds)
        sys.stdout.write(out)
        sys.stderr.write(err)
        sys.exit(code)
"""


@dataclass
class Engine:
    """One on the PATH, by the name that its file has; `folder` is to be put there."""

    folder: Path
    name: str

    def answer(self, command: str, code: int = 0, out: str = "", err: str = "", seconds: float = 0) -> None:
        """What it says when it is called so: one word or two."""
        answers = json.loads((self.folder / "answers").read_text())
        (self.folder / "answers").write_text(json.dumps({**answers, command: (code, out, err, seconds)}))

    def calls(self) -> list[list[str]]:
        path = self.folder / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def commands(self) -> list[str]:
        """Their first words."""
        return [words[0] for words in self.calls()]

    def call(self, command: str) -> list[str]:
        """The one with this first word."""
        (found,) = [words for words in self.calls() if words[0] == command]
        return found


def put(folder: Path, name: str = "docker") -> Engine:
    """One that builds, finds nothing wrong, and pushes to a registry that does not know the tag."""
    folder.mkdir(exist_ok=True)
    program = _PROGRAM
    for word, value in (
        ("PYTHON", sys.executable),
        ("FOLDER", repr(str(folder))),
        ("DIGEST", DIGEST),
        ('"ID"', f'"{ID}"'),
    ):
        program = program.replace(word, value)
    (folder / name).write_text(program)
    (folder / name).chmod(0o755)
    (folder / "answers").write_text("{}")
    engine = Engine(folder, name)
    engine.answer("image inspect", out=json.dumps([{"Id": ID, "RepoDigests": []}]))
    engine.answer("manifest inspect", 1, err="no such manifest: registry.example.com/team/shop\n")
    engine.answer("push", out=f"1.4.0: digest: {DIGEST} size: 1234\n")
    return engine


def options(words: list[str], name: str) -> Iterator[str]:
    """The values of an option that may stand there several times."""
    for at, word in enumerate(words):
        if word == name:
            yield words[at + 1]
