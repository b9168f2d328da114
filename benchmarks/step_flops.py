"""FLOPs of a whole train step beside the sum of what it cannot do without, by XLA's count.

`python -m benchmarks.step_flops [tiny] [sd_m]` prints a table for each config: encoder and decoder
forward and backward; the perceptual net twice forward and once backward to its input; the
discriminator's passes for the generator, real, fake and R1. Counted on unoptimized programs at
batch 2, so that nothing is compiled; `--compiled` counts what XLA's optimizer leaves of them.
"""

import argparse
import importlib

import jax
import jax.numpy as jnp

from epsilon_vae.losses.adversarial import generator_loss, r1_penalty
from epsilon_vae.training.build import build_train_step, frozen_inputs

BATCH_SIZE = 2


def parts(step, frozen, resolution: int) -> dict[str, tuple]:
    """Name → (function, arguments) of the whole step and of each part, on shapes alone."""
    objective = step.objective
    networks, adversary = objective.networks, objective.adversary
    shape = (BATCH_SIZE, resolution, resolution, 3)
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    t = jax.ShapeDtypeStruct((BATCH_SIZE,), jnp.float32)
    state = jax.eval_shape(step.init, jax.random.key(0))

    def autoencode(params, images, t, weights):
        latents = networks.encode(params, images)
        return jnp.sum(networks.predict(params, images, t=t, latents=latents) * weights)

    def perceive(x0_hat, images, lpips):
        return jnp.mean(objective.perceptual.distance(lpips, x0_hat, images))

    def logits(params, images, x_t, t):
        inputs = jnp.concatenate([images, x_t], axis=-1)
        return adversary.discriminator.apply({"params": params}, inputs, t)

    def oppose(params, images, x_t, t):
        # A relativistic loss looks at the real images' logits too, whose pass is counted twice.
        is_paired = adversary.gan == "relativistic"
        real = logits(params, x_t, images, t) if is_paired else None
        return generator_loss(real, logits(params, images, x_t, t), adversary.gan)

    def discriminate(params, images, x_t, t):
        return jnp.mean(jax.nn.softplus(logits(params, images, x_t, t)))

    def penalize(params, images, x_t, t):
        return r1_penalty(lambda x: logits(params, x, x_t, t), images)

    discriminator = (state.discriminator, images, images, t)
    return {
        "step": (step, (state, frozen, {"image": images})),
        "encoder + decoder": (jax.value_and_grad(autoencode), (state.params, images, t, images)),
        "perceptual net": (jax.value_and_grad(perceive), (images, images, frozen["lpips"])),
        "D for the generator": (jax.value_and_grad(oppose, argnums=1), discriminator),
        "D on real": (jax.value_and_grad(discriminate), discriminator),
        "D on fake": (jax.value_and_grad(discriminate), discriminator),
        "R1": (jax.value_and_grad(penalize), discriminator),
    }


def count_flops(function, arguments, *, compiled: bool) -> float:
    """XLA's FLOPs of one call; for the CPU, as a GPU's or TPU's XLA counts no lowered program."""
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        lowered = jax.jit(function).lower(*arguments)
        return (lowered.compile() if compiled else lowered).cost_analysis()["flops"]


def report(name: str, *, compiled: bool) -> float:
    """Prints the table of a config, and returns the step's FLOPs over the sum of its parts."""
    config = importlib.import_module(f"configs.{name}").get_config()
    step = build_train_step(config)
    frozen = frozen_inputs(config)
    programs = parts(step, frozen, config.data.resolution)
    flops = {part: count_flops(*program, compiled=compiled) for part, program in programs.items()}
    whole = flops.pop("step")
    print(f"{name}, {config.data.resolution} px, GFLOP an image (batch {BATCH_SIZE}):")
    for part, count in flops.items():
        print(f"  {part:<22}{count / BATCH_SIZE / 1e9:>9.2f}")
    ratio = whole / sum(flops.values())
    print(f"  {'sum of the parts':<22}{sum(flops.values()) / BATCH_SIZE / 1e9:>9.2f}")
    print(f"  {'whole step':<22}{whole / BATCH_SIZE / 1e9:>9.2f}   ratio {ratio:.3f}")
    return ratio


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configs", nargs="*", default=["tiny", "sd_m"], help="names in configs/")
    parser.add_argument("--compiled", action="store_true", help="count optimized programs")
    arguments = parser.parse_args()
    for name in arguments.configs:
        report(name, compiled=arguments.compiled)


if __name__ == "__main__":
    main()
