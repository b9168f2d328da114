"""Records, lists of shards and latents of other types and ranges: refused, with their name."""

import contextlib
import json
from pathlib import Path

import msgpack
import numpy as np
import pytest

from epsilon_vae.data.decode import DataError
from epsilon_vae.data.latents import (
    LatentMetadata,
    LatentRecord,
    Latents,
    pack_latents,
    shard_name,
    unpack_latents,
)
from epsilon_vae.data.records import Record, pack, unpack
from epsilon_vae.data.shards import write_shard
from epsilon_vae.data.sources import open_source
from tests.attack import mutations as attack
from tests.data.hostile import ODD_NAME, ROUNDS, encode, photo

PROVENANCE = {"workdir": "runs/a", "step": 7, "weights": "ema", "encoder_sha256": "ab" * 32}


def open_shards(folder: Path):
    return open_source("array_record", str(folder), split="train")


BAD_FIELDS = [
    {"image": "text"},
    {"image": None},
    {"label": "3"},
    {"label": 1.5},
    {"label": True},
    {"label": -1},
    {"label": 2**40},
    {"name": 3},
    {"name": None},
    {"name": b"bytes"},
]


@pytest.mark.parametrize("change", BAD_FIELDS, ids=str)
def test_records_of_other_types_are_bad_records(change):
    fields = {"image": b"x", "label": 3, "name": "a.png"}
    assert unpack(msgpack.packb(fields), "s[0]") == Record(b"x", 3, "a.png")
    with pytest.raises(DataError, match=r"s\[0\]: not a record of epsilon_vae.data.prepare"):
        unpack(msgpack.packb(fields | change), "s[0]")


def test_name_of_any_bytes_is_kept_in_a_record():
    record = Record(b"x", None, ODD_NAME)
    assert unpack(pack(record), "s[0]") == record


def test_mutated_records_are_records_or_bad():
    rng = np.random.default_rng(0)
    fields = {"image": encode(photo()), "label": 3, "name": "a.png"}
    latents = np.zeros((2, 2, 3), np.float16)
    packed = pack_latents(LatentRecord(latents=latents, flipped=latents, label=1, name="a"))
    for _ in range(ROUNDS):
        with contextlib.suppress(DataError):
            check_record(unpack(attack.mutate_record(msgpack.packb(fields), rng), "s[0]"))
        with contextlib.suppress(DataError):
            unpack_zeros(attack.mutate_record(packed, rng))


def check_record(record: Record) -> None:
    assert isinstance(record.data, bytes) and isinstance(record.name, str)
    assert record.label is None or 0 <= record.label < 2**31


def unpack_zeros(data: bytes) -> None:
    found = unpack_latents(data, (2, 2, 3), dtype=np.dtype(np.float16), title="t")
    assert np.isfinite(found.latents).all() and np.isfinite(found.flipped).all()


@pytest.fixture
def shards(tmp_path) -> Path:
    """A prepared split of two classes, with its list."""
    packed = [pack(Record(encode(photo()), i % 2, f"{i}.png")) for i in range(4)]
    write_shard(tmp_path / "train-00000.array_record", packed)
    listed = {"shards": {"train-00000.array_record": 4}, "classes": ["a", "b"]}
    (tmp_path / "train.json").write_text(json.dumps(listed))
    return tmp_path


BAD_LISTS = [
    b"[]",
    b"null",
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"shards": [], "classes": []}',
    b'{"shards": {}, "classes": []}',
    b'{"shards": {"train-00000.array_record": "4"}, "classes": []}',
    b'{"shards": {"train-00000.array_record": true}, "classes": []}',
    b'{"shards": {"train-00000.array_record": -4}, "classes": []}',
    b'{"shards": {"../train-00000.array_record": 4}, "classes": []}',
    b'{"shards": {"train-00000.array_record": 4}}',
    b'{"shards": {"train-00000.array_record": 4}, "classes": "ab"}',
    b'{"shards": {"train-00000.array_record": 4}, "classes": [1, 2]}',
    b'{"shards": {"train-00000.array_record": 4}, "classes": ["a", "a"]}',
]


@pytest.mark.parametrize("content", BAD_LISTS, ids=lambda content: content[:60].decode("latin1"))
def test_lists_of_other_types_are_refused(shards, content):
    (shards / "train.json").write_bytes(content)
    with pytest.raises(DataError, match=r"train.json and its shards cannot be read \(.+\)"):
        open_shards(shards)


def test_labels_beyond_the_classes_are_bad_records(shards):
    listed = {"shards": {"train-00000.array_record": 4}, "classes": ["a"]}
    (shards / "train.json").write_text(json.dumps(listed))
    source = open_shards(shards)
    assert source[0].label == 0
    with pytest.raises(DataError, match=r"train\[1\], 1.png: is of class 1, the data set has 1"):
        source[1]


def test_mutated_lists_are_the_same_or_refused(shards):
    rng = np.random.default_rng(0)
    data = (shards / "train.json").read_bytes()
    for _ in range(ROUNDS):
        (shards / "train.json").write_bytes(attack.mutate_json(data, rng))
        with contextlib.suppress(DataError):
            source = open_shards(shards)
            assert len(source) == 4 and all(isinstance(name, str) for name in source.classes)
            for index in range(4):
                with contextlib.suppress(DataError):
                    check_record(source[index])


@pytest.fixture
def latents(tmp_path) -> Path:
    records = [
        LatentRecord(latents=z, flipped=-z, label=i % 2, name=f"{i}.png")
        for i, z in enumerate(np.ones((4, 2, 2, 3), np.float16))
    ]
    write_shard(tmp_path / shard_name(0), map(pack_latents, records))
    (tmp_path / "latents.json").write_text(json.dumps(index_of_latents()))
    return tmp_path


def index_of_latents() -> dict:
    return {
        "version": 1,
        "shape": [2, 2, 3],
        "dtype": "float16",
        "classes": ["a", "b"],
        "mean": [1.0, -2.0, 0.5],
        "std": [2.0, 0.5, 0.0],
        "num_records": 4,
        "checkpoint": PROVENANCE,
        "shards": {shard_name(0): 4},
    }


BAD_INDICES = [
    ({"mean": [1.0]}, "mean must be 3 numbers"),
    ({"mean": [1.0, None, 2.0]}, "mean must be 3 numbers"),
    ({"mean": [1.0, 2.0, float("nan")]}, "mean is not finite"),
    ({"std": [1.0, 1.0, float("inf")]}, "std is not finite"),
    ({"std": [1, 1, 10**400]}, "std is not finite"),
    ({"std": [1.0, 1.0, -1.0]}, "std has a negative deviation"),
    ({"std": "abc"}, "std must be 3 numbers"),
    ({"shape": [2, 2]}, r"shape must be \[h, w, n_z\]"),
    ({"shape": [2.0, 2, 3]}, r"shape must be \[h, w, n_z\]"),
    ({"shape": [2, 0, 3]}, r"shape must be \[h, w, n_z\]"),
    ({"shape": [2**40, 2**40, 3]}, "is too large"),
    ({"dtype": "object"}, "dtype must be float16 or bfloat16"),
    ({"dtype": ["float16"]}, "dtype must be float16 or bfloat16"),
    ({"version": True}, "version must be 1"),
    ({"version": "1"}, "version must be 1"),
    ({"classes": None}, "classes must be a list of names"),
    ({"shards": [shard_name(0)]}, "shards must be names"),
    ({"num_records": 5}, "its shards have 4 records"),
    ({"checkpoint": None}, "the checkpoint must have workdir, step, encoder_sha256"),
    ({"checkpoint": PROVENANCE | {"encoder_sha256": 3}}, "the checkpoint must have"),
]


@pytest.mark.parametrize(("change", "words"), BAD_INDICES, ids=lambda case: str(case)[:50])
def test_indices_of_other_types_are_refused(latents, change, words):
    (latents / "latents.json").write_text(json.dumps(index_of_latents() | change))
    with pytest.raises(DataError, match=f"latents.json cannot be read .*{words}"):
        Latents(str(latents))


def test_index_without_an_entry_is_refused(latents):
    for name in index_of_latents().keys() - {"num_records"}:
        index = {k: v for k, v in index_of_latents().items() if k != name}
        (latents / "latents.json").write_text(json.dumps(index))
        with pytest.raises(DataError, match="latents.json cannot be read"):
            Latents(str(latents))


def test_metadata_of_a_checkpoint_that_are_none_are_refused():
    fields = {"shape": [2, 2, 1], "mean": [0.0], "std": [1.0], "classes": []}
    for change in ({"std": [-1.0]}, {"mean": []}, {"provenance": 3}, {"one more": 3}):
        with pytest.raises(DataError, match="metadata of latents that cannot be used"):
            LatentMetadata.of(fields | {"provenance": PROVENANCE} | change)


def test_latents_that_are_not_finite_or_of_no_class_are_refused(tmp_path, latents):
    bad = np.full((2, 2, 3), np.nan, np.float16)
    good = np.zeros((2, 2, 3), np.float16)
    (latents / shard_name(0)).unlink()
    records = [
        LatentRecord(latents=bad, flipped=good, label=None, name="0"),
        LatentRecord(latents=good, flipped=bad, label=None, name="1"),
        LatentRecord(latents=good, flipped=good, label=2, name="2"),
        LatentRecord(latents=good, flipped=good, label=1, name=ODD_NAME),
    ]
    write_shard(latents / shard_name(0), map(pack_latents, records))
    source = Latents(str(latents))
    for index, words in enumerate(
        ("latents are not", "flipped are not", "is of class 2, .* has 2")
    ):
        with pytest.raises(DataError, match=rf"\[{index}\]: .*{words}"):
            source[index]
    assert source[3].name == ODD_NAME


def test_mutated_indices_are_used_as_they_are_or_refused(latents):
    rng = np.random.default_rng(0)
    data = (latents / "latents.json").read_bytes()
    for _ in range(ROUNDS):
        (latents / "latents.json").write_bytes(attack.mutate_json(data, rng))
        with contextlib.suppress(DataError):
            source = Latents(str(latents))
            assert len(source) == 4
            for index in range(4):
                with contextlib.suppress(DataError):
                    normal = source.metadata.normalization.normalize(source[index].latents)
                    assert np.isfinite(normal).all() and normal.shape == (2, 2, 3)
