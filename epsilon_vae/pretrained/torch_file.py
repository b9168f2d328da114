"""Reads what `torch.save` wrote of weights, as NumPy arrays, without torch.

Two formats are about: a zip since PyTorch 1.6 and, before it, pickles one after the other with the
raw numbers at the end, as files of 2019 and 2020 are. In both, a pickle describes each tensor by
its storage, offset, shape and strides, and the numbers lie outside of it.
https://github.com/pytorch/pytorch/blob/main/torch/serialization.py
"""

import dataclasses
import io
import math
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from epsilon_vae.pretrained.stored_zip import open_zip
from epsilon_vae.pretrained.unpickle import Call, Global, Reference, entries_of, read_pickle

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL_VERSION = 1001
# The description of 2 GB of weights takes less than one.
MAX_PICKLE_BYTES = 64 * 2**20
# The names of nested dictionaries; longer ones would be of no weights.
MAX_PREFIX = 300
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
_TENSOR = Global("torch._utils", "_rebuild_tensor_v2")
_PARAMETERS = (
    Global("torch._utils", "_rebuild_parameter"),
    Global("torch._utils", "_rebuild_parameter_with_state"),
)


@dataclasses.dataclass(kw_only=True, frozen=True)
class _Storage:
    """Numbers that lie outside of the pickle.

    Attributes:
      key: its name.
      dtype: of the numbers.
      size: in bytes.
    """

    key: str
    dtype: np.dtype
    size: int


@dataclasses.dataclass(kw_only=True, frozen=True)
class _Tensor:
    """A view of a storage, in numbers, not bytes."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def to_array(self, numbers: bytes) -> np.ndarray:
        """A read-only view; NumPy raises where it would reach beyond the numbers."""
        dtype = self.storage.dtype
        strides = tuple(stride * dtype.itemsize for stride in self.strides)
        return np.ndarray(self.shape, dtype, numbers, self.offset * dtype.itemsize, strides)


def read_torch_file(
    file: BinaryIO, choose: Callable[[Iterable[str]], Iterable[str]] = list
) -> dict[str, np.ndarray]:
    """Arrays of what was saved, by name; not to be written.

    The names of dictionaries in the saved one, and of modules in a saved module, come before those
    of the tensors in them: 'model.conv.weight'. What lies beside tensors is not looked at.

    Args:
      file: of torch.
      choose: all names → those of the arrays to read.

    Raises:
      ValueError: it is cut short, is no such file, or asks for what no weights need; says which.
    """
    try:
        is_zip = file.read(4) == b"PK\3\4"
        file.seek(0)
        return (_read_zip if is_zip else _read_legacy)(file, choose)
    except Exception as error:  # zipfile and NumPy raise many kinds
        reason = str(error)[:300]
        raise ValueError(
            f"cannot be read as torch's weights, or is cut short ({reason}); take another copy, or "
            "save its state dict again"
        ) from error


def _read_zip(file: BinaryIO, choose: Callable) -> dict[str, np.ndarray]:
    with open_zip(file) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError(f"it has {len(pickles)} data.pkl")
        folder = pickles[0].removesuffix("data.pkl")
        order = f"{folder}byteorder"
        if order in archive.namelist() and archive.read(order) != b"little":
            raise ValueError("big-endian")
        size = archive.getinfo(pickles[0]).file_size
        if size > MAX_PICKLE_BYTES:
            raise ValueError(f"its data.pkl has {size} bytes, more than {MAX_PICKLE_BYTES}")
        value = read_pickle(io.BytesIO(archive.read(pickles[0]))).value
        tensors = _chosen(value, choose)
        storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
        numbers = {key: archive.read(f"{folder}data/{key}") for key in storages}
    return _to_arrays(tensors, numbers)


def _read_legacy(file: BinaryIO, choose: Callable) -> dict[str, np.ndarray]:
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    pickles = io.BytesIO(file.read(MAX_PICKLE_BYTES))
    header = [read_pickle(pickles).value for _ in range(3)]
    if header[:2] != [MAGIC_NUMBER, PROTOCOL_VERSION]:
        raise ValueError("no magic number")
    if not header[2]["little_endian"]:
        raise ValueError("big-endian")
    value, references = read_pickle(pickles)
    tensors = _chosen(value, choose)
    wanted = {tensor.storage.key for tensor in tensors.values()}
    # Whole networks' classes are references too.
    numbered = [_storage(reference) for reference in references if reference.name[0] == "storage"]
    storages = {storage.key: storage for storage in numbered}
    numbers = {}
    keys = read_pickle(pickles).value  # of all, in the order of their numbers
    file.seek(pickles.tell())
    for key in keys:
        storage = storages[key]
        (length,) = struct.unpack("<q", file.read(8))
        if length * storage.dtype.itemsize != storage.size or file.tell() + storage.size > size:
            raise ValueError(f"storage {key} has not the {storage.size} bytes of its tensors")
        if key in wanted:
            numbers[key] = file.read(storage.size)
        else:
            file.seek(storage.size, io.SEEK_CUR)
    return _to_arrays(tensors, numbers)


def _to_arrays(tensors: dict[str, _Tensor], numbers: dict[str, bytes]) -> dict[str, np.ndarray]:
    """Each tensor as a view of the numbers of its storage."""
    for tensor in tensors.values():
        storage, found = tensor.storage, len(numbers[tensor.storage.key])
        if found != storage.size:
            raise ValueError(f"storage {storage.key} has {found} bytes, not {storage.size}")
    return {name: x.to_array(numbers[x.storage.key]) for name, x in tensors.items()}


def _chosen(saved: Any, choose: Callable) -> dict[str, _Tensor]:
    """The tensors that `choose` names."""
    calls = dict(_calls(saved, "", set()))
    if not calls:
        raise ValueError("it holds no dictionary of tensors")
    return {name: _tensor(name, calls[name]) for name in choose(calls)}


def _calls(value: Any, prefix: str, seen: set[int]) -> Iterator[tuple[str, Call]]:
    """The calls of all dictionaries by which torch would have made tensors, of whatever kind.

    A dictionary that is in several is looked at once: a small pickle may hold very many.
    """
    if id(value) in seen or len(prefix) > MAX_PREFIX:
        return
    seen.add(id(value))
    for name, entry in _entries(value).items():
        if isinstance(entry, Call) and getattr(entry.function, "module", "") == "torch._utils":
            yield prefix + name, entry
        else:
            yield from _calls(entry, f"{prefix}{name}.", seen)


def _entries(value: Any) -> dict[str, Any]:
    """A dictionary's, or those of a module of torch that was saved whole."""
    state = getattr(value, "state", None)
    if isinstance(state, dict) and "_modules" in state:
        kinds = ("_parameters", "_buffers", "_modules")
        return {name: x for kind in kinds for name, x in entries_of(state.get(kind)).items()}
    return entries_of(value)


def _tensor(name: str, call: Call) -> _Tensor:
    """What a call would have made.

    Raises:
      ValueError: no tensor, or one that reaches beyond its storage.
    """
    if call.function in _PARAMETERS:
        call = call.args[0]
    if call.function != _TENSOR:
        raise ValueError(f"{name} is made by {call.function.name}, which is not read")
    reference, offset, shape, strides, *_ = call.args
    storage = _storage(reference)
    if not all(type(x) is int and 0 <= x < 2**63 for x in (offset, *shape, *strides)):
        raise ValueError(f"{name} has a shape, offset or strides that are no numbers")
    if len(shape) != len(strides) or len(shape) > 32:
        raise ValueError(f"{name} has {len(shape)} dimensions and {len(strides)} strides")
    if math.prod(shape) * storage.dtype.itemsize > storage.size:
        raise ValueError(f"{name} {shape} has more numbers than its storage")
    return _Tensor(storage=storage, offset=offset, shape=shape, strides=strides)


def _storage(reference: Reference) -> _Storage:
    """The storage of ('storage', type, key, device, length), perhaps with a view."""
    kind, name, key, _, length, *view = reference.name
    if kind != "storage" or any(view):  # views were written by PyTorch 0.1 alone
        raise ValueError(f"it refers to {kind}")
    if name.module not in ("torch", "torch.cuda") or name.name not in DTYPES:
        raise ValueError(f"it has numbers of {name.module}.{name.name}, which are not read")
    if not isinstance(key, str) or type(length) is not int or not 0 <= length < 2**63:
        raise ValueError("it has a storage without a name or length")
    dtype = DTYPES[name.name]
    return _Storage(key=key, dtype=dtype, size=length * dtype.itemsize)
