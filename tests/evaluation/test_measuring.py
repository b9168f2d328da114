"""The pass over the images: what it measures, and that stops and devices do not change it."""

import json
import subprocess
import sys

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio

from epsilon_vae.data.decode import DEFAULT, DataError
from epsilon_vae.data.records import Record
from epsilon_vae.data.sources import Photos
from epsilon_vae.evaluation import evaluation, measuring, protocols, results
from epsilon_vae.evaluation.reconstruction_metrics import ReconstructionMetrics
from epsilon_vae.evaluation.reconstructors import Reconstructor
from epsilon_vae.parallel.mesh import make_mesh
from tests.processes import ROOT

SIZE, STEPS = 32, (1, 3)
LOCAL = protocols.parse("local")


class Darker(Reconstructor):
    """Takes a tenth of the light, and one more in 256 for each step."""

    name = "darker"
    metadata = {"kind": "test"}

    def nfes(self, steps):
        return tuple(steps)

    def encode(self, batch):
        return batch.images * np.float32(0.9)

    def decode(self, code, nfe, seed):
        return np.clip(code - nfe, 0, 255).astype(np.uint8)


class Stops(Darker):
    """Fails as it is asked for the second batch."""

    calls = 0

    def encode(self, batch):
        self.calls += 1
        if self.calls == 2:
            raise KeyboardInterrupt
        return super().encode(batch)


class Noisy(Darker):
    """Its latents take noise: of one deviation, which is that of the first 14 images."""

    def learn_deviation(self, codes):
        codes = list(codes)
        assert sum(map(len, codes)) == 14
        self.deviation = np.concatenate(codes).std()

    def add_noise(self, code, tau, batch, seed):
        return code + tau * self.deviation


@pytest.fixture(scope="module")
def metrics():
    return ReconstructionMetrics(("alexnet",), ("alexnet",), make_mesh())


def run(reconstructor, metrics, file, source=None, asked=LOCAL):
    """Of 14 images, without a `source`: three batches of 4, and one of 2, filled up."""
    return measuring.measure(
        [reconstructor],
        source or Photos("train"),
        resolution=SIZE,
        steps=STEPS,
        protocol=asked,
        metrics=metrics,
        file=file,
        advance=lambda count: None,
    )


@pytest.fixture(scope="module")
def measured(metrics, tmp_path_factory):
    return run(Darker(), metrics, tmp_path_factory.mktemp("measured") / "progress.npz")


def test_each_image_counts_once(measured):
    assert len(measured.names) == len(set(measured.names)) == 14
    assert set(measured.accumulators) == {("", None), ("darker", 1), ("darker", 3)}
    for accumulator in measured.accumulators.values():
        assert accumulator.statistics()["alexnet"].count == 14
    rows = results.rows(SIZE, measured.accumulators)
    assert [(row["nfe"], row["num_images"]) for row in rows] == [(1, 14), (3, 14)]
    assert rows[0]["psnr"] > rows[1]["psnr"] and 0 < rows[0]["fd_alexnet"] < rows[1]["fd_alexnet"]
    assert "256 features of 14 images, which are too few" in rows[0]["notes"][0]


def test_latent_noise_adds_distances_and_changes_no_other(measured, metrics, tmp_path):
    asked = protocols.parse("local,latent_noise=0.5+1")
    found = run(Noisy(), metrics, tmp_path / "noisy.npz", asked=asked)
    plain, noisy = (results.rows(SIZE, x.accumulators) for x in (measured, found))
    names = ["fd_alexnet_noise0.5", "fd_alexnet_noise1"]
    for row, other in zip(plain, noisy, strict=True):
        assert other["fd_alexnet"] == row["fd_alexnet"] < other[names[0]] < other[names[1]]
        assert [name for name in other if name not in row] == names
        assert other["notes"] == row["notes"] != []
    pictures = run(Darker(), metrics, tmp_path / "pictures.npz", asked=asked)
    assert results.rows(SIZE, pictures.accumulators)[0].keys() == plain[0].keys()


def test_values_are_of_the_named_image(measured):
    source = Photos("train")
    [batch, _] = measuring.batches(
        source,
        range(14),
        batch_size=8,
        resolution=SIZE,
        crop="center_crop_adm",
        decoding=DEFAULT,
        bad_records=measuring.BadRecords(0, 14),
    )
    original = batch.images[5]
    picture = Darker().decode(original * np.float32(0.9), 3, 0)
    expected = peak_signal_noise_ratio(original, picture)
    assert measured.names[5] == source[5].name
    psnr = measured.accumulators["darker", 3].per_image("psnr")
    assert psnr[5] == pytest.approx(expected, abs=1e-4)


def test_a_stop_changes_nothing(measured, metrics, tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "SAVE_EVERY_SECONDS", 0)
    file = tmp_path / "progress.npz"
    with pytest.raises(KeyboardInterrupt):
        run(Stops(), metrics, file)
    halfway = measuring.Progress.load(file, list(measured.accumulators), measured.setting)
    assert halfway.names == measured.names[:4]
    assert [len(accumulator.seconds) for accumulator in halfway.accumulators.values()] == [0, 1, 1]
    elsewhere = measuring.Progress.load(file, list(measured.accumulators), "8 TPU v5")
    assert [len(accumulator.seconds) for accumulator in elsewhere.accumulators.values()] == [
        0,
        0,
        0,
    ]
    resumed = run(Darker(), metrics, file)
    assert resumed.names == measured.names
    for key, accumulator in measured.accumulators.items():
        again = resumed.accumulators[key]
        for name in accumulator.values:
            np.testing.assert_array_equal(again.per_image(name), accumulator.per_image(name))
        assert_same_moments(again, accumulator)


def assert_same_moments(one, other):
    """To the bit."""
    for name, statistics in other.statistics().items():
        for part, value in vars(statistics).items():
            np.testing.assert_array_equal(vars(one.statistics()[name])[part], value)


def test_batches_and_stops_do_not_change_moments(monkeypatch):
    monkeypatch.setattr(measuring, "ROWS", 8)
    features = np.random.default_rng(0).normal(3, 1, (29, 5)).astype(np.float32)
    accumulators = []
    for size in (3, 11):
        accumulator = measuring.MetricAccumulator()
        for start in range(0, len(features), size):
            accumulator.add({}, {"x": features[start : start + size]})
            accumulator = measuring.MetricAccumulator.of_arrays(accumulator.arrays())
        accumulators.append(accumulator)
    assert_same_moments(*accumulators)
    gaussian = accumulators[0].statistics()["x"].gaussian()
    np.testing.assert_allclose(gaussian.covariance, np.cov(features, rowvar=False), rtol=1e-6)


def test_an_image_that_cannot_be_read_is_named(metrics, tmp_path):
    source = [*Photos("val"), Record(b"none", None, "broken.jpg")]
    with pytest.raises(DataError, match=r"broken.jpg: not a readable image.*out of the data"):
        measuring.measure(
            [Darker()],
            source,
            resolution=SIZE,
            steps=STEPS,
            protocol=LOCAL,
            metrics=metrics,
            file=tmp_path / "progress.npz",
            advance=lambda count: None,
        )


ON_DEVICES = """
import json, pathlib, sys, tempfile
import jax
jax.config.update("jax_num_cpu_devices", 8)
from epsilon_vae.data.sources import Photos
from epsilon_vae.evaluation import evaluation, measuring, protocols, results
from epsilon_vae.evaluation.reconstruction_metrics import ReconstructionMetrics
from epsilon_vae.parallel.mesh import make_mesh
from tests.evaluation.test_measuring import SIZE, Darker, Stops, run
measuring.SAVE_EVERY_SECONDS, measuring.ROWS = 0, 16
photos = [*Photos("train")] * 3  # a batch of 32 on eight devices, and 10 more
eight, one = (
    ReconstructionMetrics(("alexnet",), ("alexnet",), make_mesh(devices=devices))
    for devices in (jax.devices(), jax.devices()[:1])
)
found = []
for before, after in ((None, one), (None, eight), (one, eight), (eight, one)):
    file = pathlib.Path(tempfile.mkdtemp()) / "progress.npz"
    if before:
        try:
            run(Stops(), before, file, photos)
        except KeyboardInterrupt:
            assert file.exists()
    found.append(results.rows(SIZE, run(Darker(), after, file, photos).accumulators))
print(json.dumps(found))
"""


def test_devices_change_no_number_nor_does_going_on_with_others():
    process = subprocess.run(
        [sys.executable, "-c", ON_DEVICES], cwd=ROOT, capture_output=True, text=True, check=True
    )
    one, *others = json.loads(process.stdout.splitlines()[-1])
    assert len(others) == 3
    for other in others:
        for a, b in zip(other, one, strict=True):
            for name in ("fd_alexnet", "psnr", "ssim", "ssim_range2", "lpips_alexnet"):
                assert a[name] == pytest.approx(b[name], rel=1e-9), name


def as_lists(progress) -> list[dict]:
    """All that is in the accumulators, as it can be compared."""
    parts = (accumulator.arrays() for accumulator in progress.accumulators.values())
    return [{name: np.asarray(x).tolist() for name, x in arrays.items()} for arrays in parts]


def test_unfinished_parts_that_are_damaged_are_measured_again(tmp_path):
    """Empty, cut, of other content, and every 50th byte flipped: the same, or from the start."""
    keys, file = [measuring.ORIGINALS, ("run", 1)], tmp_path / "part.npz"
    rng = np.random.default_rng(0)
    accumulators = {key: measuring.MetricAccumulator() for key in keys}
    for accumulator in accumulators.values():
        accumulator.add({"psnr": rng.random(2)}, {"alexnet": rng.random((2, 3))}, [0.5])
    progress = measuring.Progress(["a", "b"], accumulators, "here")
    progress.save(file)
    whole = file.read_bytes()
    cut = [b"", b"{}", bytes(len(whole)), whole[:-1], whole[: len(whole) // 2], whole[100:]]
    places = range(0, len(whole), 50)
    flipped = [whole[:i] + bytes([whole[i] ^ 16]) + whole[i + 1 :] for i in places]
    found = []
    for damaged in [*cut, *flipped]:
        file.write_bytes(damaged)
        read = measuring.Progress.load(file, keys, "here")
        found.append(bool(read.names))
        assert file.exists() == found[-1]
        if read.names:
            assert read.names == progress.names and as_lists(read) == as_lists(progress)
    assert not any(found[: len(cut)]) and not all(found)
    measuring.Progress(["a"], accumulators, "here").save(file)  # one name, two numbers
    assert measuring.Progress.load(file, keys, "here").names == []


def test_a_pass_resumes_with_its_own_protocol_alone():
    found = {"data": {}, "reconstructors": [], "versions": {}}
    texts = ("local", "local,group_size=4", "local,seed=1")
    prints = {
        evaluation._fingerprint(
            found | {"protocol": protocols.parse(text).stamp()}, SIZE, STEPS, save_images=False
        )
        for text in texts
    }
    assert len(prints) == len(texts)
