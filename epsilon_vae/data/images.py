"""Images as they are downloaded: a list of names, sizes and classes; bytes by the place in it."""

import contextlib
import dataclasses
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
from tqdm import tqdm

from epsilon_vae.data.decode import DataError
from epsilon_vae.data.records import Record
from epsilon_vae.errors import reason

# Of classes that are numbers, of which one that is damaged may be any.
MAX_CLASSES = 2**20

Item = TypeVar("Item")


class ChoiceError(DataError):
    """Several things in an input that could be its images; the message says which."""


class ClassKeyError(DataError):
    """An input that has no class where it was said to be; the message says what it has."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Images(Sequence[Record]):
    """Images in an order that depends on the input alone: a folder's sorted, others' as they are.

    Attributes:
      path: the input, as its user names it.
      names: paths in it.
      sizes: bytes of each; of a parquet file their mean in a row group, all in all.
      classes: names of the classes; sorted, unless the input has an order of them.
      labels: index into the classes, or None, of each.
      read: bytes of the image at an index; cheap in the order of the list. Raises `DataError`.
    """

    path: str
    names: list[str]
    sizes: np.ndarray
    classes: tuple[str, ...]
    labels: list[int | None]
    read: Callable[[int], bytes]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Record:
        return Record(self.read(index), self.labels[index], f"{self.path}/{self.names[index]}")


def to_labels(
    found: Sequence[str | int | None], path: str
) -> tuple[tuple[str, ...], list[int | None]]:
    """The names of the classes, and each image's index among them.

    Classes that are all numbers are the indices themselves, so that those of two splits agree, and
    their names are the numbers. Other names are sorted.

    Args:
      found: the class of each image; None for none.
      path: of the input, for messages.

    Raises:
      DataError: a number that no data set has as many classes for.
    """
    distinct = {name for name in found if name is not None}
    if distinct and all(isinstance(name, int) for name in distinct):
        bad = next((n for n in sorted(distinct) if not 0 <= n < MAX_CLASSES), None)
        if bad is not None:
            raise DataError(f"{path}: an image of class {bad}; classes are 0 to {MAX_CLASSES - 1}")
        return tuple(map(str, range(max(distinct) + 1))), list(found)
    classes = tuple(sorted(map(str, distinct)))
    index = {name: label for label, name in enumerate(classes)}
    return classes, [None if name is None else index[str(name)] for name in found]


def progress(found: Iterator[Item]) -> Iterator[Item]:
    """The items of an iterator, counted on a terminal."""
    hidden = not sys.stderr.isatty()
    return tqdm(found, desc="Looking for images", unit=" files", disable=hidden, leave=False)


@contextlib.contextmanager
def reading(path: str) -> Iterator[None]:
    """Errors of the system inside say what was read."""
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        where = getattr(error, "filename", None) or path
        if isinstance(error, FileNotFoundError):
            raise DataError(f"{where}: no such file or folder") from error
        raise DataError(f"{where}: cannot be read ({reason(error)})") from error
