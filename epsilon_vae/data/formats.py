"""Formats of image files: which are read, and what a file is by its content, whatever its name."""

from PIL import features

SUFFIXES_OF = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
}
# Not all builds of Pillow decode these.
if features.check("libtiff"):
    SUFFIXES_OF["TIFF"] = (".tif", ".tiff")
if features.check("avif"):
    SUFFIXES_OF["AVIF"] = (".avif",)
SUFFIXES = tuple(suffix for suffixes in SUFFIXES_OF.values() for suffix in suffixes)
# PIL knows more, and would start Ghostscript for some.
FORMATS = (*SUFFIXES_OF, "PPM")

# First byte, bytes, and what they are; the first that fits.
_SIGNATURES = (
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG", "PNG"),
    (8, b"WEBP", "WebP"),
    (0, b"GIF8", "GIF"),
    (0, b"BM", "BMP"),
    (0, b"II*\0", "TIFF, or a camera's raw file"),
    (0, b"MM\0*", "TIFF, or a camera's raw file"),
    (0, b"II+\0", "BigTIFF"),
    (4, b"ftypavi", "AVIF"),
    (4, b"ftyphe", "HEIC"),
    (4, b"ftypmif1", "HEIF"),
    (4, b"ftypcrx", "a camera's raw file (CR3)"),
    (4, b"ftyp", "a video (MP4 or MOV)"),
    (0, b"\x1aE\xdf\xa3", "a video (WebM or MKV)"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"8BPS", "PSD"),
    (0, b"v/1\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"DDS ", "DDS"),
    (0, b"\0\0\x01\0", "ICO"),
    (0, b"\0\x05\x16\x07", "AppleDouble, macOS's notes on a file"),
    (0, b"version https://git-lfs", "a Git LFS pointer, which `git lfs pull` replaces by the file"),
    (0, b"%PDF", "PDF"),
    (0, b"%!PS", "PostScript"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"\x1f\x8b", "gzip"),
    (257, b"ustar", "a tar"),
)
_BEGINNING = 512  # bytes, of which a text is known


def kind_of(data: bytes) -> str:
    """What a file is by its first bytes, as 'HEIC' or 'an HTML page'; '' if that is not known."""
    for offset, signature, kind in _SIGNATURES:
        if data.startswith(signature, offset):
            return kind
    beginning = data[:_BEGINNING].strip().lower()
    if beginning.startswith((b"<!doctype html", b"<html")):
        return "an HTML page"
    if b"<svg" in beginning:
        return "SVG"
    is_text = beginning and all(byte >= 0x20 or byte in b"\t\r\n" for byte in beginning)
    return "text" if is_text and beginning.isascii() else ""


def is_named_as(name: str, image_format: str) -> bool:
    """Whether a file's name ends as those of a format of PIL do, or as none of them does."""
    lower = name.lower()
    return lower.endswith(SUFFIXES_OF.get(image_format, ())) or not lower.endswith(SUFFIXES)
