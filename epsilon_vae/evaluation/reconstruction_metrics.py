"""Computes on the mesh how like images are to their originals, and their features."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from epsilon_vae.data.transforms import to_float
from epsilon_vae.evaluation.features import FEATURES
from epsilon_vae.losses.perceptual import LPIPS
from epsilon_vae.metrics.psnr_ssim import psnr, ssim
from epsilon_vae.parallel.batch import num_data_shards, share_images
from epsilon_vae.parallel.mesh import replicated
from epsilon_vae.pretrained import registry

# Of images that a device works on together.
GROUP_SIZE = 4
# Of image sides: of fewer pixels, AlexNet's last pool has no outputs, whose mean is NaN.
MIN_RESOLUTION = 31


class ReconstructionMetrics:
    """The devices of a mesh share the images of a batch; what is said of one depends on no other.

    Args:
      lpips_nets: of LPIPS, in `losses.perceptual.NETS`.
      features: in `features.FEATURES`.
      mesh: of one process or all, which then call alike.
      decoded_together: how many images a device decodes in one call; a batch has no fewer.

    Attributes:
      names: of what `compare` gives, in the order of tables.
      batch_size: of batches that leave no device idle.

    Raises:
      WeightsError: of LPIPS or the features.
    """

    def __init__(
        self,
        lpips_nets: tuple[str, ...],
        features: tuple[str, ...],
        mesh: Mesh,
        *,
        decoded_together: int = GROUP_SIZE,
    ):
        self.names = ("psnr", "ssim", "ssim_range2", *(f"lpips_{net}" for net in lpips_nets))
        self.batch_size = max(GROUP_SIZE, decoded_together) * num_data_shards(mesh)
        distances = {net: LPIPS(net) for net in lpips_nets}

        def compare(params: dict, images: jax.Array, others: jax.Array) -> dict[str, jax.Array]:
            a, b = images / 255.0, others / 255.0
            # Compiled, a - b of equal images need not be 0: only one of them may be rounded.
            exact = images.astype(jnp.float32), others.astype(jnp.float32)
            values = {
                "psnr": psnr(*exact, peak=255),
                "ssim": ssim(a, b),
                "ssim_range2": ssim(a, b, 2.0),
            }
            with jax.default_matmul_precision("highest"):
                for net, distance in distances.items():
                    values[f"lpips_{net}"] = distance(
                        params[net], to_float(images), to_float(others)
                    )
            return values

        def extract(params: dict, images: jax.Array) -> dict[str, jax.Array]:
            return {name: FEATURES[name](params[name], images) for name in features}

        self._compare = share_images(compare, mesh, GROUP_SIZE)
        self._extract = share_images(extract, mesh, GROUP_SIZE)
        # LPIPS's weights hold those of the network whose features these are.
        params = {name: registry.load(name) for name in {*lpips_nets, *features}}
        self._params = jax.device_put(params, replicated(mesh))

    def compare(self, images: np.ndarray, others: np.ndarray) -> dict[str, np.ndarray]:
        """Each of `names`, `[B]`, of pairs of uint8 images `[B, H, W, 3]`.

        PSNR is in dB; SSIM is of [0, 1], with data range 1 and, as `ssim_range2`, 2 in its
        constants. Means over images are the caller's.
        """
        values = self._compare(self._params, images, others)
        return {name: values[name] for name in self.names}

    def features(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Features `[B, d]` by name, of uint8 images `[B, H, W, 3]`."""
        return self._extract(self._params, images)
