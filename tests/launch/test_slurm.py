import shlex

import pytest

FLAGS = ("--config=configs/sd_m.py", "--workdir=/shared/sd m", '--config.a=it\'s "quoted" $HOME')
TRAIN = [
    *("srun", "--kill-on-bad-exit=0", "--wait=0", "--cpus-per-task=8"),
    *("python", "-m", "epsilon_vae.main", *FLAGS),
]
REQUEUE = ["scontrol", "requeue", "17"]


def slurm(cloud, *arguments, job="17", **environment):
    return cloud.launch("slurm.sbatch", *arguments, SLURM_JOB_ID=job, **environment)


@pytest.mark.parametrize(
    ("codes", "expected", "calls"),
    [
        ([0], 0, [TRAIN]),
        ([2], 2, [TRAIN]),
        ([75], 0, [TRAIN, REQUEUE]),
        ([1, 137, 0], 0, [TRAIN] * 3),
        ([1, 75], 0, [TRAIN, TRAIN, REQUEUE]),
        ([1, 2], 2, [TRAIN] * 2),
        ([1, 1, 137], 137, [TRAIN] * 3),
    ],
)
def test_exit_codes(cloud, codes, expected, calls):
    cloud.set(srun=codes)
    assert slurm(cloud, *FLAGS, MAX_FAILURES="2")[0] == expected
    assert cloud.calls() == calls


def test_a_job_that_cannot_be_requeued_says_so(cloud):
    cloud.set(srun=[75], scontrol=[1])
    code, _, err = slurm(cloud, *FLAGS)
    assert code == 75
    assert err == "slurm.sbatch: job 17 saved, but cannot be requeued: sbatch it again\n"


def test_a_dry_run_prints_what_a_job_runs(cloud):
    code, out, _ = slurm(cloud, "--dry-run", *FLAGS)
    assert (code, cloud.calls()) == (0, [])
    lines = [shlex.split(line) for line in out.splitlines() if not line.startswith("#")]
    assert lines == [["sbatch", "launch/slurm.sbatch", *FLAGS], TRAIN, REQUEUE]
    cloud.set(srun=[75])
    slurm(cloud, *FLAGS)
    assert cloud.calls() == lines[1:]


def test_the_allocation_and_the_python_are_the_users(cloud):
    slurm(cloud, *FLAGS, SLURM_CPUS_PER_TASK="12", PYTHON="/venv/bin/python")
    assert cloud.calls()[0][3:5] == ["--cpus-per-task=12", "/venv/bin/python"]


@pytest.mark.parametrize(
    ("arguments", "job", "message"),
    [
        (FLAGS[1:], "17", "--config is missing"),
        (FLAGS[:1], "17", "--workdir is missing"),
        (FLAGS, "", "this is not a SLURM job: sbatch launch/slurm.sbatch"),
    ],
)
def test_what_cannot_run_is_said_in_one_line(cloud, arguments, job, message):
    code, out, err = slurm(cloud, *arguments, job=job)
    assert (code, out, cloud.calls(), err.count("\n")) == (2, "", [], 1)
    assert message in err


@pytest.mark.parametrize("number", ["two", "-1", "", "1.5", "a[$(touch broken)]", "9" * 30])
def test_max_failures_is_a_number(cloud, number):
    code, _, err = slurm(cloud, *FLAGS, MAX_FAILURES=number)
    if number:
        assert (code, cloud.calls()) == (2, [])
        assert err == f"slurm.sbatch: MAX_FAILURES={number} must be a whole number below 10^9\n"
    assert not (cloud.clone / "broken").exists()


def test_max_failures_is_decimal(cloud):
    """Bash takes 08 for octal."""
    cloud.set(srun=[1] * 9 + [0])
    assert slurm(cloud, *FLAGS, MAX_FAILURES="09")[0] == 0
    assert len(cloud.calls()) == 10


def test_jax_takes_a_task_a_gpu(cloud):
    """What the directives ask for is what JAX's SLURM detection takes for granted."""
    text = (cloud.clone / "launch/slurm.sbatch").read_text(encoding="utf-8")
    directives = dict(
        line.removeprefix("#SBATCH --").partition("=")[::2]
        for line in text.splitlines()
        if line.startswith("#SBATCH")
    )
    assert directives["ntasks-per-node"] == directives["gpus-per-node"]
    assert "gpus-per-task" not in directives
    assert directives["signal"].startswith("TERM@")
    assert "requeue" in directives
