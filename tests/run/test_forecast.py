"""What a dry run says that a run will need, against what runs took."""

import re

import numpy as np

from epsilon_vae.run.forecast import forecast, max_checkpoints
from epsilon_vae.training.build import build_train_step
from tests import micro
from tests.helpers import STEPS, read_metrics


def lines(workdir) -> str:
    config = micro.get_config()
    config.num_steps = 1000
    config.checkpoint.update(every_steps=100, keep=2)
    return "\n".join(forecast(config, build_train_step(config), str(workdir)))


def test_disk_and_time_are_those_of_runs(finished_run):
    said = lines(finished_run)
    (count, mebibytes) = re.search(r"(\d) of (\d+) MiB at most", said).groups()
    files = (finished_run / "checkpoints" / str(STEPS)).rglob("*")
    found = sum(file.stat().st_size for file in files if file.is_file()) / 2**20
    assert count == "3" and abs(int(mebibytes) - found) < 1
    rows = read_metrics(finished_run)
    seconds = np.median([float(x["step_seconds"]) for x in rows if x["step_seconds"]])
    assert f"time for the {1000 - STEPS} steps to come: " in said
    assert f" h, {seconds:.3g} s each, as in {finished_run}/metrics.csv" in said


def test_permanent_checkpoints_come_on_top():
    config = micro.get_config()
    config.num_steps = 1000
    config.checkpoint.update(every_steps=50, keep=2, permanent_every_steps=250)
    assert max_checkpoints(config) == 2 + 1 + 4
    config.checkpoint.every_steps = 500
    assert max_checkpoints(config) == 2
    config.checkpoint.update(keep_best="psnr", permanent_every_steps=0)
    config.eval.every_steps = 1000
    assert max_checkpoints(config) == 3
    config.eval.every_steps = 100
    assert max_checkpoints(config) == 2 + 1 + 1


def test_a_table_that_is_none_tells_no_time(tmp_path):
    assert "time" not in lines(tmp_path / "nowhere")
    for content in (b"", b"\xff\0\n", b"step,loss\n1,2\n", b"step,step_seconds\n1,nan\n2,x\n3\n"):
        (tmp_path / "metrics.csv").write_bytes(content)
        assert "time" not in lines(tmp_path)
        assert (tmp_path / "metrics.csv").read_bytes() == content
    (tmp_path / "metrics.csv").write_bytes(b"step,step_seconds\n1,2\nstep,step_seconds\n2,4\n2,\n")
    assert "time for the 1000 steps to come: 0.83 h, 3 s each" in lines(tmp_path)
