"""Weights from files into runs and back, and what is refused."""

import copy
import functools
import json
import os
import pathlib
import pickle
import re
import sys

import jax
import numpy as np
import pytest
import safetensors
from flax import traverse_util

from configs import common, dit_xl_2
from epsilon_vae.checkpoint import Checkpointer, CheckpointError, load_config
from epsilon_vae.config import ConfigError, to_json
from epsilon_vae.conversion import (
    NoConfigError,
    diffusers_config,
    export_weights,
    import_weights,
)
from epsilon_vae.diffusion.guidance import Guidance
from epsilon_vae.inference.latent_diffusion import restore_latent_diffusion
from epsilon_vae.inference.restoring import restore
from epsilon_vae.models.build import ENCODERS, build_networks
from epsilon_vae.models.decoder import SD_SIZES
from epsilon_vae.models.dit import DIT_SIZES
from epsilon_vae.models.encoder import SDEncoder
from epsilon_vae.parallel.mesh import local_mesh
from epsilon_vae.pretrained import dit_layouts, layouts
from epsilon_vae.pretrained.weight_file import read_weights, safetensors_bytes
from epsilon_vae.pretrained.weights import WeightsError
from epsilon_vae.run.initialize import load_init_weights, restore_or_init
from epsilon_vae.step_folders import find_step
from epsilon_vae.training.build import build_train_step
from tests import micro
from tests.helpers import flags, state_shapes
from tests.pretrained.files import tensor_pickle, zipped
from tests.pretrained.test_torch_file import Evil
from tests.processes import finish, start_alone


@pytest.fixture(scope="module")
def small_sd():
    """SD-VAE with encoder and decoder of 32 channels, at 32 px."""
    small = {"channels": 32, "groups": 8}
    encoder = functools.partial(SDEncoder, blocks=1, **small)
    config = common.sd_vae()
    config.model.decoder.size = "tiny"
    config.model.discriminator.channels = 16
    config.data.resolution = 32
    config.dtype = "float32"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENCODERS, "sd", (encoder, {8: (1, 1, 2, 2)}))
        patch.setitem(SD_SIZES, "tiny", small | {"blocks": 2})
        yield config


@pytest.fixture(scope="module")
def params(small_sd) -> dict[str, np.ndarray]:
    """Random, by path; float16 has them exactly."""
    return {k: x.astype(np.float16).astype(np.float32) for k, x in random_params(small_sd).items()}


@pytest.fixture(scope="module")
def imported(small_sd, params, tmp_path_factory) -> str:
    """Workdir of a run that was made of a whole latent diffusion model's file, in float16."""
    folder = tmp_path_factory.mktemp("imported")
    state = layouts.LATENT_DIFFUSION.state_dict(params)
    arrays = {f"first_stage_model.{k}": x.astype(np.float16) for k, x in state.items()}
    arrays["model.diffusion_model.out.0.weight"] = np.ones(2, np.float32)
    file = write(folder / "a.safetensors", arrays, format="pt")
    title, _, left_out, _ = import_weights(file, str(folder / "run"), small_sd)
    assert title == "latent-diffusion and taming-transformers"
    assert left_out == "model.* (1)"
    return str(folder / "run")


def random_params(config) -> dict[str, np.ndarray]:
    """By path; float32."""
    random = np.random.default_rng(0)
    flat = traverse_util.flatten_dict(state_shapes(config).params, sep="/")
    return {path: random.standard_normal(x.shape, np.float32) for path, x in flat.items()}


def write(path: pathlib.Path, arrays: dict, **metadata: str) -> str:
    path.write_bytes(safetensors_bytes(arrays, metadata))
    return str(path)


def assert_equal(params: dict, expected: dict[str, np.ndarray]) -> None:
    flat = traverse_util.flatten_dict(params, sep="/")
    assert sorted(flat) == sorted(expected)
    for path, array in flat.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, expected[path], err_msg=path)


def assert_is_from_seed(discriminator: dict, config) -> None:
    """To the bit, but for zeros that a still step has moved."""
    _, key = jax.random.split(jax.random.key(config.seed))
    adversary = build_train_step(config).objective.adversary
    fresh = jax.jit(adversary.init, static_argnums=1)(key, 32)
    for found, expected in zip(*map(jax.tree.leaves, (discriminator, fresh)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-20)


def test_own_files_go_in_and_out_to_the_bit(tmp_path):
    """ε-VAE's; the config comes from the file."""
    config, workdir = micro.get_config(), str(tmp_path / "run")
    params = random_params(config)
    metadata = {"format": "epsilon_vae", "config": to_json(config)}
    first = write(tmp_path / "first.safetensors", params, **metadata)
    assert import_weights(first, workdir).title == "epsilon_vae"
    target = tmp_path / "new" / "second.safetensors"
    assert export_weights(workdir, str(target)).step == 0
    with safetensors.safe_open(target, framework="np") as file:
        assert_equal({name: file.get_tensor(name) for name in file.keys()}, params)  # noqa: SIM118
        written = file.metadata()
    assert written["format"] == "epsilon_vae" and written["step"] == "0"
    assert json.loads(written["config"]) == config.to_dict()
    assert "jax" in json.loads(written["versions"])
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_a_run_begins_with_them_as_training_would(small_sd, params, imported):
    """At step 0 and the first image; discriminator and moments as from the seed."""
    mesh = local_mesh()
    with jax.set_mesh(mesh):
        state, restored = restore_or_init(
            small_sd,
            build_train_step(small_sd),
            checkpointer=Checkpointer(imported),
            mesh=mesh,
        )
    assert (restored.step, int(state.step), restored.data) == (0, 0, {"position": 0})
    assert restored.config.to_dict() == small_sd.to_dict()
    assert_equal(state.params, params)
    assert_equal(state.ema, params)
    assert all(not np.any(x) for x in jax.tree.leaves(state.opt_state))
    assert_is_from_seed(state.discriminator, small_sd)


def test_another_run_may_start_from_them(small_sd, params, imported):
    """It has a discriminator of its own, also where it asks for the other's, as by default."""
    loaded = load_init_weights(state_shapes(small_sd), imported, **small_sd.init)
    assert small_sd.init.discriminator == "raw" and sorted(loaded) == ["ema", "params"]
    assert_equal(loaded["params"], params)


def test_nothing_is_compiled_to_bring_weights_in_or_out(small_sd, params, tmp_path, caplog):
    file = write(tmp_path / "a.safetensors", layouts.DIFFUSERS.state_dict(params))
    jax.clear_caches()
    with jax.log_compiles():
        import_weights(file, str(tmp_path / "run"), small_sd)
        export_weights(str(tmp_path / "run"), str(tmp_path / "b.safetensors"))
    # What Orbax and a random key do with one number takes milliseconds.
    compiled = set(re.findall(r"Compiling jit\((\w+)\)", caplog.text))
    assert compiled <= {"stage", "_threefry_seed"}


def test_a_run_is_never_overwritten(imported):
    with pytest.raises(CheckpointError, match=r"run: has checkpoints already, of steps \[0\]"):
        import_weights("any file", imported)


def broken(params, tmp_path) -> dict[str, str]:
    """Files that cannot be used, and words of what is said."""
    state = layouts.DIFFUSERS.state_dict(params)
    name = "decoder.conv_out.bias"
    whole = pathlib.Path(write(tmp_path / "whole.safetensors", state)).read_bytes()
    files = {
        "cut": whole[: len(whole) // 2],
        "cut_header": whole[:100],
        "empty": b"",
        "code": zipped(pickle.dumps({"model": {}, "args": Evil(tmp_path / "ran")}, 2)),
    }
    for kind, content in files.items():
        (tmp_path / f"{kind}.pt").write_bytes(content)
    arrays = {
        "missing": {k: x for k, x in state.items() if k != name},
        "unknown": state | {"decoder.condition_encoder.layers.0.weight": np.ones(2)},
        "shape": state | {name: np.ones(4, np.float32)},
        "nan": state | {name: np.full(3, np.nan, np.float32)},
        "other": {"a.weight": np.ones(2)},
    }
    for kind, content in arrays.items():
        write(tmp_path / f"{kind}.pt", content)
    return {
        "cut": "incomplete|Incomplete|not fully covered|InvalidHeader|deserializing",
        "cut_header": "deserializing|Header",
        "empty": "cannot be read as torch's weights, or is cut short",
        "code": r"refused: it asks for (posix|nt)\.system",
        "missing": f"1 missing: {name}; take the one of the network",
        "unknown": "1 unknown: decoder.condition_encoder.layers.0.weight;",
        "shape": rf"1 of another shape: {name} \(4,\), expected \(3,\)",
        "nan": "1 weights are not finite, the first is decoder/conv_out/bias",
        "other": "other.pt: none of the known autoencoders: it has a.weight",
    }


def test_files_that_cannot_be_used_leave_nothing(small_sd, params, tmp_path):
    for kind, words in broken(params, tmp_path).items():
        with pytest.raises(WeightsError, match=words) as error:
            import_weights(str(tmp_path / f"{kind}.pt"), str(tmp_path / "run"), small_sd)
        assert "\n" not in str(error.value) and kind in str(error.value)
    assert not (tmp_path / "run").exists() and not (tmp_path / "ran").exists()


def test_configs_that_cannot_be_used(params, tmp_path, monkeypatch):
    file = write(tmp_path / "a.safetensors", layouts.DIFFUSERS.state_dict(params))
    workdir = str(tmp_path / "run")
    with monkeypatch.context() as patch, pytest.raises(NoConfigError, match="no configs/ here"):
        patch.setitem(sys.modules, "configs.common", None)
        import_weights(file, workdir)
    with pytest.raises(ConfigError, match="latent diffusion's networks alone"):
        import_weights(file, workdir, micro.get_config())
    config = common.sd_vae()
    config.model.decoder.name = "decoder"
    with pytest.raises(ConfigError, match="config.model.decoder.name = 'decoder': expected one of"):
        import_weights(file, workdir, config)
    assert not (tmp_path / "run").exists()


def test_diffusers_folder(params, imported, tmp_path):
    """Its file is the state dict, its config says the network; whole or not there."""
    folder = tmp_path / "vae"
    export_weights(imported, str(folder), layout="diffusers")
    described = json.loads((folder / "config.json").read_text())
    assert described["_class_name"] == "AutoencoderKL" and described["sample_size"] == 32
    assert described["block_out_channels"] == [32, 32, 64, 64]
    arrays, metadata, *_ = read_weights(str(folder))
    assert metadata["format"] == "pt" and json.loads(metadata["config"])["dtype"] == "float32"
    expected = layouts.DIFFUSERS.state_dict(params)
    assert sorted(arrays) == sorted(expected)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)
    with pytest.raises(WeightsError, match="is there already; name another"):
        export_weights(imported, str(folder))
    assert [path.name for path in tmp_path.iterdir()] == ["vae"]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (common.sd("b"), "latent diffusion's networks alone"),
        (common.llamagen(), "normalized_codes = True: diffusers' VQModel has no codes of length 1"),
    ],
    ids=["sd_b", "llamagen"],
)
def test_networks_that_diffusers_has_not(config, words):
    with pytest.raises(ConfigError, match=words):
        diffusers_config(build_networks(config))


def test_decoder_that_does_not_mirror_its_encoder():
    config = common.vqgan()
    config.model.decoder.size = "tiny"
    with pytest.raises(ConfigError, match=r"decoder.size: diffusers' decoders mirror"):
        diffusers_config(build_networks(config))


def test_missing_run_is_one_line_and_code_2():
    process = start_alone("epsilon_vae.convert", "--workdir=nowhere", "--to=a")
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out) == (2, "")
    assert err.startswith("epsilon_vae: nowhere: no checkpoints in it") and err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--from=a"], "--workdir is missing"),
        (["--workdir=a"], "--from=FILE or --to=FILE: one of them"),
        (["--workdir=a", "--from=nowhere", "--config=configs/sd_vae.py"], "nowhere"),
    ],
)
def test_refusal_is_one_line_and_code_2(run_module, arguments, words):
    process = run_module("epsilon_vae.convert", *arguments)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 2 and not out
    assert err.startswith("epsilon_vae: ") and words in err and err.count("\n") == 1, err


def hostile(tmp_path) -> dict[str, str]:
    """Files that no reader may choke on, by name, and words of what is said."""
    tensor = tensor_pickle((4,), (1,), 4)
    numbers = {"0": bytes(16)}
    ours = {"format": "epsilon_vae", "config": "[3]"}
    float8 = {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}
    header = json.dumps({"a": float8}).encode()
    files = {
        "changes.pt": zipped(b"ctorch\nBFloat16Storage\n}Vitemsize\nI1\nsb."),
        "memo.pt": zipped(b"\x80\x02Nr\x00\x00\x00\x10."),
        "deflated.pt": zipped(tensor, compress=True, **numbers),
        "line.pt": zipped(tensor.replace(b"down", b"\\u000a"), **numbers),
        "f8.safetensors": len(header).to_bytes(8, "little") + header + bytes(4),
        "lying.safetensors": (2**40).to_bytes(8, "little") + header + bytes(4),
        "list.safetensors": safetensors_bytes({"a": np.ones(2, np.float32)}, ours),
        "deep.safetensors": safetensors_bytes({"a": np.ones(2)}, ours | {"config": "[" * 10**5}),
        "flipped.safetensors": safetensors_bytes({"a": np.ones(2)}, ours)[:-1] + b"\0",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    return {
        "changes.pt": "refused: it changes what it has not made",
        "memo.pt": "it holds no dictionary of tensors",
        "deflated.pt": "is compressed",
        "line.pt": "a weight has no name that can be printed",
        "f8.safetensors": "a is of F8_E4M3, which is not read; save it as F32",
        "lying.safetensors": "header too large); take another copy",
        "list.safetensors": "its config is none",
        "deep.safetensors": "its config is none (maximum recursion depth exceeded",
        "flipped.safetensors": "its checksum is another",
        "pipe": "is no regular file",
        "endless": "is no regular file",
    }


def test_hostile_files_are_one_line_and_code_2(run_module, tmp_path):
    workdir = f"--workdir={tmp_path}/run"
    processes = {
        name: (run_module("epsilon_vae.convert", f"--from={tmp_path}/{name}", workdir), words)
        for name, words in hostile(tmp_path).items()
    }
    for name, (process, words) in processes.items():
        out, err = process.communicate(timeout=300)
        assert (process.returncode, out) == (2, ""), (name, err)
        assert name in err and words in err and err.count("\n") == 1, (name, err)
    assert not (tmp_path / "run").exists()


@pytest.fixture
def dit_config(imported):
    """A small DiT with a learned variance, on the latents of `imported`: 4 x 4 x 4."""
    config = dit_xl_2.get_config()
    config.dtype = "float32"
    config.data.resolution = 32
    config.autoencoder.workdir = imported
    config.model.latent_diffusion.size = "tiny"
    config.model.latent_diffusion.num_classes = 3
    config.model.latent_diffusion.learned_sigma = True
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DIT_SIZES, "tiny", {"depth": 2, "width": 16, "heads": 2})
        yield config


def test_dits_weights_become_a_generator_of_the_autoencoders_latents(dit_config, tmp_path):
    flat = traverse_util.flatten_dict(state_shapes(dit_config).params["generator"], sep="/")
    random = np.random.default_rng(0)
    params = {n: random.normal(0, 0.1, x.shape).astype(np.float32) for n, x in flat.items()}
    state = dit_layouts.state_dict(layouts.DIT, params, 2)
    file, workdir = write(tmp_path / "dit.safetensors", state), str(tmp_path / "run")
    with pytest.raises(ConfigError, match="autoencoder.workdir = '': name the run"):
        nameless = copy.deepcopy(dit_config)
        nameless.autoencoder.workdir = ""
        import_weights(file, workdir, nameless)
    with pytest.raises(WeightsError, match="does not fit the config: .*learned_sigma=true"):
        other = copy.deepcopy(dit_config)
        other.model.latent_diffusion.learned_sigma = False
        import_weights(file, workdir, other)
    assert import_weights(file, workdir, dit_config).title.startswith("DiT, ")
    trained = restore_latent_diffusion(workdir)
    assert_equal(trained.params, params)
    trained.metadata.check_encoder(restore(dit_config.autoencoder.workdir).encoder_fingerprint())
    # Latents times 0.18215 are what it knows.
    np.testing.assert_allclose(
        trained.metadata.normalization.denormalize(np.full((1, 4), 0.18215)), 1, rtol=1e-6
    )
    sampler = trained.sampler(2, Guidance())
    assert sampler(trained.params, np.arange(2), labels=np.arange(2)).shape == (2, 4, 4, 4)


def test_training_starts_from_weights_that_came_in(finished_run, run_module, tmp_path):
    """The networks are the file's, discriminator and moments new, as from the seed."""
    file, workdir = str(tmp_path / "a.safetensors"), tmp_path / "run"
    export_weights(str(finished_run), file)
    finish(run_module("epsilon_vae.convert", f"--from={file}", f"--workdir={workdir}"))
    # A step that moves nothing.
    still = (
        "--config.num_steps=1",
        "--config.optim.lr=1e-30",
        "--config.optim.discriminator_lr=1e-30",
    )
    out, _ = finish(run_module("epsilon_vae.main", *flags(workdir, *still)))
    assert "Resuming from step 0 of 1" in out
    config = load_config(find_step(str(workdir), 1))
    state = Checkpointer(str(workdir)).restore_newest(state_shapes(config)).state
    assert (int(state.step), int(state.opt_state[0].count)) == (1, 1)
    assert_equal(state.params, read_weights(file).arrays)
    assert_is_from_seed(state.discriminator, config)
