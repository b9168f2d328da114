"""Mutators: what a disk, a network or an enemy makes of a file; functions (bytes, rng) -> bytes."""

import contextlib
import json
import struct
import zlib
from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np

Mutator = Callable[[bytes, np.random.Generator], bytes]

# Sizes and counts that headers may claim.
WILD_NUMBERS = (0, 1, -1, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**70)
WILD_VALUES = (*WILD_NUMBERS, None, True, "", "x", [], {}, [[]], 0.5, float("nan"), float("inf"))


def flip(data: bytes, rng: np.random.Generator) -> bytes:
    """One to eight bits are flipped."""
    broken = bytearray(data)
    for place in rng.integers(len(data), size=rng.integers(1, 9)):
        broken[place] ^= 1 << int(rng.integers(8))
    return bytes(broken)


def cut(data: bytes, rng: np.random.Generator) -> bytes:
    """The end is missing."""
    return data[: int(rng.integers(len(data)))]


def drop(data: bytes, rng: np.random.Generator) -> bytes:
    """A piece inside is missing."""
    start, stop = _piece(data, rng)
    return data[:start] + data[stop:]


def insert(data: bytes, rng: np.random.Generator) -> bytes:
    """Random bytes stand inside."""
    place = int(rng.integers(len(data) + 1))
    return data[:place] + rng.bytes(int(rng.integers(1, 65))) + data[place:]


def repeat(data: bytes, rng: np.random.Generator) -> bytes:
    """A piece stands there twice."""
    start, stop = _piece(data, rng)
    return data[:stop] + data[start:stop] + data[stop:]


def blank(data: bytes, rng: np.random.Generator) -> bytes:
    """A piece is zeros or ones, as a disk returns blocks that it never wrote."""
    start, stop = _piece(data, rng)
    return data[:start] + (b"\0", b"\xff")[int(rng.integers(2))] * (stop - start) + data[stop:]


def overwrite_number(data: bytes, rng: np.random.Generator) -> bytes:
    """Two, four or eight bytes are a number that sizes are not, in either order."""
    order, kind = "<>"[int(rng.integers(2))], "HIQ"[int(rng.integers(3))]
    size = struct.calcsize(kind)
    number = WILD_NUMBERS[int(rng.integers(len(WILD_NUMBERS)))] % 2 ** (8 * size)
    place = int(rng.integers(max(1, len(data) - size)))
    return data[:place] + struct.pack(order + kind, number) + data[place + size :]


BYTES: tuple[Mutator, ...] = (flip, cut, drop, insert, repeat, blank, overwrite_number)


def mutate_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """One of `BYTES`."""
    return BYTES[int(rng.integers(len(BYTES)))](data, rng)


def mutate_json(data: bytes, rng: np.random.Generator) -> bytes:
    """A value has another type or range, a key is missing or there is one more; or as `BYTES`."""
    if rng.random() < 0.3:
        return mutate_bytes(data, rng)
    return json.dumps(mutate_value(json.loads(data), rng)).encode()


def mutate_value(value: Any, rng: np.random.Generator) -> Any:
    """A value of JSON's or msgpack's types of which one part, at any depth, is another."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = list(value)[int(rng.integers(len(value)))]
        kind = rng.random()
        if kind < 0.15:
            return {k: v for k, v in value.items() if k != key}
        if kind < 0.2:
            return value | {"one more": value[key]}
        return value | {key: mutate_value(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.6:
        place = int(rng.integers(len(value)))
        changed = [mutate_value(value[place], rng)] * int(rng.integers(3))
        return value[:place] + changed + value[place + 1 :]
    return WILD_VALUES[int(rng.integers(len(WILD_VALUES)))]


def mutate_record(data: bytes, rng: np.random.Generator) -> bytes:
    """As `mutate_json`, of a map of msgpack."""
    if rng.random() < 0.3:
        return mutate_bytes(data, rng)
    while True:
        with contextlib.suppress(OverflowError):  # of a number that msgpack does not hold
            return msgpack.packb(mutate_value(msgpack.unpackb(data), rng))


def mutate_png(data: bytes, rng: np.random.Generator) -> bytes:
    """The pixels' stream is cut, or ends after some rows, in chunks that are well-formed."""
    chunks = list(png_chunks(data))
    stream = b"".join(body for name, body in chunks if name == b"IDAT")
    if rng.random() < 0.5:
        stream = cut(stream, rng)
    else:
        rows = zlib.decompress(stream)
        height = struct.unpack(">I", chunks[0][1][4:8])[0]
        stream = zlib.compress(rows[: len(rows) // height * int(rng.integers(height))])
    others = [chunk for chunk in chunks[:-1] if chunk[0] != b"IDAT"]
    return make_png([*others, (b"IDAT", stream), chunks[-1]])


def png_chunks(data: bytes):
    """Names and bodies of a PNG's chunks."""
    place = 8
    while place < len(data):
        size = struct.unpack(">I", data[place : place + 4])[0]
        yield data[place + 4 : place + 8], data[place + 8 : place + 8 + size]
        place += 12 + size


def make_png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """A PNG of chunks, with their checksums."""
    parts = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def mutate_tar(data: bytes, rng: np.random.Generator) -> bytes:
    """A header's field is another, with its checksum right; or as `BYTES`."""
    if rng.random() < 0.4:
        return mutate_bytes(data, rng)
    block = 512 * int(rng.integers(len(data) // 512))
    header = bytearray(data[block : block + 512])
    kind = int(rng.integers(3))
    if kind == 0:  # the size, in octal or in base 256
        number = WILD_NUMBERS[int(rng.integers(len(WILD_NUMBERS)))]
        header[124:136] = b"\x80" + (number % 2**88).to_bytes(11, "big")
    elif kind == 1:  # the type: a link, a device, GNU's and POSIX's extensions
        header[156] = b"\x001234567gxLKSVDM"[int(rng.integers(16))]
    else:  # the name
        header[:8] = rng.bytes(8)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return data[:block] + bytes(header) + data[block + 512 :]


def _piece(data: bytes, rng: np.random.Generator) -> tuple[int, int]:
    start, stop = sorted(int(place) for place in rng.integers(len(data) + 1, size=2))
    return start, min(stop, start + 4096)
