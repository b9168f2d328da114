"""Reads damaged files of weights, under limits of memory and time.

`python -m tests.pretrained.attack_weights FOLDER ROUNDS` damages each kind of file ROUNDS times.

Each must be refused in one line, or read as it was. What has no checksum (safetensors of others,
torch's old format, pickles) may be read as other numbers, never more than the file has.
"""

import dataclasses
import hashlib
import os
import pathlib
import resource
import sys
import time
from collections.abc import Callable, Mapping

import numpy as np
import safetensors.numpy

from epsilon_vae.pretrained import inception, lpips
from epsilon_vae.pretrained.weight_file import CHECKSUM, read_weights, safetensors_bytes
from epsilon_vae.pretrained.weights import WeightsError
from tests.attack.mutations import mutate_bytes
from tests.golden_params import GOLDEN
from tests.pretrained.files import legacy, lpips_pickle, member, tensor_pickle, zipped

MAX_MEMORY_BYTES = 2**30  # beside what is imported
MAX_GROWTH_BYTES = 400 * 2**20
MAX_SECONDS = 10

Arrays = Mapping[str, np.ndarray]
SMALL = {f"encoder.down.{i}": np.arange(12, dtype=np.float32).reshape(3, 4) for i in range(3)}


def read_file(path: pathlib.Path) -> Arrays:
    return read_weights(str(path))[0]


def read_lpips(path: pathlib.Path) -> Arrays:
    return flat(lpips.convert(path.read_bytes()))


def flat(params: Mapping[str, Arrays]) -> Arrays:
    return {f"{i}/{j}": array for i, layer in params.items() for j, array in layer.items()}


def known(original: bytes) -> inception.Weights:
    """Inception's entry, as if these bytes were the known file."""
    digest = hashlib.sha256(original).hexdigest()
    return dataclasses.replace(inception.WEIGHTS, sha256=digest, size=len(original))


def read_cache(path: pathlib.Path) -> Arrays:
    """The cache's file is `path`, which has been damaged."""
    weights = known((GOLDEN / "torch_file_zip.pth").read_bytes())
    weights.cache_file().write_bytes(path.read_bytes())
    return flat(weights.load())


def cached(folder: pathlib.Path) -> bytes:
    os.environ["EPSILON_VAE_CACHE"] = str(folder / "cache")
    weights = known((GOLDEN / "torch_file_zip.pth").read_bytes())
    return weights.get(str(GOLDEN / "torch_file_zip.pth")).read_bytes()


@dataclasses.dataclass(kw_only=True)
class Format:
    """One kind of file.

    Attributes:
      data: of a good one.
      read: it.
      checksum: what a file with a checksum has; without it, damage may pass.
      wrap: what is damaged → the file, by default itself.
    """

    data: bytes
    read: Callable[[pathlib.Path], Arrays] = read_file
    checksum: bytes | None = None
    wrap: Callable[[bytes], bytes] = bytes


def formats(folder: pathlib.Path) -> dict[str, Format]:
    zip_file = (GOLDEN / "torch_file_zip.pth").read_bytes()
    numbers = {str(i): member(zip_file, f"torch_file_zip/data/{i}") for i in range(9)}
    ours = safetensors_bytes(SMALL, {"format": "epsilon_vae", "config": '{"seed": 0}'})
    return {
        "zip": Format(data=zip_file, checksum=b"PK"),
        "pickle": Format(
            data=member(zip_file, "torch_file_zip/data.pkl"),
            wrap=lambda pickled: zipped(pickled, **numbers),
        ),
        "legacy": Format(data=(GOLDEN / "torch_file_legacy.pth").read_bytes()),
        "lightning": Format(data=(GOLDEN / "torch_checkpoint_lightning.ckpt").read_bytes()),
        "safetensors": Format(data=safetensors.numpy.save(SMALL, {"format": "pt"})),
        "ours": Format(data=ours, checksum=CHECKSUM.encode()),
        "cache": Format(data=cached(folder), read=read_cache, checksum=b"PK"),
        "lpips": Format(data=lpips_pickle(), read=read_lpips),
    }


def bombs() -> dict[str, bytes]:
    """Small files that claim much."""
    pickles = {
        "memo": b"\x80\x02Nr\x00\x00\x00\x10.",
        "frame": b"\x80\x04\x95" + b"\xff" * 8 + b"N.",
        "bytes": b"\x8e" + (2**62).to_bytes(8, "little") + b".",
        "long": b"\x8b" + (2**31 - 1).to_bytes(4, "little") + b".",
        "decimal": b"L" + b"9" * 10**6 + b"L\n.",
        "opcodes": b"(" + b"]" * (3 * 10**6) + b"t.",
        "nested": b")" + b"\x85" * (3 * 10**5) + b".",
        "nested_key": b"})" + b"\x85" * (3 * 10**5) + b"Ns.",
        "marks": b"(" * 10**6 + b".",
        "shape": tensor_pickle((2**40,), (0,), 4),
        "storage": tensor_pickle((2**30,), (1,), 2**30),
        "negative": tensor_pickle((4,), (-1,), 4),
    }
    files = {name: zipped(data, **{"0": bytes(16)}) for name, data in pickles.items()}
    files |= {f"legacy_{name}": legacy(data) for name, data in pickles.items()}
    good = tensor_pickle((4,), (1,), 4)
    files["deflated"] = zipped(good, compress=True, **{"0": bytes(2**27)})
    files["deflated_pickle"] = zipped(good + bytes(2**27), compress=True, **{"0": bytes(16)})
    return files


def read_and_check(name: str, read: Callable, path: pathlib.Path) -> Arrays | None:
    """What is read, if it is; raises `AssertionError` for what must not be."""
    start, before = time.monotonic(), peak_bytes()
    try:
        arrays = read(path)
    except (WeightsError, ValueError) as error:
        assert isinstance(error, WeightsError) or read is read_lpips, (name, error)
        message = str(error)
        assert message.isprintable() and len(message) < 2000, (name, message)
        arrays = None
    assert time.monotonic() - start < MAX_SECONDS, name
    assert peak_bytes() - before < MAX_GROWTH_BYTES, (name, peak_bytes() - before)
    for array in (arrays or {}).values():
        assert array.size * array.itemsize <= path.stat().st_size, (name, array.shape)
    return arrays


def same(one: Arrays, other: Arrays) -> bool:
    """Whether they are the same to the bit."""
    return one.keys() == other.keys() and all(
        x.dtype == other[k].dtype
        and x.shape == other[k].shape
        and x.tobytes() == other[k].tobytes()
        for k, x in one.items()
    )


def peak_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def attack(folder: pathlib.Path, rounds: int, seed: int = 0) -> dict[str, int]:
    """Damages each format `rounds` times; how many of them were read all the same."""
    random = np.random.default_rng(seed)
    counts = {}
    for name, kind in formats(folder).items():
        path = folder / "weights.bin"
        path.write_bytes(kind.wrap(kind.data))
        good = kind.read(path)
        assert good, name
        counts[name] = 0
        for round_ in range(rounds):
            damaged = mutate_bytes(kind.data, random)
            path.write_bytes(kind.wrap(damaged))
            arrays = read_and_check(f"{name} {round_}", kind.read, path)
            counts[name] += arrays is not None
            is_checked = kind.checksum is not None and kind.checksum in damaged
            assert arrays is None or not is_checked or same(arrays, good), (name, round_)
    return counts


def main() -> None:
    folder, rounds = pathlib.Path(sys.argv[1]), int(sys.argv[2])
    for name, data in bombs().items():
        path = folder / "bomb.bin"
        path.write_bytes(data)
        assert read_and_check(name, read_file, path) is None, name
    print(attack(folder, rounds))


if __name__ == "__main__":
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MAX_MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    main()
