"""Files of an autoencoder's weights: safetensors, or what `torch.save` wrote."""

import hashlib
import json
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401  gives NumPy the type of safetensors' bfloat16
import numpy as np
import safetensors
import safetensors.numpy

from epsilon_vae.errors import reason
from epsilon_vae.pretrained.state_dicts import outline, select
from epsilon_vae.pretrained.torch_file import read_torch_file
from epsilon_vae.pretrained.weight_folder import find_weights
from epsilon_vae.pretrained.weights import WeightsError, check_is_file

# In a folder of diffusers.
DIFFUSERS_FILE = "diffusion_pytorch_model.safetensors"
# In the metadata of our own files: the digest of all else that they hold.
CHECKSUM = "epsilon_vae_sha256"
DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL")
# Of config.json, in place of factors. They are not kept: such latents are measured.
BY_CHANNEL = ("latents_mean", "latents_std")
MAX_NAME = 500
START_BYTES = 1024
# Begins of files that are taken for weights, in small letters.
_OTHER_KINDS = {
    b"<": "a web page (HTML or XML), as a site sends that refuses a download or asks for a login",
    b"gguf": "GGUF, which language models have",
    b"\x89hdf": "HDF5, which Keras writes",
    b"\x1f\x8b": "a gzip archive",
}
_OTHER_WAY = "download it again: safetensors, or what torch.save wrote"
Choose = Callable[[Iterable[str]], list[str]]


class Weights(NamedTuple):
    """Weights of a network.

    Attributes:
      arrays: by name, in the file's types.
      metadata: safetensors'.
      config: the `config.json` beside them, of diffusers; {} where there is none.
      left_out: what there is besides, in words; '' for nothing.
    """

    arrays: dict[str, np.ndarray]
    metadata: dict[str, str]
    config: dict[str, Any]
    left_out: str


def read_weights(path: str, parts: Sequence[str] = ("vae", "vqvae")) -> Weights:
    """The weights of an autoencoder, or of a DiT, under their own names.

    Of a file that holds more, as a latent diffusion model's, the autoencoder alone is read.

    Args:
      path: of a file, a folder, or a repository of the Hugging Face Hub, as `find_weights`'.
      parts: of a pipeline's folder, those that may be the network.

    Raises:
      WeightsError: it is broken, no file of weights, or asks for what no weights need.
      OSError: no such file, or it cannot be read.
    """
    files, config = find_weights(path, parts)
    names: list[str] = []

    def choose(found: Iterable[str]) -> list[str]:
        found = list(found)
        names.extend(found)
        return list(select(found)) if len(files) == 1 else found

    arrays, metadata = {}, {}
    for file in files:
        part, metadata = _read_file(file, choose)
        arrays |= part
    try:
        chosen = select(names)
    except ValueError as error:
        raise WeightsError(f"{path}: {reason(error)}") from error
    own = {name: arrays[file_name] for file_name, name in chosen.items()}
    left_out = [outline([name for name in names if name not in chosen], chosen)]
    left_out += [f"{name} of config.json" for name in BY_CHANNEL if config.get(name)]
    return Weights(own, metadata, config, ", ".join(filter(None, left_out)))


def _read_file(path: pathlib.Path, choose: Choose) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays that `choose` takes of all names, by the file's names, and its metadata."""
    check_is_file(path)
    try:
        with path.open("rb") as file:
            start = file.read(START_BYTES)
            file.seek(0)
            if start[8:9] != b"{" and (kind := _other_kind(start)):
                raise ValueError(kind)
            if path.suffix == ".safetensors" or start[8:9] == b"{":
                arrays, metadata = _read_safetensors(path, choose)
            else:
                arrays, metadata = read_torch_file(file, choose), {}
        _check_names(arrays)
    except safetensors.SafetensorError as error:
        words = f"is broken, or no safetensors file ({reason(error)})"
        raise WeightsError(f"{path}: {words}; take another copy") from error
    except ValueError as error:
        raise WeightsError(f"{path}: {reason(error)}") from error
    return arrays, metadata


def _other_kind(start: bytes) -> str:
    """What a file with this start is instead of weights, and what helps; '' for others."""
    if start.startswith(b"version https://git-lfs"):
        found = re.search(rb"\nsize (\d+)", start)
        size = f" of {found[1].decode()} bytes" if found else ""
        return (
            f"is a pointer of Git LFS to the file{size}, not the file; run `git lfs pull` in the "
            "clone, or download the file itself"
        )
    text = start.lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    for begin, title in _OTHER_KINDS.items():
        if text.startswith(begin):
            return f"is {title}, not weights; {_OTHER_WAY}"
    if text and start.isascii() and b"\0" not in start:
        return f"is a text, {start[:60].decode()!r}, not weights; {_OTHER_WAY}"
    return ""


def _read_safetensors(
    path: pathlib.Path, choose: Choose
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    with safetensors.safe_open(path, framework="np") as file:
        all_names, metadata = file.keys(), file.metadata() or {}
        names = choose(all_names)
        for name in names:
            if (dtype := file.get_slice(name).get_dtype()) not in DTYPES:
                raise ValueError(f"{name} is of {dtype}, which is not read; save it as F32")
        arrays = {name: file.get_tensor(name) for name in names}
    checksum = metadata.pop(CHECKSUM, None)
    is_whole = len(names) == len(all_names)
    if checksum is not None and is_whole and checksum != _digest(arrays, metadata):
        raise ValueError("is not as it was written: its checksum is another; take another copy")
    return arrays, metadata


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
