"""What `Autoencoder` takes: arrays, files, PIL's images; and a sentence for what it does not."""

import io
import pathlib
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from epsilon_vae.data.decode import DataError, read_image
from epsilon_vae.data.transforms import to_float
from epsilon_vae.inference.inputs import as_images, as_latents, as_number

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 5, 3), dtype=np.uint8)
RGBA = RNG.integers(0, 256, (6, 5, 4), dtype=np.uint8)


def uint8(given) -> np.ndarray:
    """The pixels of one image as the network will see them, back in 8 bits."""
    assert given.pixels.dtype == np.float32 and given.is_single and given.is_uint8
    return np.rint((given.pixels[0] + 1) * 127.5).astype(np.uint8)


def test_arrays_of_any_channels():
    np.testing.assert_array_equal(uint8(as_images(RGB)), RGB)
    for grey in (RGB[..., 0], RGB[..., :1]):
        np.testing.assert_array_equal(uint8(as_images(grey)), RGB[..., :1].repeat(3, -1))
    over = Image.alpha_composite(Image.new("RGBA", (5, 6), "white"), Image.fromarray(RGBA))
    on_white = np.asarray(over.convert("RGB"))
    np.testing.assert_array_equal(uint8(as_images(RGBA)), on_white)
    given = as_images(np.stack([RGBA, RGBA]))
    assert given.pixels.shape == (2, 6, 5, 3) and not given.is_single
    np.testing.assert_array_equal(given.pixels[1], to_float(on_white))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, jnp.bfloat16])
def test_floats_of_any_width(dtype):
    x = np.linspace(-1, 1, 90).reshape(6, 5, 3).astype(dtype)
    given = as_images(jnp.asarray(x) if dtype == jnp.bfloat16 else x)
    assert given.pixels.dtype == np.float32 and not given.is_uint8
    np.testing.assert_array_equal(given.pixels[0], x.astype(np.float32))


def images_of_pil() -> dict[str, tuple[Image.Image, dict]]:
    """Images by what is special about them, and how they are saved."""
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    palette = Image.fromarray(RGB).quantize(8)
    return {
        "RGB.png": (Image.fromarray(RGB), {}),
        "RGBA.png": (Image.fromarray(RGBA), {}),
        "grey and alpha.png": (Image.fromarray(RGBA).convert("LA"), {}),
        "palette.png": (palette, {"transparency": 3}),
        "one color is clear.png": (
            Image.fromarray(RGB),
            {"transparency": tuple(RGB[2, 3].tolist())},
        ),
        "16 bits.png": (Image.fromarray(RGB[..., 0].astype(np.uint16) * 257), {}),
        "on its side.jpg": (Image.fromarray(RGB), {"exif": exif}),
        "CMYK.tiff": (Image.fromarray(RGB).convert("CMYK"), {}),
    }


@pytest.mark.parametrize("name", images_of_pil())
def test_images_of_pil_are_as_their_files(name, tmp_path):
    image, how = images_of_pil()[name]
    image.save(tmp_path / name, **how)
    expected = read_image(tmp_path / name)
    for given in (tmp_path / name, str(tmp_path / name), Image.open(tmp_path / name)):
        np.testing.assert_array_equal(uint8(as_images(given)), expected)


def test_lists_are_batches(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path)
    given = as_images([path, Image.fromarray(RGB), RGB])
    assert given.pixels.shape == (3, 6, 5, 3) and given.is_uint8
    assert (given.pixels == to_float(RGB)).all()
    mixed = as_images((RGB, to_float(RGB)))
    assert not mixed.is_uint8 and (mixed.pixels == to_float(RGB)).all()


@pytest.mark.parametrize("batch", [False, True])
def test_floats_that_lie_in_0_1_are_warned_of(batch):
    x = np.linspace(0, 1, 90, dtype=np.float32).reshape(6, 5, 3)
    with pytest.warns(
        UserWarning, match=r"lie in \[0, 1\].*give 2 \* images - 1, or uint8"
    ) as seen:
        as_images([x, x] if batch else x)
    assert len(seen) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        as_images(2 * x - 1)
        as_images(np.full((6, 5, 3), 200, np.uint8))
        as_images([x, 2 * x - 1])  # a batch with one bright image


def test_it_is_warned_of_once():
    x = np.full((6, 5, 3), 0.5)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        for _ in range(3):
            encode(x)
    assert len(seen) == 1 and seen[0].filename == __file__


def encode(x):
    """Stands where a method of the object does: its caller is whom the warning names."""
    return as_images(x)


NAN = np.where(np.arange(90).reshape(6, 5, 3) == 7, np.nan, 0)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (None, "images = None"),
        ([RGB, None], "images: None among them"),
        ([], "the list is empty"),
        (np.zeros((0, 6, 5, 3), np.uint8), r"images \(0, 6, 5, 3\): there is none"),
        (np.zeros((6, 0, 3), np.uint8), "there is none"),
        ([RGB, RGB[:5]], r"several sizes, as \(6, 5, 3\) and \(5, 5, 3\): give them one by one"),
        ([RGB[None]], r"a list of \(1, 6, 5, 3\)"),
        (np.zeros((3, 32, 32), np.uint8), r"expected .*channels come last, as np.moveaxis"),
        (np.zeros((2, 3, 32, 32), np.float32), "channels come last"),
        (np.zeros((1, 32, 32), np.uint8), "channels come last"),
        (
            np.zeros((32, 32, 2), np.uint8),
            r"\(32, 32, 2\): expected \[H, W, 3\] or \[B, H, W, 3\]$",
        ),
        (np.zeros((7,), np.uint8), r"\(7,\): expected \[H, W, 3\]"),
        (np.zeros((1, 1, 6, 5, 3), np.uint8), "expected"),
        (RGB.astype(np.int64), "images of int64: expected uint8, or float in"),
        (RGB > 9, "images of bool"),
        (5, "images of int64"),
        ({"a": 1}, "images of object"),
        (RGB.astype(np.float32), r"float images must lie in \[-1, 1\]"),
        (to_float(RGBA), "RGBA must be uint8"),
        (NAN, "NaN or infinite"),
        (np.where(np.isnan(NAN), np.inf, 0), "NaN or infinite"),
        (NAN.astype(jnp.bfloat16), "NaN or infinite"),
        (pathlib.Path("nowhere.png"), "nowhere.png: not a readable image"),
        ("tests", "tests: not a readable image"),
    ],
)
def test_what_is_no_image(images, words):
    with pytest.raises(ValueError, match=words) as error:
        as_images(images)
    assert "\n" not in str(error.value) and len(str(error.value)) < 200


def test_broken_files_and_images_of_pil(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="a.png: not a readable image"):
        as_images(tmp_path / "a.png")
    file = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(file, "JPEG")
    with pytest.raises(ValueError, match="truncated"):
        as_images(Image.open(io.BytesIO(file.getvalue()[:2000])))
    with pytest.raises(ValueError, match="whose range is not known"):
        as_images(Image.fromarray(np.zeros((6, 5), np.float32)))


@pytest.mark.parametrize(
    ("latents", "words"),
    [
        (None, "latents = None"),
        (np.zeros((8, 4, 4)), r"latents \(8, 4, 4\): expected \[\(B,\) h, w, 8\]"),
        (np.zeros((0, 4, 4, 8)), "not empty"),
        ([np.zeros((4, 4, 8)), np.zeros((4, 3, 8))], "no array of numbers"),
        ("latents.npy", "no array of numbers"),
        (np.full((4, 4, 8), np.inf), "NaN or infinite"),
    ],
)
def test_what_is_no_latents(latents, words):
    with pytest.raises(ValueError, match=words) as error:
        as_latents(latents, 8)
    assert "\n" not in str(error.value)


def test_seeds_and_steps_are_whole_numbers():
    for value in (5, np.int64(5), jnp.array(5), np.array(5, np.uint8)):
        assert as_number("seed", value) == 5
    for value in (jax.random.key(0), jax.random.PRNGKey(0)):
        with pytest.raises(
            ValueError, match="seed = array of .*whole number; vae.functions.decode"
        ):
            as_number("seed", value)
    for value in (1.5, None, "1"):
        with pytest.raises(ValueError, match="steps = .*: expected a whole number$"):
            as_number("steps", value)
