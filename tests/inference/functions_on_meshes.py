"""The pure functions, and the object, on eight devices: they give what one device gives.

Run as a process of its own, since JAX's number of CPU devices is fixed at its first use.
"""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from epsilon_vae.inference.autoencoder import Autoencoder
from epsilon_vae.parallel.mesh import batch_sharding, local_mesh, make_mesh, replicated
from tests.helpers import held_out_images
from tests.inference.test_functions import random_autoencoder


def check_functions(vae: Autoencoder, mesh: Mesh, batch: NamedSharding) -> None:
    """Sharded images become sharded latents and images, by nothing but where the arrays are."""
    images = np.tile(held_out_images(32)[:2], (4, 1, 1, 1)) / np.float32(127.5) - 1
    params, key = jax.device_put((vae.params, jax.random.key(0)), replicated(mesh))
    latents = jax.jit(vae.functions.encode)(params, jax.device_put(images, batch))
    decoded = jax.jit(vae.functions.decode)(params, latents, key)
    for found in (latents, decoded):
        assert found.sharding.is_equivalent_to(batch, found.ndim), found.sharding
        assert {len(x.data) for x in found.addressable_shards} == {1}
    np.testing.assert_allclose(latents, vae.encode(images), atol=1e-5)
    np.testing.assert_allclose(decoded, vae.decode(latents), atol=1e-5)


def main() -> None:
    """Meshes of ours, and of JAX, whose axes are explicit; an object on one device and on all."""
    vae = random_autoencoder()
    ours = make_mesh()
    check_functions(vae, ours, batch_sharding(ours))
    explicit = jax.make_mesh((8,), ("batch",))
    check_functions(vae, explicit, NamedSharding(explicit, P("batch")))
    images = held_out_images(32)
    expected = vae.encode(images)
    device = jax.devices()[5]
    assert local_mesh(device=device).devices.flatten().tolist() == [device]
    for mesh in (local_mesh(device=device), make_mesh(devices=jax.devices()[:2])):
        params = jax.device_put(vae.params, replicated(mesh))
        other = Autoencoder(
            vae.networks, vae.process, spacing="uniform", params=params, mesh=mesh, progress=True
        )
        np.testing.assert_array_equal(other.encode(images), expected)


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    main()
