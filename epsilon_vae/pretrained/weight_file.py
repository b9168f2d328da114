"""Files of an autoencoder's weights: safetensors, or what `torch.save` wrote."""

import hashlib
import json
import pathlib
from collections.abc import Iterable, Mapping

import ml_dtypes  # noqa: F401  gives NumPy the type of safetensors' bfloat16
import numpy as np
import safetensors
import safetensors.numpy

from epsilon_vae.errors import reason
from epsilon_vae.pretrained.torch_file import read_torch_file
from epsilon_vae.pretrained.weights import WeightsError, check_is_file

# In a folder of diffusers.
DIFFUSERS_FILE = "diffusion_pytorch_model.safetensors"
# Of a whole latent diffusion model, as Stable Diffusion's checkpoints are, the autoencoder.
FIRST_STAGE = "first_stage_model."
# In the metadata of our own files: the digest of all else that they hold.
CHECKSUM = "epsilon_vae_sha256"
DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL")
MAX_NAME = 500


def read_weights(path: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of an autoencoder by name, in the file's types, and safetensors' metadata.

    Of a latent diffusion model's file, its first stage alone is read, under the names of its own.

    Args:
      path: of the file, or of a folder as diffusers' `save_pretrained` makes them.

    Raises:
      WeightsError: it is broken, no regular file, or asks for what no weights need.
      OSError: no such file, or it cannot be read.
    """
    whole = pathlib.Path(path)
    if whole.is_dir():
        whole /= DIFFUSERS_FILE
    check_is_file(whole)
    try:
        with whole.open("rb") as file:
            if whole.suffix == ".safetensors" or file.read(9)[8:] == b"{":
                arrays, metadata = _read_safetensors(whole)
            else:
                file.seek(0)
                arrays, metadata = read_torch_file(file, _first_stage), {}
        _check_names(arrays)
    except safetensors.SafetensorError as error:
        raise WeightsError(f"{path}: is broken ({reason(error)}); take another copy") from error
    except ValueError as error:
        raise WeightsError(f"{path}: {reason(error)}") from error
    return {name.removeprefix(FIRST_STAGE): array for name, array in arrays.items()}, metadata


def _read_safetensors(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    with safetensors.safe_open(path, framework="np") as file:
        all_names, metadata = file.keys(), file.metadata() or {}
        names = _first_stage(all_names)
        for name in names:
            if (dtype := file.get_slice(name).get_dtype()) not in DTYPES:
                raise ValueError(f"{name} is of {dtype}, which is not read; save it as F32")
        arrays = {name: file.get_tensor(name) for name in names}
    checksum = metadata.pop(CHECKSUM, None)
    is_whole = len(names) == len(all_names)
    if checksum is not None and is_whole and checksum != _digest(arrays, metadata):
        raise ValueError("is not as it was written: its checksum is another; take another copy")
    return arrays, metadata


def _first_stage(names: Iterable[str]) -> list[str]:
    """The arrays of the first stage; where there is none, all."""
    names = list(names)
    return [name for name in names if name.startswith(FIRST_STAGE)] or names


def _check_names(names: Iterable[str]) -> None:
    """Raises `ValueError` for names that no message could show."""
    for name in names:
        if not name.isprintable() or len(name) > MAX_NAME:
            raise ValueError(f"a weight has no name that can be printed: {name[:50]}")


def _digest(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    """SHA-256, in hex, of contiguous arrays, their names, types and shapes, and the metadata."""
    described = [(name, str(arrays[name].dtype), arrays[name].shape) for name in sorted(arrays)]
    digest = hashlib.sha256(json.dumps([described, metadata], sort_keys=True).encode())
    for name in sorted(arrays):
        digest.update(arrays[name].reshape(-1).view(np.uint8))
    return digest.hexdigest()


def safetensors_bytes(arrays: Mapping[str, np.ndarray], metadata: dict[str, str]) -> bytes:
    """The content of a safetensors file; its own `save_file` makes files nobody else may read.

    The metadata gets a checksum of all, which `read_weights` checks.
    """
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    checksum = {CHECKSUM: _digest(contiguous, metadata)}
    return safetensors.numpy.save(contiguous, metadata | checksum)
