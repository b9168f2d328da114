"""Reads what `torch.save` wrote of weights, as NumPy arrays, without torch.

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
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from epsilon_vae.pretrained.unpickle import ArrayUnpickler

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL_VERSION = 1001
# Complex numbers are left out: no weights have them.
DTYPES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
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


def _tensor_of_parameter(tensor: _Tensor, *rest: object) -> _Tensor:
    """A parameter, saved as such, is its tensor; gradient and hooks are not used."""
    del rest
    return tensor


class _TorchUnpickler(ArrayUnpickler):
    """A state dict, with a `_Tensor` for each tensor.

    Attributes:
      dtypes: of each storage that the pickle refers to, by its key.
    """

    allowed = {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): _Tensor,
        ("torch._utils", "_rebuild_parameter"): _tensor_of_parameter,
        **{("torch", name): dtype for name, dtype in DTYPES.items()},
        **{("torch.cuda", name): dtype for name, dtype in DTYPES.items()},
    }

    def __init__(self, file: BinaryIO):
        super().__init__(file)
        self.dtypes: dict[str, np.dtype] = {}

    def persistent_load(self, pid: tuple) -> _Storage:
        """The storage that `pid` names: ('storage', type, key, device, length), perhaps a view."""
        kind, dtype, key, _, _, *view = pid
        if kind != "storage" or any(view):  # views were written by PyTorch 0.1 alone
            raise pickle.UnpicklingError(f"refused: it refers to {kind} {view}")
        self.dtypes[key] = dtype
        return _Storage(dtype, key)


class _StandIn:
    """Stands for an object that nobody needs: takes what a pickle gives, and does nothing."""

    def __init__(self, *args: Any):
        del args

    def __setstate__(self, state: Any) -> None:
        del state

    def __setitem__(self, key: Any, value: Any) -> None:
        del key, value


class _CheckpointUnpickler(_TorchUnpickler):
    """Stand-ins for the objects that training scripts are known to save beside weights.

    LlamaGen saves its arguments; PyTorch Lightning its callbacks' states, with NumPy's numbers.
    """

    allowed = _TorchUnpickler.allowed | dict.fromkeys(
        [
            ("argparse", "Namespace"),
            ("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"),
            ("numpy.core.multiarray", "scalar"),
            ("numpy._core.multiarray", "scalar"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
            ("collections", "Counter"),
            ("collections", "defaultdict"),
            ("__builtin__", "set"),
            ("pathlib", "PosixPath"),
        ],
        _StandIn,
    )


def read_torch_file(data: bytes) -> dict[str, np.ndarray]:
    """The arrays of a saved state dict by their names; they are views of `data`, not to be written.

    Args:
      data: a whole .pth file.

    Raises:
      ValueError: it is cut short, is no such file, or asks for more than arrays; says which.
    """
    return _read(io.BytesIO(data), _TorchUnpickler, lambda state: state)


def read_torch_checkpoint(
    file: BinaryIO, choose: Callable[[Iterable[str]], list[str]]
) -> dict[str, np.ndarray]:
    """Arrays of the model that a training script saved, by name; not to be written.

    The model is what the 'ema', 'model' or 'state_dict' of the saved dictionary holds, in this
    order; else, the dictionary itself.

    Args:
      file: of torch.
      choose: the model's names → those of the arrays to read.

    Raises:
      ValueError: it is cut short, is no such file, or asks for more than a checkpoint needs.
    """

    def choose_tensors(checkpoint: dict) -> dict[str, _Tensor]:
        named = [checkpoint[name] for name in ("ema", "model", "state_dict") if name in checkpoint]
        model = named[0] if named else checkpoint
        tensors = {name: x for name, x in model.items() if isinstance(x, _Tensor)}
        return {name: tensors[name] for name in choose(tensors)}

    return _read(file, _CheckpointUnpickler, choose_tensors)


def _read(
    file: BinaryIO,
    unpickler: type[_TorchUnpickler],
    choose: Callable[[Any], dict[str, _Tensor]],
) -> dict[str, np.ndarray]:
    """The tensors that `choose` takes of what is pickled."""
    try:
        is_zip = file.read(4) == b"PK\3\4"
        file.seek(0)
        read = _read_zip if is_zip else _read_legacy
        state, storages = read(file, unpickler, choose)
        return {
            name: tensor.to_array(storages[tensor.storage.key]) for name, tensor in state.items()
        }
    except Exception as error:  # a broken pickle may raise anything
        reason = str(error)
        if not reason.startswith("refused"):
            reason = f"no state dict of torch's, or cut short ({reason})"
        raise ValueError(reason) from error


def _read_zip(
    file: BinaryIO, unpickler: type[_TorchUnpickler], choose: Callable
) -> tuple[dict[str, _Tensor], dict[str, bytes]]:
    archive = zipfile.ZipFile(file)
    (pickled,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
    folder = pickled.removesuffix("data.pkl")
    state = choose(unpickler(io.BytesIO(archive.read(pickled))).load())
    keys = {tensor.storage.key for tensor in state.values()}
    return state, {key: archive.read(f"{folder}data/{key}") for key in keys}


def _read_legacy(
    file: BinaryIO, unpickler: type[_TorchUnpickler], choose: Callable
) -> tuple[dict[str, _Tensor], dict[str, bytes]]:
    header = [_TorchUnpickler(file).load() for _ in range(3)]
    if header[:2] != [MAGIC_NUMBER, PROTOCOL_VERSION]:
        raise ValueError("no magic number")
    if not header[2]["little_endian"]:
        raise ValueError("big-endian")
    reader = unpickler(file)
    state = choose(reader.load())
    keys = {tensor.storage.key for tensor in state.values()}
    storages = {}
    for key in _TorchUnpickler(file).load():  # all, in the order of their numbers
        (length,) = struct.unpack("<q", file.read(8))
        size = length * reader.dtypes[key].itemsize
        if key in keys:
            storages[key] = file.read(size)
        else:
            file.seek(size, io.SEEK_CUR)
    return state, storages
