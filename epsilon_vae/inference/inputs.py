"""What `Autoencoder` takes, as arrays; what it cannot take, in one sentence."""

import operator
import os
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from epsilon_vae.data.decode import pil_to_rgb, read_image
from epsilon_vae.data.transforms import to_float
from epsilon_vae.errors import reason

# An image, as a file's path, PIL's, or an array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4].
ImageLike = str | os.PathLike | Image.Image | np.ndarray | jax.Array
_CHANNELS = (1, 3, 4)


class Images(NamedTuple):
    """A batch of images, and what it was given as.

    Attributes:
      pixels: float32 `[B, H, W, 3]` in [-1, 1].
      is_single: whether it was one image, no batch.
      is_uint8: whether they were of 8 bits, as files are.
    """

    pixels: np.ndarray
    is_single: bool
    is_uint8: bool


def as_images(images: Any) -> Images:
    """Reads one image, an array `[B, H, W, C]`, or a list of images of one size.

    Warns of float images that all lie in [0, 1], which are darker than black is in [-1, 1].

    Raises:
      DataError: a file that is no readable image.
      ValueError: not images.
    """
    _check_is_concrete("images", images)
    if isinstance(images, list | tuple):
        pixels, is_single = _stacked([_rgb(image) for image in images]), False
    else:
        pixels = _rgb(images)
        is_single = pixels.ndim == 3
        pixels = pixels[None] if is_single else pixels
    is_uint8 = pixels.dtype == np.uint8
    if not is_uint8 and pixels.min() >= 0:
        warnings.warn(
            "all values of these float images lie in [0, 1], where -1 is black and 1 is white; if "
            "0 is black in them, give 2 * images - 1, or uint8",
            stacklevel=3,
        )
    return Images(to_float(pixels) if is_uint8 else pixels, is_single, is_uint8)


def as_latents(latents: Any, n_z: int) -> np.ndarray:
    """Float32 `[(B,) h, w, n_z]`; raises `ValueError` for what is not that, or not finite."""
    _check_is_concrete("latents", latents)
    try:
        latents = np.asarray(latents, np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"latents are no array of numbers ({reason(error)})") from error
    if latents.ndim not in (3, 4) or latents.shape[-1] != n_z or 0 in latents.shape:
        raise ValueError(f"latents {latents.shape}: expected [(B,) h, w, {n_z}], not empty")
    if not np.isfinite(latents).all():
        raise ValueError("latents: NaN or infinite numbers among them")
    return latents


def as_number(name: str, value: Any) -> int:
    """A whole number; raises `ValueError` for what is none, as a key of `jax.random` for a seed."""
    try:
        return operator.index(value)
    except TypeError:
        what, hint = f"{value!r:.60}", ""
        if hasattr(value, "dtype"):
            what, hint = f"array of {value.dtype}", "; vae.functions.decode takes keys"
        raise ValueError(f"{name} = {what}: expected a whole number{hint}") from None


def _check_is_concrete(name: str, value: Any) -> None:
    if value is None:
        raise ValueError(f"{name} = None: expected an array")
    if isinstance(value, jax.core.Tracer):
        raise ValueError(
            f"{name} are traced: inside jit, vmap and grad take vae.functions.encode and decode, "
            "which are pure functions"
        )


def _rgb(image: Any) -> np.ndarray:
    """uint8 or float32 `[(B,) H, W, 3]`."""
    if isinstance(image, str | os.PathLike):
        return read_image(image)
    if isinstance(image, Image.Image):
        return pil_to_rgb(image)
    if image is None:
        raise ValueError("images: None among them")
    array = np.asarray(image)
    if not (array.dtype == np.uint8 or jnp.issubdtype(array.dtype, jnp.floating)):
        raise ValueError(f"images of {array.dtype}: expected uint8, or float in [-1, 1]")
    array = array[..., None] if array.ndim == 2 else array
    _check_shape(array.shape)
    if array.shape[-1] == 4:
        if array.dtype != np.uint8:
            raise ValueError(f"images {array.shape} of {array.dtype}: RGBA must be uint8")
        array = _on_white(array)
    elif array.shape[-1] == 1:
        array = array.repeat(3, axis=-1)
    return array if array.dtype == np.uint8 else _checked_float(array)


def _stacked(images: list[np.ndarray]) -> np.ndarray:
    """A batch of images; those of 8 bits become floats if others are."""
    if not images:
        raise ValueError("images: the list is empty")
    shapes = list(dict.fromkeys(image.shape for image in images))
    if len(shapes) > 1:
        raise ValueError(
            f"images of several sizes, as {shapes[0]} and {shapes[1]}: give them one by one"
        )
    if len(shapes[0]) != 3:
        raise ValueError(f"images: a list of {shapes[0]}; expected [H, W, 3]")
    if len({image.dtype for image in images}) > 1:
        images = [to_float(x) if x.dtype == np.uint8 else x for x in images]
    return np.stack(images)


def _check_shape(shape: tuple[int, ...]) -> None:
    if 0 in shape:
        raise ValueError(f"images {shape}: there is none")
    if len(shape) not in (3, 4) or shape[-1] not in _CHANNELS:
        is_first = len(shape) in (3, 4) and shape[-3] in _CHANNELS
        hint = "; channels come last, as np.moveaxis(images, -3, -1) puts them" if is_first else ""
        raise ValueError(f"images {shape}: expected [H, W, 3] or [B, H, W, 3]{hint}")


def _checked_float(images: np.ndarray) -> np.ndarray:
    images = images.astype(np.float32)
    if not np.isfinite(images).all():
        raise ValueError("images: NaN or infinite numbers among them")
    if np.abs(images).max() > 1 + 1e-3:
        raise ValueError("float images must lie in [-1, 1]; uint8 images in [0, 255]")
    return images


def _on_white(images: np.ndarray) -> np.ndarray:
    """RGBA `[(B,) H, W, 4]` on white, as a file's."""
    if images.ndim == 4:
        return np.stack([_on_white(image) for image in images])
    return pil_to_rgb(Image.fromarray(images))
