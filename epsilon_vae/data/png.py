"""What PIL does not do about PNGs: rows that are missing, metadata, transparency of any depth."""

import io
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_DEPTH = 24  # the byte that has the bits a sample
# The largest profiles, of printers, have some MB; one of more is not read.
_MAX_PROFILE_BYTES = 2**24


def has_all_rows(image: Image.Image, data: bytes) -> bool:
    """Loads a PNG; False where its compressed stream ends before its rows do.

    PIL takes such a stream if it ends with a row, and leaves the other rows as they were: zeros. Of
    an image whose last row is that, those that differ when it is loaded over ones are missing.
    """
    image.load()
    last = image.crop((0, image.height - 1, *image.size))
    if np.any(np.asarray(last)) and not image.info.get("interlace"):
        return True
    again = Image.open(io.BytesIO(data), formats=("PNG",))
    again.im = Image.new(again.mode, again.size, 1).im
    again.load()
    return np.array_equal(np.asarray(image), np.asarray(again))


def without_metadata(data: bytes) -> bytes:
    """A PNG with what its pixels need alone, and what is no PNG as it is.

    PIL refuses an image for texts, a profile or dates that are broken or too large.
    """
    if not data.startswith(_SIGNATURE):
        return data
    # A capital letter marks what no decoder may pass over.
    needed = (chunk for name, _, chunk in _chunks(data) if name[:1].isupper() or name == b"tRNS")
    return _SIGNATURE + b"".join(needed)


def profile(data: bytes) -> bytes | None:
    """The ICC profile of a PNG, also one of which PIL does not read; None if there is none."""
    for name, body, _ in _chunks(data):
        if name == b"IDAT":
            break
        if name == b"iCCP":
            compressed = body.partition(b"\0")[2][1:]
            unpacked = zlib.decompressobj()
            try:
                found = unpacked.decompress(compressed, _MAX_PROFILE_BYTES)
            except zlib.error:
                return None
            return found if unpacked.eof else None
    return None


def is_transparent(image: Image.Image, data: bytes) -> np.ndarray:
    """Where a grey or RGB image has the color that its tRNS calls transparent: bool `[H, W]`.

    Args:
      image: of PIL, loaded.
      data: of the file.
    """
    color, bits = np.array(image.info["transparency"]), data[_DEPTH]
    samples = np.asarray(image.convert("L") if image.mode == "1" else image)
    if bits == 16 and image.mode == "RGB":  # of which PIL gives the upper eight bits
        samples = samples.astype(np.uint16) << 8 | _lower_bytes(data)
    elif bits < 8:  # PIL stretches them to 0 … 255
        color = color * (255 // (2**bits - 1))
    same = samples == color
    return same.all(axis=-1) if same.ndim == 3 else same


def _lower_bytes(data: bytes) -> np.ndarray:
    """The lower bytes of an RGB image of 16 bits: PIL's decoder, told that they are the upper."""
    image = Image.open(io.BytesIO(data), formats=("PNG",))
    image.tile = [tile._replace(args="RGB;16L") for tile in image.tile]
    return np.asarray(image)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Name, body, and all bytes of each chunk; the last may be cut."""
    place = len(_SIGNATURE)
    while place < len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4])
        yield data[place + 4 : place + 8], data[place + 8 : end - 4], data[place:end]
        place = end
