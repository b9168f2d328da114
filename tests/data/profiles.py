"""ICC profiles by hand, and what their colors are in sRGB by the formulas."""

import struct

import numpy as np

# Of red, green and blue, XYZ under D50.
P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
ADOBE = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))
D50 = (0.96420, 1.0, 0.82491)


def rgb_profile(primaries=P3, gamma: float = 2.2, padding: int = 0) -> bytes:
    """Of three primaries and one power; `padding` bytes of a text make it as large as wished."""
    tags = {name: _xyz(x) for name, x in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True)}
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _power(gamma))
    return _profile(b"RGB ", b"XYZ ", tags | {b"wtpt": _xyz(D50)}, padding)


def grey_profile(gamma: float) -> bytes:
    """Of one power."""
    return _profile(b"GRAY", b"XYZ ", {b"kTRC": _power(gamma), b"wtpt": _xyz(D50)})


def cmyk_profile() -> bytes:
    """Of black ink, with which lightness falls from 100 to 0, and others that do nothing."""
    head = b"mft1" + bytes(4) + bytes([4, 3, 2, 0])
    matrix = struct.pack(">9i", *(65536 * np.eye(3, dtype=int)).ravel().tolist())
    ramp = bytes(range(256))
    nodes = b"".join(bytes([0 if node & 1 else 255, 128, 128]) for node in range(16))
    return _profile(b"CMYK", b"Lab ", {b"A2B0": head + matrix + 4 * ramp + nodes + 3 * ramp})


def in_srgb(color, primaries=P3, gamma: float = 2.2) -> np.ndarray:
    """An 8-bit color of `rgb_profile`, in sRGB, cut to 0 … 255."""
    xyz = np.array(primaries).T @ (np.array(color) / 255) ** gamma
    linear = np.clip(np.linalg.solve(np.array(SRGB).T, xyz), 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def _xyz(values) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(65536 * value) for value in values))


def _power(gamma: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IHH", 1, round(256 * gamma), 0)


def _profile(space: bytes, pcs: bytes, tags: dict[bytes, bytes], padding: int = 0) -> bytes:
    tags = tags | {b"cprt": b"text" + bytes(4) + b"none" + bytes(padding // 4 * 4)}
    place, table, body = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        table += name + struct.pack(">II", place + len(body), len(content))
        body += content
    size, kind = place + len(body), b"prtr" if space == b"CMYK" else b"mntr"
    head = struct.pack(">I4sI4s4s4s", size, bytes(4), 0x02100000, kind, space, pcs)
    head += bytes(12) + b"acsp" + bytes(28) + _xyz(D50)[8:]
    return head.ljust(128, b"\0") + table + body
