"""Opens what a run trains on: images, latents, or images that are encoded on the fly."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import jax
import ml_collections
import numpy as np

from epsilon_vae.config import ConfigError
from epsilon_vae.data.decode import DataError, ImageDecoding
from epsilon_vae.data.latents import LatentBatches, LatentMetadata, Latents
from epsilon_vae.data.named import open_part
from epsilon_vae.data.pipeline import BadRecords, Batch, TrainingBatches
from epsilon_vae.data.records import Record
from epsilon_vae.inference.autoencoder import Autoencoder
from epsilon_vae.inference.encoding import measure_latents
from epsilon_vae.inference.restoring import restore
from epsilon_vae.inference.sharing import normalization_of
from epsilon_vae.models.build import latents_shape
from epsilon_vae.names import printable
from epsilon_vae.parallel import hosts
from epsilon_vae.parallel.batch import IMAGES_PER_DEVICE
from epsilon_vae.parallel.mesh import make_mesh


class Batches(Protocol):
    """This process's part of endless batches, which can be resumed at any position."""

    @property
    def num_bad_records(self) -> int:
        """How many records this process has met that cannot be used."""

    def __next__(self) -> Batch:
        """Arrays `[B, …]` by name, as the objective's `batch_shapes`."""

    def get_state(self) -> dict[str, Any]:
        """Returns what a checkpoint holds of the data, as JSON."""

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to where `get_state` was called."""

    def close(self) -> None:
        """Ends worker processes and threads."""


class EncodedBatches(Iterator[Batch]):
    """Latents of images, encoded on the fly; each process encodes its own.

    A batch is `latents` and `label`, as `LatentBatches`'.

    Args:
      images: what is encoded.
      autoencoder: on devices of this process.
      metadata: of the latents.

    Attributes:
      autoencoder, metadata: the arguments.
    """

    def __init__(self, images: TrainingBatches, autoencoder: Autoencoder, metadata: LatentMetadata):
        self._images, self.autoencoder, self.metadata = images, autoencoder, metadata

    def __next__(self) -> Batch:
        batch = next(self._images)
        latents = self.autoencoder.encode(batch["image"])
        return {"latents": self.metadata.normalization.normalize(latents), "label": batch["label"]}

    @property
    def num_bad_records(self) -> int:
        """How many records this process has met that cannot be used."""
        return self._images.num_bad_records

    def get_state(self) -> dict[str, Any]:
        """See `LatentBatches.get_state`."""
        return self._images.get_state() | {"latents": self.metadata._asdict()}

    def set_state(self, state: dict[str, Any]) -> None:
        """See `LatentBatches.set_state`."""
        self.metadata = self.metadata.continuing(LatentMetadata.of(state["latents"]))
        self._images.set_state(state)

    def close(self) -> None:
        """Ends worker processes and threads."""
        self._images.close()


def open_images(config: ml_collections.ConfigDict, local_indices: np.ndarray) -> TrainingBatches:
    """This process's part of the training batches of images.

    Args:
      config: of the run.
      local_indices: of each batch that this process reads.

    Raises:
      DataError: no such data, or it cannot be read.
    """
    data = config.data
    source, _, note = open_part(data, "train")
    if note and hosts.is_first():
        print(printable(note), flush=True)
    max_share = data.max_bad_share if data.on_bad_record == "skip" else 0
    return TrainingBatches(
        source,
        config.batch_size,
        resolution=data.resolution,
        seed=config.seed,
        crop=data.crop,
        flip=data.flip,
        reduced_jpeg=data.reduced_jpeg,
        decoding=ImageDecoding.of(data),
        bad_records=BadRecords(max_share, len(source)),
        permute_colors=data.permute_colors,
        workers=data.workers,
        local_indices=local_indices,
    )


def open_latents(
    config: ml_collections.ConfigDict, local_indices: np.ndarray
) -> LatentBatches | EncodedBatches:
    """Opens batches of latents: of a folder of them, or of images that are encoded on the fly.

    Raises:
      ConfigError: latents, or an autoencoder, that are not as the config says.
      DataError: no such data, or it cannot be read.
      CheckpointError: no such autoencoder.
    """
    data = config.data
    if data.source != "latents":
        return _encoded_images(config, local_indices)
    if not data.path:  # compiling needs none
        raise ConfigError(
            "config.data.path = '': name the folder of latents that epsilon_vae.encode wrote"
        )
    batches = LatentBatches(
        Latents(data.path),
        config.batch_size,
        seed=config.seed,
        flip=data.flip,
        local_indices=local_indices,
    )
    _check_metadata(config, batches.metadata, data.path)
    return batches


def _encoded_images(config: ml_collections.ConfigDict, local_indices: np.ndarray) -> EncodedBatches:
    images = open_images(config, local_indices)
    workdir = config.autoencoder.workdir
    mesh = make_mesh(devices=jax.local_devices())
    group_size = min(IMAGES_PER_DEVICE, -(-len(local_indices) // jax.local_device_count()))
    autoencoder = restore(workdir, mesh=mesh, group_size=group_size, tile=0)
    metadata = _measure(autoencoder, workdir, open_part(config.data, "train").source, config.data)
    _check_metadata(config, metadata, config.data.path)
    return EncodedBatches(images, autoencoder, metadata)


def _measure(
    autoencoder: Autoencoder,
    workdir: str,
    source: Sequence[Record],
    data: ml_collections.ConfigDict,
) -> LatentMetadata:
    """The metadata of a data set's latents, by some of its images; alike on all processes."""
    size = IMAGES_PER_DEVICE * jax.local_device_count()
    found = measure_latents(autoencoder, source, data, batch_size=size)
    if found is None:
        raise DataError(f"no image can be read of {len(source)}; check config.data.path")
    normalization = normalization_of(autoencoder.config, found._asdict())
    networks = autoencoder.networks
    side = -(-data.resolution // networks.multiple) * networks.multiple // networks.f
    provenance = autoencoder.provenance(workdir)
    classes = list(getattr(source, "classes", ()))
    return LatentMetadata(
        shape=[side, side, networks.encoder.n_z],
        **normalization._asdict(),
        classes=classes,
        provenance=provenance,
    )


def _check_metadata(config: ml_collections.ConfigDict, metadata: LatentMetadata, path: str) -> None:
    """Raises `ConfigError` where latents are not those that the config is for."""
    shape = latents_shape(config)
    if tuple(metadata.shape) != shape:
        found, expected = ("x".join(map(str, x)) for x in (metadata.shape, shape))
        raise ConfigError(
            f"{path}: latents of {found}, where config.data.resolution, autoencoder.f and "
            f"autoencoder.n_z make {expected}; set them to what made these"
        )
    num_classes = config.model.latent_diffusion.num_classes
    if num_classes and len(metadata.classes) != num_classes:
        raise ConfigError(
            f"config.model.latent_diffusion.num_classes = {num_classes}: "
            f"{path or config.data.source} has {len(metadata.classes)} classes; set it to that, or "
            "to 0, which takes no labels"
        )
