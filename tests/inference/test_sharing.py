"""Folders that others can load: what is in them, what comes back, what is refused."""

import json
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterator

import jax
import numpy as np
import pytest
import safetensors.numpy

import epsilon_vae
from epsilon_vae.evaluation import results
from epsilon_vae.evaluation.protocols import parse
from epsilon_vae.evaluation.reconstructors import Run
from epsilon_vae.hub import HubError
from epsilon_vae.inference.autoencoder import Autoencoder
from epsilon_vae.parallel.mesh import make_mesh
from epsilon_vae.pretrained.weights import WeightsError
from tests.helpers import STEPS, held_out_images
from tests.hub_server import serve
from tests.processes import ROOT, finish

FILES = ["README.md", "config.json", "model.safetensors"]


@pytest.fixture(scope="module")
def vae(finished_run) -> Autoencoder:
    return epsilon_vae.restore(str(finished_run))


@pytest.fixture(scope="module")
def folder(vae, tmp_path_factory) -> pathlib.Path:
    """As `save_pretrained` makes it; not to be written to."""
    path = tmp_path_factory.mktemp("shared") / "new" / "vae"
    vae.save_pretrained(str(path))
    return path


def assert_same_model(one: Autoencoder, other: Autoencoder) -> None:
    """Parameters, latents and images are equal to the bit, and so is the config."""
    assert one.config.to_dict() == other.config.to_dict()
    assert one.normalization == other.normalization
    assert jax.tree.structure(one.params) == jax.tree.structure(other.params)
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(other.params), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    images = held_out_images(32)
    np.testing.assert_array_equal(one.encode(images), other.encode(images))
    np.testing.assert_array_equal(one.reconstruct(images), other.reconstruct(images))


def test_restore_from_pretrained_and_convert_give_the_same(vae, folder, run_module, tmp_path):
    assert sorted(path.name for path in folder.iterdir()) == FILES
    loaded = epsilon_vae.from_pretrained(str(folder))
    assert loaded.step == STEPS and loaded.origin == str(folder)
    assert_same_model(loaded, vae)
    weights, workdir = f"--from={folder}/model.safetensors", f"--workdir={tmp_path}/run"
    finish(run_module("epsilon_vae.convert", weights, workdir))
    converted = epsilon_vae.restore(str(tmp_path / "run"))
    assert_same_model(converted, vae)
    assert converted.latent_mean is not None
    converted.save_pretrained(str(tmp_path / "again"))
    again = safetensors.numpy.load_file(tmp_path / "again" / "model.safetensors")
    assert again.keys() == safetensors.numpy.load_file(folder / "model.safetensors").keys()
    assert (tmp_path / "again" / "config.json").read_bytes() == (
        folder / "config.json"
    ).read_bytes()


def test_bfloat16_is_half_the_size_and_rounded(vae, folder, tmp_path):
    vae.save_pretrained(str(tmp_path), dtype="bfloat16")
    half, whole = (path / "model.safetensors" for path in (tmp_path, folder))
    assert half.stat().st_size < 0.7 * whole.stat().st_size
    loaded = epsilon_vae.from_pretrained(str(tmp_path))
    for a, b in zip(jax.tree.leaves(loaded.params), jax.tree.leaves(vae.params), strict=True):
        assert a.dtype == np.float32
        np.testing.assert_array_equal(a, np.asarray(b).astype("bfloat16").astype(np.float32))


def test_weights_that_another_tool_has_saved(vae, folder, tmp_path):
    """Without our metadata; neither the step nor the mean of latents is known then."""
    shutil.copy(folder / "config.json", tmp_path)
    arrays = safetensors.numpy.load_file(folder / "model.safetensors")
    safetensors.numpy.save_file(arrays, tmp_path / "model.safetensors")
    loaded = epsilon_vae.from_pretrained(str(tmp_path))
    assert loaded.step is None and loaded.latent_mean is None
    loaded.normalization = vae.normalization
    assert_same_model(loaded, vae)
    loaded.save_pretrained(str(tmp_path / "again"))
    assert "step unknown" in (tmp_path / "again" / "README.md").read_text()


def test_nothing_is_overwritten_unless_asked(vae, folder, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    (tmp_path / "notes.txt").write_text("mine too")
    with pytest.raises(WeightsError, match=r"has README.md already; .*overwrite=True"):
        vae.save_pretrained(str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "notes.txt"]
    assert (tmp_path / "README.md").read_text() == "mine"
    vae.save_pretrained(str(tmp_path), overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [*FILES, "notes.txt"]
    assert (tmp_path / "notes.txt").read_text() == "mine too"
    card = (folder / "README.md").read_text()
    assert (tmp_path / "README.md").read_text() == card
    with pytest.raises(WeightsError, match=r"notes.txt: is no folder"):
        vae.save_pretrained(str(tmp_path / "notes.txt"))


def broken(folder: pathlib.Path, kind: str) -> None:
    """Makes a copy of a folder one that cannot be loaded."""
    config, weights = folder / "config.json", folder / "model.safetensors"
    values = json.loads(config.read_text())
    if kind == "no config":
        config.unlink()
    elif kind == "no weights":
        weights.unlink()
    elif kind == "diffusers":
        config.write_text(json.dumps({"_class_name": "AutoencoderKL"}))
    elif kind == "not JSON":
        config.write_bytes(b"\xff\xfe{")
    elif kind == "deep":
        config.write_text("[" * 10**5)
    elif kind == "other networks":
        values["model"]["encoder"]["n_z"] = 4
        config.write_text(json.dumps(values))
    elif kind == "out of range":
        values["model"]["encoder"]["n_z"] = -1
        config.write_text(json.dumps(values))
    elif kind == "damaged":
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
    elif kind == "cut":
        weights.write_bytes(weights.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("no config", "has no config.json; name a folder that save_pretrained made"),
        ("no weights", "model.safetensors: cannot be read"),
        ("diffusers", "is no config of epsilon_vae .*epsilon_vae.convert"),
        ("not JSON", "is no config of epsilon_vae"),
        ("deep", "is no config of epsilon_vae"),
        ("other networks", "does not fit config.json beside it: .* of another shape"),
        ("out of range", "n_z = -1"),
        ("damaged", "its checksum is another"),
        ("cut", "is broken"),
    ],
)
def test_folders_that_cannot_be_loaded(folder, tmp_path, kind, words):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    broken(copy, kind)
    with pytest.raises(WeightsError, match=words) as error:
        epsilon_vae.from_pretrained(str(copy))
    assert "\n" not in str(error.value) and "copy" in str(error.value)


@pytest.mark.parametrize("name", ["nowhere", "tests/nowhere", "/no/where/at/all", "a/b/c"])
def test_no_such_folder(name):
    with pytest.raises(WeightsError, match=f"{name}: neither a folder nor a model of"):
        epsilon_vae.from_pretrained(name)


def evaluation_of(finished_run, path: pathlib.Path, **protocol: str) -> str:
    """A `results.json` as `evaluate` writes it, of the run and of a folder of pictures."""
    asked = parse("local,features=alexnet")
    run = Run(
        str(finished_run), None, protocol=asked, mesh=make_mesh(devices=jax.local_devices()[:1])
    )
    row = {"resolution": 32, "nfe": 3, "num_images": 3, "fd_alexnet": 1.5, "psnr": 20.123456}
    pictures = {"name": "others", "kind": "pictures", "path": "others"}
    results.write_json(
        path / "results.json",
        {
            "protocol": asked.stamp() | protocol,
            "data": {"source": "photos *val*", "num_images": 3},
            "versions": {},
            "reconstructors": [{"name": "mine"} | run.metadata, pictures],
            "rows": [
                {"reconstructor": "mine"} | row | {"notes": ["too few: biased"]},
                {"reconstructor": "others"} | row | {"psnr": 99.0, "notes": ["of others"]},
            ],
            "paper": [],
        },
    )
    return str(path)


def test_card_has_numbers_data_license_and_how_to_load(vae, finished_run, tmp_path):
    evaluation = evaluation_of(finished_run, tmp_path)
    found = json.loads((tmp_path / "results.json").read_text())
    del found["protocol"]["group_size"]  # as in results of earlier versions
    (tmp_path / "results.json").write_text(json.dumps(found))
    vae.save_pretrained(str(tmp_path / "vae"), evaluation=evaluation, license="cc-by-nc-4.0")
    card = (tmp_path / "vae" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: epsilon_vae\n")
    assert "license: cc-by-nc-4.0\n---\n" in card and "`cc-by-nc-4.0`" in card
    assert "| resolution | nfe | num_images | fd_alexnet | psnr |" in card
    assert "| 32 | 3 | 3 | 1.5000 | 20.1235 |" in card and "too few: biased" in card
    assert "- name: local,features=alexnet" in card and "- crop: adm" in card
    assert "- group_size: 1\n" in card
    assert r"- images: 3 of photos \*val\*" in card
    assert "| 99" not in card and "others" not in card
    assert "- source: photos" in card and "random_resized, 32 px" in card
    assert f"of step {STEPS}" in card


def test_card_without_numbers_or_license_says_so(folder):
    card = (folder / "README.md").read_text()
    assert "## Numbers\n\nNot measured." in card and "license:" not in card
    assert "## License\n\nNot stated." in card


def test_what_the_card_says_runs(folder, tmp_path):
    """In a process of its own, with the folder's name in the place of the card's."""
    code = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    assert 'from_pretrained("path/to/this/folder")' in code
    code = code.replace("path/to/this/folder", str(folder))
    start = "import numpy as np\nimages = np.zeros((2, 32, 32, 3), np.uint8)\n"
    code = f"{start}{code}\nassert images.shape == (2, 32, 32, 3)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=300)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "is no results.json of an evaluation"),
        ("[3]", "is no results.json of an evaluation"),
        ('{"protocol": {}, "data": {}}', "is no results.json of an evaluation"),
        ("raw", "raw weights; not this model's, of step 6"),
        ("other step", "measured mine, step 4, others"),
    ],
)
def test_numbers_of_another_model_are_not_taken(vae, finished_run, tmp_path, content, words):
    file = tmp_path / "results.json"
    if content == "raw":
        evaluation_of(finished_run, tmp_path, weights="raw")
    elif content == "other step":
        evaluation_of(finished_run, tmp_path)
        file.write_text(file.read_text().replace(f'"step": {STEPS}', '"step": 4'))
    elif content:
        file.write_text(content)
    with pytest.raises(ValueError, match=words):
        vae.save_pretrained(str(tmp_path / "vae"), evaluation=str(file))
    assert not (tmp_path / "vae").exists()


def test_arguments_that_cannot_be_used(vae, tmp_path):
    with pytest.raises(ValueError, match="dtype = 'float16': expected float32 or bfloat16"):
        vae.save_pretrained(str(tmp_path / "vae"), dtype="float16")
    with pytest.raises(ValueError, match="license = 'do as\\\\nyou like': expected a name"):
        vae.save_pretrained(str(tmp_path / "vae"), license="do as\nyou like")
    bare = Autoencoder(vae.networks, vae.process, spacing="uniform", params=vae.params)
    with pytest.raises(ValueError, match="has no config"):
        bare.save_pretrained(str(tmp_path / "vae"))
    assert not (tmp_path / "vae").exists()


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[pathlib.Path]:
    """The folder of a Hub of this machine's, which huggingface_hub asks in this process."""
    pytest.importorskip("huggingface_hub", reason="needs the extra hub")
    from huggingface_hub import constants

    with serve(tmp_path / "hub", tmp_path / "home") as environment:
        address = environment["HF_ENDPOINT"]
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", f"{tmp_path}/home")
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", environment["HF_TOKEN"])
        yield tmp_path / "hub"


def test_to_the_hub_and_back(vae, hub):
    from huggingface_hub import constants

    address = vae.push_to_hub("someone/vae", private=True)
    assert address == f"{constants.ENDPOINT}/someone/vae"
    asked = json.loads((hub / "someone" / "vae.json").read_text())
    assert asked.get("private") is True or asked["visibility"] == "private"  # by its version
    assert sorted(path.name for path in (hub / "someone" / "vae").iterdir()) == FILES
    card = (hub / "someone" / "vae" / "README.md").read_text()
    assert 'from_pretrained("someone/vae")' in card
    assert_same_model(epsilon_vae.from_pretrained("someone/vae", revision="main"), vae)
    with pytest.raises(HubError, match=r"someone/vae: has README.md, config.json, model"):
        vae.push_to_hub("someone/vae")
    assert vae.push_to_hub("someone/vae", overwrite=True) == address


def test_what_the_hub_refuses_is_one_line(vae, hub):
    with pytest.raises(HubError, match="forbidden/vae: .*403.*check the name") as error:
        vae.push_to_hub("forbidden/vae")
    assert "\n" not in str(error.value)
    with pytest.raises(HubError, match="nobody/nothing: .*404.*check the name") as error:
        epsilon_vae.from_pretrained("nobody/nothing")
    assert "\n" not in str(error.value)


def test_without_the_hubs_package(vae, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for act in (vae.push_to_hub, epsilon_vae.from_pretrained):
        with pytest.raises(HubError, match=r"someone/vae: .* pip install -e '.\[hub\]'"):
            act("someone/vae")
