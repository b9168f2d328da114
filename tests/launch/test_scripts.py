"""What can be told of launch/ without running it, and the commands of its README."""

import re
import shutil
import subprocess

import pytest

from tests.processes import ROOT

SCRIPTS = [
    *sorted((ROOT / "launch").glob("*.sh")),
    ROOT / "launch/slurm.sbatch",
    ROOT / "benchmarks/gpu.sh",
]
README = (ROOT / "launch/README.md").read_text(encoding="utf-8")
VARIABLES = {
    "PROJECT": "my-project",
    "ACCOUNT": "012345-012345-012345",
    "BUCKET": "my-bucket",
    "TRAINER": "trainer@my-project.iam.gserviceaccount.com",
    "IMAGE": "us-west4-docker.pkg.dev/my-project/epsilon-vae/epsilon-vae:1",
    "REGION": "us-west4",
    "CLOUDSDK_COMPUTE_ZONE": "us-west4-a",
}


def readme_commands(executable):
    blocks = "".join(re.findall(r"```bash\n(.*?)```", README, re.DOTALL)).replace("\\\n", "")
    for name, value in VARIABLES.items():
        blocks = re.sub(rf"\${name}\b", value, blocks)
    return [line for line in blocks.splitlines() if line.startswith(executable)]


def test_shellcheck():
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed: pip install -e '.[test]' brings it")
    command = ["shellcheck", "--external-sources", *map(str, SCRIPTS)]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("script", ["tpu_vm.sh", "gke.sh"])
def test_the_usage_names_what_there_is(cloud, script):
    text = (cloud.clone / "launch" / script).read_text(encoding="utf-8")
    code, usage, _ = cloud.launch(script, "--help")
    assert code == 0
    cases = text[text.index("while (($#))") :]
    options = set(re.findall(r"(--[a-z-]+)=?\*?(?= \||\))", cases))
    assert options == set(re.findall(r"^  (--[a-z-]+)", usage, re.MULTILINE))
    [commands] = re.findall(r"^  (\w+(?: \| \w+)+)\) ;;$", text, re.MULTILINE)
    for command in commands.split(" | "):
        assert re.search(rf"(^|  ){command} ", usage, re.MULTILINE)
        assert f"\n{command}() {{" in text


@pytest.mark.parametrize("line", readme_commands("launch/"))
def test_the_commands_of_the_readme(cloud, line):
    script, command, name, *rest = line.removeprefix("launch/").split()
    code, out, err = cloud.launch(script, command, name, "--dry-run", *rest)
    assert (code, cloud.calls()) == (0, []), err
    assert out
