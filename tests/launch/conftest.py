"""Stand-ins for the cloud's executables, first on PATH, and a clone to launch from."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import ROOT

STAND_IN = Path(__file__).parent / "stand_in.py"
EXECUTABLES = ("gcloud", "srun", "scontrol", "sbatch", "kubectl", "docker")


@pytest.fixture(scope="session")
def clone(tmp_path_factory):
    """A git clone that holds little but launch/, with nothing uncommitted."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("launch", "configs"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "launch"]):
        subprocess.run([*git, *arguments], cwd=folder, check=True)
    return folder


class Cloud:
    """A folder of stand-ins, what they are to answer, and what they were told."""

    def __init__(self, folder: Path, clone: Path):
        self.folder, self.clone = folder, clone
        self.state = {
            "name": "sd-m",
            "workers": 1,
            "states": [""],
            "states_of_new": ["ACTIVE"],
            "nodes": "READY",
            "create_fails": False,
            "trainings": [0],
            "srun": [0],
            "scontrol": [0],
        }
        body = STAND_IN.read_text(encoding="utf-8")
        (folder / "bin").mkdir()
        itself = folder / "stand_in"
        itself.write_text(f"#!{sys.executable} -IS\n{body}", encoding="utf-8")
        itself.chmod(0o755)
        for name in EXECUTABLES:
            (folder / "bin" / name).symlink_to(itself)
        (folder / "worker_bin").mkdir()
        (folder / "worker_bin" / "python3").symlink_to(itself)
        self.set()

    def set(self, **changes) -> None:
        """Changes what the cloud is like."""
        self.state |= changes
        (self.folder / "cloud.json").write_text(json.dumps(self.state))
        for k in range(self.state["workers"]):
            (self.folder / f"worker{k}").mkdir(exist_ok=True)

    def start(self, script: str, *arguments: str, **environment: str) -> subprocess.Popen:
        """Starts a script of launch/ in the clone."""
        return subprocess.Popen(
            ["bash", f"launch/{script}", *arguments],
            cwd=self.clone,
            env=os.environ
            | {
                "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
                "STAND_IN": str(self.folder),
                "CLOUDSDK_COMPUTE_ZONE": "us-west4-a",
            }
            | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def launch(self, script: str, *arguments: str, **environment: str):
        """Runs it to its end: exit code, stdout, stderr."""
        process = self.start(script, *arguments, **environment)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def calls(self, *names: str) -> list[list[str]]:
        """What was called so far, of these names if there are any."""
        file = self.folder / "calls.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        return [call for call in map(json.loads, lines) if not names or call[0] in names]

    def forget(self) -> None:
        """Starts a new record."""
        (self.folder / "calls.jsonl").unlink(missing_ok=True)


@pytest.fixture
def cloud(tmp_path, clone):
    return Cloud(tmp_path, clone)
