"""Order, augmentation, resuming, bad records; in this process and in real others."""

import hashlib
import io
import itertools
import json
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from epsilon_vae.data.decode import DataError
from epsilon_vae.data.pipeline import BadRecords, TrainingBatches, evaluation_batches
from epsilon_vae.data.records import Record
from epsilon_vae.data.sources import Folder, Photos
from epsilon_vae.data.transforms import to_uint8
from tests.processes import ROOT


def make_batches(source=None, seed: int = 0, max_bad_share: float = 0, **more) -> TrainingBatches:
    source = Photos("train") if source is None else source
    arguments = {"batch_size": 4, "resolution": 32, "crop": "random_resized", "flip": True}
    return TrainingBatches(
        source,
        seed=seed,
        reduced_jpeg=True,
        bad_records=BadRecords(max_bad_share, len(source)),
        **arguments | more,
    )


class Colours(Sequence[Record]):
    """Images of one colour each, which tells which one came; some cannot be decoded."""

    def __init__(self, count: int, bad: Sequence[int] = ()):
        self._count, self._bad = count, bad

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Record:
        buffer = io.BytesIO()
        Image.new("RGB", (40, 40), (index, index, index)).save(buffer, "PNG")
        data = b"" if index in self._bad else buffer.getvalue()
        return Record(data, index, f"colour {index}")


def indices(batch) -> list[int]:
    """Which of `Colours` a batch holds."""
    seen = to_uint8(batch["image"][:, 0, 0, 0]).astype(int).tolist()
    assert seen == batch["label"].tolist()
    return seen


def test_batches_are_float32_and_a_function_of_the_seed():
    first, again, other = (next(make_batches(seed=seed)) for seed in (0, 0, 1))
    image = first["image"]
    np.testing.assert_array_equal(image, again["image"])
    assert not np.array_equal(image, other["image"])
    assert image.shape == (4, 32, 32, 3) and image.dtype == np.float32
    assert -1 <= image.min() < 0 < image.max() <= 1
    assert first["label"].dtype == np.int32 and np.all(first["label"] == -1)
    assert first.keys() == {"image", "label"}


def test_epochs_hold_each_image_once_in_another_order_without_a_gap():
    """12 images in batches of 8: the second batch has the first epoch's end, the next's start."""
    batches = make_batches(Colours(12), batch_size=8)
    order = sum((indices(next(batches)) for _ in range(6)), [])
    epochs = [order[i : i + 12] for i in range(0, 48, 12)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_augmentation_comes_from_seed_epoch_and_record_alone():
    """Neither batch size, nor place in the batch, nor process change an image."""

    def images_of_an_epoch(**more) -> set[str]:
        batches = make_batches(**more)
        images = np.concatenate([next(batches)["image"] for _ in range(14 // more["batch_size"])])
        return {hashlib.sha256(image.tobytes()).hexdigest() for image in images}

    expected = images_of_an_epoch(batch_size=14)
    assert len(expected) == 14
    assert images_of_an_epoch(batch_size=7) == images_of_an_epoch(batch_size=1) == expected
    assert images_of_an_epoch(batch_size=14, seed=1).isdisjoint(expected)


def test_flips_half_of_the_images():
    """A photo that is dark on the left, as it is or mirrored."""
    image = Image.new("RGB", (64, 64))
    image.paste("white", (32, 0, 64, 64))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    source = [Record(buffer.getvalue(), None, "half")] * 64
    crops = next(make_batches(source, batch_size=64, crop="random"))["image"]
    mirrored = int(np.sum(crops[:, 0, 0, 0] > 0))
    assert 20 <= mirrored <= 44
    straight = next(make_batches(source, batch_size=64, crop="random", flip=False))["image"]
    assert np.all(straight[:, 0, 0, 0] == -1)


READ = """
import json, sys
import numpy as np
from absl import flags
from epsilon_vae.data.pipeline import BadRecords, TrainingBatches, evaluation_batches
from epsilon_vae.data.sources import Photos
from epsilon_vae.data.transforms import to_uint8

if __name__ == "__main__":
    flags.FLAGS(sys.argv[:1])
    out, start, count, workers, index, processes = sys.argv[1], *map(int, sys.argv[2:])
    local_indices = range(index * 8 // processes, (index + 1) * 8 // processes)
    source, bad = Photos("train"), BadRecords(0, 14)
    share = {"workers": workers, "local_indices": local_indices}
    batches = TrainingBatches(
        source,
        8,
        resolution=32,
        seed=5,
        crop="random_resized",
        flip=True,
        reduced_jpeg=True,
        bad_records=bad,
        **share,
    )
    batches.set_state({"position": start * 8})
    images = [next(batches)["image"] for _ in range(count)]
    batches.close()
    held_out = evaluation_batches(
        source, 8, resolution=32, crop="center_crop_adm", bad_records=bad, **share
    )
    held_out = [np.where(b["mask"][:, None, None, None], b["image"], 9) for b in held_out]
    np.savez(out, *images, *held_out)
"""


@pytest.fixture(scope="module")
def read_in_processes(tmp_path_factory):
    """Global batches as real processes read them, side by side: training's, then evaluation's."""
    folder = tmp_path_factory.mktemp("read")
    script = folder / "read.py"
    script.write_text(READ)

    def read(processes: int, workers: int, start: int, count: int) -> list[np.ndarray]:
        running = []
        for index in range(processes):
            numbers = map(str, (start, count, workers, index, processes))
            command = [sys.executable, str(script), str(folder / f"{index}.npz"), *numbers]
            environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
            running.append(
                subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
            )
        for process in running:
            _, err = process.communicate(timeout=120)
            assert process.returncode == 0, err[-2000:]
        shares = [np.load(folder / f"{index}.npz") for index in range(processes)]
        return [np.concatenate([share[name] for share in shares]) for name in shares[0].files]

    return read


def test_same_global_batches_for_any_processes_workers_and_restarts(read_in_processes):
    """8 batches of 8 over 14 photos, 4.6 epochs; then 14 photos in 2 batches of evaluation."""
    whole = read_in_processes(processes=1, workers=0, start=0, count=8)
    assert [batch.shape for batch in whole] == [(8, 32, 32, 3)] * 10
    for processes, workers, start, count in (
        (1, 2, 0, 8),
        (2, 2, 3, 5),  # started by another number of processes, resumed at step 3
        (4, 1, 5, 3),
    ):
        batches = read_in_processes(processes, workers, start, count)
        for batch, expected in zip(batches, whole[start:], strict=True):
            np.testing.assert_array_equal(batch, expected)


def test_permuted_colors_are_the_same_crops_in_all_six_orders():
    plain, permuted = make_batches(batch_size=24), make_batches(batch_size=24, permute_colors=True)
    seen = set()
    for image, other in zip(next(plain)["image"], next(permuted)["image"], strict=True):
        orders = [p for p in itertools.permutations(range(3)) if (image[..., p] == other).all()]
        assert orders
        seen |= set(orders) if len(orders) == 1 else set()
    assert len(seen) == 6


def test_evaluation_covers_every_image_once(read_in_processes):
    """In the source's order; two places of the second batch are padding."""
    *_, first, second = read_in_processes(processes=1, workers=0, start=0, count=1)
    batches = list(
        evaluation_batches(
            Photos("train"), 14, resolution=32, crop="center_crop_adm", bad_records=BadRecords(0, 1)
        )
    )
    assert len(batches) == 1 and batches[0]["mask"].all()
    np.testing.assert_array_equal(np.concatenate([first, second])[:14], batches[0]["image"])
    assert np.all(second[6:] == 9)


def test_resumes_at_the_right_image():
    """From the state, at once, also with another batch size."""
    batches = make_batches(Colours(50))
    order = sum((indices(next(batches)) for _ in range(30)), [])
    batches.set_state({"position": 40})
    assert indices(next(batches)) == order[40:44]
    state = json.loads(json.dumps(batches.get_state()))
    resumed = make_batches(Colours(50), batch_size=6)
    resumed.set_state(state)
    assert indices(next(resumed)) == order[44:50]
    resumed.set_state({"position": 10**12})  # costs the same
    assert len(indices(next(resumed))) == 6


def test_bad_record_is_named_and_stops_the_run():
    batches = make_batches(Colours(20, bad=[7]), batch_size=20)
    with pytest.raises(
        DataError, match=r"colour 7: not a readable image \(zero bytes\); .*on_bad_record = skip"
    ):
        next(batches)


@pytest.mark.parametrize("workers", [0, 1])
def test_skipped_record_is_replaced_by_its_neighbour_and_logged_once(tmp_path, caplog, workers):
    """In every epoch: 7 and 8 are bad, so 9 stands in for both, each with its own place."""
    from absl import flags

    flags.FLAGS(["test"], known_only=True)  # grain's workers read absl's flags
    for index in range(20):
        path = tmp_path / f"{index:02}.png"
        path.write_bytes(b"" if index in (7, 8) else Colours(20)[index].data)
    source = Folder(str(tmp_path))
    batches = make_batches(source, batch_size=20, max_bad_share=0.2, workers=workers)
    for _ in range(3):
        seen = to_uint8(next(batches)["image"][:, 0, 0, 0]).astype(int).tolist()
        assert sorted(seen) == sorted([i for i in range(20) if i not in (7, 8)] + [9, 9])
    batches.close()
    logged = [record.getMessage() for record in caplog.records]
    assert sorted(logged) == [
        f"Left out: {tmp_path}/{name}.png: not a readable image (zero bytes)"
        for name in ("07", "08")
    ]


def test_too_many_bad_records_stop_the_run():
    batches = make_batches(Colours(40, bad=range(0, 40, 4)), batch_size=40, max_bad_share=0.1)
    with pytest.raises(
        DataError, match=r"5 of 40 records cannot be used, .*max_bad_share = 0.1 all"
    ):
        next(batches)


def test_a_corrupt_disk_stops_the_run():
    batches = make_batches(Colours(200, bad=range(200)), max_bad_share=0.9)
    with pytest.raises(DataError, match="colour .*; nor can the 99 records after it be used"):
        next(batches)


@pytest.mark.parametrize(("batch_size", "count"), [(5, 1), (3, 2), (64, 12)])
def test_sets_smaller_than_a_batch(batch_size, count):
    batches = make_batches(Colours(count), batch_size=batch_size)
    order = sum((indices(next(batches)) for _ in range(2 * count)), [])
    assert all(
        sorted(order[i : i + count]) == list(range(count))
        for i in range(0, 2 * count * batch_size, count)
    )


def test_a_process_reads_the_indices_it_is_told():
    """A TPU's mesh may give a host places that do not lie side by side."""
    whole, some = make_batches(batch_size=4), make_batches(batch_size=4, local_indices=[0, 3])
    for _ in range(3):
        np.testing.assert_array_equal(next(some)["image"], next(whole)["image"][[0, 3]])


def test_evaluation_masks_bad_records():
    bad_records = BadRecords(0.5, 5)
    batch, *rest = evaluation_batches(
        Colours(5, bad=[1]), 8, resolution=32, crop="center_crop_adm", bad_records=bad_records
    )
    assert not rest and len(bad_records) == 1
    assert batch["mask"].tolist() == [True, False, True, True, True, False, False, False]
    with pytest.raises(DataError, match="colour 1"):
        list(
            evaluation_batches(
                Colours(5, bad=[1]),
                8,
                resolution=32,
                crop="center_crop_adm",
                bad_records=BadRecords(0, 5),
            )
        )
