"""What the golden tests and the parity tests share: weights, inputs, cases and the tolerance.

Nothing here needs PyTorch. Every number comes from a NumPy seed, so that a machine without PyTorch
rebuilds the networks whose outputs `tests/parity/make_golden.py` has stored. A golden file holds
the values of PyTorch's networks, never of ours.
"""

import functools
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from epsilon_vae.losses.perceptual import LPIPS
from epsilon_vae.models.decoder import SDDecoder
from epsilon_vae.models.dit import DiT, DiTDecoder
from epsilon_vae.models.encoder import SDEncoder
from epsilon_vae.models.unet import UNet
from tests.helpers import QUICK_COMPILE
from tests.parity.weights import to_diffusers

# Largest difference that a comparison allows, over the largest absolute value of the reference.
TOLERANCE = 1e-4
GOLDEN = pathlib.Path(__file__).parent / "golden"
IMAGE_SIZE = 32
BATCH = 2
# Values that a golden file keeps of each gradient.
SAMPLES = 16

# 16 groups over 32 channels and more: with one channel a group, the norm would cancel the bias (and
# DDPM's time embedding) before it, and their gradients would be rounding errors.
MODELS: dict[str, nn.Module] = {
    "unet_adm": UNet(channels=32, blocks=1, attention_factors=(4, 8), head_dim=32, groups=16),
    "unet_ddpm": UNet(
        channels=32,
        blocks=1,
        attention_factors=(4, 8),
        head_dim=None,
        groups=16,
        adaptive_norm=False,
        resample_in_blocks=False,
    ),
    "sd_encoder": SDEncoder(n_z=8, multipliers=(1, 2, 4, 4), channels=32, blocks=1, groups=16),
    "sd_decoder": SDDecoder(multipliers=(1, 2, 4, 4), channels=32, blocks=2, groups=16),
    "dit_decoder": DiTDecoder(DiT(depth=2, width=64, heads=2, patch=4, out_channels=3)),
}
# Factors of all kernels and biases. 1 keeps activations near one; 0.03 makes what the GroupNorms
# see so small that their epsilons count: at 1, a wrong epsilon hides below the tolerance.
GAINS = (1.0, 0.03)
LPIPS_NETS = ("vgg16", "alexnet")


def random_params(module: nn.Module, inputs: dict, gain: float = 1.0) -> dict:
    """Parameters of `module`, all random, also those that it initialises with zeros or ones."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), **inputs)["params"]
    random = np.random.RandomState(0)  # the one generator whose stream NumPy has frozen
    flat = traverse_util.flatten_dict(shapes, sep="/")
    values = {path: _random_leaf(random, path, flat[path].shape, gain) for path in sorted(flat)}
    return traverse_util.unflatten_dict(values, sep="/")


def _random_leaf(
    random: np.random.RandomState, path: str, shape: tuple[int, ...], gain: float
) -> np.ndarray:
    """A leaf that, at a gain of 1, keeps activations near one: kernels of variance 1 / fan_in."""
    normal = random.standard_normal(shape).astype(np.float32)
    match path.rsplit("/", 1)[-1]:
        case "kernel":
            return normal * np.float32(gain / np.sqrt(np.prod(shape[:-1])))
        case "bias" | "embedding":
            return normal * np.float32(gain * 0.1)
        case "scale":
            return 1 + np.float32(0.1) * normal
        case name:
            raise ValueError(f"{path}: no rule to fill a parameter named {name!r}")


def model_inputs(module: nn.Module, n_z: int = 8, f: int = 8) -> dict[str, np.ndarray]:
    """The arguments of `module` by name: images, latents (x and t None), or x, t and latents."""
    random = np.random.RandomState(1)
    images = random.standard_normal((BATCH, IMAGE_SIZE, IMAGE_SIZE, 3)).astype(np.float32)
    if isinstance(module, SDEncoder):
        return {"images": images}
    latents = random.standard_normal((BATCH, IMAGE_SIZE // f, IMAGE_SIZE // f, n_z))
    if isinstance(module, SDDecoder):
        return {"x": None, "t": None, "latents": latents.astype(np.float32)}
    # Times whose product with 1000 is exact: both sides then see the same sinusoids.
    t = np.array([0.25, 0.8125], np.float32)
    return {"x": images, "t": t, "latents": latents.astype(np.float32)}


def projection(shape: tuple[int, ...]) -> np.ndarray:
    """Random weights of an output; their sum of products is the scalar that is differentiated."""
    return np.random.RandomState(2).standard_normal(shape).astype(np.float32)


def image_pair(size: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Two batches of images in [-1, 1]: uniform noise, and the same blended with other noise."""
    random = np.random.RandomState(3)
    images, noise = random.uniform(-1, 1, (2, BATCH, size, size, 3)).astype(np.float32)
    return images, np.float32(0.6) * images + np.float32(0.4) * noise


def run_flax(
    module: nn.Module,
    params: dict,
    inputs: dict,
    names: Callable[[nn.Module, dict], dict[str, np.ndarray]] = to_diffusers,
) -> dict[str, np.ndarray]:
    """Output, and gradients of its projection, in full float32: `reference.run_torch` of ours.

    Gradients by inputs carry the inputs' names, those by parameters the names and layouts that
    `names` gives them.
    """
    with jax.default_matmul_precision("highest"):
        output, by_params, by_inputs = _run_flax(module, params, inputs)
    return {**names(module, by_params), **by_inputs, "output": output}


@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICK_COMPILE)
def _run_flax(module: nn.Module, params: dict, inputs: dict) -> tuple[jax.Array, dict, dict]:
    """Compiled once for all weights of a module; without gradients by labels."""
    floats = {
        name: value
        for name, value in inputs.items()
        if value is not None and jnp.issubdtype(value.dtype, jnp.floating)
    }

    def forward(params: dict, floats: dict) -> jax.Array:
        return module.apply({"params": params}, **(inputs | floats))

    output, pullback = jax.vjp(forward, params, floats)
    return output, *pullback(jnp.asarray(projection(output.shape)))


def run_lpips(net: str, params: dict) -> dict[str, np.ndarray]:
    """Distances of `image_pair()` in float32; the gradient of their sum by the first images.

    The gradient is of convolutions in float64: ReLU and max-pooling make it a step function, and in
    float32 a rounding error of 1e-7 at an edge moves VGG16's by 2 %, for one such pair in eight.
    """
    images, others = image_pair()
    with jax.default_matmul_precision("highest"):
        distances = jax.jit(LPIPS(net))(params, images, others)
    with jax.enable_x64(True):
        by_images = jax.jit(jax.grad(lambda i, p, o: jnp.sum(LPIPS(net, jnp.float64)(p, i, o))))
        gradient = by_images(images.astype(np.float64), params, others.astype(np.float64))
    return {"output": np.asarray(distances), "images": np.asarray(gradient)}


def sample(values: np.ndarray) -> np.ndarray:
    """`SAMPLES` values at even distances in the flattened array (repeated where it has fewer)."""
    flat = np.asarray(values).reshape(-1)
    return flat[np.linspace(0, flat.size - 1, SAMPLES).astype(int)]


def assert_close(actual: dict, expected: dict, scales: dict[str, float] | None = None) -> None:
    """Requires the same names, shapes and, within `TOLERANCE` of each one's scale, values.

    Args:
      actual: arrays by name.
      expected: the reference's.
      scales: largest absolute value of each reference; None computes it from `expected`.
    """
    errors = relative_errors(actual, expected, scales or reference_scales(expected))
    too_far = {name: error for name, error in errors.items() if not error <= TOLERANCE}
    assert not too_far, f"difference over scale above {TOLERANCE}: {too_far}"


def relative_errors(actual: dict, expected: dict, scales: dict[str, float]) -> dict[str, float]:
    """Largest absolute difference over the scale, by name."""
    assert sorted(actual) == sorted(expected)
    errors = {}
    for name, reference in expected.items():
        value = np.asarray(actual[name])
        assert value.shape == reference.shape, f"{name}: {value.shape}, not {reference.shape}"
        errors[name] = float(np.max(np.abs(value - reference))) / scales[name]
    return errors


def reference_scales(expected: dict) -> dict[str, float]:
    """Largest absolute value of each reference array.

    Softmax ignores what all keys share: the exact gradient by a key bias is zero, and what is
    computed is the rounding error of a sum. Its scale is that of the same layer's weight.
    """
    names = {name: name.replace(".to_k.bias", ".to_k.weight") for name in expected}
    return {name: float(np.max(np.abs(expected[names[name]]))) for name in expected}


def assert_golden(name: str, actual: dict) -> None:
    """Requires what `tests/golden/<name>.npz` keeps: the output and samples of all gradients."""
    with np.load(GOLDEN / f"{name}.npz") as golden:
        names = [str(gradient) for gradient in golden["names"]]
        expected = dict(zip(names, golden["samples"], strict=True))
        scales = dict(zip(names, map(float, golden["scales"]), strict=True))
        expected["output"] = golden["output"]
    scales["output"] = float(np.max(np.abs(expected["output"])))
    samples = {key: sample(actual[key]) for key in names}
    assert_close(samples | {"output": np.asarray(actual["output"])}, expected, scales)
