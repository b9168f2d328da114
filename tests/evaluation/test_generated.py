"""Generated images against a reference: folders and ADM's files, and plain NumPy beside it."""

import json
import tracemalloc

import numpy as np
import pytest
from PIL import Image
from scipy import linalg

from epsilon_vae.data.decode import DataError
from epsilon_vae.data.image_set import ImageSet
from epsilon_vae.data.sources import Photos
from epsilon_vae.data.transforms import center_crop_adm, center_crop_bicubic
from epsilon_vae.evaluation import protocols, results
from epsilon_vae.evaluation.generated import _inception_score, evaluate_samples
from epsilon_vae.evaluation.reconstruction_metrics import ReconstructionMetrics
from epsilon_vae.parallel.mesh import make_mesh
from epsilon_vae.pretrained import registry
from tests.data.profiles import rgb_profile
from tests.helpers import training_images


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Two dozen crops of photos, uint8."""
    return ((training_images(24, 32) + 1) * 127.5).astype(np.uint8)


def write_folder(folder, images):
    folder.mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{index:03d}.png")
    return str(folder)


def write_npz(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


def measure(samples, reference, output, asked="local,features=alexnet") -> dict:
    evaluate_samples(
        samples, reference, protocol=protocols.parse(asked), output=str(output), mesh=make_mesh()
    )
    found = json.loads((output / "results.json").read_text())
    assert found["protocol"]["features"] == ["alexnet"]
    return found["rows"][0]


def test_a_folder_and_a_file_of_the_same_images_are_equal(images, tmp_path):
    samples = write_folder(tmp_path / "samples", images)
    row = measure(samples, write_npz(tmp_path / "real.npz", arr_0=images), tmp_path / "out")
    assert row["fd_alexnet"] == pytest.approx(0, abs=1e-6)
    assert (row["precision_alexnet"], row["recall_alexnet"]) == (1, 1)
    assert row["notes"] == [results.notes_on_distance("fd_alexnet", 256, 24)[0]]
    assert (row["num_images"], row["num_reference_images"]) == (24, 24)
    assert "| Samples |" in (tmp_path / "out" / "results.md").read_text()


def test_profiles_of_samples_and_photos_are_converted_unless_they_are_ignored(images, tmp_path):
    for name, profile in (("plain", None), ("wide", rgb_profile())):
        (tmp_path / name).mkdir()
        for index, image in enumerate(images[:12]):
            file = tmp_path / name / f"{index:03d}.png"
            Image.fromarray(image).save(file, icc_profile=profile)
    wide, plain = str(tmp_path / "wide"), str(tmp_path / "plain")
    ignored = "local,features=alexnet,profiles=ignored"
    assert measure(wide, plain, tmp_path / "out")["fd_alexnet"] > 1e-3
    for samples, reference, asked in (
        (wide, plain, ignored),
        (wide, wide, "local,features=alexnet"),
    ):
        row = measure(samples, reference, tmp_path / "out", asked)
        assert row["fd_alexnet"] == pytest.approx(0, abs=1e-6)
    stamp = json.loads((tmp_path / "out" / "results.json").read_text())["protocol"]
    assert stamp["profiles"] == "srgb"


def test_distance_is_that_of_the_definition(images, tmp_path):
    samples = write_npz(tmp_path / "samples.npz", arr_0=images[:12])
    row = measure(samples, write_npz(tmp_path / "real.npz", arr_0=images), tmp_path / "out")
    metrics = ReconstructionMetrics((), ("alexnet",), make_mesh())
    a, b = (metrics.features(x)["alexnet"].astype(np.float64) for x in (images[:12], images))
    covariances = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # Of singular covariances, sqrtm needs a little on the diagonal.
    eye = 1e-10 * np.eye(256)
    root = linalg.sqrtm((covariances[0] + eye) @ (covariances[1] + eye)).real
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(sum(covariances) - 2 * root)
    assert row["fd_alexnet"] == pytest.approx(expected, rel=1e-3)


def test_photos_of_any_size_are_cropped_as_the_protocol_says(tmp_path):
    """Samples that are those crops are no way from them."""
    photos = [np.asarray(Image.open(path).convert("RGB")) for path in Photos("val").paths]
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(12):
        Image.fromarray(photos[i % 3][10 * i :, 5 * i : 300]).save(folder / f"{i:02d}.png")
    files = [Image.open(path) for path in sorted(folder.iterdir())]
    for name, crop in (("adm", center_crop_adm), ("bicubic", center_crop_bicubic)):
        samples = np.stack([crop(image, 32) for image in files])
        path = write_npz(tmp_path / f"{name}.npz", arr_0=samples)
        row = measure(path, str(folder), tmp_path / name, f"local,features=alexnet,crop={name}")
        assert row["num_reference_images"] == 12 and abs(row["fd_alexnet"]) < 1e-6
        assert row["precision_alexnet"] == row["recall_alexnet"] == 1
    other = write_npz(tmp_path / "flat.npz", arr_0=samples[:, :16])
    with pytest.raises(DataError, match="flat.npz: 32x16 pixels; photos are cropped to squares"):
        measure(other, str(folder), tmp_path / "out")


def test_what_cannot_be_read_is_named(images, tmp_path):
    with pytest.raises(DataError, match="no images in it"):
        ImageSet(str(tmp_path))
    floats = write_npz(tmp_path / "floats.npz", arr_0=images.astype(np.float32))
    with pytest.raises(
        DataError, match=r"arr_0 \(\d+, 32, 32, 3\) float32; expected images in uin"
    ):
        ImageSet(floats)
    (tmp_path / "broken.npz").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"broken.npz: cannot be read"):
        ImageSet(str(tmp_path / "broken.npz"))


@pytest.mark.parametrize("name", ["samples", "images", "x", "arr_0", ""])
def test_images_under_another_name(images, tmp_path, name):
    """Where there is no doubt which array they are; '' is an .npy, which has no names."""
    if name:
        others = {"labels": np.zeros(len(images), int), "masks": images[..., :1]}
        others |= {"originals": images[:1]} if name == "arr_0" else {}
        path = write_npz(tmp_path / "set.npz", **others, **{name: images})
    else:
        path = str(tmp_path / "set.npy")
        np.save(path, images)
    found = ImageSet(path)
    assert len(found) == len(images) and found.size() == (32, 32)
    np.testing.assert_array_equal(np.concatenate(list(found.batches(5))), images)


OTHER_ARRAYS = {
    r"has samples \(4, 3, 32, 32\) uint8, label .* int64; expected .*of \[N, 3, H, W\], np.tr": {
        "samples": np.zeros((4, 3, 32, 32), np.uint8),
        "label": np.zeros(4, int),
    },
    r"has x \(4, 32, 32, 3\) float32; expected images in uint8, 0 to 255, of \[N, H, W, 3\]$": {
        "x": np.zeros((4, 32, 32, 3), np.float32)
    },
    r"has a \(4, 32, 32, 3\) uint8, b .*; a and b could be the images: save them alone, or": {
        "a": np.zeros((4, 32, 32, 3), np.uint8),
        "b": np.zeros((4, 32, 32, 3), np.uint8),
    },
    r"has x \(32, 32, 3\) uint8; expected": {"x": np.zeros((32, 32, 3), np.uint8)},
    "has no array; expected": {},
}


@pytest.mark.parametrize("words", OTHER_ARRAYS)
def test_arrays_that_are_not_images_are_named(tmp_path, words):
    path = write_npz(tmp_path / "set.npz", **OTHER_ARRAYS[words])
    with pytest.raises(DataError, match=f"set.npz: {words}"):
        ImageSet(path)


def test_flag_of_arrays_that_are_not_images_is_named(images, tmp_path, run_module):
    good = write_npz(tmp_path / "good.npz", samples=images)
    np.save(tmp_path / "nchw.npy", images.transpose(0, 3, 1, 2))
    for flags in (
        (f"--samples={good}", f"--reference={tmp_path}/nchw.npy"),
        (f"--samples={tmp_path}/nchw.npy", f"--reference={good}"),
    ):
        arguments = (*flags, f"--output={tmp_path}/out")
        process = run_module("epsilon_vae.evaluate", *arguments)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 2 and len(err.splitlines()) == 1
        wrong = next(flag for flag in flags if "nchw" in flag)
        assert err.startswith(f"epsilon_vae: {wrong}: has an array (") and "np.transpose(x" in err


def test_damaged_images_are_named(images, tmp_path):
    path = write_npz(tmp_path / "damaged.npz", arr_0=images)
    data = bytearray((tmp_path / "damaged.npz").read_bytes())
    data[len(data) // 2] ^= 255
    (tmp_path / "damaged.npz").write_bytes(data)
    with pytest.raises(DataError, match=r"damaged.npz: cannot be read \(Bad CRC-32"):
        list(ImageSet(path).batches(8))
    folder = write_folder(tmp_path / "sizes", [*images[:8], images[8][:16]])
    with pytest.raises(DataError, match=r"008.png: 32x16 pixels, .*000.png has 32x32"):
        list(ImageSet(folder).batches(4))


def test_too_few_images_are_named(images, tmp_path):
    few, real = (write_npz(tmp_path / f"{n}.npz", arr_0=images[:n]) for n in (9, 24))
    with pytest.raises(DataError, match="9.npz: 9 images are too few, 10 the least"):
        measure(few, real, tmp_path / "out")
    three = write_npz(tmp_path / "three.npz", arr_0=images[:3])
    with pytest.raises(DataError, match="three.npz: 3 images are too few, 4 the least"):
        measure(real, three, tmp_path / "out")
    moments = write_npz(tmp_path / "moments.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    with pytest.raises(DataError, match="moments.npz: no images in it, and fd_alexnet needs them"):
        measure(real, moments, tmp_path / "out")


def test_statistics_alone_are_a_reference(tmp_path):
    path = write_npz(tmp_path / "statistics.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    reference = ImageSet(path)
    assert len(reference) == 0 and list(reference.batches(8)) == []
    _, covariance = reference.moments(2048)
    assert covariance.shape == (2048, 2048)


def test_statistics_that_do_not_fit_are_named(tmp_path):
    bad = {
        "sigma is missing": {"mu": np.zeros(3)},
        r"mu is \(2,\) and sigma \(3, 3\), not \(3,\)": {"mu": np.zeros(2), "sigma": np.eye(3)},
        "mu is complex128, not float": {"mu": np.zeros(3, complex), "sigma": np.eye(3)},
        "not finite": {"mu": np.full(3, np.nan), "sigma": np.eye(3)},
    }
    for words, arrays in bad.items():
        with pytest.raises(DataError, match=words):
            ImageSet(write_npz(tmp_path / "statistics.npz", **arrays)).moments(3)


def test_statistics_that_would_fill_the_memory_are_not_read(tmp_path):
    """By the header alone: a compressed file of a megabyte may say that a gigabyte follows."""
    path = tmp_path / "statistics.npz"
    np.savez_compressed(path, mu=np.zeros(3), sigma=np.zeros((2**13, 2**12)))
    assert path.stat().st_size < 2**20
    tracemalloc.start()
    with pytest.raises(DataError, match=r"sigma \(8192, 4096\), not"):
        ImageSet(path).moments(3)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


def test_inception_score_does_not_depend_on_classes_in_order(monkeypatch):
    """Ten classes, one after the other as a folder has them, each told with certainty."""
    kernel = np.eye(2048, 1008, dtype=np.float32)
    monkeypatch.setattr(registry, "load", lambda name: {"fc": {"kernel": kernel}})
    features = np.zeros((500, 2048), np.float32)
    features[np.arange(500), np.arange(500) // 50] = 50
    mean, deviation = _inception_score(features)
    assert 9 < mean < 10 and deviation < 0.5  # 1 of parts with one class each
