"""A trained autoencoder for use: images in, latents and images out, on NumPy arrays."""

import hashlib
import math
from collections.abc import Sequence

import jax
import ml_collections
import numpy as np
from flax import traverse_util
from jax.sharding import Mesh

from epsilon_vae.config import ConfigError
from epsilon_vae.data.latents import Normalization
from epsilon_vae.data.transforms import check_finite, to_uint8
from epsilon_vae.diffusion.path import Process
from epsilon_vae.hub import Repository
from epsilon_vae.inference import sharing
from epsilon_vae.inference.functions import Functions, key_of
from epsilon_vae.inference.inputs import ImageLike, as_images, as_latents, as_number
from epsilon_vae.inference.tiling import (
    DEFAULT_TILE,
    DEFAULT_WHOLE,
    PARTS,
    Tiling,
    tiles_per_call,
)
from epsilon_vae.models.autoencoder_model import AutoencoderModel
from epsilon_vae.models.bottleneck import VQBottleneck
from epsilon_vae.parallel.batch import share_images, stream_images
from epsilon_vae.parallel.mesh import local_mesh
from epsilon_vae.parallel.programs import compiler_options


class Autoencoder:
    """ε-VAE with trained parameters.

    Images are arrays, `[H, W, 3]` or `[B, H, W, 3]`, uint8 in [0, 255] or float in [-1, 1], of any
    height and width; also grey ones, `[H, W]` or with one channel, and uint8 RGBA, which is put on
    white. An image may also be a file's path or PIL's, read as the commands read files; a list of
    images of one size is a batch.

    The same seed gives the same result; every image of a batch is decoded from the same noise. A
    device works on images one by one, or in groups of `group_size`, filled up, so that a result
    does not depend on the batch. The devices of `mesh` share the images of a batch, and the rows of
    each over `space`; all its processes call alike.

    Args:
      networks: the Flax modules.
      process: the diffusion process.
      spacing: of the decoder's times, a key of `SPACINGS`.
      params: `{'encoder', 'decoder'}`.
      config: that it was trained with.
      step: of the checkpoint.
      normalization: mean and deviation of the latents; None where they are not known.
      mesh: None for this machine's first device.
      group_size: images that a device works on together.
      progress: shows a bar, group by group, while a batch or a large image is encoded or decoded.
      tile: side of the overlapping tiles, in pixels, that larger images are encoded and decoded in;
        0 for none; None for twice the resolution of training, for images of more than 4 x 4 times
        it, and none without a config, for VQ, and where several devices share an image's rows.
      origin: of the parameters, which errors name: the checkpoint.

    Attributes:
      functions: `encode` and `decode` as pure functions of parameters and JAX arrays, for `jit`,
        `vmap`, `grad` and arrays on any mesh.
      params: by default the EMA.
      config, step, networks, process, spacing, normalization, origin: the arguments.
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
        normalization: Normalization | None = None,
        mesh: Mesh | None = None,
        group_size: int = 1,
        progress: bool = False,
        tile: int | None = None,
        origin: str = "these parameters",
    ):
        self.networks, self.process, self.params = networks, process, params
        self.origin = origin
        self.config, self.step, self.normalization = config, step, normalization
        self.spacing = spacing
        self.functions = Functions(networks=networks, process=process, spacing=spacing)
        mesh = mesh or local_mesh()
        self._encode = share_images(
            self.functions.encode, mesh, group_size, bar="encode" if progress else None
        )
        self._decode = share_images(
            self.functions.decode_from_seed, mesh, group_size, bar="decode" if progress else None
        )
        self._tile, self._most_pixels = self._sides(tile, mesh)
        if self._tile:
            bars = ("encode", "decode") if progress else (None, None)
            shared = {"mesh": mesh, "group_size": tiles_per_call(self._tile), "unit": "tile"}
            self._encode_tiles = stream_images(self.functions.encode_tiles, bar=bars[0], **shared)
            self._decode_tiles = stream_images(self.functions.decode_tiles, bar=bars[1], **shared)
        self._follow = jax.jit(
            self.functions.trajectory,
            static_argnames="steps",
            compiler_options=compiler_options(mesh),
        )

    def __repr__(self) -> str:
        encoder, decoder = self.networks.encoder, self.networks.decoder
        known = {
            "encoder": type(encoder).__name__,
            "f": self.networks.f,
            "n_z": encoder.n_z,
            "decoder": type(decoder).__name__,
        }
        if self.config is not None:
            model = self.config.model
            known |= {"encoder": model.encoder.name, "bottleneck": model.bottleneck.name}
            known |= {"decoder": model.decoder.name, "size": model.decoder.size}
            known |= {"resolution": self.config.data.resolution}
        known["parameters"] = f"{sum(x.size for x in jax.tree.leaves(self.params)):,}"
        known |= {"step": self.step, "origin": self.origin}
        words = ", ".join(f"{name}={value}" for name, value in known.items())
        return f"Autoencoder({words})"

    @property
    def latent_mean(self) -> np.ndarray | None:
        """Mean of each channel of the latents, float32 `[n_z]`, over the training data.

        Training measures it at its end; imported weights may have factors that stand for it. None
        for checkpoints before the end or of earlier versions, and for raw weights: set
        `normalization`, for example to `data.latents.Latents(DIR).metadata.normalization`, which
        `epsilon_vae.encode` has measured.
        """
        return self.normalization and np.array(self.normalization.mean, np.float32)

    @property
    def latent_std(self) -> np.ndarray | None:
        """Standard deviation of each channel, as `latent_mean`; 1 for one that never varies."""
        return self.normalization and self.normalization.scale().astype(np.float32)

    def encode(
        self, images: ImageLike | Sequence[ImageLike], *, normalize: bool = False
    ) -> np.ndarray:
        """Latents, float32 `[(B,) h, w, n_z]`.

        h and w are those of the image padded, by repeating its edge, to what the networks take:
        `ceil(H / m) m / f` with m the larger of f and the decoder's stride. With `normalize` they
        are `(latents - latent_mean) / latent_std`.

        Raises:
          ValueError: not images, or `normalize` where `latent_mean` is not known.
          DataError: a file that is no readable image.
          NonFiniteError: latents that are NaN or infinite.
        """
        given = as_images(images)
        latents = self._latents(given.pixels)
        if normalize:
            latents = self._known_normalization().normalize(latents)
        return latents[0] if given.is_single else latents

    def decode(
        self, latents: np.ndarray, steps: int = 3, seed: int = 0, *, denormalize: bool = False
    ) -> np.ndarray:
        """Images, float32 `[(B,) f h, f w, 3]` in [-1, 1], from latents `[(B,) h, w, n_z]`.

        Args:
          latents: as `encode` makes them, or a latent diffusion model.
          steps: network evaluations (NFE); 1 to 3 are useful. A decoder without noise takes 1.
          seed: of the noise, a whole number.
          denormalize: the latents are as `encode(normalize=True)` makes them.

        Raises:
          ValueError: latents of another shape, or that are NaN or infinite, no step, a seed that is
            no number, or `denormalize` where `latent_mean` is not known.
          NonFiniteError: images that are NaN or infinite.
        """
        latents = as_latents(latents, self.networks.encoder.n_z)
        if denormalize:
            latents = self._known_normalization().denormalize(latents)
        is_single = latents.ndim == 3
        images = self._images(latents[None] if is_single else latents, steps, seed)
        return images[0] if is_single else images

    def reconstruct(
        self, images: ImageLike | Sequence[ImageLike], steps: int = 3, seed: int = 0
    ) -> np.ndarray:
        """`decode(encode(images))`, cropped to the images' size; uint8 for files and uint8 images.

        Raises:
          ValueError: not images, no step, or a seed that is no number.
          DataError: a file that is no readable image.
          NonFiniteError: latents or images that are NaN or infinite.
        """
        given = as_images(images)
        height, width = given.pixels.shape[1:3]
        decoded = self._images(self._latents(given.pixels), steps, seed)[:, :height, :width]
        decoded = decoded[0] if given.is_single else decoded
        return to_uint8(decoded) if given.is_uint8 else decoded

    def trajectory(
        self, latents: np.ndarray, steps: int, seed: int = 0
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """How `decode` comes to the image of latents `[h, w, n_z]`, as `encode` makes them.

        Returns:
          times `[steps + 1]`, falling from 1 to 0; x_t at each, the last as the image, float32
          `[steps + 1, f h, f w, 3]`; and the estimates of the image at all but the last, `[steps,
          f h, f w, 3]`.

        Raises:
          ValueError: as `decode`.
        """
        latents = as_latents(latents, self.networks.encoder.n_z)
        key = key_of(_seed(seed))
        found = self._follow(self.params, latents[None], key, steps=as_number("steps", steps))
        states, estimates = jax.device_get(found)
        check_finite(estimates, f"{self.origin}: images of its decoder")
        return self.functions.times(steps), states[:, 0], estimates[:, 0]

    @property
    def is_diffusion(self) -> bool:
        """Whether the decoder denoises, in steps and from a seed; or gives the image itself."""
        return self.functions.is_diffusion

    def nfe(self, steps: int) -> int:
        """Network evaluations of a decoding that is asked for `steps`: 1 without diffusion."""
        return steps if self.is_diffusion else 1

    def tile_of(self, height: int, width: int) -> int:
        """Side of the tiles that an image of this size is encoded and decoded in; 0 for whole."""
        multiple = self.networks.multiple  # which decode knows the sizes by
        height, width = (-(-n // multiple) * multiple for n in (height, width))
        is_large = max(height, width) > self._tile and height * width > self._most_pixels
        return self._tile if is_large else 0

    def tiling(self, height: int, width: int) -> Tiling | None:
        """The tiles of an image of this size, padded to what they cover; None for whole."""
        side, multiple = self.tile_of(height, width), self.networks.multiple
        if not side:
            return None
        height, width = (max(side, -(-n // multiple) * multiple) for n in (height, width))
        return Tiling(height, width, side=side, multiple=multiple)

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

    def _sides(self, tile: int | None, mesh: Mesh) -> tuple[int, int]:
        """The side of tiles, 0 for none, and the pixels of the largest image without them."""
        unit = PARTS * self.networks.multiple
        if tile is None:
            is_vq = isinstance(self.networks.encoder, VQBottleneck)  # blended codes are no codes
            if self.config is None or is_vq or mesh.shape["space"] > 1:
                return 0, 0
            resolution = self.config.data.resolution
            tile = -(-DEFAULT_TILE * resolution // unit) * unit
            return tile, (DEFAULT_WHOLE * resolution) ** 2
        if as_number("tile", tile) < 0 or tile % unit:
            raise ConfigError(
                f"tile = {tile}: expected 0, for whole images, or a multiple of {unit} pixels"
            )
        return tile, 0

    def _files(self, name: str, **card: str | None) -> dict[str, bytes]:
        return sharing.files_of(
            self.params,
            self.config,
            step=self.step,
            normalization=self.normalization,
            name=name,
            **card,
        )

    def _latents(self, images: np.ndarray) -> np.ndarray:
        """Latents of float images `[B, H, W, 3]`."""
        multiple = self.networks.multiple
        padded = _pad_to_multiple(images, multiple)
        if tiling := self.tiling(*images.shape[1:3]):
            height, width = (n // self.networks.f for n in padded.shape[1:3])
            latents = np.stack([self._latents_of_tiles(tiling, image) for image in padded])
            latents = latents[:, :height, :width]
        else:
            latents = self._encode(self.params, padded)
        check_finite(latents, f"{self.origin}: latents of its encoder")
        return latents

    def _images(self, latents: np.ndarray, steps: int, seed: int) -> np.ndarray:
        """Images of latents `[B, h, w, n_z]`."""
        steps = as_number("steps", steps)
        if steps < 1:
            raise ValueError(f"steps = {steps}: at least 1")
        height, width = (size * self.networks.f for size in latents.shape[1:3])
        multiple = max(1, self.networks.decoder_stride // self.networks.f)
        whole = self.params, self.functions.times(steps), _seed(seed)
        padded = _pad_to_multiple(latents, multiple)
        if tiling := self.tiling(height, width):
            images = np.stack([self._image_of_tiles(tiling, z, whole) for z in padded])
        else:
            images = self._decode(whole, padded)
        check_finite(images, f"{self.origin}: images of its decoder")
        return images[:, :height, :width]

    def _latents_of_tiles(self, tiling: Tiling, image: np.ndarray) -> np.ndarray:
        image = _pad_to(image, *tiling.size)
        probes = tiling.probes(image)
        return tiling.blend(self._encode_tiles((self.params, probes), tiling.cuts(image)))

    def _image_of_tiles(self, tiling: Tiling, latents: np.ndarray, whole: tuple) -> np.ndarray:
        latents = _pad_to(latents, *(n // self.networks.f for n in tiling.size))
        pixels, pixels_of_probes = tiling.pixels()
        probes = tiling.probes(latents), pixels_of_probes
        return tiling.blend(self._decode_tiles((*whole, probes), tiling.cuts(latents), pixels))

    def _known_normalization(self) -> Normalization:
        if self.normalization is None:
            raise ValueError(
                f"{self.origin}: has no mean and deviation of latents, which training measures at "
                "its end; set vae.normalization, as to that of latents of epsilon_vae.encode, "
                "epsilon_vae.data.latents.Latents(DIR).metadata.normalization"
            )
        return self.normalization


def _seed(seed: int) -> np.uint32:
    return np.uint32(as_number("seed", seed) % 2**32)


def _pad_to_multiple(x: np.ndarray, multiple: int) -> np.ndarray:
    """`[B, H, W, C]` with bottom and right edges repeated up to a multiple."""
    height, width = (math.ceil(size / multiple) * multiple for size in x.shape[1:3])
    return _pad_to(x, height, width)


def _pad_to(x: np.ndarray, height: int, width: int) -> np.ndarray:
    """`[…, H, W, C]` with bottom and right edges repeated."""
    padding = ((0, height - x.shape[-3]), (0, width - x.shape[-2]), (0, 0))
    return np.pad(x, ((0, 0),) * (x.ndim - 3) + padding, mode="edge")
