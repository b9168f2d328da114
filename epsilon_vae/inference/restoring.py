"""Restores trained autoencoders: from runs, folders, the Hugging Face Hub and this package."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
from etils import epath
from jax.sharding import Mesh
from jax.typing import DTypeLike

from epsilon_vae import checkpoint, step_folders
from epsilon_vae.config import ConfigError, check_kind
from epsilon_vae.diffusion.time import SPACINGS
from epsilon_vae.inference import sharing
from epsilon_vae.inference.autoencoder import Autoencoder
from epsilon_vae.models.autoencoder_model import AutoencoderModel
from epsilon_vae.models.build import build_networks, build_process
from epsilon_vae.parallel.mesh import local_mesh, replicated

FIELDS = {"ema": "ema", "raw": "params"}  # of a checkpoint, by what its weights are called
DTYPES = ("float32", "bfloat16")
RELEASED = pathlib.Path(__file__).parents[1] / "released"  # folders as `save_pretrained` makes them


def restore(
    workdir: str,
    step: int | None = None,
    space: int = 1,
    *,
    device: jax.Device | str | None = None,
    mesh: Mesh | None = None,
    weights: str = "ema",
    spacing: str | None = None,
    dtype: DTypeLike | None = None,
    group_size: int = 1,
    progress: bool = False,
    tile: int | None = None,
    preferred: int | None = None,
) -> Autoencoder:
    """Restores the trained autoencoder of a run.

    Without a step, processes that know of each other call alike, and so they do with a mesh of all.

    Args:
      workdir: of the run, as given to `epsilon_vae.main`.
      step: of the checkpoint; None for the newest that can be read.
      space: devices that the rows of an image are spread over, for images too large for one.
      device: that works, or a platform, as 'cpu'; None for this machine's first.
      mesh: of `epsilon_vae.parallel.mesh.make_mesh`, whose devices share the images of a batch.
      weights: 'ema', or 'raw' for those that are not averaged.
      spacing: of the decoder's times, a key of `diffusion.time.SPACINGS`; None for the run's.
      dtype: that the networks compute in, float32 or bfloat16; None for the run's.
      group_size: images that a device works on together. More are faster and need more memory;
        another number may change a last digit.
      progress: shows a bar while a batch or a large image is encoded or decoded.
      tile: side of the overlapping tiles, in pixels, that larger images are encoded and decoded in;
        0 for none. None chooses it by the resolution of training, and none up to 4 x 4 of that.
      preferred: a step to take before the newest, if it is there.

    Returns:
      An `epsilon_vae.inference.autoencoder.Autoencoder`, with `encode`, `decode` and `reconstruct`.

    Raises:
      CheckpointError: no checkpoint there that can be read, or not of this step.
      ConfigError: no such device, another value than those above, or the run of a latent diffusion
        model.
    """
    mesh = local_mesh(space, device=device, mesh=mesh)
    field = FIELDS[one_of("weights", weights, FIELDS)]

    def read(step_directory: epath.Path) -> Autoencoder:
        config = checkpoint.load_config(step_directory)
        check_kind(config, workdir, latent_diffusion=False)
        networks = build_networks(computing_in(config, dtype))
        target = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated(mesh)),
            _shapes(networks, config),
        )
        # Measured of the EMA's latents.
        data = checkpoint.load_data(step_directory) if weights == "ema" else {}
        return Autoencoder(
            networks,
            build_process(config),
            spacing=one_of("spacing", spacing or config.flow.spacing, SPACINGS),
            params=checkpoint.load_parts(step_directory, {field: target})[field],
            config=config,
            step=int(step_directory.name),
            normalization=sharing.normalization_of(config, data.get("normalization")),
            mesh=mesh,
            group_size=group_size,
            progress=progress,
            tile=tile,
            origin=str(step_directory),
        )

    return step_folders.load(workdir, read, step=step, preferred=preferred)


def list_models() -> list[str]:
    """The names of the models that come with this package."""
    return sorted(config.parent.name for config in RELEASED.glob("*/config.json"))


def load(name: str, **options: Any) -> Autoencoder:
    """Loads a model that comes with this package, or what `from_pretrained` takes.

    Args:
      name: one of `list_models()`; or else a folder, or OWNER/NAME of the Hugging Face Hub.
      options: as `from_pretrained`'s.

    Returns:
      An `epsilon_vae.inference.autoencoder.Autoencoder`, as `restore` gives it.

    Raises:
      WeightsError, HubError, ConfigError: as `from_pretrained`.
    """
    if name not in list_models():
        return from_pretrained(name, **options)
    vae = from_pretrained(str(RELEASED / name), **options)
    vae.origin = name
    return vae


def from_pretrained(
    name: str,
    *,
    revision: str | None = None,
    space: int = 1,
    device: jax.Device | str | None = None,
    mesh: Mesh | None = None,
    spacing: str | None = None,
    dtype: DTypeLike | None = None,
    group_size: int = 1,
    progress: bool = False,
    tile: int | None = None,
) -> Autoencoder:
    """Loads a trained autoencoder from a folder of `save_pretrained`, or from the Hugging Face Hub.

    Args:
      name: of the folder; or, where there is no such folder, of a repository, as OWNER/NAME, which
        is fetched by `huggingface_hub` (`pip install -e '.[hub]'`).
      revision: of the repository: a branch, tag or commit; None for its newest.
      space, device, mesh, spacing, dtype, group_size, progress, tile: as `restore`'s.

    Returns:
      An `epsilon_vae.inference.autoencoder.Autoencoder`, as `restore` gives it.

    Raises:
      WeightsError: neither is there, or it is broken.
      HubError: the Hub does not give it, or huggingface_hub is not installed.
      ConfigError: as `restore`.
    """
    mesh = local_mesh(space, device=device, mesh=mesh)
    folder = sharing.find(name, revision)
    config = sharing.load_config(folder)
    networks = build_networks(computing_in(config, dtype))
    params, metadata = sharing.load_weights(folder, _shapes(networks, config))
    step = metadata.get("step", "")
    return Autoencoder(
        networks,
        build_process(config),
        spacing=one_of("spacing", spacing or config.flow.spacing, SPACINGS),
        params=jax.device_put(params, replicated(mesh)),
        config=config,
        step=int(step) if step.isdecimal() else None,
        normalization=sharing.normalization_in(metadata, config, str(folder / sharing.WEIGHTS)),
        mesh=mesh,
        group_size=group_size,
        progress=progress,
        tile=tile,
        origin=name,
    )


def step_that_made(latents: Mapping[str, Any], workdir: str) -> int | None:
    """The step of the autoencoder that made latents, None where another run did.

    Where it is gone, the newest decodes them if its encoder is the same, as a frozen one is.

    Args:
      latents: their `provenance`.
      workdir: of the run that decodes.
    """
    is_same = workdir.rstrip("/") == latents["workdir"].rstrip("/")
    return latents["step"] if is_same else None


def one_of(name: str, value: str, known: Mapping[str, Any] | tuple[str, ...]) -> str:
    """The value; raises `ConfigError` for one that is not known."""
    if value not in known:
        raise ConfigError(f"{name} = {value!r}: expected one of {', '.join(known)}")
    return value


def computing_in(
    config: ml_collections.ConfigDict, dtype: DTypeLike | None
) -> ml_collections.ConfigDict:
    """The config, or a copy whose networks compute in another type; raises `ConfigError`."""
    if dtype is None:
        return config
    config = config.copy_and_resolve_references()
    config.dtype = one_of("dtype", getattr(dtype, "__name__", str(dtype)), DTYPES)
    return config


def _shapes(networks: AutoencoderModel, config: ml_collections.ConfigDict) -> dict:
    return jax.eval_shape(lambda k: networks.init(k, config.data.resolution), jax.random.key(0))
