"""Images a second of decoders, ours and SD-VAE's in PyTorch: `python -m benchmarks.decode_speed`.

ε-VAE M and H at one and three steps, SD-VAE as we have it, and SD-VAE in diffusers' AutoencoderKL
(bfloat16, channels_last, torch.compile), at 256 and 512 px, with random weights: all of one size
in turn. One image at a time, and the batch at which a decoder is fastest.
"""

import argparse
import importlib
import os
import pathlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import jax
import ml_collections

from benchmarks import timing
from benchmarks.generation import random_weights
from epsilon_vae.errors import reason
from epsilon_vae.inference.functions import Functions
from epsilon_vae.models.build import build_networks, build_process
from epsilon_vae.models.decoder import SDDecoder
from epsilon_vae.parallel import devices, programs
from epsilon_vae.parallel.mesh import local_mesh


class Decoder:
    """A config's decoder, with random weights."""

    def __init__(self, config: ml_collections.ConfigDict):
        self.networks, self.is_bfloat16 = build_networks(config), config.dtype == "bfloat16"
        self._functions = Functions(
            networks=self.networks, process=build_process(config), spacing=config.flow.spacing
        )
        self.n_z = config.model.encoder.n_z
        key = jax.eval_shape(lambda: jax.random.key(0))
        init = lambda key: self.networks.init(key, config.data.resolution)  # noqa: E731
        self._params = random_weights({"decoder": jax.eval_shape(init, key)["decoder"]})

    @property
    def is_diffusion(self) -> bool:
        """Whether it decodes in steps."""
        return self._functions.is_diffusion

    def call(self, batch_size: int, resolution: int, nfe: int) -> Callable[[], None]:
        """A call that decodes so many images of `resolution`, compiled."""
        side = resolution // self.networks.f
        latents = jax.random.normal(jax.random.key(1), (batch_size, side, side, self.n_z))

        def decode(params: dict, latents: jax.Array) -> jax.Array:
            return self._functions.decode(params, latents, jax.random.key(0), nfe)

        options = programs.compiler_options(local_mesh())
        jitted = jax.jit(decode, compiler_options=options)
        compiled = jitted.lower(self._params, latents).compile()
        return lambda: jax.block_until_ready(compiled(self._params, latents))


def load(name: str) -> ml_collections.ConfigDict:
    """A config by its name in configs/, or its file; with an argument, as sd_m:16."""
    name, _, argument = name.partition(":")
    path = pathlib.Path(name if "/" in name else f"configs/{name}").with_suffix("")
    return importlib.import_module(".".join(path.parts)).get_config(*filter(None, [argument]))


def makers(
    decoders: dict[str, Decoder], batch_size: int, resolution: int, steps: list[int]
) -> dict[str, Callable[[], Callable[[], None]]]:
    """What makes each of our calls, by its name in the table."""
    made: dict[str, Callable] = {}
    for name, decoder in decoders.items():
        for nfe in steps if decoder.is_diffusion else [1]:
            words = f"{name}, NFE {nfe}" if decoder.is_diffusion else name
            made[words] = lambda decoder=decoder, nfe=nfe: decoder.call(batch_size, resolution, nfe)
    return made


def unless_out_of_memory(make: Callable) -> object | None:
    """What `make` gives, or None where memory is too small."""
    try:
        return make()
    except Exception as error:
        if timing.is_out_of_memory(error):
            return None
        raise


def torch_makers(decoders: dict[str, Decoder], batch_size: int, resolution: int) -> dict:
    """The same of PyTorch, which alone tells how it runs; none where it is missing."""
    try:
        from benchmarks import torch_networks
    except ImportError as error:
        print(f"not against PyTorch: {reason(error)}; pip install torch diffusers")
        return {}
    return {
        f"{name}, PyTorch": lambda decoder=decoder: torch_networks.decoding_call(
            decoder.networks.decoder,
            decoder.n_z,
            batch_size=batch_size,
            resolution=resolution,
            bfloat16=decoder.is_bfloat16,
        )
        for name, decoder in decoders.items()
        if isinstance(decoder.networks.decoder, SDDecoder)
    }


def rates(
    decoders: dict[str, Decoder], batch_size: int, resolution: int, *, steps: list[int], rounds: int
) -> dict[str, float]:
    """Images a second by name; what does not fit into memory is left out.

    Args:
      decoders: by name.
      batch_size, resolution: of the images.
      steps: of decoders that denoise.
      rounds: of which the median is taken.
    """
    ours = makers(decoders, batch_size, resolution, steps)
    with ThreadPoolExecutor() as pool:
        compiled = list(pool.map(unless_out_of_memory, ours.values()))
    calls = {}
    for name, call in zip(ours, compiled, strict=True):
        if call and unless_out_of_memory(lambda call=call: [call()]):
            calls[name] = call
    for name, make in torch_makers(decoders, batch_size, resolution).items():
        if made := unless_out_of_memory(make):
            how, call = made
            calls[f"{name} {how}"] = call
    seconds = timing.seconds_in_turn(calls, rounds)
    return {name: batch_size / taken for name, taken in seconds.items()}


def report(
    decoders: dict[str, Decoder],
    resolution: int,
    *,
    batch_sizes: list[int],
    steps: list[int],
    rounds: int,
) -> None:
    """Prints images a second of each decoder at each batch size, and ratios to PyTorch's.

    Args:
      decoders: by name.
      resolution: of the images.
      batch_sizes: to try.
      steps, rounds: of `rates`.
    """
    table: dict[str, dict[int, float]] = {}
    for size in batch_sizes:
        for name, rate in rates(decoders, size, resolution, steps=steps, rounds=rounds).items():
            table.setdefault(name, {})[size] = rate
    rival = next((row for name, row in table.items() if "PyTorch" in name), {})
    first = min(batch_sizes)
    columns = [*(f"batch {size}" for size in batch_sizes), "best", "at batch"]
    columns += [f"over PyTorch's {words}" for words in (f"at {first}", "best")] if rival else []
    print(f"{f'{resolution} px, images a second':<28}" + "".join(f"{x:>12}  " for x in columns))
    for name, row in table.items():
        best = max(row, key=row.get)
        values = [*(row.get(size) for size in batch_sizes), row[best], best]
        if rival:
            pairs = (row.get(first), rival.get(first)), (row[best], max(rival.values()))
            values += [mine and theirs and mine / theirs for mine, theirs in pairs]
        cells = (
            f"{'-' if x is None else f'{x:.4g}':>{max(len(c), 12)}}  "
            for x, c in zip(values, columns, strict=True)
        )
        print(f"{name:<28}" + "".join(cells), flush=True)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = ["sd_m", "sd_h", "sd_vae"]
    parser.add_argument("configs", nargs="*", default=default, help="NAME:ARGUMENT in configs/")
    parser.add_argument("--resolutions", default="256,512", help="in pixels")
    parser.add_argument("--batch_sizes", default="1,16,64")
    parser.add_argument("--steps", default="1,3", help="NFE of decoders that denoise")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), help="the configs' by default")
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs memory too
    programs.keep_programs()
    configs = {name: load(name) for name in arguments.configs}
    for config in configs.values():
        config.dtype = arguments.dtype or config.dtype
    decoders = {name: Decoder(config) for name, config in configs.items()}
    print(f"{devices.in_words()}, JAX {jax.__version__}")
    numbers = (arguments.batch_sizes, arguments.steps, arguments.resolutions)
    batch_sizes, steps, resolutions = ([int(x) for x in text.split(",")] for text in numbers)
    for resolution in resolutions:
        report(decoders, resolution, batch_sizes=batch_sizes, steps=steps, rounds=arguments.rounds)


if __name__ == "__main__":
    main()
