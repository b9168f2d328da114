"""Damaged files of weights, read by a process whose memory is limited."""

import subprocess
import sys

from tests.processes import ROOT


def test_damaged_files_are_refused_or_read_as_they_were(tmp_path):
    """Files that claim gigabytes, and 100 damaged ones of each kind."""
    command = [sys.executable, "-m", "tests.pretrained.attack_weights", str(tmp_path), "100"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-2000:]
