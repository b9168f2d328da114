"""A trained autoencoder for use: images in, latents and images out, on NumPy arrays."""

import functools
import hashlib
import math
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
from etils import epath
from flax import traverse_util
from jax.sharding import Mesh

from epsilon_vae import checkpoint
from epsilon_vae.config import ConfigError, check_kind
from epsilon_vae.data.transforms import check_finite, to_float, to_uint8
from epsilon_vae.diffusion.path import Direct, Process
from epsilon_vae.diffusion.time import SPACINGS
from epsilon_vae.hub import Repository
from epsilon_vae.inference import sharing
from epsilon_vae.models.autoencoder_model import AutoencoderModel
from epsilon_vae.models.build import build_networks, build_process
from epsilon_vae.parallel.batch import share_images
from epsilon_vae.parallel.mesh import make_mesh, replicated
from epsilon_vae.step_folders import load


class Autoencoder:
    """ε-VAE with trained parameters.

    Images are uint8 in [0, 255] or float in [-1, 1], `[H, W, 3]` or `[B, H, W, 3]`, of any height
    and width. The same seed gives the same result; every image of a batch is decoded from the same
    noise. A device works on images one by one, or in groups of `group_size`, filled up, so that a
    result does not depend on the batch. The devices of `mesh` share the images of a batch, and the
    rows of each over `space`; all its processes call alike.

    Attributes:
      config: that it was trained with.
      step: of the checkpoint.
      params: `{'encoder', 'decoder'}`, by default the EMA.
      networks: the Flax modules.
      process: the diffusion process.
      spacing: of the decoder's times, a key of `SPACINGS`.
      origin: of the parameters, which errors name: the checkpoint.
    """

    def __init__(
        self,
        networks: AutoencoderModel,
        process: Process,
        *,
        spacing: str,
        params: dict,
        config: ml_collections.ConfigDict | None = None,
        step: int | None = None,
        mesh: Mesh | None = None,
        group_size: int = 1,
        origin: str = "these parameters",
    ):
        self.networks, self.process, self.params = networks, process, params
        self.origin = origin
        self.config, self.step = config, step
        self.spacing = spacing
        mesh = mesh or _local_mesh(space=1)
        encode = functools.partial(encode_images, networks=networks)
        decode = functools.partial(decode_latents, networks=networks, process=process)
        self._encode, self._decode = (
            share_images(function, mesh, group_size) for function in (encode, decode)
        )
        self._follow = jax.jit(
            functools.partial(decode_trajectory, networks=networks, process=process)
        )

    def encode(self, images: np.ndarray) -> np.ndarray:
        """Latents, float32 `[(B,) h, w, n_z]`.

        h and w are those of the image padded, by repeating its edge, to what the networks take:
        `ceil(H / m) m / f` with m the larger of f and the decoder's stride.

        Raises:
          ValueError: not images.
          NonFiniteError: latents that are NaN or infinite.
        """
        images = _as_images(images)
        batch = images if images.ndim == 4 else images[None]
        batch = _pad_to_multiple(batch, self.networks.multiple)
        latents = self._encode(self.params, batch)
        check_finite(latents, f"{self.origin}: latents of its encoder")
        return latents if images.ndim == 4 else latents[0]

    def decode(self, latents: np.ndarray, steps: int = 3, seed: int = 0) -> np.ndarray:
        """Images, float32 `[(B,) f h, f w, 3]` in [-1, 1], from latents `[(B,) h, w, n_z]`.

        Args:
          latents: as `encode` makes them, or a latent diffusion model.
          steps: network evaluations (NFE); 1 to 3 are useful. A decoder without noise takes 1.
          seed: of the noise.

        Raises:
          ValueError: latents of another shape, or that are NaN or infinite, or no step.
          NonFiniteError: images that are NaN or infinite.
        """
        latents = np.asarray(latents, np.float32)
        n_z = self.networks.encoder.n_z
        if latents.ndim not in (3, 4) or latents.shape[-1] != n_z:
            raise ValueError(f"latents {latents.shape}: expected [(B,) h, w, {n_z}]")
        if steps < 1:
            raise ValueError(f"steps = {steps}: at least 1")
        if not np.isfinite(latents).all():
            raise ValueError("latents: NaN or infinite numbers among them")
        batch = latents if latents.ndim == 4 else latents[None]
        height, width = (size * self.networks.f for size in batch.shape[1:3])
        multiple = max(1, self.networks.decoder_stride // self.networks.f)
        batch = _pad_to_multiple(batch, multiple)
        whole = self.params, self._times(steps), np.uint32(seed % 2**32)
        images = self._decode(whole, batch)
        check_finite(images, f"{self.origin}: images of its decoder")
        images = images[:, :height, :width]
        return images if latents.ndim == 4 else images[0]

    def reconstruct(self, images: np.ndarray, steps: int = 3, seed: int = 0) -> np.ndarray:
        """`decode(encode(images))`, cropped to the images' size; uint8 for uint8 images.

        Raises:
          ValueError: not images, or no step.
          NonFiniteError: latents or images that are NaN or infinite.
        """
        images = np.asarray(images)
        height, width = images.shape[-3:-1]
        decoded = self.decode(self.encode(images), steps, seed)[..., :height, :width, :]
        return to_uint8(decoded) if images.dtype == np.uint8 else decoded

    def trajectory(
        self, latents: np.ndarray, steps: int, seed: int = 0
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """How `decode` comes to the image of latents `[h, w, n_z]`, as `encode` makes them.

        Returns:
          times `[steps + 1]`, falling from 1 to 0; x_t at each, the last as the image, float32
          `[steps + 1, f h, f w, 3]`; and the estimates of the image at all but the last, `[steps,
          f h, f w, 3]`.
        """
        times = self._times(steps)
        whole = self.params, times, np.uint32(seed % 2**32)
        states, estimates = jax.device_get(self._follow(whole, latents[None]))
        check_finite(estimates, f"{self.origin}: images of its decoder")
        return times, states[:, 0], estimates[:, 0]

    @property
    def is_diffusion(self) -> bool:
        """Whether the decoder denoises, in steps and from a seed; or gives the image itself."""
        return not isinstance(self.process, Direct)

    def nfe(self, steps: int) -> int:
        """Network evaluations of a decoding that is asked for `steps`: 1 without diffusion."""
        return steps if self.is_diffusion else 1

    def encoder_fingerprint(self) -> str:
        """SHA-256 of the encoder's parameters, by which latents know whose they are."""
        digest = hashlib.sha256()
        encoder = traverse_util.flatten_dict(self.params["encoder"], sep="/")
        for name, array in sorted(jax.device_get(encoder).items()):
            digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
            digest.update(np.ascontiguousarray(array))
        return digest.hexdigest()

    def provenance(self, workdir: str) -> dict[str, object]:
        """The provenance that its latents carry; `workdir` is what it was restored from."""
        fingerprint = self.encoder_fingerprint()
        return {
            "workdir": workdir,
            "step": self.step,
            "weights": "ema",
            "encoder_sha256": fingerprint,
        }

    def save_pretrained(
        self,
        folder: str,
        *,
        dtype: str = "float32",
        evaluation: str | None = None,
        license: str | None = None,
        overwrite: bool = False,
    ) -> None:
        """Writes a folder for `epsilon_vae.from_pretrained`: config, weights and a model card.

        Args:
          folder: is made, unless it is there.
          dtype: of the weights: 'float32', or 'bfloat16' for half the size and rounded weights.
          evaluation: `results.json` of an evaluation of this model, or its folder; the card has its
            numbers, and without one says that nothing was measured.
          license: of the weights, as the Hub knows it, as 'apache-2.0'; without one the card says
            that it is not stated.
          overwrite: replaces `config.json`, `model.safetensors` and `README.md`.

        Raises:
          WeightsError: these files are there.
          ValueError: no config, another dtype, no license's name, or an evaluation of another
            model.
          OutputError: the folder cannot be written.
        """
        name = "path/to/this/folder"
        files = self._files(name, dtype=dtype, evaluation=evaluation, license=license)
        sharing.save(folder, files, overwrite=overwrite)

    def push_to_hub(
        self,
        name: str,
        *,
        private: bool = False,
        dtype: str = "float32",
        evaluation: str | None = None,
        license: str | None = None,
        overwrite: bool = False,
    ) -> str:
        """Commits what `save_pretrained` writes to a repository of the Hugging Face Hub.

        Args:
          name: of the repository, as OWNER/NAME; it is made, unless it is there.
          private: a repository that is made is for its owner alone.
          dtype, evaluation, license, overwrite: as `save_pretrained`'s.

        Returns:
          The address of the repository.

        Raises:
          HubError: `huggingface_hub` is not installed, these files are there, or the Hub refuses.
          ValueError: as `save_pretrained`.
        """
        files = self._files(name, dtype=dtype, evaluation=evaluation, license=license)
        message = "Autoencoder of epsilon_vae"
        return Repository(name=name).upload(
            files, message=message, private=private, overwrite=overwrite
        )

    def _files(self, name: str, **card: str | None) -> dict[str, bytes]:
        return sharing.files_of(self.params, self.config, step=self.step, name=name, **card)

    def _times(self, steps: int) -> np.ndarray:
        return SPACINGS[self.spacing](self.nfe(steps))


def encode_images(params: dict, images: jax.Array, *, networks: AutoencoderModel) -> jax.Array:
    """Latents `[B, h, w, n_z]` of images `[B, H, W, 3]` in [-1, 1], of sizes the networks take."""
    return networks.encode(params, images)


def decode_latents(
    whole: tuple[dict, jax.Array, jax.Array],
    latents: jax.Array,
    *,
    networks: AutoencoderModel,
    process: Process,
) -> jax.Array:
    """Images `[B, H, W, 3]` from latents `[B, h, w, n_z]`.

    Args:
      whole: parameters, times from 1 to 0, and the seed of the noise, which all images share.
      latents: of sizes that the networks take.
      networks: the Flax modules.
      process: the diffusion process.
    """
    params, times, seed = whole
    key = jax.random.key(seed)
    return networks.decode(params, process, latents=latents, times=times, key=key)


def decode_trajectory(
    whole: tuple[dict, jax.Array, jax.Array],
    latents: jax.Array,
    *,
    networks: AutoencoderModel,
    process: Process,
) -> tuple[jax.Array, jax.Array]:
    """Decodes as `decode_latents`, to x_t at all times, the last as images, and estimates of x0.

    Both have the times before the batch.

    Args:
      whole, latents, networks, process: as `decode_latents`'.
    """
    params, times, seed = whole
    key = jax.random.key(seed)
    states, estimates = networks.trajectory(params, process, latents=latents, times=times, key=key)
    return states.at[-1].set(process.unscale(states[-1])), estimates


def restore(workdir: str, step: int | None = None, space: int = 1) -> Autoencoder:
    """The autoencoder of a run, with its EMA parameters, on this machine's first devices.

    Without a step, processes that know of each other call alike.

    Args:
      workdir: of the run, as given to `epsilon_vae.main`.
      step: of the checkpoint; None for the newest that can be read.
      space: devices that the rows of an image are spread over, for images too large for one.

    Raises:
      CheckpointError: no checkpoint there that can be read, or not of this step.
      ConfigError: fewer devices than `space`, or the run of a latent diffusion model.
    """
    return restore_on(_local_mesh(space), workdir, step=step)


def from_pretrained(name: str, *, revision: str | None = None, space: int = 1) -> Autoencoder:
    """The autoencoder in a folder of `save_pretrained`, or in a repository of the Hub.

    Args:
      name: of the folder; or, where there is none, OWNER/NAME.
      revision: of the repository: a branch, tag or commit.
      space: devices that the rows of an image are spread over.

    Raises:
      WeightsError: neither is there, or it is broken.
      HubError: the Hub does not give it, or huggingface_hub is not installed.
      ConfigError: fewer devices than `space`, or the config of a latent diffusion model.
    """
    mesh = _local_mesh(space)
    folder = sharing.find(name, revision)
    config = sharing.load_config(folder)
    networks = build_networks(config)
    params, step = sharing.load_params(folder, _shapes(networks, config))
    return Autoencoder(
        networks,
        build_process(config),
        spacing=config.flow.spacing,
        params=jax.device_put(params, replicated(mesh)),
        config=config,
        step=step,
        mesh=mesh,
        origin=name,
    )


def restore_on(
    mesh: Mesh,
    workdir: str,
    *,
    step: int | None = None,
    preferred: int | None = None,
    weights: str = "ema",
    spacing: str | None = None,
    group_size: int = 1,
) -> Autoencoder:
    """The autoencoder of a run, on a mesh; all processes call alike.

    Args:
      mesh: of one process or all.
      workdir: of the run.
      step: of the checkpoint; None for the newest that can be read.
      preferred: a step to take before the newest, if it is there.
      weights: 'ema' or 'raw'.
      spacing: of the decoder's times; None for the config's.
      group_size: images that a device works on together; more are faster.

    Raises:
      CheckpointError: no checkpoint there that can be read, or not of this step.
      ConfigError: the run of a latent diffusion model.
    """

    def read(step_directory: epath.Path) -> Autoencoder:
        config = checkpoint.load_config(step_directory)
        check_kind(config, workdir, latent_diffusion=False)
        networks = build_networks(config)
        target = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated(mesh)),
            _shapes(networks, config),
        )
        field = {"ema": "ema", "raw": "params"}[weights]
        return Autoencoder(
            networks,
            build_process(config),
            spacing=spacing or config.flow.spacing,
            params=checkpoint.load_parts(step_directory, {field: target})[field],
            config=config,
            step=int(step_directory.name),
            mesh=mesh,
            group_size=group_size,
            origin=str(step_directory),
        )

    return load(workdir, read, step=step, preferred=preferred)


def step_that_made(latents: Mapping[str, Any], workdir: str) -> int | None:
    """The step of the autoencoder that made latents, None where another run did.

    Where it is gone, the newest decodes them if its encoder is the same, as a frozen one is.

    Args:
      latents: their `provenance`.
      workdir: of the run that decodes.
    """
    is_same = workdir.rstrip("/") == latents["workdir"].rstrip("/")
    return latents["step"] if is_same else None


def _shapes(networks: AutoencoderModel, config: ml_collections.ConfigDict) -> dict:
    return jax.eval_shape(lambda k: networks.init(k, config.data.resolution), jax.random.key(0))


def _local_mesh(space: int) -> Mesh:
    devices = jax.local_devices()
    if not 1 <= space <= len(devices):
        raise ConfigError(f"space = {space}: expected 1 to {len(devices)}, this machine's devices")
    return make_mesh(data=1, space=space, devices=devices[:space])


def _as_images(images: np.ndarray) -> np.ndarray:
    """Float32 images in [-1, 1], of the same rank."""
    images = np.asarray(images)
    if images.ndim not in (3, 4) or images.shape[-1] != 3 or 0 in images.shape:
        raise ValueError(f"images {images.shape}: expected [H, W, 3] or [B, H, W, 3]")
    if images.dtype == np.uint8:
        return to_float(images)
    if not np.issubdtype(images.dtype, np.floating):
        raise ValueError(f"images of {images.dtype}: expected uint8, or float in [-1, 1]")
    if not np.max(np.abs(images)) <= 1 + 1e-3:  # so written, NaN is refused too
        raise ValueError("float images must lie in [-1, 1]; uint8 images in [0, 255]")
    return images.astype(np.float32)


def _pad_to_multiple(x: np.ndarray, multiple: int) -> np.ndarray:
    """`[B, H, W, C]` with bottom and right edges repeated up to a multiple."""
    height, width = (math.ceil(size / multiple) * multiple for size in x.shape[1:3])
    padding = ((0, 0), (0, height - x.shape[1]), (0, width - x.shape[2]), (0, 0))
    return np.pad(x, padding, mode="edge")
