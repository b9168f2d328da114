"""Exported programs give what the model gives, and what cannot be exported is one line."""

import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy

import epsilon_vae
from configs import tiny
from epsilon_vae.inference.autoencoder import Autoencoder
from epsilon_vae.inference.exporting import ExportError, export_programs
from epsilon_vae.models.build import build_networks, build_process
from tests import micro
from tests.helpers import STEPS, held_out_images
from tests.processes import finish

PROGRAMS = ["encode", "decode_nfe1", "decode_nfe3"]


@pytest.fixture(scope="module")
def vae(finished_run) -> Autoencoder:
    return epsilon_vae.restore(str(finished_run))


@pytest.fixture(scope="module")
def exported(finished_run, run_module, tmp_path_factory) -> pathlib.Path:
    """Of the command, for JAX; not to be written to."""
    folder = tmp_path_factory.mktemp("exported") / "new" / "vae"
    what = f"--workdir={finished_run}", f"--output={folder}"
    platforms = "--platforms=cpu,cuda,tpu", "--what=encode,decode"
    out, _ = finish(run_module("epsilon_vae.export", *what, *platforms))
    files = ", ".join(f"{name}.jax_export" for name in PROGRAMS)
    assert out == f"{finished_run}, step {STEPS} -> {folder}: {files}\n"
    return folder


@pytest.fixture(scope="module")
def batch() -> np.ndarray:
    """Images in [-1, 1]."""
    return held_out_images(32) / np.float32(127.5) - 1


def untrained(config) -> Autoencoder:
    """With random parameters, the zeros among them too, so that all layers count."""
    networks = build_networks(config)
    params = jax.jit(networks.init, static_argnums=1)(jax.random.key(0), config.data.resolution)
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda x: x + 0.05 * random.standard_normal(x.shape, np.float32), params)
    return Autoencoder(
        networks, build_process(config), spacing=config.flow.spacing, params=params, config=config
    )


def noise_of(seed: int, count: int, shape: tuple[int, ...]) -> np.ndarray:
    """What `Autoencoder.decode` draws, as docs/guides/share.md says."""
    key = jax.random.key(seed)
    draws = [jax.random.normal(jax.random.fold_in(key, i), shape) for i in range(count)]
    return np.stack(draws)


def test_folder_says_what_is_in_it_and_is_loaded_too(vae, exported):
    index = json.loads((exported / "programs.json").read_text())
    assert index["platforms"] == ["cpu", "cuda", "tpu"] and index["step"] == STEPS
    assert [*index["programs"]] == [f"{name}.jax_export" for name in PROGRAMS]
    assert index["programs"]["decode_nfe3.jax_export"] == {
        "inputs": {
            "weights": "model.safetensors",
            "latents": "float32[batch, 8, 8, 8]",
            "seed": "uint32[]",
        },
        "outputs": {"images": "float32[batch, 32, 32, 3]"},
    }
    loaded = epsilon_vae.from_pretrained(str(exported))
    for a, b in zip(jax.tree.leaves(loaded.params), jax.tree.leaves(vae.params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_jax_programs_give_what_the_model_gives(vae, exported, batch):
    weights = safetensors.numpy.load_file(exported / "model.safetensors")
    encode, one, three = (
        jax.export.deserialize(bytearray((exported / f"{name}.jax_export").read_bytes()))
        for name in PROGRAMS
    )
    assert one.platforms == ("cpu", "cuda", "tpu")
    latents = vae.encode(batch)
    np.testing.assert_allclose(encode.call(weights, batch), latents, atol=1e-5)
    for steps, decode in ((1, one), (3, three)):
        for seed in (0, 7):
            images = decode.call(weights, latents, np.uint32(seed))
            np.testing.assert_allclose(images, vae.decode(latents, steps, seed), atol=1e-5)
        alone = decode.call(weights, latents[:1], np.uint32(0))
        np.testing.assert_allclose(alone, vae.decode(latents[:1], steps, 0), atol=1e-5)


def test_jax_programs_run_without_this_package(vae, exported, batch, tmp_path):
    """From another folder, with JAX and safetensors alone."""
    np.save(tmp_path / "batch.npy", batch[:2])
    code = f"""
import pathlib, sys, jax, numpy, safetensors.numpy
folder = pathlib.Path({str(exported)!r})
weights = safetensors.numpy.load_file(folder / "model.safetensors")
program = jax.export.deserialize(bytearray((folder / "encode.jax_export").read_bytes()))
numpy.save("latents.npy", program.call(weights, numpy.load("batch.npy")))
sys.exit(any(name in sys.modules for name in ("epsilon_vae", "flax")))
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=300)
    latents = np.load(tmp_path / "latents.npy")
    np.testing.assert_allclose(latents, vae.encode(batch[:2]), atol=1e-5)


def session(path: pathlib.Path):
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def run_onnx(folder: pathlib.Path, name: str, **inputs: np.ndarray) -> np.ndarray:
    return session(folder / f"{name}.onnx").run(None, inputs)[0]


def check_onnx(vae: Autoencoder, folder: pathlib.Path, batch: np.ndarray, *steps: int) -> None:
    """The model's latents and images, of batches of three and of one."""
    latents, is_ddpm = vae.encode(batch), vae.config.flow.process == "ddpm"
    # DDPM's first estimate of the image is divided by 0.006, and so are rounding errors.
    tolerance = 1e-3 if is_ddpm else 2e-5
    for count in (3, 1):
        found = run_onnx(folder, "encode", images=batch[:count])
        np.testing.assert_allclose(found, latents[:count], atol=2e-5)
        for nfe in steps:
            draws = nfe + 1 if is_ddpm else 1
            noise = {"noise": noise_of(7, draws, batch.shape[1:])} if vae.is_diffusion else {}
            images = run_onnx(folder, f"decode_nfe{nfe}", latents=latents[:count], **noise)
            expected = vae.decode(latents[:count], nfe, 7)
            np.testing.assert_allclose(images, expected, atol=tolerance)


NO_ONNX = "jax2onnx and onnxruntime: pip install -e '.[onnx]'"


def test_onnx_gives_what_the_model_gives(vae, finished_run, run_module, batch, tmp_path):
    pytest.importorskip("jax2onnx", reason=NO_ONNX)
    what = f"--workdir={finished_run}", f"--output={tmp_path}/onnx", "--format=onnx"
    out, err = finish(run_module("epsilon_vae.export", *what))
    assert out.count("\n") == 1 and "decode_nfe3.onnx" in out and not err
    index = json.loads((tmp_path / "onnx" / "programs.json").read_text())
    assert index["programs"]["decode_nfe1.onnx"] == {
        "inputs": {"latents": "float32[batch, 8, 8, 8]", "noise": "float32[1, 32, 32, 3]"},
        "outputs": {"images": "float32[batch, 32, 32, 3]"},
    }
    check_onnx(vae, tmp_path / "onnx", batch, 1, 3)


def ddpm_and_bfloat16():
    config = micro.get_config()
    config.flow.process, config.dtype = "ddpm", "bfloat16"
    return config


def direct_with_codes():
    config = tiny.get_config()
    config.data.resolution = 32
    config.model.encoder.name = "micro"
    config.model.decoder.name, config.model.decoder.size = "vqgan", "micro"
    config.model.decoder.input_skip = False
    config.model.bottleneck.name, config.model.bottleneck.vq_channels = "vq", 8
    config.flow.process = "direct"
    return config


@pytest.mark.parametrize(
    ("make", "steps"), [(ddpm_and_bfloat16, (1, 3)), (direct_with_codes, (1,))]
)
def test_onnx_of_other_networks(make, steps, batch, tmp_path):
    """In float32, whatever the config computes in."""
    pytest.importorskip("jax2onnx", reason=NO_ONNX)
    config = make()
    vae = untrained(config)
    files = export_programs(
        vae,
        str(tmp_path / "onnx"),
        parts=("encode", "decode"),
        steps=(1, 3),
        resolution=32,
        file_format="onnx",
        platforms=(),
    )
    assert len(files) == 1 + len(steps)
    config.dtype = "float32"
    check_onnx(untrained(config), tmp_path / "onnx", batch, *steps)


def test_what_jax2onnx_cannot_convert_is_one_line(vae, tmp_path):
    """Attention in blocks, above 1024 tokens; nothing is left of the folder."""
    pytest.importorskip("jax2onnx", reason=NO_ONNX)
    with pytest.raises(ExportError, match="jax2onnx cannot convert this network at") as error:
        export_programs(
            vae,
            str(tmp_path / "onnx"),
            parts=("decode",),
            steps=(1,),
            resolution=256,
            file_format="onnx",
            platforms=(),
        )
    assert "\n" not in str(error.value) and not [*tmp_path.iterdir()]


def test_nothing_is_overwritten(run_module, finished_run, exported):
    before = {path.name: path.stat().st_mtime_ns for path in exported.iterdir()}
    process = run_module("epsilon_vae.export", f"--workdir={finished_run}", f"--output={exported}")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2
    assert err == f"epsilon_vae: {exported}: is there already; name another\n"
    assert before == {path.name: path.stat().st_mtime_ns for path in exported.iterdir()}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--workdir is missing"),
        (["--workdir=a"], "--output is missing"),
        (["--workdir=a", "--what=decode,train"], "--what=decode,train: expected some of encode"),
        (["--workdir=a", "--platforms=cpu,gpu"], "--platforms=cpu,gpu: expected some of cpu, cuda"),
        (["--workdir=a", "--steps=0"], "--steps=0: expected numbers of at least 1"),
        (["--workdir=a", "--steps=1,x"], "--steps=1,x: expected numbers of at least 1"),
        (["--workdir=a", "--format=onnx", "--platforms=cpu"], "--platforms: is for --format=jax"),
        (["--workdir=nowhere"], "--workdir=nowhere: no such folder"),
        (["--workdir=RUN", "--resolution=30"], "resolution = 30: the networks take multiples of 4"),
    ],
)
def test_refusal_is_one_line_and_code_2(run_module, finished_run, tmp_path, arguments, words):
    arguments = [argument.replace("RUN", str(finished_run)) for argument in arguments]
    if len(arguments) > 1 or arguments == ["--workdir=nowhere"]:
        arguments.append(f"--output={tmp_path}/new")
    process = run_module("epsilon_vae.export", *arguments)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 2 and not out
    assert err.startswith("epsilon_vae: ") and words in err and err.count("\n") == 1, err
    assert not [*tmp_path.iterdir()]


def test_onnx_without_its_packages_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ExportError, match=r"needs jax2onnx.*pip install -e '.\[onnx\]'"):
        epsilon_vae.inference.exporting.check(str(tmp_path / "new"), "onnx")
