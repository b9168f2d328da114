"""Trains the small config for five steps on several meshes; prints what it saw as JSON.

Run as a process of its own, since JAX's number of CPU devices is fixed at its first use.
"""

import json

import jax
import numpy as np

from configs import tiny
from epsilon_vae.data.pipeline import BadRecords, TrainingBatches
from epsilon_vae.data.sources import Photos
from epsilon_vae.inference.autoencoder import Autoencoder
from epsilon_vae.models.build import build_networks, build_process
from epsilon_vae.parallel import sharding
from epsilon_vae.parallel.mesh import image_sharding, make_mesh, replicated
from epsilon_vae.parallel.sharding import global_batch, local_batch_indices
from epsilon_vae.training.build import build_train_step, frozen_inputs
from epsilon_vae.training.sharded import jit_step, make_state, state_shapes
from tests import micro

# data, fsdp, space. At 32 px, rows are sharded while a device has eight of them.
MESHES = {
    "one": (1, 1, 1),
    "data4": (4, 1, 1),
    "fsdp8": (1, 8, 1),
    "space4": (1, 1, 4),
    "mixed8": (2, 2, 2),
}
STEPS = 5
BATCH_SIZE = 8


def train(shape: tuple[int, int, int]) -> dict:
    """Metrics of each step, and how many arrays of the state are sharded."""
    config = micro.get_config()
    size = config.data.resolution
    train_step = build_train_step(config)
    batches = TrainingBatches(
        Photos("train"),
        BATCH_SIZE,
        resolution=size,
        seed=0,
        crop="random_resized",
        flip=True,
        reduced_jpeg=True,
        bad_records=BadRecords(0, 1),
    )
    num_devices = shape[0] * shape[1] * shape[2]
    mesh = make_mesh(*shape, devices=jax.devices()[:num_devices])
    with jax.set_mesh(mesh):
        target = state_shapes(train_step, mesh)
        state = make_state(train_step, config.seed, target)
        frozen = jax.device_put(frozen_inputs(config), replicated(mesh))
        step = jit_step(train_step, target, mesh)
        images_at = image_sharding(mesh)
        local_indices = local_batch_indices(images_at, BATCH_SIZE)
        rows = []
        for _ in range(STEPS):
            images = global_batch(
                images_at, BATCH_SIZE, local_indices=local_indices, local=next(batches)["image"]
            )
            state, metrics = step(state, frozen, {"image": images})
            rows.append({name: float(value) for name, value in metrics.items()})
    batches.close()
    num_sharded = sum(not x.sharding.is_fully_replicated for x in jax.tree.leaves(state))
    return {"metrics": rows, "num_sharded": num_sharded}


def activation_bytes(shape: tuple[int, int, int]) -> int:
    """Temporaries of a device while one image of 256 px is encoded and decoded once."""
    networks = build_networks(tiny.get_config())
    mesh = make_mesh(*shape, devices=jax.devices()[: shape[2]])

    def predict(params, images):
        latents = networks.encode(params, images)
        return networks.predict(params, images, t=images[:, 0, 0, 0], latents=latents)

    key = jax.random.key(0)
    params = jax.eval_shape(lambda: networks.init(key, 32))
    images = jax.ShapeDtypeStruct((1, 256, 256, 3), "float32")
    with jax.set_mesh(mesh):
        shardings = (replicated(mesh), image_sharding(mesh))
        lowered = jax.jit(predict, in_shardings=shardings).lower(params, images)
        return lowered.compile().memory_analysis().temp_size_in_bytes


def reconstruct(decoder: str, shape: tuple[int, int, int]) -> np.ndarray:
    """Three images of 128 px, by random weights of which none is zero."""
    config = tiny.get_config()
    config.model.decoder.name = decoder
    networks = build_networks(config)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda key: networks.init(key, 32), jax.random.key(0))
    params = jax.tree.map(lambda x: 0.05 * rng.standard_normal(x.shape, np.float32), shapes)
    num_devices = shape[0] * shape[1] * shape[2]
    mesh = make_mesh(*shape, devices=jax.devices()[:num_devices])
    process = build_process(config)
    autoencoder = Autoencoder(
        networks, process, spacing=config.flow.spacing, params=params, mesh=mesh
    )
    return autoencoder.reconstruct(rng.uniform(-1, 1, (3, 128, 128, 3)).astype(np.float32))


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    sharding.MIN_SHARDED_SIZE = 2**10  # so that fsdp shards the small networks' kernels too
    result = {name: train(shape) for name, shape in MESHES.items()}
    result["activation_bytes"] = [activation_bytes((1, 1, space)) for space in (1, 4, 8)]
    for decoder in ("adm", "dit"):
        one, several = reconstruct(decoder, (1, 1, 1)), reconstruct(decoder, (2, 1, 4))
        result[f"{decoder}_std"] = float(np.std(one))
        result[f"{decoder}_difference"] = float(np.max(np.abs(several - one)))
    print(json.dumps(result))
