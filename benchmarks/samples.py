"""How far generated images are from photos, beside what an untrained one would give.

`python -m benchmarks.samples DIT PHOTOS [NUM]` takes the workdir of a latent diffusion model whose
config names its autoencoder, and a folder of photos; it draws NUM (1000) samples, and prints
`fd_alexnet` to the photos' crops of the samples; of decoded noise, which an untrained rectified
flow gives, since it predicts 0; of decoded mean latents; and, for the least one could hope for, of
reconstructions.
"""

import sys
from collections.abc import Callable, Iterator

import jax
import numpy as np

from epsilon_vae.data.named import open_data
from epsilon_vae.data.pipeline import BadRecords
from epsilon_vae.data.transforms import to_uint8
from epsilon_vae.diffusion.guidance import Guidance
from epsilon_vae.evaluation.images import batches
from epsilon_vae.evaluation.reconstruction_metrics import ReconstructionMetrics
from epsilon_vae.inference.latent_diffusion import restore_latent_diffusion
from epsilon_vae.inference.restoring import restore
from epsilon_vae.metrics.frechet import FeatureStatistics, Gaussian, frechet_distance
from epsilon_vae.parallel.mesh import make_mesh

FEATURE = "alexnet"
BATCH = 64


def gaussian(metrics: ReconstructionMetrics, image_batches: Iterator[np.ndarray]) -> Gaussian:
    """The features' Gaussian of uint8 images `[B, H, W, 3]`."""
    statistics = None
    for images in image_batches:
        features = metrics.features(images)[FEATURE]
        statistics = statistics or FeatureStatistics.empty(features.shape[1])
        statistics.update(features)
    return statistics.gaussian()


def main() -> None:
    """Prints a line for each kind of latents."""
    workdir, photos, *rest = sys.argv[1:]
    num_images = int(rest[0]) if rest else 1000
    mesh = make_mesh()
    trained = restore_latent_diffusion(workdir, mesh=mesh)
    config, metadata = trained.config, trained.metadata
    autoencoder = restore(config.autoencoder.workdir, mesh=mesh)
    metadata.check_encoder(autoencoder.encoder_fingerprint())
    metrics = ReconstructionMetrics((), (FEATURE,), mesh)
    source = open_data(photos, "train").source
    size = config.data.resolution, "center_crop_adm"
    bad_records = BadRecords(0, len(source))
    crops = [
        batch.images[: batch.count]
        for batch in batches(source, range(len(source)), BATCH, *size, bad_records)
    ]
    real = gaussian(metrics, iter(crops))
    sampler = trained.sampler(config.flow.nfe, Guidance())
    shape = tuple(metadata.shape)

    def sampled(numbers: np.ndarray) -> np.ndarray:
        num_classes = config.model.latent_diffusion.num_classes
        labels = numbers % num_classes if num_classes else np.full_like(numbers, -1)
        return sampler(trained.params, numbers, labels=labels)

    def noise(numbers: np.ndarray) -> np.ndarray:
        key = jax.random.key(int(numbers[0]))
        drawn = np.asarray(jax.random.normal(key, (len(numbers), *shape)))
        return metadata.normalization.denormalize(drawn)

    def mean(numbers: np.ndarray) -> np.ndarray:
        return metadata.normalization.denormalize(np.zeros((len(numbers), *shape)))

    def decoded(latents: Callable[[np.ndarray], np.ndarray]) -> Iterator[np.ndarray]:
        for start in range(0, num_images, BATCH):
            numbers = np.arange(start, min(start + BATCH, num_images))
            yield to_uint8(autoencoder.decode(latents(numbers), config.autoencoder.nfe))

    print(f"fd_{FEATURE} to {len(source)} photos, of {num_images} images of")
    for title, latents in (("samples", sampled), ("noise", noise), ("mean latents", mean)):
        distance = frechet_distance(real, gaussian(metrics, decoded(latents)))
        print(f"  {title}: {distance:.2f}", flush=True)
    again = (autoencoder.reconstruct(images, config.autoencoder.nfe) for images in crops)
    print(f"reconstructions of the photos: {frechet_distance(real, gaussian(metrics, again)):.2f}")


if __name__ == "__main__":
    main()
