import json
import shlex
import subprocess
import time

import pytest

TYPE = "--accelerator-type=v5litepod-16"
FLAGS = ("--", "--config=configs/sd_m.py", "--workdir=gs://bucket/sd_m")
AWKWARD = (
    "--config.a=two  spaces",
    '--config.b=it\'s "quoted"',
    "--config.c=$HOME `id` $(id) \\ * ; & | # !",
    "--config.d=two\nlines",
    "--config.e=",
    "--config.f=ε",
)
ZONE = "--zone=us-west4-a"
STATUS = "--command=bash epsilon_vae/launch/worker.sh status"
QUEUE_STATE = [
    *("gcloud", "compute", "tpus", "queued-resources", "list", ZONE),
    *("--filter=name~/sd-m$", "--format=value(state.state)"),
]


def tpu_vm(cloud, *arguments):
    return cloud.launch("tpu_vm.sh", *arguments)


def watch(cloud, *options):
    return tpu_vm(cloud, "watch", "sd-m", TYPE, "--spot", "--poll-seconds=0", *options, *FLAGS)


def installed(cloud):
    cloud.set(states=["ACTIVE"])
    code, _, err = tpu_vm(cloud, "install", "sd-m")
    assert code == 0, err
    cloud.forget()


def wait_for_training(cloud, count=1):
    deadline = time.time() + 20
    while len(cloud.calls("python")) < count:
        assert time.time() < deadline
        time.sleep(0.02)


def verbs(cloud):
    """The calls that change the cloud or a worker, by their verb and first word of interest."""
    names = []
    for call in cloud.calls("gcloud"):
        verb, command = call[4], call[-1] if call[4] == "ssh" else ""
        if verb in ("create", "delete", "scp"):
            names.append(verb)
        elif "worker.sh run" in command:
            names.append("run")
    return names


def pasted(lines):
    """The commands that a shell into which the lines are pasted would run."""
    shell = "gcloud() { printf '%s\\0' gcloud \"$@\"; printf '\\1'; }; git() { :; }\n"
    out = subprocess.check_output(["bash", "-c", shell + lines], text=True)
    return [call.split("\0")[:-1] for call in out.split("\1")[:-1]]


COMMANDS = {
    "create": (
        ["create", "sd-m", TYPE, "--spot", "--gcloud-flag=--network=my net"],
        [
            f"gcloud compute tpus tpu-vm create sd-m {ZONE} --version=v2-alpha-tpuv5-lite {TYPE} "
            "'--network=my net' --spot"
        ],
    ),
    "create elsewhere": (
        ["create", "sd-m", "--zone=z", "--project=p", "--accelerator-type=v4-8"],
        [
            "gcloud compute tpus tpu-vm create sd-m --zone=z --project=p "
            "--version=tpu-ubuntu2204-base --accelerator-type=v4-8"
        ],
    ),
    "queue": (
        ["queue", "sd-m", TYPE, "--spot", "--service-account=trainer@p.iam"],
        [
            f"gcloud compute tpus queued-resources create sd-m {ZONE} --node-id=sd-m "
            f"--runtime-version=v2-alpha-tpuv5-lite {TYPE} --spot --service-account=trainer@p.iam "
            "--scopes=https://www.googleapis.com/auth/cloud-platform",
            shlex.join(QUEUE_STATE),
        ],
    ),
    "queue two slices": (
        ["queue", "sd-m", "--slices=2", "--accelerator-type=v6e-16", "--runtime-version=own"],
        [
            f"gcloud compute tpus queued-resources create sd-m {ZONE} --node-count=2 "
            "--node-prefix=sd-m --runtime-version=own --accelerator-type=v6e-16",
            shlex.join(QUEUE_STATE),
        ],
    ),
    "log": (
        ["log", "sd-m", "--worker=3"],
        [
            f"gcloud compute tpus tpu-vm ssh sd-m {ZONE} --worker=3 "
            "'--command=tail -n 100 -F epsilon_vae_run/log'"
        ],
    ),
    "log of two slices": (
        ["log", "sd-m", "--slices=2"],
        [
            f"gcloud compute tpus queued-resources ssh sd-m {ZONE} --worker=0 --node=0 "
            "--batch-size=all '--command=tail -n 100 -F epsilon_vae_run/log'"
        ],
    ),
    "status": (
        ["status", "sd-m"],
        [
            f"gcloud compute tpus queued-resources list {ZONE} "
            """'--filter=name~"/sd-m(-[0-9]+)?$"'""",
            f"""gcloud compute tpus tpu-vm list {ZONE} '--filter=name~"/sd-m(-[0-9]+)?$"'""",
            f"gcloud compute tpus tpu-vm ssh sd-m {ZONE} --worker=all '{STATUS}'",
        ],
    ),
    "stop": (
        ["stop", "sd-m", "--slices=2", "--stop-seconds=9"],
        [
            f"gcloud compute tpus queued-resources ssh sd-m {ZONE} --worker=all --node=all "
            "--batch-size=all '--command=bash epsilon_vae/launch/worker.sh stop 9'"
        ],
    ),
}


@pytest.mark.parametrize("case", COMMANDS)
def test_commands(cloud, case):
    arguments, expected = COMMANDS[case]
    code, out, err = tpu_vm(cloud, *arguments, "--dry-run")
    assert (code, cloud.calls()) == (0, []), err
    assert [shlex.split(line) for line in out.splitlines()] == [shlex.split(e) for e in expected]


@pytest.mark.parametrize(
    "arguments",
    [
        ["create", "sd-m", TYPE],
        ["queue", "sd-m", TYPE],
        ["install", "sd-m"],
        ["install", "sd-m", "--slices=2"],
        ["run", "sd-m", "--", "--config=c", "--workdir=w", *AWKWARD],
        ["status", "sd-m"],
        ["stop", "sd-m"],
        ["watch", "sd-m", TYPE, "--spot", "--poll-seconds=0", *FLAGS],
        ["watch", "sd-m", TYPE, "--slices=2", "--delete", "--poll-seconds=0", *FLAGS],
    ],
    ids=" ".join,
)
def test_a_dry_run_prints_what_a_run_runs(cloud, arguments):
    if arguments[0] not in ("create", "queue", "watch"):
        installed(cloud)
    dash = arguments.index("--") if "--" in arguments else len(arguments)
    code, out, err = tpu_vm(cloud, *arguments[:dash], "--dry-run", *arguments[dash:])
    assert (code, cloud.calls()) == (0, []), err
    tpu_vm(cloud, *arguments)
    ran = cloud.calls("gcloud")
    for i in range(len(ran) - 2, 1, -1):  # watch looks on, by two calls, for as long as it takes
        if ran[i - 2 : i] == ran[i : i + 2]:
            del ran[i : i + 2]
    assert pasted(out) == ran


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "'' is not a command"),
        (["creat", "sd-m"], "'creat' is not a command"),
        (["create"], "'' is not a name"),
        (["create", "sd m"], "'sd m' is not a name"),
        (["create", "sd-m"], "--accelerator-type is missing"),
        (["create", "sd-m", TYPE, "--zone="], "--zone is missing"),
        (["create", "sd-m", TYPE, "--sport"], "--sport is not an option"),
        (["create", "sd-m", TYPE, "--spot=yes"], "--spot=yes is not an option"),
        (["create", "sd-m", TYPE, "--slices=2"], "create makes one slice, not --slices=2"),
        (["queue", "sd-m", TYPE, "--slices=two"], "--slices=two must be a whole number"),
        (["queue", "sd-m", TYPE, "--slices=0"], "--slices=0 must be at least 1"),
        (["run", "sd-m"], "--config is missing"),
        (["run", "sd-m", "--config=c"], "--config=c is not an option"),
        (["run", "sd-m", "--", "--config=c"], "--workdir is missing"),
        (["watch", "sd-m", TYPE, "--", "--config=c", "--workdir=runs/x"], "must be a gs:// path"),
        (["watch", "sd-m", *FLAGS], "--accelerator-type is missing"),
        (
            ["watch", "sd-m", TYPE, "--", "--config=configs/mine.py:16", "--workdir=gs://b/x"],
            "--config=configs/mine.py is not in the commit",
        ),
    ],
)
def test_what_cannot_run_is_said_in_one_line(cloud, arguments, message):
    code, out, err = tpu_vm(cloud, *arguments)
    assert (code, out, cloud.calls()) == (2, "", [])
    assert message in err
    assert err.count("\n") == 1


def test_numbers_are_decimal(cloud):
    """Bash takes 08 for octal."""
    numbers = "--slices=08", "--max-failures=09", "--poll-seconds=010"
    code, out, err = tpu_vm(cloud, "queue", "sd-m", TYPE, *numbers, "--dry-run")
    assert code == 0 and "value too great" not in err and "--node-count=8" in out


def test_gcloud_missing(cloud):
    (cloud.folder / "bin" / "gcloud").unlink()
    for tool in ("bash", "dirname"):
        (cloud.folder / "bin" / tool).symlink_to(f"/usr/bin/{tool}")
    code, _, err = cloud.launch("tpu_vm.sh", "status", "sd-m", PATH=str(cloud.folder / "bin"))
    assert (code, err) == (2, "tpu_vm.sh: gcloud is missing: install it\n")


def test_uncommitted_changes_are_refused(cloud):
    file = cloud.clone / "launch" / "common.sh"
    text = file.read_text(encoding="utf-8")
    file.write_text(text + "# changed\n", encoding="utf-8")
    code, _, err = tpu_vm(cloud, "install", "sd-m")
    file.write_text(text, encoding="utf-8")
    assert (code, cloud.calls()) == (2, [])
    assert "uncommitted changes" in err


def test_the_commit_is_installed_on_every_worker(cloud):
    cloud.set(workers=2)
    installed(cloud)
    head = ["git", "rev-parse", "HEAD"]
    commit = subprocess.check_output(head, cwd=cloud.clone)
    for worker in ("worker0", "worker1"):
        assert subprocess.check_output(head, cwd=cloud.folder / worker / "epsilon_vae") == commit
    assert not list((cloud.clone / ".git").glob("*.bundle"))


def test_flags_survive_the_way_to_the_workers(cloud):
    cloud.set(workers=2)
    installed(cloud)
    code, _, err = tpu_vm(cloud, "run", "sd-m", *FLAGS, *AWKWARD)
    assert code == 0, err
    wait_for_training(cloud, 2)
    expected = ["python", "-m", "epsilon_vae.main", *FLAGS[1:], *AWKWARD]
    assert cloud.calls("python") == [expected, expected]


def test_run_refuses_before_install(cloud):
    code, _, err = tpu_vm(cloud, "run", "sd-m", *FLAGS)
    assert code == 1
    assert "nothing is installed on sd-m" in err


def test_a_second_run_and_an_install_are_refused_and_stop_saves(cloud):
    installed(cloud)
    cloud.set(trainings=["runs"])
    assert tpu_vm(cloud, "run", "sd-m", *FLAGS)[0] == 0
    wait_for_training(cloud)
    code, _, err = tpu_vm(cloud, "run", "sd-m", *FLAGS)
    assert (code, err) == (1, "tpu_vm.sh: training runs already on sd-m: stop it first\n")
    code, _, err = tpu_vm(cloud, "install", "sd-m")
    assert code == 1
    assert "training runs already" in err
    assert ": running\n" in tpu_vm(cloud, "status", "sd-m")[1]
    code, out, _ = tpu_vm(cloud, "stop", "sd-m")
    assert code == 0
    assert ": stopped\n" in out
    log = (cloud.folder / "worker0/epsilon_vae_run/log").read_text()
    assert "exit code 75" in log
    assert len(cloud.calls("python")) == 1


def test_a_stop_that_takes_too_long_is_said(cloud):
    installed(cloud)
    cloud.set(trainings=["runs"])
    tpu_vm(cloud, "run", "sd-m", *FLAGS)
    wait_for_training(cloud)
    pid = cloud.folder / "worker0/epsilon_vae_run/pid"
    training = pid.read_text()
    sleeper = subprocess.Popen(["sleep", "60"])
    pid.write_text(str(sleeper.pid))  # so that the SIGTERM misses
    code, _, err = tpu_vm(cloud, "stop", "sd-m", "--stop-seconds=0")
    assert code == 1
    assert "training still runs 0 s after SIGTERM" in err
    sleeper.wait()
    pid.write_text(training)
    assert tpu_vm(cloud, "stop", "sd-m")[0] == 0


def test_a_host_that_went_down_is_lost(cloud):
    installed(cloud)
    state = cloud.folder / "worker0/epsilon_vae_run"
    assert ": idle\n" in tpu_vm(cloud, "status", "sd-m")[1]
    (state / "log").touch()
    assert ": lost\n" in tpu_vm(cloud, "status", "sd-m")[1]


def test_queue_waits(cloud):
    cloud.set(states_of_new=["", "WAITING_FOR_RESOURCES", "no answer", "ACTIVE"])
    code, _, err = tpu_vm(cloud, "queue", "sd-m", TYPE, "--poll-seconds=0")
    assert code == 0
    assert [line.split()[-1] for line in err.splitlines()] == [
        *("yet", "WAITING_FOR_RESOURCES", "answer", "ACTIVE")
    ]


@pytest.mark.parametrize("state", ["FAILED", "SUSPENDED"])
def test_queue_gives_up(cloud, state):
    cloud.set(states_of_new=["WAITING_FOR_RESOURCES", state])
    code, _, err = tpu_vm(cloud, "queue", "sd-m", TYPE, "--poll-seconds=0")
    assert code == 1
    assert f"sd-m is {state}: delete it, and queue it again" in err


@pytest.mark.parametrize(("state", "noun"), [("ACTIVE", "queued-resources"), ("", "tpu-vm")])
def test_delete_takes_what_is_there(cloud, state, noun):
    cloud.set(states=[state])
    force = ["--force"] if state else []
    _, out, _ = tpu_vm(cloud, "delete", "sd-m", "--dry-run")
    assert tpu_vm(cloud, "delete", "sd-m")[0] == 0
    delete = ["gcloud", "compute", "tpus", noun, "delete", "sd-m", ZONE, *force, "--quiet"]
    assert cloud.calls() == [QUEUE_STATE, delete]
    assert shlex.join(delete) in out.splitlines()


def test_delete_deletes_nothing_unless_the_cloud_answers(cloud):
    cloud.set(states=["no answer"])
    assert tpu_vm(cloud, "delete", "sd-m")[0] != 0
    assert verbs(cloud) == []


def test_watch_makes_a_preempted_tpu_anew(cloud):
    cloud.set(trainings=["preempted", "node preempted", 0])
    assert watch(cloud, "--max-failures=0")[0] == 0
    assert verbs(cloud) == ["create", "scp", "run", *(["delete", "create", "scp", "run"] * 2)]
    assert len(cloud.calls("python")) == 3


def test_watch_restarts_after_75_without_limit(cloud):
    cloud.set(trainings=[75, 75, 75, 0])
    assert watch(cloud, "--max-failures=0")[0] == 0
    assert verbs(cloud) == ["create", "scp", "run", "run", "run", "run"]


def test_watch_never_restarts_after_2(cloud):
    cloud.set(trainings=[2])
    code, _, err = watch(cloud)
    assert code == 2
    assert verbs(cloud) == ["create", "scp", "run"]
    assert "the command or its config cannot run" in err
    assert "still there and costs: launch/tpu_vm.sh delete sd-m --zone=us-west4-a" in err


def test_watch_restarts_after_a_failure_within_limits(cloud):
    cloud.set(trainings=[1, 137, 255])
    code, _, err = watch(cloud, "--max-failures=2")
    assert code == 1
    assert verbs(cloud) == ["create", "scp", "run", "run", "run"]
    assert "failed more often than --max-failures=2" in err


def test_watch_takes_the_worst_word_of_all_workers(cloud):
    cloud.set(workers=2, trainings=[75, 1, 0])  # one preempted, and its peer fails for it
    assert watch(cloud, "--max-failures=0")[0] == 0
    assert verbs(cloud) == ["create", "scp", "run", "run"]


def test_watch_gives_up_where_nothing_can_be_made(cloud):
    cloud.set(create_fails=True)
    assert watch(cloud, "--max-failures=2")[0] == 1
    assert verbs(cloud) == ["create"] * 3


def test_watch_asks_again_after_a_request_failed(cloud):
    cloud.set(states_of_new=["WAITING_FOR_RESOURCES", "FAILED"])
    assert watch(cloud, "--max-failures=1")[0] == 1
    assert verbs(cloud) == ["create", "delete"] * 2


def test_watch_waits_for_a_cloud_that_does_not_answer(cloud):
    cloud.set(states=["no answer", "no answer", ""])
    assert watch(cloud, "--max-failures=0")[0] == 0
    assert verbs(cloud) == ["create", "scp", "run"]


def test_watch_gives_up_on_workers_that_never_answer(cloud):
    cloud.set(states=["ACTIVE"], nodes="CREATING")
    code, _, err = watch(cloud, "--max-failures=0")
    assert code == 1
    assert "the workers do not answer" in err and "failed more often" in err
    assert verbs(cloud) == []


def test_watch_joins_a_training_and_ends_when_it_is_stopped(cloud):
    installed(cloud)
    cloud.set(trainings=["runs"])
    tpu_vm(cloud, "run", "sd-m", *FLAGS)
    wait_for_training(cloud)
    cloud.forget()
    arguments = ("watch", "sd-m", TYPE, "--poll-seconds=0", *FLAGS)
    watching = cloud.start("tpu_vm.sh", *arguments)
    assert "running" in watching.stderr.readline()
    assert tpu_vm(cloud, "stop", "sd-m")[0] == 0
    assert watching.wait(timeout=20) == 0
    watching.communicate()
    assert verbs(cloud) == []


def test_watch_does_not_take_an_earlier_end_for_its_own(cloud):
    installed(cloud)
    (cloud.folder / "worker0/epsilon_vae_run/exit_code").write_text("2")
    assert watch(cloud)[0] == 0
    assert verbs(cloud) == ["scp", "run"]


def test_watch_deletes_in_the_end_if_asked(cloud):
    cloud.set(trainings=[2])
    code, out, err = watch(cloud, "--delete")
    assert code == 2
    assert verbs(cloud)[-1] == "delete"
    assert "exit code 2" in out  # the log, whose disk goes with the TPU
    assert "costs" not in err
    assert json.loads((cloud.folder / "cloud.json").read_text())["states"] == [""]
