"""Puts pictures into one, with captions that can be read."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# In pixels. Narrower pictures are enlarged by a whole number.
MIN_WIDTH, GAP, MARGIN = 160, 4, 8
LINE, FONT = 22, 14


def captioned(
    images: np.ndarray,
    captions: Sequence[str],
    *,
    columns: int,
    title: str,
    heads: Sequence[str] = (),
) -> np.ndarray:
    """Pictures row by row, each above its caption, below a title and perhaps heads of columns.

    Args:
      images: uint8 `[N, H, W, 3]`.
      captions: N of them; what does not fit is cut off.
      columns: number of them.
      title: of it all.
      heads: of the columns.

    Returns:
      uint8 `[H', W', 3]`, with the pixels of the images as squares of the same colour.
    """
    scale = math.ceil(MIN_WIDTH / images.shape[2])
    images = images.repeat(scale, axis=1).repeat(scale, axis=2)
    height, width = images.shape[1:3]
    rows, top = math.ceil(len(images) / columns), LINE * (2 if heads else 1)
    size = columns * (width + GAP) - GAP, top + rows * (height + LINE)
    page = Image.new("RGB", (size[0] + 2 * MARGIN, size[1] + MARGIN), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(FONT)

    def write(text: str, x: int, y: int, room: int) -> None:
        while len(text) > 3 and draw.textlength(text, font=font) > room:
            text = f"{text[:-4]}..."
        draw.text((x, y + LINE // 2), text, fill="black", font=font, anchor="lm")

    write(title, MARGIN, 0, size[0])
    for column, head in enumerate(heads):
        write(head, MARGIN + column * (width + GAP), LINE, width)
    for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
        row, column = divmod(i, columns)
        x, y = MARGIN + column * (width + GAP), top + row * (height + LINE)
        page.paste(Image.fromarray(image), (x, y))
        write(caption, x, y + height, width)
    return np.asarray(page)
