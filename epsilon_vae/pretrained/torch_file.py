"""Reads what `torch.save` wrote of a state dict, as NumPy arrays, without torch.

Two formats are about: a zip since PyTorch 1.6 and, before it, pickles one after the other with the
raw numbers at the end, as files of 2019 and 2020 are. In both, a pickle describes each tensor by
its storage, offset, shape and strides, and the numbers lie outside of it.
https://github.com/pytorch/pytorch/blob/main/torch/serialization.py
"""

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from typing import NamedTuple

import numpy as np

from epsilon_vae.pretrained.unpickle import ArrayUnpickler

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL_VERSION = 1001
# bfloat16 and complex numbers are left out: no weights of ours have them.
DTYPES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
}


class _Storage(NamedTuple):
    """Numbers that lie outside of the pickle."""

    dtype: np.dtype
    key: str


class _Tensor(NamedTuple):
    """A view of a storage, in numbers, not bytes. As torch._utils._rebuild_tensor_v2 takes it."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    requires_grad: bool
    backward_hooks: dict

    def to_array(self, numbers: bytes) -> np.ndarray:
        """A read-only view; NumPy raises where it would reach beyond the numbers."""
        dtype = self.storage.dtype
        strides = tuple(stride * dtype.itemsize for stride in self.strides)
        return np.ndarray(self.shape, dtype, numbers, self.offset * dtype.itemsize, strides)


def _tensor_of_parameter(tensor: _Tensor, requires_grad: bool, hooks: dict) -> _Tensor:
    """A parameter, saved as such, is its tensor."""
    del requires_grad, hooks
    return tensor


class _TorchUnpickler(ArrayUnpickler):
    """A state dict, with a `_Tensor` for each tensor."""

    allowed = {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): _Tensor,
        ("torch._utils", "_rebuild_parameter"): _tensor_of_parameter,
        **{("torch", name): dtype for name, dtype in DTYPES.items()},
        **{("torch.cuda", name): dtype for name, dtype in DTYPES.items()},
    }

    def persistent_load(self, pid: tuple) -> _Storage:
        """The storage that `pid` names: ('storage', type, key, device, length), perhaps a view."""
        kind, dtype, key, _, _, *view = pid
        if kind != "storage" or any(view):  # views were written by PyTorch 0.1 alone
            raise pickle.UnpicklingError(f"refused: it refers to {kind} {view}")
        return _Storage(dtype, key)


def read_torch_file(data: bytes) -> dict[str, np.ndarray]:
    """The arrays of a saved state dict by their names; they are views of `data`, not to be written.

    Args:
      data: a whole .pth file.

    Raises:
      ValueError: it is cut short, is no such file, or asks for more than arrays; says which.
    """
    try:
        state, storages = _read_zip(data) if data[:4] == b"PK\3\4" else _read_legacy(data)
        return {
            name: tensor.to_array(storages[tensor.storage.key]) for name, tensor in state.items()
        }
    except pickle.UnpicklingError as error:
        raise ValueError(str(error)) from error
    except Exception as error:  # a broken pickle may raise anything
        raise ValueError(f"no state dict of torch's, or cut short ({error})") from error


def _read_zip(data: bytes) -> tuple[dict[str, _Tensor], dict[str, bytes]]:
    archive = zipfile.ZipFile(io.BytesIO(data))
    (pickled,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
    folder = pickled.removesuffix("data.pkl")
    state = _TorchUnpickler(io.BytesIO(archive.read(pickled))).load()
    keys = {tensor.storage.key for tensor in state.values()}
    return state, {key: archive.read(f"{folder}data/{key}") for key in keys}


def _read_legacy(data: bytes) -> tuple[dict[str, _Tensor], dict[str, bytes]]:
    file = io.BytesIO(data)
    header = [_TorchUnpickler(file).load() for _ in range(3)]
    if header[:2] != [MAGIC_NUMBER, PROTOCOL_VERSION]:
        raise ValueError("no magic number")
    if not header[2]["little_endian"]:
        raise ValueError("big-endian")
    state = _TorchUnpickler(file).load()
    itemsizes = {tensor.storage.key: tensor.storage.dtype.itemsize for tensor in state.values()}
    storages = {}
    for key in _TorchUnpickler(file).load():  # those of `state`, in the order of their numbers
        (length,) = struct.unpack("<q", file.read(8))
        storages[key] = file.read(length * itemsizes[key])
    return state, storages
