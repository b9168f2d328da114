"""How long the loop is held by a save, over a synchronous save: `python -m benchmarks.save DIR`.

The state is `sd_m`'s (parameters, EMA, moments, discriminator: random numbers, which do not
compress), DIR a folder on the disk to measure. Three rounds, interleaved; the ratios' median.
"""

import importlib
import shutil
import statistics
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from epsilon_vae.checkpoint import Checkpointer
from epsilon_vae.parallel.mesh import make_mesh
from epsilon_vae.training.build import build_train_step
from epsilon_vae.training.sharded import state_shapes

ROUNDS = 3


def random_state(config):
    """The state's arrays, of random numbers, on the first device."""
    mesh = make_mesh(devices=jax.devices()[:1])
    shapes = state_shapes(build_train_step(config), mesh)
    rng = np.random.default_rng(0)

    def fill(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        values = rng.standard_normal(leaf.shape, np.float32).astype(leaf.dtype)
        return jax.device_put(values, leaf.sharding)

    return jax.tree.map(fill, shapes)


def main() -> None:
    """Prints seconds and ratios."""
    config = importlib.import_module("configs.sd_m").get_config()
    state = random_state(config)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    print(f"state of sd_m: {size / 1e9:.2f} GB")
    folder = Path(sys.argv[1]) / "save_benchmark"
    ratios = []
    for number in range(ROUNDS):
        begin = time.monotonic()
        checkpointer = Checkpointer(str(folder / f"{number}"))
        # A run's first save is waited for and read back.
        checkpointer.save(0, {"x": state.step}, data={"position": 0}, config=config)
        opened = time.monotonic()
        checkpointer.save(1, state, data={"position": 0}, config=config)
        held_seconds = time.monotonic() - opened
        checkpointer.close()
        asynchronous_seconds = time.monotonic() - begin

        begin = time.monotonic()
        with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as synchronous:
            synchronous.save(
                (folder / f"{number}_sync").absolute(), args=ocp.args.StandardSave(state)
            )
        synchronous_seconds = time.monotonic() - begin
        ratios.append(held_seconds / synchronous_seconds)
        print(
            f"held {held_seconds:.3f} s of {asynchronous_seconds:.2f} s; "
            f"synchronous {synchronous_seconds:.2f} s; ratio {ratios[-1]:.3f}"
        )
        shutil.rmtree(folder)
    print(f"ratio, median: {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
