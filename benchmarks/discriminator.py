"""Whether a config's discriminator learns: it alone, against fakes that do not change.

`python -m benchmarks.discriminator` trains the discriminator of `configs/tiny.py`, with that
config's losses, R1 and optimizer, to tell crops of the embedded photos from the same crops under a
Gaussian blur of σ 1, at 32 and 64 px, and prints, every 50 steps, the means over these steps of its
loss and of its paired accuracy `mean[D(x0) > D(fake)]`, by bins of t. With `--fakes=decoder` the
fakes are the estimates x0_hat of a run's decoder, which stays as it is. A discriminator that does
not rank such pairs within a hundred steps has nothing to tell a decoder that moves.

`--set=KEY=VALUE` changes a key of the config.
"""

import argparse
import functools
import importlib
import pathlib
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from epsilon_vae.config import check, check_override, flatten
from epsilon_vae.data.named import open_data
from epsilon_vae.data.pipeline import BadRecords, TrainingBatches
from epsilon_vae.inference.restoring import restore
from epsilon_vae.losses.adversarial import Denoising, paired_accuracy
from epsilon_vae.run.monitor import MetricsWindow
from epsilon_vae.training.build import build_discriminator_optimizer, build_objective
from epsilon_vae.training.objective import AutoencoderObjective

BATCH_SIZE = 16
WINDOW = 50  # steps of a line
BLUR_SIGMA = 1.0
BINS = ("t < 1/3", "t < 2/3", "t >= 2/3")

Fakes = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def blur(images: jax.Array, sigma: float = BLUR_SIGMA) -> jax.Array:
    """Images `[B, H, W, C]` under a Gaussian of `sigma` pixels; their edges are repeated."""
    radius = round(4 * sigma)
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    taps = taps / taps.sum()
    padding = ((0, 0), (radius, radius), (radius, radius), (0, 0))
    blurred = jnp.pad(images, padding, mode="edge")
    for axis in (1, 2):
        size = images.shape[axis]
        parts = [jax.lax.slice_in_dim(blurred, i, i + size, axis=axis) for i in range(len(taps))]
        blurred = sum(tap * part for tap, part in zip(taps, parts, strict=True))
    return blurred


def blurred_fakes(images: jax.Array, x_t: jax.Array, t: jax.Array) -> jax.Array:
    """Fakes that depend on the images alone."""
    del x_t, t
    return blur(images)


def decoded_fakes(workdir: str) -> Fakes:
    """The estimates x0_hat of the newest checkpoint's decoder, its EMA weights."""
    autoencoder = restore(workdir)
    networks, process, params = autoencoder.networks, autoencoder.process, autoencoder.params

    def fakes(images: jax.Array, x_t: jax.Array, t: jax.Array) -> jax.Array:
        latents = networks.encode(params, images)
        prediction = networks.predict(params, process.network_input(x_t, t), t=t, latents=latents)
        return process.predict_x0(x_t, prediction, t)

    return fakes


def batches_of(config: ml_collections.ConfigDict, data: str) -> TrainingBatches:
    """Crops as the config's training has them, of `photos` or a folder."""
    source = open_data(data, "train").source
    cut = config.data
    return TrainingBatches(
        source,
        BATCH_SIZE,
        resolution=cut.resolution,
        seed=config.seed,
        crop=cut.crop,
        flip=cut.flip,
        reduced_jpeg=cut.reduced_jpeg,
        bad_records=BadRecords(0, len(source)),
        permute_colors=cut.permute_colors,
    )


def learn(
    config: ml_collections.ConfigDict,
    batches: Iterator[dict],
    num_steps: int,
    fakes: Fakes = blurred_fakes,
    compiler_options: dict | None = None,
) -> Iterator[dict[str, float]]:
    """Trains the config's discriminator; yields the means of its metrics every `WINDOW` steps.

    Args:
      config: of an autoencoder with a GAN, at the resolution of the batches.
      batches: with `image`, `[B, H, W, 3]`.
      num_steps: at most so many; a start step of D's loss is left out.
      fakes: (x0, x_t, t) → fakes, `[B, H, W, 3]`.
      compiler_options: for `jax.jit`.
    """
    objective = build_objective(config)
    optimizer = build_discriminator_optimizer(config)
    first_step = objective.adversary.discriminator_start_step

    def update(carry: tuple, images: jax.Array, step: jax.Array) -> tuple[tuple, dict]:
        params, opt_state = carry
        denoising = _denoise(objective, images, fakes, jax.random.fold_in(key, step))

        def loss(params: dict):
            return objective.discriminator_loss(params, denoising, first_step + step)

        grads, metrics = jax.grad(loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), paired_accuracy(metrics)

    key = jax.random.key(config.seed)

    def init(key: jax.Array) -> tuple:
        params = objective.adversary.init(key, config.data.resolution)
        return params, optimizer.init(params)

    jit = functools.partial(jax.jit, compiler_options=compiler_options)
    update, carry, window = jit(update), jit(init)(key), MetricsWindow()
    for step in range(num_steps):
        carry, metrics = update(carry, next(batches)["image"], jnp.asarray(step))
        window.add(step, metrics)
        if (step + 1) % WINDOW == 0:
            yield window.means()


def _denoise(
    objective: AutoencoderObjective, images: jax.Array, fakes: Fakes, key: jax.Array
) -> Denoising:
    """Makes what a matching looks at, with the fakes in the place of x0_hat."""
    draw, process = objective.draw(key, len(images)), objective.process
    t, noise = draw["t"], draw["noise"]
    x_t = process.perturb(images, noise, t)
    fake = fakes(images, x_t, t)
    return Denoising(
        x0=images,
        noise=noise,
        t=t,
        x_t=x_t,
        prediction=fake,
        x0_hat=fake,
        step_fraction=draw["step_fraction"],
    )


def report(config: ml_collections.ConfigDict, data: str, num_steps: int, fakes: Fakes) -> None:
    """Prints a line every `WINDOW` steps."""
    size = f"{config.data.resolution} px"
    chance = {"relativistic": np.log(2), "hinge": 1.0}.get(config.loss.gan, 2 * np.log(2))
    print(f"{size}, loss at chance {chance:.3f}")
    print(
        f"  {'steps':>7}  {'loss':>6}  {'R1':>9}  " + "  ".join(f"{x:>8}" for x in BINS) + "   all"
    )
    start = time.monotonic()
    batches = batches_of(config, data)
    for number, means in enumerate(learn(config, batches, num_steps, fakes), start=1):
        accuracy = [means[f"accuracy/disc_t{i}"] for i in range(3)]
        whole = sum(a * means[f"pairs/disc_t{i}"] for i, a in enumerate(accuracy))
        numbers = "  ".join(f"{value:8.2f}" for value in accuracy)
        r1 = means.get("loss/r1", 0.0)
        line = (
            f"  {number * WINDOW:7d}  {means['loss/disc']:6.3f}  {r1:9.2e}  {numbers}  {whole:.2f}"
        )
        print(line, flush=True)
    batches.close()
    print(f"  {time.monotonic() - start:.0f} s")


def load_config(path: str, changes: list[str]) -> ml_collections.ConfigDict:
    """The config of a file, with changes `KEY=VALUE`."""
    name = ".".join(pathlib.Path(path.partition(":")[0]).with_suffix("").parts)
    argument = filter(None, [path.partition(":")[2]])
    config = importlib.import_module(name).get_config(*argument)
    for change in changes:
        key, _, text = change.partition("=")
        check_override(key, text)
        kind = type(flatten(config)[key])
        value = text.lower() == "true" if kind is bool else kind(text)
        config.update_from_flattened_dict({key: value})
    check(config)
    return config


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/tiny.py", help="of an autoencoder with a GAN")
    parser.add_argument("--data", default="photos", help="or a folder of images")
    parser.add_argument("--resolutions", default="32,64", help="of the crops")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--fakes", choices=("blur", "decoder"), default="blur")
    parser.add_argument("--workdir", help="of the run whose decoder makes the fakes")
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE of the config")
    arguments = parser.parse_args()
    if (arguments.fakes == "decoder") != bool(arguments.workdir):
        parser.error("--fakes=decoder and --workdir=DIR go together")
    fakes = decoded_fakes(arguments.workdir) if arguments.workdir else blurred_fakes
    for resolution in arguments.resolutions.split(","):
        changes = [*arguments.set, f"data.resolution={resolution}"]
        config = load_config(arguments.config, changes)
        report(config, arguments.data, arguments.steps, fakes)


if __name__ == "__main__":
    main()
