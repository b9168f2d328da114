"""Colors of embedded ICC profiles, converted to sRGB."""

import functools
import io

import numpy as np
from PIL import Image, ImageCms

# Modes of PIL by what a profile calls its colors.
_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
# A profile that moves no color by more levels is sRGB, whatever its name: most are.
_SAME_LEVELS = 1
_KEPT_TRANSFORMS = 32  # A data set has few profiles, a photo of a phone always the same.


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """The image as `RGB`, its colors converted from an ICC profile to sRGB.

    A profile that cannot be read, or that is of other colors than the image, is left aside.

    Args:
      image: of mode L, RGB or CMYK.
      profile: None for none.
    """
    mode, transform = _transform(profile) if profile else ("", None)
    if transform is not None and mode == "RGB" and image.mode == "L":
        image = image.convert("RGB")
    if transform is None or image.mode != mode:
        return image if image.mode == "RGB" else image.convert("RGB")
    return ImageCms.applyTransform(image, transform)


@functools.lru_cache(maxsize=_KEPT_TRANSFORMS)
def _transform(profile: bytes) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    """The mode of images of a profile, and their way to sRGB: None for none, or no need of one."""
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = _MODES[opened.profile.xcolor_space.strip()]
        transform = ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (OSError, ValueError, KeyError, ImageCms.PyCMSError):
        return "", None
    if mode == "CMYK":
        return mode, transform
    probe = _probe().convert(mode)
    before = np.asarray(probe.convert("RGB"), np.int16)
    after = np.asarray(ImageCms.applyTransform(probe, transform), np.int16)
    return mode, transform if np.abs(after - before).max() > _SAME_LEVELS else None


def _probe() -> Image.Image:
    """Colors all over the cube, 16 levels apart."""
    levels = np.append(np.arange(0, 256, 16), 255)
    cube = np.stack(np.meshgrid(levels, levels, levels), -1)
    return Image.fromarray(cube.reshape(len(levels), -1, 3).astype(np.uint8))
