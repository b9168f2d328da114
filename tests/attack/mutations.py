"""Ways to damage a file: plain functions of its bytes and a seeded generator."""

from collections.abc import Callable

import numpy as np

Mutator = Callable[[bytes, np.random.Generator], bytes]
MAX_SLICE = 64
# What lengths, offsets and counts are at their worst, little-endian.
EXTREMES = tuple(value.to_bytes(8, "little") for value in (0, 2**31, 2**32 - 1, 2**62, 2**64 - 1))


def flip(data: bytes, random: np.random.Generator) -> bytes:
    """Flips one to three bits."""
    array = np.frombuffer(data, np.uint8).copy()
    for _ in range(random.integers(1, 4) if len(array) else 0):
        array[random.integers(len(array))] ^= 1 << random.integers(8)
    return array.tobytes()


def cut(data: bytes, random: np.random.Generator) -> bytes:
    """Leaves the beginning."""
    return data[: random.integers(len(data) + 1)]


def drop(data: bytes, random: np.random.Generator) -> bytes:
    """Takes some bytes away in the middle."""
    start, length = _slice(data, random)
    return data[:start] + data[start + length :]


def insert(data: bytes, random: np.random.Generator) -> bytes:
    """Puts random bytes in."""
    start, length = _slice(data, random)
    return data[:start] + random.bytes(length) + data[start:]


def repeat(data: bytes, random: np.random.Generator) -> bytes:
    """Puts some bytes in once more."""
    start, length = _slice(data, random)
    return data[: start + length] + data[start:]


def overwrite(data: bytes, random: np.random.Generator) -> bytes:
    """Puts an extreme number over 1, 2, 4 or 8 bytes."""
    start, _ = _slice(data, random)
    number = EXTREMES[random.integers(len(EXTREMES))][: 2 ** random.integers(4)]
    return data[:start] + number + data[start + len(number) :]


def change_digit(data: bytes, random: np.random.Generator) -> bytes:
    """Makes another of one decimal digit, as JSON's numbers have them, or adds some."""
    digits = [i for i, byte in enumerate(data) if 48 <= byte < 58]
    if not digits:
        return flip(data, random)
    at = digits[random.integers(len(digits))]
    new = str(random.integers(10 ** random.integers(1, 12))).encode()
    return data[:at] + new + data[at + 1 :]


MUTATORS: tuple[Mutator, ...] = (flip, cut, drop, insert, repeat, overwrite, change_digit)


def mutate(data: bytes, random: np.random.Generator) -> bytes:
    """One of the above."""
    return MUTATORS[random.integers(len(MUTATORS))](data, random)


def _slice(data: bytes, random: np.random.Generator) -> tuple[int, int]:
    """Start and length of some bytes."""
    return int(random.integers(len(data) + 1)), int(random.integers(1, MAX_SLICE))
