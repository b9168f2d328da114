"""Weights as people have them, and what becomes of each; the table of docs/guides/weights.md."""

import functools
import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax import traverse_util

from configs import common
from epsilon_vae.conversion import export_weights, import_weights
from epsilon_vae.hub import HubError
from epsilon_vae.models.build import ENCODERS, build_networks
from epsilon_vae.models.decoder import SD_SIZES
from epsilon_vae.models.encoder import SDEncoder
from epsilon_vae.pretrained.layouts import DIFFUSERS, LATENT_DIFFUSION
from epsilon_vae.pretrained.public_config import public_config, with_factors
from epsilon_vae.pretrained.state_dicts import detect
from epsilon_vae.pretrained.weight_file import read_weights, safetensors_bytes
from epsilon_vae.pretrained.weight_folder import find_weights
from epsilon_vae.pretrained.weights import WeightsError
from tests.hub_server import serve
from tests.pretrained.files import zipped

WEIGHTS = "diffusion_pytorch_model"
KL = {"_class_name": "AutoencoderKL"}


@pytest.fixture(scope="module", autouse=True)
def small():
    """SD-VAE's networks, with 16 channels in all levels."""
    narrow = {"channels": 16, "groups": 8}
    encoder = functools.partial(SDEncoder, blocks=1, **narrow)
    levels = {8: (1, 1, 1, 1), 16: (1, 1, 1, 1, 1)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENCODERS, "sd", (encoder, levels))
        patch.setitem(ENCODERS, "vqgan", (functools.partial(encoder, last_attention=True), levels))
        patch.setitem(SD_SIZES, "m", narrow | {"blocks": 2})
        patch.setattr(common, "sd_vae", functools.partial(at_32_px, common.sd_vae))
        yield


def at_32_px(get_config, f: int = 8):
    """With a discriminator that is compiled soon."""
    config = get_config(f)
    config.model.discriminator.channels = 16
    config.data.resolution = 32
    return config


@functools.cache
def random_params(f: int = 8, n_z: int = 4, name: str = "sd", has_convs: bool = True):  # noqa: FBT001, FBT002
    """By path, float32, of what float16 has."""
    config = common.sd_vae(f)
    config.model.encoder.name = config.model.decoder.name = name
    config.model.encoder.n_z = n_z
    config.model.bottleneck.kl_convs = has_convs
    networks = build_networks(config)
    shapes = jax.eval_shape(lambda key: networks.init(key, 32), jax.random.key(0))
    flat = traverse_util.flatten_dict(shapes, sep="/")
    random = np.random.default_rng(0)
    return {
        path: random.standard_normal(x.shape).astype(np.float16).astype(np.float32)
        for path, x in flat.items()
    }


def diffusers(**kind) -> dict[str, np.ndarray]:
    return DIFFUSERS.state_dict(random_params(**kind))


def ldm(**kind) -> dict[str, np.ndarray]:
    return LATENT_DIFFUSION.state_dict(random_params(**kind))


def write(path: pathlib.Path, arrays: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(safetensors_bytes(arrays, {"format": "pt"}))


def describe(folder: pathlib.Path, values: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(values))


def torch_zip(tree: dict) -> bytes:
    """What `torch.save` writes of dictionaries of arrays, None, texts and numbers."""
    numbers: dict[str, bytes] = {}

    def text(value) -> bytes:
        if isinstance(value, dict):
            items = b"".join(b"V%s\n" % name.encode() + text(x) for name, x in value.items())
            return b"}(" + items + b"u"
        if value is None:
            return b"N"
        key = str(len(numbers))
        numbers[key] = np.ascontiguousarray(value, np.float32).tobytes()
        shape = value.shape
        strides = [int(np.prod(shape[i + 1 :])) for i in range(value.ndim)]
        sizes = [b"(" + b"".join(b"L%dL\n" % x for x in part) + b"t" for part in (shape, strides)]
        storage = b"(Vstorage\nctorch\nFloatStorage\nV%s\nVcpu\nL%dL\ntQ" % (
            key.encode(),
            value.size,
        )
        return b"ctorch._utils\n_rebuild_tensor_v2\n(%sI0\n%s%sI00\n}tR" % (storage, *sizes)

    return zipped(text(tree) + b".", **numbers)


def torch_file(path: pathlib.Path, tree: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(torch_zip(tree))


def prefixed(prefix: str, state: dict) -> dict:
    return {prefix + name: array for name, array in state.items()}


def variant(folder):
    half = {name: array.astype(np.float16) for name, array in diffusers().items()}
    write(folder / f"{WEIGHTS}.fp16.safetensors", half)
    describe(folder, KL)


def pickled(folder):
    torch_file(folder / f"{WEIGHTS}.bin", diffusers())
    torch_file(folder / "optimizer.bin", {"a": np.ones(2)})
    describe(folder, KL)


def pipeline(folder):
    variant(folder / "vae")
    write(folder / "unet" / f"{WEIGHTS}.safetensors", {"a": np.ones(2)})
    (folder / "model_index.json").write_text("{}")


def shards(folder):
    names = sorted(diffusers())
    files = [f"{WEIGHTS}-0000{i}-of-00002.safetensors" for i in (1, 2)]
    where = {name: files[i % 2] for i, name in enumerate(names)}
    for file in files:
        write(folder / file, {n: diffusers()[n] for n in names if where[n] == file})
    index = {"metadata": {}, "weight_map": where}
    (folder / f"{WEIGHTS}.safetensors.index.json").write_text(json.dumps(index))
    describe(folder, KL | {"scaling_factor": 0.13025})


def cache(folder):
    variant(folder / "snapshots" / "0123")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0123")


def half_averaged(path):
    other = {name: array + 1 for name, array in ldm().items()}
    tree = {"ema": prefixed("ema_model.", ldm()) | prefixed("online_model.", other)}
    torch_file(path, {"model": other} | tree | {"config": None})


def conv_attention(path):
    state = diffusers()
    layers = [name for name in state if ".to_" in name and name.endswith("weight")]
    assert len(layers) == 8
    write(path, state | {name: state[name][..., None, None] for name in layers})


def dense_attention(path):
    state = ldm()
    layers = [name for name in state if "attn_1" in name and state[name].ndim == 4]
    assert len(layers) == 8
    write(path, state | {name: state[name][..., 0, 0] for name in layers})


HEADS = {
    "discriminator.main.0.weight": np.ones(2),
    "discriminator.main.1.weight": np.ones(2),
    "loss.logvar": np.ones(()),
}
LEFT = "state_dict.discriminator.* (2), state_dict.loss.* (1)"
SD = {"f": 8, "n_z": 4, "name": "sd"}
# What a file or folder is → what becomes of it: its network, factors, and what is left out.
GOOD = {
    "fp16variant": (variant, SD, (0.18215, 0), ""),
    "bindir": (pickled, SD, (0.18215, 0), ""),
    "pipe": (pipeline, SD, (0.18215, 0), ""),
    "shards": (shards, SD, (0.13025, 0), ""),
    "models--owner--name": (cache, SD, (0.18215, 0), ""),
    "ddp.safetensors": (lambda p: write(p, prefixed("module.", ldm())), SD, (0, 0), ""),
    "compiled.safetensors": (
        lambda p: write(p, prefixed("_orig_mod.module.", diffusers())), SD, (0, 0), "",
    ),
    "vae.safetensors": (lambda p: write(p, prefixed("vae.", diffusers())), SD, (0, 0), ""),
    "parts.pt": (
        lambda p: torch_file(
            p,
            {
                "encoder": {
                    k.replace("encoder.", "_orig_mod.", 1): x
                    for k, x in ldm().items()
                    if k.startswith("encoder.")
                },
                "rest": None,
            }
            | {k: x for k, x in ldm().items() if not k.startswith("encoder.")},
        ),
        SD, (0, 0), "",
    ),
    "ema_none.pt": (lambda p: torch_file(p, {"model": ldm(), "ema": None}), SD, (0, 0), ""),
    "model_state_dict.pt": (
        lambda p: torch_file(p, {"model_state_dict": ldm(), "epoch": None}), SD, (0, 0), "",
    ),
    "nested.pt": (
        lambda p: torch_file(p, {"state_dict": {"vae": diffusers()}, "a": {"b": np.ones(2)}}),
        SD, (0, 0), "a.* (1)",
    ),
    "ema_pytorch.pt": (half_averaged, SD, (0, 0), "model.* (176), ema.online_model.* (176)"),
    "heads.ckpt": (lambda p: torch_file(p, {"state_dict": ldm() | HEADS}), SD, (0, 0), LEFT),
    "conv_attention.safetensors": (conv_attention, SD, (0, 0), ""),
    "dense_attention.safetensors": (dense_attention, SD, (0, 0), ""),
    "kl_f16.safetensors": (
        lambda p: write(p, ldm(f=16, n_z=16, name="vqgan")),
        {"f": 16, "n_z": 16, "name": "vqgan"}, (0, 0), "",
    ),
    **{
        f"kl_{n_z}": (
            lambda folder, n_z=n_z, factors=factors: (
                write(folder / f"{WEIGHTS}.safetensors", diffusers(n_z=n_z, has_convs=n_z != 16)),
                describe(folder, KL | factors),
            ),
            {"f": 8, "n_z": n_z, "name": "sd"},
            tuple(factors.values()),
            "",
        )
        for n_z, factors in {
            4: {"scaling_factor": 0.13025, "shift_factor": 0},
            16: {"scaling_factor": 1.5305, "shift_factor": 0.0609},
            32: {"scaling_factor": 0.41407, "shift_factor": -0.25},
        }.items()
    },
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_weights_are_found_and_their_network_is_told(name, tmp_path):
    """Without a config: all numbers are those that were written."""
    make, network, factors, left_out = GOOD[name]
    make(tmp_path / name)
    weights = read_weights(str(tmp_path / name))
    layout = detect(weights.arrays)
    config = with_factors(public_config(layout, weights.arrays), weights.config)
    assert config.model.encoder.to_dict() == network | {"frozen": False}
    bottleneck = config.model.bottleneck
    assert (bottleneck.scaling_factor, bottleneck.shift_factor) == factors
    assert weights.left_out == left_out
    has_convs = bottleneck.kl_convs
    params = random_params(**{k: network[k] for k in network}, has_convs=has_convs)
    back = layout.parameters(weights.arrays, {path: x.shape for path, x in params.items()})
    for path, array in params.items():
        np.testing.assert_array_equal(back[path], array, err_msg=path)


def text(content: str):
    return lambda path: path.write_text(content)


def arrays(**shapes):
    return lambda path: write(path, {k.replace("__", "."): np.ones(x) for k, x in shapes.items()})


def of_class(name: str):
    return lambda folder: describe(folder, {"_class_name": name})


def files(*names: str):
    def make(folder):
        folder.mkdir()
        for name in names:
            (folder / name).write_text("{}")

    return make


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 334643276\n"
BAD = {
    "lfs.safetensors": (text(LFS), "is a pointer of Git LFS to the file of 334643276 bytes"),
    "lfs.bin": (text(LFS), "run `git lfs pull`"),
    "html.safetensors": (text("<!doctype html><html>Access denied"), "is a web page"),
    "login.pt": (text("\n<HTML><head>"), "is a web page"),
    "entry.safetensors": (text("Entry not found"), "is a text, 'Entry not found', not weights"),
    "json.ckpt": (text('{"error": "gated"}'), "is a text, '{\"error\": \"gated\"}'"),
    "a.gguf": (text("GGUF\0\0\0\0"), "is GGUF, which language models have"),
    "taesd.safetensors": (
        arrays(encoder__layers__0__weight=(4, 3, 3, 3), decoder__layers__1__weight=(4, 4, 3, 3)),
        "is AutoencoderTiny (TAESD); take an autoencoder's weights: diffusers' AutoencoderKL",
    ),
    "dc.safetensors": (
        arrays(encoder__down_blocks__0__0__conv1__weight=(4, 4, 3, 3)), "is AutoencoderDC (DC-AE)",
    ),
    "video.safetensors": (
        arrays(encoder__down_blocks__0__resnets__0__conv1__conv__weight=(4, 4, 3, 3, 3)),
        "is a 3-D VAE, for video",
    ),
    "wan.safetensors": (arrays(encoder__conv1__weight=(4, 3, 3, 3, 3)), "is a 3-D VAE, for video"),
    "lora.safetensors": (arrays(unet__a__lora_A__weight=(4, 4)), "is a LoRA"),
    "dit.safetensors": (arrays(x_embedder__proj__weight=(4, 4, 2, 2)), "configs/dit_xl_2.py"),
    "levels.safetensors": (arrays(encoder__down__999999999__a=(1,)), "not the levels of a known"),
    "no_levels.safetensors": (arrays(encoder__down__x=(1,)), "not the levels of a known encoder"),
    "other.pt": (
        lambda p: torch_file(p, {"state_dict": {"a": {"b": np.ones(1)}}, "c": {"d": np.ones(1)}}),
        "none of the known autoencoders: it has state_dict.* (1), c.* (1), and none of encoder",
    ),
    "tiny": (of_class("AutoencoderTiny"), "is diffusers' AutoencoderTiny (TAESD), not the"),
    "dc": (of_class("AutoencoderDC"), "is diffusers' AutoencoderDC (DC-AE); the networks here"),
    "wan": (of_class("AutoencoderKLWan"), "AutoencoderKLWan, a 3-D VAE, for video; the networks"),
    "two": (files("a.ckpt", "b.ckpt"), "has a.ckpt, b.ckpt; name the one that is meant"),
    "none": (files("README.md"), "no weights (.safetensors, .bin, .pt), but README.md; name a"),
    "lost": (files(f"{WEIGHTS}-00001-of-00002.bin"), "has shards without their .index.json"),
    "emptied": (files(f"{WEIGHTS}.safetensors.index.json"), "names 0 shards"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_such_weights_is_called_what_it_is(name, tmp_path):
    make, words = BAD[name]
    make(tmp_path / name)
    with pytest.raises(WeightsError) as error:
        import_weights(str(tmp_path / name), str(tmp_path / "run"))
    message = str(error.value)
    assert words in message and name in message and "\n" not in message
    assert not (tmp_path / "run").exists()


def test_of_a_pipeline_the_part_that_is_meant_is_taken(tmp_path):
    """The transformer for a DiT's config; the file named itself, with its config.json."""
    variant(tmp_path / "vae")
    write(tmp_path / "transformer" / f"{WEIGHTS}.safetensors", {"a": np.ones(2)})
    describe(tmp_path / "transformer", {"_class_name": "DiTTransformer2DModel"})
    found = find_weights(str(tmp_path), ("transformer",))
    assert found.files == [tmp_path / "transformer" / f"{WEIGHTS}.safetensors"]
    file = tmp_path / "vae" / f"{WEIGHTS}.fp16.safetensors"
    assert find_weights(str(file)) == find_weights(str(tmp_path)) == ([file], KL)


def test_a_shard_that_is_missing_is_named(tmp_path):
    shards(tmp_path / "vae")
    os.remove(tmp_path / "vae" / f"{WEIGHTS}-00002-of-00002.safetensors")
    with pytest.raises(WeightsError, match="2 shards, of which 1 are not there, as .*-00002-of"):
        read_weights(str(tmp_path))


def test_a_name_that_is_there_twice_is_refused(tmp_path):
    write(tmp_path / "a.safetensors", diffusers() | prefixed("module.", diffusers()))
    with pytest.raises(WeightsError, match=r"a.safetensors: it has .* twice, under several names"):
        read_weights(str(tmp_path / "a.safetensors"))


@pytest.mark.parametrize("factor", ["much", -1, [1]])
def test_factors_that_are_none_are_refused(factor, tmp_path):
    write(tmp_path / "vae" / f"{WEIGHTS}.safetensors", diffusers())
    describe(tmp_path / "vae", KL | {"scaling_factor": factor})
    with pytest.raises(ValueError, match=r"scaling_factor"):
        import_weights(str(tmp_path / "vae"), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_factors_come_into_a_run_and_go_out_again(tmp_path):
    """As SD 3's; without a config."""
    write(tmp_path / "vae" / f"{WEIGHTS}.safetensors", diffusers(n_z=16, has_convs=False))
    factors = {"scaling_factor": 1.5305, "shift_factor": 0.0609}
    describe(tmp_path / "vae", KL | factors | {"latents_mean": None})
    imported = import_weights(str(tmp_path / "vae"), str(tmp_path / "run"))
    assert imported[::2] == ("diffusers", "") and imported.config.model.encoder.n_z == 16
    vae = export_weights(str(tmp_path / "run"), str(tmp_path / "out"), layout="diffusers")
    assert factors.items() <= vae.config.model.bottleneck.to_dict().items()
    np.testing.assert_allclose(vae.latent_mean, [0.0609] * 16)
    np.testing.assert_allclose(vae.latent_std, [1 / 1.5305] * 16)
    described = json.loads((tmp_path / "out" / "config.json").read_text())
    assert factors.items() <= described.items()
    back = read_weights(str(tmp_path / "out"))
    assert back.config == described and back.left_out == ""


def test_factors_by_channel_are_left_out_and_named(tmp_path):
    write(tmp_path / f"{WEIGHTS}.safetensors", diffusers())
    describe(tmp_path, KL | {"scaling_factor": 0.5, "latents_mean": [0.0] * 4})
    weights = read_weights(str(tmp_path))
    assert weights.left_out == "latents_mean of config.json"
    config = with_factors(common.sd_vae(), weights.config)
    assert config.model.bottleneck.scaling_factor == 0


def test_a_config_that_is_named_gets_the_factors_unless_it_has_some():
    named = common.sd_vae()
    found = with_factors(named.copy_and_resolve_references(), KL | {"scaling_factor": 2})
    assert found.model.bottleneck.scaling_factor == 2
    assert named.model.bottleneck.scaling_factor == 0
    named.model.bottleneck.scaling_factor = 3.0
    assert with_factors(named, KL).model.bottleneck.scaling_factor == 3


def test_a_pointer_is_one_line_and_code_2(run_module, tmp_path):
    """With the command, and no --config."""
    (tmp_path / "lfs.safetensors").write_text(LFS)
    process = run_module(
        "epsilon_vae.convert", f"--from={tmp_path}/lfs.safetensors", f"--workdir={tmp_path}/run"
    )
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out) == (2, "") and err.count("\n") == 1
    assert "is a pointer of Git LFS" in err


def test_without_huggingface_hub_a_line_says_how(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    words = r"owner/name: taken for .*'\.\[hub\]', .*`hf download owner/name --local-dir DIR`"
    for name in ("owner/name", "hf://owner/name"):
        with pytest.raises(HubError, match=words):
            find_weights(name)
    with pytest.raises(FileNotFoundError):
        read_weights("nowhere/vae.safetensors")


@pytest.mark.skipif(not importlib.util.find_spec("huggingface_hub"), reason="needs the extra hub")
def test_a_name_on_the_hub_is_fetched(tmp_path):
    """By huggingface_hub itself, of a server that answers as the Hub does."""
    folder = tmp_path / "hub" / "owner" / "name"
    pipeline(folder)
    script = (
        "from epsilon_vae.hub import HubError\n"
        "from epsilon_vae.pretrained.weight_folder import find_weights as find\n"
        "found = find('owner/name')\n"
        "print(found.files[0], found.config)\n"
        "try:\n  find('hf://owner/other')\n"
        "except HubError as error:\n  print(error)\n"
    )
    with serve(tmp_path / "hub", tmp_path / "home") as environment:
        done = subprocess.run(
            [sys.executable, "-c", script],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    fetched, other = done.stdout.splitlines()
    path, _, config = fetched.partition(" ")
    assert config == str(KL) and path.endswith(f"vae/{WEIGHTS}.fp16.safetensors")
    expected = folder / "vae" / f"{WEIGHTS}.fp16.safetensors"
    assert pathlib.Path(path).read_bytes() == expected.read_bytes()
    assert not list((tmp_path / "home").rglob("unet"))  # what is not needed
    assert other.startswith("owner/other: taken for a repository of the Hugging Face Hub")
