"""What tests of broken and hostile files share."""

import io
import os

from PIL import Image

ROUNDS = 60  # of each attack in the suite
ODD_NAME = os.fsdecode(b"=cmd|' /C calc'!A0 <b>\n`x`\xff.png")


def photo(size: tuple[int, int] = (24, 16), value: int = 60) -> Image.Image:
    """Of two greys, none of them black, in the order that tells the top from the bottom."""
    image = Image.new("RGB", size, (value, value, value))
    image.paste((value + 9, value, 3 * value), (0, 0, size[0] // 2, size[1] // 3))
    return image


def encode(image: Image.Image, file_format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()
