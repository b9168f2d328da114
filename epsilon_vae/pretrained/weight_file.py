"""Files of an autoencoder's weights: safetensors, or what `torch.save` wrote."""

import pathlib
from collections.abc import Iterable, Mapping

import ml_dtypes  # noqa: F401  gives NumPy the type of safetensors' bfloat16
import numpy as np
import safetensors
import safetensors.numpy

from epsilon_vae.pretrained.torch_file import read_torch_checkpoint
from epsilon_vae.pretrained.weights import WeightsError

# In a folder of diffusers.
DIFFUSERS_FILE = "diffusion_pytorch_model.safetensors"
# Of a whole latent diffusion model, as Stable Diffusion's checkpoints are, the autoencoder.
FIRST_STAGE = "first_stage_model."


def read_weights(path: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of an autoencoder by name, in the file's types, and safetensors' metadata.

    Of a latent diffusion model's file, its first stage alone is read, under the names of its own.

    Args:
      path: of the file, or of a folder as diffusers' `save_pretrained` makes them.

    Raises:
      WeightsError: no such file, or broken, or it asks for more than arrays.
      OSError: it cannot be read.
    """
    whole = pathlib.Path(path)
    if whole.is_dir():
        whole /= DIFFUSERS_FILE
    try:
        with whole.open("rb") as file:
            if whole.suffix == ".safetensors" or file.read(9)[8:] == b"{":
                arrays, metadata = _read_safetensors(whole)
            else:
                file.seek(0)
                arrays, metadata = read_torch_checkpoint(file, _first_stage), {}
    except (ValueError, safetensors.SafetensorError) as error:
        raise WeightsError(f"{path}: {error}") from error
    return {name.removeprefix(FIRST_STAGE): array for name, array in arrays.items()}, metadata


def _read_safetensors(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    with safetensors.safe_open(path, framework="np") as file:
        arrays = {name: file.get_tensor(name) for name in _first_stage(file.keys())}
        return arrays, file.metadata() or {}


def _first_stage(names: Iterable[str]) -> list[str]:
    """The arrays of the first stage; where there is none, all."""
    names = list(names)
    return [name for name in names if name.startswith(FIRST_STAGE)] or names


def safetensors_bytes(arrays: Mapping[str, np.ndarray], metadata: dict[str, str]) -> bytes:
    """The content of a safetensors file; its own `save_file` makes files nobody else may read."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return safetensors.numpy.save(contiguous, metadata)
