"""Tars with hostile headers: refused in bounded time and memory."""

import contextlib
import gzip
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from epsilon_vae.data.archives import find_images
from epsilon_vae.data.decode import DataError
from epsilon_vae.data.shards import ShardWriter
from epsilon_vae.resumable import OtherPlanError
from tests.attack import mutations as attack
from tests.data.hostile import ROUNDS, encode, photo


def tar(members: dict[str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, format=tarfile.GNU_FORMAT) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def header(name: str, size: int, kind: bytes = b"0") -> bytes:
    """Of a member that claims a size, whatever follows."""
    info = tarfile.TarInfo(name)
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[156:157] = kind
    block[124:136] = b"\x80" + (size % 2**88).to_bytes(11, "big")
    if size < 0:
        block[124] = 0xFF
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def nested_tars(count: int) -> bytes:
    data = tar({"a.png": encode(photo((2, 2)))})
    for _ in range(count):
        data = tar({"x.tar": data})
    return data


def pax(size: int) -> bytes:
    """A member whose extended header says another size."""
    record = b"%d size=%d\n"
    length = len(record % (10, size)) if size > 9 else len(record % (9, size))
    body = record % (length, size)
    return header("pax", len(body), b"x") + body.ljust(512, b"\0") + header("a.png", 0)


BAD_TARS = {
    "a size of 2^70": header("a.png", 2**70) + bytes(2048),
    "a size of 2^63": header("a.png", 2**63 - 1) + bytes(2048),
    "a negative size": header("a.png", -512) + bytes(2048),
    "a negative size in an extension": pax(-512) + bytes(2048),
    "sizes that go back": header("b.txt", 0) + pax(-1536) + bytes(2048),
    "a name of 2 GiB": header("long", 2**31, b"L") + bytes(2048),
    "an extension of 2 GiB": header("pax", 2**31, b"x") + bytes(2048),
    "extensions of extensions": header("pax", 0, b"x") * 3000 + bytes(2048),
    "tars in one another": nested_tars(100),
    "an inner tar of 2^70": header("a.tar", 2**70) + tar({"a.png": b"x"}),
}


@pytest.mark.parametrize("data", BAD_TARS.values(), ids=BAD_TARS.keys())
@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
def test_tars_with_hostile_headers_are_refused(tmp_path, memory_limit, data, kind):
    path = tmp_path / f"in.{kind}"
    path.write_bytes(gzip.compress(data) if kind == "tar.gz" else data)
    with memory_limit, pytest.raises(DataError, match=r"in.tar.*: .+"):
        find_images(str(path))


def test_a_member_of_gigabytes_is_a_bad_image_and_never_in_memory(tmp_path, memory_limit):
    size = 3 * 2**30 // 8  # of zeros, which a .gz holds in a thousandth
    with gzip.open(tmp_path / "in.tar.gz", "wb", compresslevel=1) as file:
        file.write(header("a/zeros.png", size))
        for _ in range(size // 2**20):
            file.write(bytes(2**20))
        file.write(tar({"a/b.png": encode(photo())}))
    (tmp_path / "out").mkdir()
    with memory_limit:
        images = find_images(str(tmp_path / "in.tar.gz"))
        assert images.names == ["a/zeros.png", "a/b.png"]
        with pytest.raises(DataError, match=f"zeros.png: cannot be read .{size} bytes, "):
            images.read(0)
        assert images.read(1) == encode(photo())
    writer = ShardWriter(tmp_path / "out", "train", images=images, records_per_shard=4)
    writer.write(skip_bad=True)
    assert writer.manifest["skipped"] == ["a/zeros.png"]


def test_tars_in_tars_are_read_to_a_depth_and_names_are_kept(tmp_path):
    (tmp_path / "in.tar").write_bytes(nested_tars(3))
    images = find_images(str(tmp_path / "in.tar"))
    assert images.names == ["x.tar/x.tar/x.tar/a.png"]
    assert images.read(0) == encode(photo((2, 2)))


def test_mutated_tars_hold_what_they_held_or_are_refused(tmp_path, memory_limit):
    rng = np.random.default_rng(0)
    inside = {"a/1.png": encode(photo()), "b/2.png": encode(photo(value=70)), "note": b"x" * 600}
    data = tar({**inside, "c.tar": tar({"3.png": encode(photo(value=80))})})
    with memory_limit:
        for number in range(ROUNDS):
            mutated = attack.mutate_tar(data, rng)
            path = tmp_path / "in.tar"
            path.write_bytes(gzip.compress(mutated, 1) if number % 3 == 0 else mutated)
            with contextlib.suppress(DataError):
                images = find_images(str(path))
                assert len(images) == len(images.labels) <= 6
                for index in range(len(images)):
                    with contextlib.suppress(DataError):
                        assert len(images.read(index)) == images.sizes[index]


def test_list_of_a_split_that_is_written_on_is_refused(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(encode(photo()))
    (tmp_path / "out").mkdir()
    writer = open_writer(tmp_path)
    writer.write(skip_bad=False)
    for change in ({"shards": []}, {"skipped": 3}, {"skipped": [1]}, {"classes": None}):
        (tmp_path / "out" / "train.json").write_text(json.dumps(writer.manifest | change))
        with pytest.raises(OtherPlanError, match="out: train's list of shards is damaged"):
            open_writer(tmp_path)


def open_writer(folder: Path) -> ShardWriter:
    images = find_images(str(folder / "in"))
    return ShardWriter(folder / "out", "train", images=images, records_per_shard=4)
