"""How fast a config trains on random images: `python -m benchmarks.train_speed --config=sd_m`.

It prints milliseconds a step, images a second, model TFLOP/s and their share of the matrix rate
that this device reaches in the same run (MFU), the peak of its memory, the seconds to the first
step, and where the device's time goes by kind of kernel. --batch_sizes=64,128,256 tries several.

`--against=torch` also times the same decoder in PyTorch (diffusers' UNet2DModel, channels_last,
torch.compile), forward and backward, in turn with ours. Both have float32 weights and compute in
`config.dtype`.

--config.KEY=VALUE sets a key of the config. Compiled programs are kept where `epsilon_vae.main`
keeps them: with `XDG_CACHE_HOME=$(mktemp -d)` all is compiled anew.
"""

from __future__ import annotations

import copy
import functools
import os
import time
import types
from collections.abc import Callable, Sequence

import ml_collections
from absl import app, flags
from etils import epy
from ml_collections import config_flags

from epsilon_vae import command_line
from epsilon_vae.command_line import UsageError, exit_codes, parse_flags
from epsilon_vae.config import check, check_kind

with epy.lazy_imports():  # of what takes seconds, and is not needed for flags
    import jax
    import jax.numpy as jnp
    import numpy as np

    from benchmarks import generation, kernels, timing
    from epsilon_vae.models import build as models
    from epsilon_vae.models import unet
    from epsilon_vae.parallel import devices, mesh, programs
    from epsilon_vae.training import build, flops, sharded

CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, as configs/sd_m.py.")
BATCH_SIZES = flags.DEFINE_list("batch_sizes", None, "To try; config.batch_size by default.")
ROUNDS = flags.DEFINE_integer("rounds", 10, "Of which the median is taken.", lower_bound=1)
CALLS = flags.DEFINE_integer("calls", 3, "Steps of a round, and of the trace.", lower_bound=1)
LONGEST = flags.DEFINE_integer("longest", 30, "So many kernels are listed.", lower_bound=0)
TRACE = flags.DEFINE_string("trace", None, "Folder to leave the trace in, for XProf or Perfetto.")
AGAINST = flags.DEFINE_enum("against", None, ["torch"], "What the decoder is compared with.")

# Outputs, and side of the kernel, of the convolutions of LPIPS's networks.
LPIPS_CONVOLUTIONS = {
    "vgg16": [(n, 3) for n in (64, 64, 128, 128, 256, 256, 256, *(512,) * 6)],
    "alexnet": [(64, 11), (192, 5), (384, 3), (256, 3), (256, 3)],
}
LPIPS_TAPS = {"vgg16": (64, 128, 256, 512, 512), "alexnet": (64, 192, 384, 256, 256)}


def check_flags() -> None:
    """Raises `UsageError` for flags that are missing or do not fit."""
    command_line.check_config(CONFIG, "configs/sd_m.py")
    for size in BATCH_SIZES.value or ():
        if not size.isdecimal() or int(size) == 0:
            raise UsageError(f"--batch_sizes={','.join(BATCH_SIZES.value)}: {size!r} is no size")
    if AGAINST.value:
        check_kind(CONFIG.value, "--against=torch: --config", latent_diffusion=False)


def lpips_weights(net: str) -> dict:
    """Random ones of LPIPS's shapes: what matters here is what they cost."""
    rng, params, features = np.random.default_rng(0), {}, 3
    for i, (outputs, side) in enumerate(LPIPS_CONVOLUTIONS[net]):
        shape = (side, side, features, outputs)
        kernel = rng.normal(0, (2 / (side**2 * features)) ** 0.5, shape).astype(np.float32)
        params[f"conv{i}"] = {"kernel": kernel, "bias": np.zeros(outputs, np.float32)}
        features = outputs
    for i, outputs in enumerate(LPIPS_TAPS[net]):
        params[f"linear{i}"] = {"kernel": np.full(outputs, 1 / outputs, np.float32)}
    return params


class Step:
    """The train step of a config and a batch of random images; `seconds` tells how it started."""

    def __init__(self, config: ml_collections.ConfigDict, batch_size: int):
        config = copy.deepcopy(config)
        config.batch_size = self.batch_size = batch_size
        check(config, jax.device_count())
        self.seconds: dict[str, float] = {}
        self._mesh = mesh.make_mesh(**config.mesh)
        step = build.build_train_step(config)
        frozen = {"seed": np.uint32(config.seed)}
        if config.loss.get("lpips_weight", 0) > 0:
            frozen["lpips"] = lpips_weights(config.loss.lpips_net)
        plain = copy.deepcopy(config)  # what remat computes again is no model FLOP
        plain.model.remat, plain.optim.accumulate = "none", 1
        self.flops = flops.step_flops(build.build_train_step(plain), frozen, batch_size)
        with jax.set_mesh(self._mesh):
            self._start(step, frozen, config.seed)

    def _start(self, step, frozen: dict, seed: int) -> None:
        target = sharded.state_shapes(step, self._mesh)
        shapes = sharded.batch_shapes(step, self.batch_size, self._mesh)
        self._frozen = jax.device_put(frozen, mesh.replicated(self._mesh))
        self._batch = jax.device_put(random_batch(shapes), jax.tree.map(_sharding, shapes))
        self._state = self._timed("state", lambda: sharded.make_state(step, seed, target))
        # Layers that begin with zeros would have gradients of zeros, on which chips are fast.
        params = self._state.params
        params = jax.tree.map(jnp.add, params, generation.random_weights(params))
        self._state = self._state.replace(params=params)
        jitted = sharded.jit_step(step, target, self._mesh)
        arguments = self._state, self._frozen, self._batch
        lowered = self._timed("tracing", lambda: jitted.trace(*arguments).lower())
        with kernels.trace(device=False) as profile:
            self.compiled = self._timed("compiling", lowered.compile)
        tuning = kernels.seconds_of(profile[0], r"autotun|algorithm-picker")
        self.seconds |= {"compiling": self.seconds["compiling"] - tuning, "autotuning": tuning}
        self._timed("first run", lambda: self.run(1))

    def _timed(self, name: str, function: Callable):
        start = time.perf_counter()
        result = jax.block_until_ready(function())
        self.seconds[name] = time.perf_counter() - start
        return result

    def run(self, calls: int) -> None:
        """Does so many steps, and waits for the last."""
        for _ in range(calls):
            self._state, metrics = self.compiled(self._state, self._frozen, self._batch)
        jax.block_until_ready(metrics)

    def trace(self, calls: int, folder: str | None) -> jax.profiler.ProfileData:
        """A trace of so many steps; `folder` is of `kernels.trace`."""
        with kernels.trace(folder) as profile:
            self.run(calls)
        return profile[0]


def random_batch(shapes: dict[str, jax.ShapeDtypeStruct]) -> dict[str, np.ndarray]:
    """A batch of these shapes: images or latents are random, labels are 0."""
    rng = np.random.default_rng(0)
    return {
        name: (0.5 * rng.standard_normal(x.shape)).astype(x.dtype)
        if jnp.issubdtype(x.dtype, jnp.floating)
        else np.zeros(x.shape, x.dtype)
        for name, x in shapes.items()
    }


def _sharding(x: jax.ShapeDtypeStruct) -> jax.sharding.Sharding:
    return x.sharding


def measure(config: ml_collections.ConfigDict, sizes: list[int], matrix_rate: float) -> None:
    """Prints a line for each batch size, and the kernels of the fastest."""
    print("  batch  ms a step  images/s  TFLOP/s    MFU  peak GiB  seconds to the first step")
    fastest: dict = {"rate": 0.0}
    for size in sizes:
        step = call = None  # their memory is needed
        try:
            step = Step(config, size)
            call = functools.partial(step.run, CALLS.value)
            taken = timing.seconds_in_turn({"step": call}, ROUNDS.value)["step"] / CALLS.value
        except jax.errors.JaxRuntimeError as error:
            if not timing.is_out_of_memory(error):
                raise
            print(f"{size:>7}  out of memory", flush=True)
            continue
        rate, (peak, how) = step.flops / taken, timing.peak_bytes(step.compiled)
        parts = ", ".join(f"{name} {value:.1f}" for name, value in step.seconds.items())
        print(
            f"{size:>7}{taken * 1e3:>11.2f}{size / taken:>10.1f}{rate / 1e12:>9.3g}"
            f"{rate / matrix_rate / jax.device_count():>7.1%}{peak / 2**30:>10.2f}"
            f"  {sum(step.seconds.values()):.1f}: {parts}",
            flush=True,
        )
        if size / taken > fastest["rate"]:
            trace, text = step.trace(CALLS.value, TRACE.value), step.compiled.as_text()
            fastest = {"rate": size / taken, "size": size, "trace": trace, "text": text}
            seconds = taken
    if fastest["rate"]:
        print(f"(peak: {how}, of this process so far)\nbatch {fastest['size']}, ", end="")
        found = kernels.kernels(fastest["trace"], fastest["text"])
        kernels.print_table(found, calls=CALLS.value, seconds=seconds, longest=LONGEST.value)


def our_call(
    networks: models.AutoencoderModel, batch_size: int, resolution: int
) -> Callable[[], None]:
    """A call of the decoder forward and backward, by its weights."""
    module = networks.decoder
    side, key = resolution // networks.f, jax.random.key(0)
    x = jax.random.normal(key, (batch_size, resolution, resolution, 3))
    latents = jax.random.normal(key, (batch_size, side, side, networks.encoder.n_z))
    t = jnp.full((batch_size,), 0.5)
    shapes = jax.eval_shape(module.init, key, x, t, latents)

    @functools.partial(jax.jit, compiler_options=programs.compiler_options(mesh.local_mesh()))
    def gradient(params: dict, *inputs: jax.Array) -> dict:
        return jax.grad(lambda params: jnp.mean(module.apply(params, *inputs) ** 2))(params)

    params = generation.random_weights(shapes)
    return lambda: jax.block_until_ready(gradient(params, x, t, latents))


def counterpart(config: ml_collections.ConfigDict) -> types.ModuleType:
    """`benchmarks.torch_networks`, which imports PyTorch.

    Raises:
      UsageError: it has no such decoder, or PyTorch or diffusers is missing.
    """
    decoder = models.build_networks(config).decoder
    if not isinstance(decoder, unet.UNet) or decoder.conditioning != "concat":
        raise UsageError(
            "--against=torch: diffusers has the UNet alone; decoder.name = 'adm' or 'ddpm' with "
            "conditioning = 'concat' and input_skip = False would do"
        )
    try:
        from benchmarks import torch_networks
    except ImportError as error:
        raise UsageError(f"--against=torch: {error}; pip install torch diffusers") from error
    return torch_networks


def compare(
    config: ml_collections.ConfigDict, torch_networks: types.ModuleType, batch_size: int
) -> None:
    """Prints how fast the decoder is here and in PyTorch, forward and backward."""
    networks = models.build_networks(config)
    try:
        start = time.perf_counter()
        ours = our_call(networks, batch_size, config.data.resolution)
        ours()
        middle = time.perf_counter()
        how, theirs = torch_networks.training_call(
            networks.decoder,
            3 + networks.encoder.n_z,
            batch_size=batch_size,
            resolution=config.data.resolution,
            bfloat16=config.dtype == "bfloat16",
        )
        first = (middle - start, time.perf_counter() - middle)
        seconds = timing.seconds_in_turn({"ours": ours, "theirs": theirs}, ROUNDS.value)
    except Exception as error:
        if not timing.is_out_of_memory(error):
            raise
        print(f"decoder, batch {batch_size}: out of memory", flush=True)
        return
    print(f"decoder, forward and backward, batch {batch_size}, {torch_networks.WORDS}:")
    names = ("ours", f"PyTorch, {how}")
    for name, taken, waited in zip(names, seconds.values(), first, strict=True):
        rate = f"{taken * 1e3:>9.2f} ms{batch_size / taken:>10.1f} images/s"
        print(f"  {name:<20}{rate}  (first call {waited:.1f} s)")
    ratio = seconds["theirs"] / seconds["ours"]
    gib = f"; PyTorch's peak {peak:.1f} GiB" if (peak := torch_networks.peak_gib()) else ""
    print(f"  ours / PyTorch's images a second: {ratio:.2f}{gib}", flush=True)


def main(argv: Sequence[str]) -> None:
    """Prints all that the flags ask for."""
    del argv
    # PyTorch shall find memory beside JAX.
    if AGAINST.value:
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    with exit_codes():
        config = CONFIG.value
        sizes = [int(size) for size in BATCH_SIZES.value or [config.batch_size]]
        start = time.perf_counter()
        check(config, jax.device_count())
        programs.keep_programs()
        torch_networks = counterpart(config) if AGAINST.value else None
        started = time.perf_counter() - start
        print(f"{devices.in_words()}, JAX {jax.__version__}, imported in {started:.1f} s")
        rate, side = timing.matrix_rate(jnp.dtype(config.dtype))
        print(f"{config.dtype}, {side} x {side} products: {rate / 1e12:.3g} TFLOP/s on one device")
        for size in sizes if AGAINST.value else ():
            compare(config, torch_networks, size)
        measure(config, sizes, rate)


if __name__ == "__main__":
    app.run(main, flags_parser=lambda argv: parse_flags(argv, check_flags))
