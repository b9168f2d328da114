"""Measures what an image of 256 px costs at f 8, 16 and 32: FLOPs, and images a second on a device.

`python -m benchmarks.generation` counts, by XLA on unoptimized programs, allocating no parameters:
DiT-XL/2 on the latents of each config (250 DDPM steps, no guidance: the paper's Table 4), and its
decoder at its number of steps. Where there is a GPU or TPU, or with `--time`, it also times the
sampler of latents, the decoder on a batch, and on its first eight images one by one, as
`Autoencoder.decode` does, on random weights, in turn: medians of three rounds after one to warm up.
`--timed_steps=50` times so many of the 250 steps and multiplies. Ratios are to the first config.
"""

import argparse
import functools
import importlib
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.step_flops import count_flops
from configs import latent_diffusion
from epsilon_vae.diffusion.guidance import Guidance
from epsilon_vae.diffusion.time import respaced
from epsilon_vae.inference.functions import Functions
from epsilon_vae.models.build import build_latent_diffusion, build_networks, build_process
from epsilon_vae.models.dit import DIT_SIZES

RESOLUTION, STEPS, ROUNDS = 256, 250, 3


class System:
    """A DiT of `size`, and the decoder of a config, `sd_m:16` say; the shapes of their weights."""

    def __init__(self, name: str, size: str):
        module, *argument = name.split(":")
        config = importlib.import_module(f"configs.{module}").get_config(*argument)
        config.data.resolution = RESOLUTION
        self.networks, self.nfe = build_networks(config), config.flow.nfe
        self.functions = Functions(
            networks=self.networks, process=build_process(config), spacing=config.flow.spacing
        )
        side, n_z = RESOLUTION // self.networks.f, config.model.encoder.n_z
        self.shape = (side, side, n_z)  # of latents
        dit = latent_diffusion.dit(size, patch=2, f=self.networks.f)
        dit.autoencoder.n_z = n_z
        self.model = build_latent_diffusion(dit)
        key = jax.eval_shape(lambda: jax.random.key(0))
        self.dit_params = jax.eval_shape(lambda key: self.model.init(key, self.shape), key)
        params = jax.eval_shape(lambda key: self.networks.init(key, RESOLUTION), key)
        self.decoder_params = {"decoder": params["decoder"]}

    def flops(self) -> list[float]:
        """XLA's, of one evaluation of the DiT and of the decoder for one image."""
        latents = jax.ShapeDtypeStruct((1, *self.shape), jnp.float32)
        images = jax.ShapeDtypeStruct((1, RESOLUTION, RESOLUTION, 3), jnp.float32)
        t, label = (jax.ShapeDtypeStruct((1,), dtype) for dtype in (jnp.float32, jnp.int32))

        def dit(params, x, t, labels):
            return self.model.predict(params, x, t=t, labels=labels)

        def decoder(params, x, t, latents):
            return self.networks.predict(params, x, t=t, latents=latents)

        programs = (
            (dit, (self.dit_params, latents, t, label)),
            (decoder, (self.decoder_params, images, t, latents)),
        )
        return [count_flops(*program, compiled=False) for program in programs]

    def sample(self, params: dict, labels: jax.Array, steps: int) -> jax.Array:
        """Latents of `labels` `[B]`."""
        indices, times = jnp.arange(len(labels)), respaced(steps)
        return self.model.generate(
            params,
            0,
            indices=indices,
            labels=labels,
            shape=self.shape,
            times=times,
            guidance=Guidance(),
        )

    def decode(self, params: dict, latents: jax.Array) -> jax.Array:
        """Images of latents, all at once."""
        return self.functions.decode(params, latents, jax.random.key(0), self.nfe)

    def decode_singly(self, params: dict, latents: jax.Array) -> jax.Array:
        """Images of latents, one by one."""
        whole = params, self.functions.times(self.nfe), 0
        return jax.lax.map(
            lambda one: self.functions.decode_from_seed(whole, one[None])[0], latents
        )


def random_weights(shapes: dict) -> dict:
    """Arrays of these shapes: no zeros, which some layers begin with and chips are fast on."""
    noise = np.random.default_rng(0).normal(0, 0.02, 1_000_003).astype(np.float32)
    return jax.tree.map(lambda leaf: jax.device_put(np.resize(noise, leaf.shape)), shapes)


def measure(systems: dict[str, System], batch_size: int, steps: int) -> dict[str, list[float]]:
    """Seconds a batch of each system: latents, decoding, decoding one by one."""
    labels = jnp.arange(batch_size) % 1000
    dit_params = random_weights(next(iter(systems.values())).dit_params)
    calls = []
    for system in systems.values():
        latents = jax.random.normal(jax.random.key(1), (batch_size, *system.shape))
        params = random_weights(system.decoder_params)
        sample = functools.partial(system.sample, steps=steps), (dit_params, labels)
        decode, singly = (params, latents), (params, latents[:8])
        calls += [sample, (system.decode, decode), (system.decode_singly, singly)]
    start = time.monotonic()
    with ThreadPoolExecutor() as pool:
        lowered = (jax.jit(function).lower(*arguments) for function, arguments in calls)
        compiling = [pool.submit(program.compile) for program in lowered]
        programs = [program.result() for program in compiling]
    print(f"{len(programs)} programs compiled in {time.monotonic() - start:.0f} s", flush=True)
    seconds = np.zeros((1 + ROUNDS, len(calls)))
    for times in seconds:
        for i, (program, (_, arguments)) in enumerate(zip(programs, calls, strict=True)):
            start = time.monotonic()
            jax.block_until_ready(program(*arguments))
            times[i] = time.monotonic() - start
    medians = np.median(seconds[1:], axis=0).reshape(-1, 3)
    medians *= [STEPS / steps, 1, batch_size / min(8, batch_size)]
    return dict(zip(systems, medians.tolist(), strict=True))


def print_table(heading: str, rows: dict[str, list[float]]) -> None:
    """Numbers under the words of the heading."""
    print(" " * 10 + "".join(f"{column:>12}" for column in heading.split(",")))
    for name, row in rows.items():
        print(f"{name:<10}" + "".join(f"{value:>12.2f}" for value in row), flush=True)


def main() -> None:
    """Prints FLOPs, and times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = ["sd_vae:8", "sd_m:8", "sd_m:16", "sd_m:32"]
    parser.add_argument("configs", nargs="*", default=default, help="NAME:ARGUMENT in configs/")
    parser.add_argument("--size", default="xl", choices=DIT_SIZES, help="of the DiT")
    parser.add_argument("--time", action="store_true", help="on a CPU too")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--timed_steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    systems = {name: System(name, arguments.size) for name in arguments.configs}
    print(f"DiT-{arguments.size.upper()}/2: GFLOP an evaluation, TFLOP an image")
    rows = {}
    for name, system in systems.items():
        dit, decoder = system.flops()
        latents, decoding = STEPS * dit / 1e12, (len(system.times) - 1) * decoder / 1e12
        rows[name] = [dit / 1e9, decoder / 1e9, latents, decoding, latents + decoding]
    first = rows[arguments.configs[0]][-1]
    rows = {name: [*row, first / row[-1]] for name, row in rows.items()}
    print_table("DiT,decoder,latents,decoding,both,ratio", rows)
    if not arguments.time and jax.default_backend() == "cpu":
        return
    batch_size, steps = arguments.batch_size, arguments.timed_steps
    print(f"{jax.devices()[0].device_kind}: seconds for {batch_size} images, images a second")
    print(f"(of the latents {steps} steps timed, times {STEPS / steps:g})", flush=True)
    seconds = measure(systems, batch_size, steps)
    rates = {n: batch_size / (latents + decode) for n, (latents, decode, _) in seconds.items()}
    first = rates[arguments.configs[0]]
    rows = {name: [*row, rates[name], rates[name] / first] for name, row in seconds.items()}
    print_table("latents,decoding,one by one,images/s,ratio", rows)


if __name__ == "__main__":
    main()
