"""Reconstructors: a run, a folder of pictures that another tool made, or a diffusers VAE."""

import abc
import hashlib
import importlib.metadata
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from epsilon_vae.config import to_json
from epsilon_vae.data.decode import DEFAULT, DataError, ImageDecoding, read_image
from epsilon_vae.data.files import filesystem, hash_files, list_files, list_images
from epsilon_vae.data.formats import SUFFIXES
from epsilon_vae.data.transforms import check_finite, to_float, to_uint8
from epsilon_vae.errors import UserError, reason
from epsilon_vae.evaluation.images import Batch
from epsilon_vae.evaluation.protocols import Protocol
from epsilon_vae.inference.restoring import restore
from epsilon_vae.names import printable

DIFFUSERS = "diffusers:"


class ReconstructorError(UserError):
    """Says why something cannot be evaluated as asked."""


class Reconstructor(abc.ABC):
    """Makes pictures of originals; every process of a mesh calls alike.

    Attributes:
      name: in tables; unlike the others'.
      metadata: of it, for results: kind, path and more.
      decodes: whether `decode` is what is worth timing.
    """

    decodes = True
    name: str
    metadata: dict[str, Any]

    def nfes(self, steps: Sequence[int]) -> tuple[int | None, ...]:
        """Which NFEs it decodes at, of those asked for; (None,) where that says nothing."""
        del steps
        return (None,)

    def check(self, resolution: int, num_images: int) -> None:
        """Raises `ReconstructorError` for a resolution, or as many images, that it cannot take."""
        del resolution, num_images

    def add_noise(self, code: Any, tau: float, *, batch: Batch, seed: int) -> Any:
        """Adds noise of `tau` standard deviations to a code; None for what has no latents.

        An image's noise depends on its index and the seed alone.

        Args:
          code: of `encode`.
          tau: in standard deviations of each channel.
          batch: whose code it is.
          seed: of the noise.
        """
        del code, tau, batch, seed

    def learn_deviation(self, codes: Iterable[Any]) -> None:
        """Takes what the standard deviations of `add_noise` are worked out from: images' codes."""
        del codes

    @abc.abstractmethod
    def encode(self, batch: Batch) -> Any:
        """Encodes originals to what `decode` takes.

        Raises:
          ReconstructorError, DataError: it has no such picture.
        """

    @abc.abstractmethod
    def decode(self, code: Any, nfe: int | None, seed: int) -> np.ndarray:
        """uint8 pictures `[B, H, W, 3]`."""


class Decoding(NamedTuple):
    """How one of the variants decodes that were trained as one run, and what it is called."""

    name: str
    spacing: str
    nfes: tuple[int, ...]


class Run(Reconstructor):
    """A run of `epsilon_vae.main`.

    Args:
      workdir: of the run.
      step: of the checkpoint; None for the newest.
      protocol: says which weights, which spacing and how many images at once.
      mesh: of one process or all.
      decoding: what it is called and how it decodes; None for the folder's name, its config's
        spacing and the NFEs that are asked for.

    Raises:
      CheckpointError: no checkpoint there, or not of this step.
    """

    def __init__(
        self,
        workdir: str,
        step: int | None,
        *,
        protocol: Protocol,
        mesh: Mesh,
        decoding: Decoding | None = None,
    ):
        self._nfes = decoding.nfes if decoding else None
        self._deviation: np.ndarray | None = None  # of latents, [n_z]
        spacing = decoding.spacing if decoding else None
        if protocol.spacing != "run":
            spacing = protocol.spacing
        self.autoencoder = restore(
            workdir,
            step,
            mesh=mesh,
            weights=protocol.weights,
            spacing=spacing,
            group_size=protocol.group_size,
            tile=0,
        )
        if decoding:  # as if the variant had a run of its own
            config = self.autoencoder.config.copy_and_resolve_references()
            config.flow.spacing = decoding.spacing
            self.autoencoder.config = config
        self.name = decoding.name if decoding else _last_part(workdir)
        config = to_json(self.autoencoder.config)
        self.metadata = {
            "kind": "run",
            "path": workdir,
            "step": self.autoencoder.step,
            "config_hash": hashlib.sha256(config.encode()).hexdigest()[:12],
            "spacing": self.autoencoder.spacing,
        }

    def nfes(self, steps: Sequence[int]) -> tuple[int, ...]:
        """All, or its own; 1 alone without diffusion."""
        return tuple(dict.fromkeys(map(self.autoencoder.nfe, self._nfes or steps)))

    def check(self, resolution: int, num_images: int) -> None:
        """Raises `ReconstructorError` for a resolution that the networks cannot take."""
        del num_images
        multiple = self.autoencoder.networks.multiple
        if resolution % multiple:
            near = max(multiple, round(resolution / multiple) * multiple)
            raise ReconstructorError(
                f"resolution {resolution}: the networks of {self.name} take multiples of "
                f"{multiple}; {near} would do"
            )

    def encode(self, batch: Batch) -> np.ndarray:
        """Latents."""
        return self.autoencoder.encode(batch.images)

    def learn_deviation(self, codes: Iterable[np.ndarray]) -> None:
        """Learns the deviation of each channel of the latents `[B, h, w, n_z]`."""
        latents = np.concatenate([code.reshape(-1, code.shape[-1]) for code in codes])
        self._deviation = latents.std(axis=0, dtype=np.float64)

    def add_noise(self, code: np.ndarray, tau: float, *, batch: Batch, seed: int) -> np.ndarray:
        """`z + tau std(z) n`."""
        noise = np.stack([_noise(seed, index, code.shape[1:]) for index in batch.indices])
        return (code + tau * self._deviation * noise).astype(np.float32)

    def decode(self, code: np.ndarray, nfe: int, seed: int) -> np.ndarray:
        """uint8 pictures of latents."""
        return to_uint8(self.autoencoder.decode(code, nfe, seed))


class PictureFolder(Reconstructor):
    """A folder of pictures, each named as its original, or as `--save_images` names it.

    The suffix may be another, and subfolders count too.

    Args:
      folder: of them.
      decoding: of their files.

    Raises:
      DataError: no picture in it, or two of one name.
    """

    decodes = False

    def __init__(self, folder: str, decoding: ImageDecoding = DEFAULT):
        files = list_images(pathlib.Path(folder))
        if not files:
            raise DataError(f"{folder}: no picture in it; looked for {', '.join(SUFFIXES)}")
        self._files: dict[str, pathlib.Path] = {}
        for file in files:
            if file.stem in self._files:
                raise DataError(f"{file} and {self._files[file.stem]}: two pictures of one name")
            self._files[file.stem] = file
        self._folder, self._decoding = folder, decoding
        self._owners: dict[pathlib.Path, int] = {}  # indices of the images that were given one
        self.name = _last_part(folder)
        entries = {str(f): {"size": f.stat().st_size, "mtime": f.stat().st_mtime} for f in files}
        self.metadata = {
            "kind": "pictures",
            "path": folder,
            "num_pictures": len(files),
            "files_hash": hash_files(entries),
        }

    def check(self, resolution: int, num_images: int) -> None:
        """Raises `ReconstructorError` where there are fewer pictures than images."""
        del resolution
        if len(self._files) < num_images:
            raise ReconstructorError(
                f"{self._folder}: only {len(self._files)} of {num_images} pictures; each image "
                "needs one of its own"
            )

    def encode(self, batch: Batch) -> list[np.ndarray]:
        """The pictures themselves, which `decode` gives.

        Raises:
          ReconstructorError: an image has none, one of another size, or another image's.
          DataError: one cannot be read.
        """
        pictures = []
        for original, index, name in zip(batch.images, batch.indices, batch.names, strict=True):
            file = self._file(index, name)
            picture = read_image(file, self._decoding)
            if picture.shape != original.shape:
                found, asked = ("x".join(map(str, x.shape[1::-1])) for x in (picture, original))
                raise ReconstructorError(f"{file}: {found} pixels, its original's crop has {asked}")
            pictures.append(picture)
        return pictures

    def _file(self, index: int, name: str) -> pathlib.Path:
        """The file of the picture of an image, and of no other image."""
        file = self._files.get(picture_name(index, name)) or self._files.get(stem(name))
        if file is None:
            raise ReconstructorError(
                f"{self._folder}: no picture for {name}; expected {stem(name)}.png, or "
                f"{picture_name(index, name)}.png as epsilon_vae.evaluate calls it"
            )
        if self._owners.setdefault(file, index) != index:
            raise ReconstructorError(
                f"{file}: two images of that name, the second is {name}; name pictures as "
                f"epsilon_vae.evaluate does, its one {picture_name(index, name)}.png"
            )
        return file

    def decode(self, code: list[np.ndarray], nfe: None, seed: int) -> np.ndarray:
        """The pictures."""
        del nfe, seed
        return np.stack(code)


def _noise(seed: int, index: int, shape: Sequence[int]) -> np.ndarray:
    """Normal noise of the latents of an image, whatever its batch."""
    return np.random.default_rng([seed, index]).standard_normal(shape)


def _last_part(path: str) -> str:
    return printable(path.rstrip("/").rsplit("/", 1)[-1])


def stem(name: str) -> str:
    """'dog' of 'photos/val/dog.jpg': what pictures of an image are called."""
    return pathlib.PurePosixPath(name).stem


def picture_name(index: int, name: str) -> str:
    """'000012-dog': what `--save_images` calls image 12 of those that are measured.

    With the protocol's `num_images`, these are some of the data.
    """
    # A file system takes 255 bytes; these are 7, and a suffix follows.
    cut = os.fsencode(stem(name))[-240:]
    return f"{index:06d}-{os.fsdecode(cut)}"


class DiffusersVAE(Reconstructor):
    """An `AutoencoderKL` of diffusers, in PyTorch on this machine's CPU or GPU: its mode, decoded.

    Needs `pip install -e '.[parity]'`.

    Args:
      path: folder of its `config.json` and weights, or a name on the Hugging Face hub.
      group_size: images that are encoded and decoded together.

    Raises:
      ReconstructorError: diffusers is not installed, or has no such VAE.
    """

    def __init__(self, path: str, group_size: int):
        self._group_size = group_size
        try:
            import torch
            from diffusers import AutoencoderKL
        except ImportError as error:
            raise ReconstructorError(
                f"{DIFFUSERS}{path}: {error.name} is missing; pip install -e '.[parity]'"
            ) from error
        try:
            vae = AutoencoderKL.from_pretrained(path)
        except Exception as error:  # safetensors', torch's and diffusers' own
            raise ReconstructorError(
                f"{DIFFUSERS}{path}: cannot be loaded ({reason(error)})"
            ) from error
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._vae = vae.eval().to(self._device)
        self._torch = torch
        self.name = _last_part(path)
        self.metadata = {
            "kind": "diffusers",
            "path": path,
            "torch": torch.__version__,
            "diffusers": importlib.metadata.version("diffusers"),
            "device": torch.cuda.get_device_name() if self._device == "cuda" else "cpu",
        }

    def check(self, resolution: int, num_images: int) -> None:
        """Raises `ReconstructorError` for a resolution that its downsampling does not divide."""
        del num_images
        f = 2 ** (len(self._vae.config.block_out_channels) - 1)
        if resolution % f:
            raise ReconstructorError(f"resolution {resolution}: {self.name} takes multiples of {f}")

    def encode(self, batch: Batch):
        """Its latents, a tensor `[B, n_z, h, w]`."""
        images = to_float(batch.images).transpose(0, 3, 1, 2)
        x = self._torch.from_numpy(images).to(self._device)
        with self._torch.no_grad():
            groups = x.split(self._group_size)
            code = self._torch.cat([self._vae.encode(g).latent_dist.mode() for g in groups])
        if self._device == "cuda":
            self._torch.cuda.synchronize()  # or the time of decoding would hold what is pending
        return code

    def learn_deviation(self, codes: Iterable) -> None:
        """Learns the deviation of each channel of its latents."""
        latents = self._torch.cat(list(codes))
        self._deviation = latents.std(dim=(0, 2, 3), correction=0, keepdim=True)

    def add_noise(self, code, tau: float, *, batch: Batch, seed: int):
        """`z + tau std(z) n`."""
        noise = np.stack([_noise(seed, index, code.shape[1:]) for index in batch.indices])
        return code + tau * self._deviation * self._torch.from_numpy(noise).to(code)

    def decode(self, code, nfe: None, seed: int) -> np.ndarray:
        """uint8 pictures of its latents."""
        del nfe, seed
        with self._torch.no_grad():
            groups = code.split(self._group_size)
            images = [self._vae.decode(z).sample.cpu().numpy() for z in groups]
        images = np.concatenate(images)
        check_finite(images, f"{DIFFUSERS}{self.metadata['path']}: its images")
        return to_uint8(images.transpose(0, 2, 3, 1))


def open_reconstructors(
    paths: Sequence[str], step: int | None, *, protocol: Protocol, mesh: Mesh
) -> list[Reconstructor]:
    """Opens runs' folders, folders of pictures and 'diffusers:PATH'; equal names get longer.

    Args:
      paths: as the command line names them.
      step: of runs' checkpoints; None for the newest.
      protocol: of runs' weights and spacing.
      mesh: of one process or all.

    Raises:
      ReconstructorError, CheckpointError, DataError: one cannot be evaluated, or is there twice.
    """
    if len(set(paths)) < len(paths):
        raise ReconstructorError(f"{' '.join(paths)}: one of them twice")
    reconstructors = [_open(path, step, protocol, mesh) for path in paths]
    names = [reconstructor.name for reconstructor in reconstructors]
    for reconstructor, name, path in zip(reconstructors, names, paths, strict=True):
        if names.count(name) > 1:
            reconstructor.name = printable(path)
    return reconstructors


def _open(path: str, step: int | None, protocol: Protocol, mesh: Mesh) -> Reconstructor:
    if path.startswith(DIFFUSERS):
        return DiffusersVAE(path.removeprefix(DIFFUSERS), protocol.group_size)
    folder = pathlib.Path(path)
    if folder.is_dir() and not (folder / "checkpoints").exists():
        files = list_files(*filesystem(path), path)
        if any(name.lower().endswith(SUFFIXES) for name in files):
            return PictureFolder(path, protocol.decoding())
    return Run(path, step, protocol=protocol, mesh=mesh)
