import math
import subprocess

import pytest
import yaml

from tests.processes import ROOT

IMAGE = "--image=us-docker.pkg.dev/p/r/epsilon-vae:1"
FLAGS = ("--config=configs/sd_m.py", "--workdir=gs://b/sd_m", '--config.a=it\'s "two" $NAME: #')


def gke(cloud, *arguments):
    return cloud.launch("gke.sh", *arguments)


def apply(cloud, *options, flags=FLAGS):
    code, _, err = gke(cloud, "apply", "sd-m", IMAGE, *options, "--", *flags)
    assert code == 0, err
    return yaml.safe_load((cloud.folder / "manifest.yaml").read_text(encoding="utf-8"))


def container(manifest):
    [job] = manifest["spec"]["replicatedJobs"]
    [only] = job["template"]["spec"]["template"]["spec"]["containers"]
    return only


def test_the_manifest(cloud):
    manifest = apply(cloud, "--slices=2", "--service-account=trainer", "--max-restarts=3")
    assert (manifest["apiVersion"], manifest["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert manifest["metadata"]["name"] == "sd-m"
    assert manifest["spec"]["failurePolicy"]["maxRestarts"] == 3
    [job] = manifest["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    pod = spec["template"]["spec"]
    topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    chips = container(manifest)["resources"]["limits"]["google.com/tpu"]
    assert job["replicas"] == 2
    assert spec["parallelism"] == spec["completions"]
    assert spec["completions"] * chips == math.prod(map(int, topology.split("x")))
    assert pod["serviceAccountName"] == "trainer"
    assert container(manifest)["image"] == IMAGE.removeprefix("--image=")


def test_exit_codes(cloud):
    manifest = apply(cloud)
    [job] = manifest["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    pod = spec["template"]["spec"]
    rules = spec["podFailurePolicy"]["rules"]
    of_code = {
        code: rule["action"]
        for rule in rules
        if "onExitCodes" in rule
        for code in rule["onExitCodes"]["values"]
    }
    assert of_code == {2: "FailJob", 75: "Ignore"}
    names = {rule["onExitCodes"]["containerName"] for rule in rules if "onExitCodes" in rule}
    assert names == {container(manifest)["name"]}
    assert pod["restartPolicy"] == "Never"  # which a pod failure policy needs
    assert spec["backoffLimit"] == 0  # anything else restarts all pods, maxRestarts times
    [rule] = manifest["spec"]["failurePolicy"]["rules"]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])


def test_flags_survive(cloud):
    assert container(apply(cloud))["args"] == list(FLAGS)


def test_kubernetes_expands_nothing_in_flags(cloud):
    [*_, last] = container(apply(cloud, flags=(*FLAGS, "--config.b=$(NAME)")))["args"]
    assert last == "--config.b=$$(NAME)"  # which is $(NAME) to the container


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["build", "sd-m", IMAGE, "--extras=cuda,gcs"],
            [
                "docker build --file=launch/Dockerfile --build-arg=EXTRAS=cuda,gcs "
                f"--build-arg=GIT_COMMIT=@COMMIT@ --tag={IMAGE.removeprefix('--image=')} .",
                f"docker push {IMAGE.removeprefix('--image=')}",
            ],
        ),
        (["apply", "sd-m", IMAGE, "--", *FLAGS], ["kubectl apply --filename=-"]),
        (
            ["log", "sd-m"],
            [
                "kubectl logs --follow --tail=100 --selector=jobset.sigs.k8s.io/jobset-name=sd-m,"
                "jobset.sigs.k8s.io/job-index=0,batch.kubernetes.io/job-completion-index=0"
            ],
        ),
        (
            ["status", "sd-m"],
            [
                "kubectl get jobset sd-m",
                "kubectl get pods --selector=jobset.sigs.k8s.io/jobset-name=sd-m",
            ],
        ),
        (["delete", "sd-m"], ["kubectl delete jobset sd-m --cascade=foreground"]),
    ],
)
def test_a_dry_run_prints_what_a_run_runs(cloud, arguments, expected):
    git = ["git", "rev-parse", "HEAD"]
    commit = subprocess.run(git, cwd=cloud.clone, capture_output=True, text=True, check=True)
    expected = [line.replace("@COMMIT@", commit.stdout.strip()) for line in expected]
    dash = arguments.index("--") if "--" in arguments else len(arguments)
    code, out, _ = gke(cloud, *arguments[:dash], "--dry-run", *arguments[dash:])
    assert (code, cloud.calls()) == (0, [])
    assert gke(cloud, *arguments)[0] == 0
    assert [" ".join(call) for call in cloud.calls()] == expected
    if arguments[0] == "apply":
        manifest = (cloud.folder / "manifest.yaml").read_text(encoding="utf-8")
        assert out == f"kubectl apply --filename=- <<'MANIFEST'\n{manifest}MANIFEST\n"
    else:
        assert out.splitlines() == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["start", "sd-m"], "'start' is not a command"),
        (["apply", "Sd"], "'Sd' is not a name"),
        (["apply", "sd-m"], "--image is missing"),
        (["apply", "sd-m", "--hosts=two"], "--hosts=two must be a whole number"),
        (["apply", "sd-m", "--hosts=99999999999999999999"], "must be a whole number below 10^9"),
        (["apply", "sd-m", IMAGE, "--host=2"], "--host=2 is not an option"),
        (["apply", "sd-m", IMAGE], "--config is missing"),
        (["apply", "sd-m", IMAGE, "--", FLAGS[0]], "--workdir is missing"),
    ],
)
def test_what_cannot_run_is_said_in_one_line(cloud, arguments, message):
    code, out, err = gke(cloud, *arguments)
    assert (code, out, cloud.calls(), err.count("\n")) == (2, "", [], 1)
    assert message in err


def test_the_image_gets_what_it_copies_and_no_more():
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split("\n")
    dockerfile = (ROOT / "launch/Dockerfile").read_text(encoding="utf-8").split("\n")
    copied = [name for line in dockerfile if line.startswith("COPY") for name in line.split()[1:-1]]
    assert "*" in ignored
    assert sorted(line[1:] for line in ignored if line.startswith("!")) == sorted(copied)
    assert all((ROOT / name).exists() for name in copied)
