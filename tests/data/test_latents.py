"""Batches of latents: order, flips, normalisation; and what cannot be read."""

import json

import numpy as np
import pytest

from epsilon_vae.data.decode import DataError
from epsilon_vae.data.latents import (
    LatentBatches,
    LatentMetadata,
    LatentRecord,
    Latents,
    pack_latents,
    shard_name,
)
from epsilon_vae.data.shards import write_shard

PROVENANCE = {"workdir": "runs/a", "step": 7, "weights": "ema", "encoder_sha256": "ab" * 32}
COUNT, MEAN, STD = 10, (1.0, -2.0, 0.5), (2.0, 0.5, 0.0)


def records() -> list[LatentRecord]:
    """Record i holds i, and its mirror image -i: which one came, is seen."""
    full = [np.full((2, 2, 3), i, np.float16) for i in range(COUNT)]
    return [
        LatentRecord(latents=z, flipped=-z, label=i % 4 if i else None, name=f"{i}.png")
        for i, z in enumerate(full)
    ]


@pytest.fixture
def folder(tmp_path):
    shards = {shard_name(0): records()[:6], shard_name(1): records()[6:]}
    for name, of_shard in shards.items():
        write_shard(tmp_path / name, map(pack_latents, of_shard))
    index = {
        "version": 1,
        "shape": [2, 2, 3],
        "dtype": "float16",
        "classes": [],
        "mean": MEAN,
        "std": STD,
        "checkpoint": PROVENANCE,
        "shards": {name: len(of_shard) for name, of_shard in shards.items()},
    }
    (tmp_path / "latents.json").write_text(json.dumps(index))
    return tmp_path


def values(batch) -> list[int]:
    """What the batch's records held, before they were normalised."""
    latents = batch["latents"]
    assert latents.dtype == np.float32 and latents.shape[1:] == (2, 2, 3)
    first = latents[:, 0, 0, 0] * STD[0] + MEAN[0]
    np.testing.assert_allclose(latents[:, 1, 1, 1] * STD[1] + MEAN[1], first, rtol=1e-5)
    np.testing.assert_allclose(latents[:, 1, 1, 2] + MEAN[2], first, rtol=1e-5)  # never varied
    found = np.rint(first).astype(int)
    expected = [i % 4 if i else -1 for i in abs(found)]
    assert batch["label"].dtype == np.int32 and batch["label"].tolist() == expected
    return found.tolist()


def test_records_are_read_as_they_were_written(folder):
    for found, expected in zip(Latents(str(folder)), records(), strict=True):
        np.testing.assert_array_equal(found.latents, expected.latents)
        np.testing.assert_array_equal(found.flipped, expected.flipped)
        assert found[2:] == expected[2:]


def test_epochs_hold_each_record_once_in_another_order_flipped_by_chance(folder):
    batches = LatentBatches(Latents(str(folder)), 4, seed=3)
    order = sum((values(next(batches)) for _ in range(25)), [])
    epochs = np.array(order).reshape(10, COUNT)
    assert all(sorted(abs(epoch)) == list(range(COUNT)) for epoch in epochs)
    assert len({tuple(abs(epoch)) for epoch in epochs}) == 10
    assert 30 <= np.sum(epochs < 0) <= 60  # of 90 that have a sign
    straight = LatentBatches(Latents(str(folder)), 4, seed=3, flip=False)
    again = sum((values(next(straight)) for _ in range(25)), [])
    assert again == np.abs(order).tolist()


def test_goes_on_at_a_position_and_shares_a_batch_among_processes(folder):
    source = Latents(str(folder))
    batches = LatentBatches(source, 4, seed=0)
    order = sum((values(next(batches)) for _ in range(10)), [])
    resumed = LatentBatches(source, 6, seed=0, local_indices=[1, 4])
    resumed.set_state(batches.get_state() | {"position": 8})
    assert values(next(resumed)) == [order[9], order[12]]
    assert resumed.get_state() == batches.get_state() | {"position": 14}
    metadata = source.metadata._replace(provenance=PROVENANCE | {"encoder_sha256": "cd" * 32})
    with pytest.raises(DataError, match=r"latents of runs/a, step 7 \(encoder cdcdcdcdcdcd\)"):
        resumed.set_state({"position": 8, "latents": metadata._asdict()})


def test_a_run_goes_on_by_the_statistics_that_it_began_with(folder):
    """As one does whose weights were imported, or whose data set has grown."""
    batches = LatentBatches(Latents(str(folder)), 4, seed=0)
    before = batches.metadata._replace(mean=[0.0, 0.0, 0.0], std=[1.0, 1.0, 1.0], classes=["gone"])
    batches.set_state({"position": 0, "latents": before._asdict()})
    latents = next(batches)["latents"]
    np.testing.assert_array_equal(latents, np.rint(latents))  # as stored
    assert batches.get_state()["latents"] == before._replace(classes=[])._asdict()


def test_metadata_of_older_checkpoints_is_read():
    metadata = LatentMetadata(
        shape=[2, 2, 1], mean=[0.5], std=[2.0], classes=["cat"], provenance=PROVENANCE
    )
    stored = metadata._asdict()
    assert LatentMetadata.of(stored) == metadata
    stored["made_by"] = stored.pop("provenance")
    assert LatentMetadata.of(stored) == metadata


def test_facts_bring_latents_back(folder):
    source = Latents(str(folder))
    z = source[5].latents
    again = source.metadata.normalization.denormalize(source.metadata.normalization.normalize(z))
    np.testing.assert_allclose(again[..., :2], z[..., :2], rtol=1e-6)


def test_what_cannot_be_read_is_named(folder, tmp_path):
    with pytest.raises(DataError, match="no latents.json in it; epsilon_vae.encode makes"):
        Latents(str(tmp_path / "nowhere"))
    index = json.loads((folder / "latents.json").read_text())
    (folder / "latents.json").write_text(json.dumps(index | {"shape": [4, 4, 3]}))
    with pytest.raises(DataError, match=r"\[7\]: not a record of epsilon_vae.encode"):
        Latents(str(folder))[7]
    (folder / shard_name(1)).unlink()
    with pytest.raises(DataError, match="no records can be read, 4 are listed.*encode again"):
        Latents(str(folder))
    (folder / "latents.json").write_text(json.dumps(index | {"version": 2}))
    with pytest.raises(DataError, match="format 2, this program reads 1"):
        Latents(str(folder))
    (folder / "latents.json").write_text("{")
    with pytest.raises(DataError, match="latents.json cannot be read"):
        Latents(str(folder))
