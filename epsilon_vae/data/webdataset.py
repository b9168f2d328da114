"""WebDataset's samples: files of a tar whose names differ from the first dot on alone."""

import collections
import itertools
import json
import re
from collections.abc import Sequence
from typing import BinaryIO

from epsilon_vae.data.decode import DataError
from epsilon_vae.data.files import LeftOut, is_hidden
from epsilon_vae.data.images import ChoiceError, ClassKeyError
from epsilon_vae.errors import reason

# Of a file beside an image that holds its class.
_MAX_CLASS_BYTES = 2**20
# Beside images, what tells that a tar holds samples, and of how many of them that is looked at.
_OTHERS = ("cls", "json", "txt")
_MAX_OTHERS = 1000


class Samples:
    """What one pass over the files of tars gathers about samples, if there are any.

    Args:
      image_key: what follows the first dot of images, as 'jpg'; '' for all images.
      class_key: key of the .json that has the class; '' for the .cls.

    Attributes:
      left_out: files that are neither images nor their classes.
    """

    def __init__(self, image_key: str, class_key: str):
        self._image_key, self._class_key = image_key.lower().lstrip("."), class_key
        self.left_out = LeftOut()
        self._classes: dict[str, str | int | None] = {}
        self._others: set[str] = set()
        self._keys: collections.Counter[str] = collections.Counter()

    def takes(self, name: str, content: BinaryIO, *, path: str) -> bool:
        """Whether a file is an image; takes note of others.

        Args:
          name: of the file.
          content: of the file.
          path: of the tar, for messages.

        Raises:
          DataError: a class that cannot be read.
        """
        sample, kind = _sample_and_kind(name)
        if kind in _OTHERS and not is_hidden(name):
            if len(self._others) < _MAX_OTHERS:
                self._others.add(sample)
            if kind == ("json" if self._class_key else "cls"):
                self._classes[sample] = self._class(name, content, path)
                return False
        wanted = not self._image_key or kind == self._image_key
        return self.left_out.is_image(name, wanted=wanted)

    def _class(self, name: str, content: BinaryIO, path: str) -> str | int | None:
        data = content.read(_MAX_CLASS_BYTES + 1)
        try:
            if len(data) > _MAX_CLASS_BYTES:
                raise ValueError(f"more than {_MAX_CLASS_BYTES} bytes")
            if not self._class_key:
                return as_class(data.decode("utf-8", "surrogateescape"))
            values = json.loads(data)
            if not isinstance(values, dict):
                raise ValueError(f"a {type(values).__name__}, not keys and values")
            self._keys.update(itertools.islice(values, 100))
            return as_class(values.get(self._class_key))
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{path}: no class can be read from {name} ({reason(error)})"
            ) from error

    def are_of(self, names: Sequence[str]) -> bool:
        """Whether images have other files of a sample beside them."""
        return any(_sample_and_kind(name)[0] in self._others for name in names)

    def classes_of(self, names: Sequence[str], path: str) -> list[str | int | None] | None:
        """The class of each image, None for none; None where no file has classes.

        Args:
          names: of the images.
          path: of the input, for messages.

        Raises:
          ChoiceError: samples have several images.
          ClassKeyError: there is no class under the key.
        """
        if self.are_of(names):
            kinds: dict[str, str] = {}
            for sample, kind in map(_sample_and_kind, names):
                if kinds.setdefault(sample, kind) != kind:
                    raise ChoiceError(
                        f"{path}: {sample} has several images, .{kinds[sample]} and .{kind}"
                    )
        found = [self._classes.get(_sample_and_kind(name)[0]) for name in names]
        if any(name is not None for name in found):
            return found
        if self._class_key:
            keys = ", ".join(key for key, _ in self._keys.most_common(20))
            has = f"its .json have {keys}" if keys else "no image has a .json with keys beside it"
            raise ClassKeyError(f"{path}: no class under {self._class_key!r}; {has}")
        return None


def as_class(value: object) -> str | int | None:
    """A class as files have it: a number or a name; None for an empty one, or -1, which is none.

    Raises:
      ValueError: neither.
    """
    if value is None or isinstance(value, (bool, int)):
        return None if value is None or value == -1 else int(value)
    if not isinstance(value, str):
        raise ValueError(f"a {type(value).__name__}, not a number or a name")
    text = value.strip()
    if re.fullmatch(r"[+-]?\d{1,18}", text, re.ASCII):
        return as_class(int(text))
    return text or None


def _sample_and_kind(name: str) -> tuple[str, str]:
    """The name up to the first dot of its last part, and what follows it, in lower case."""
    folder, slash, last = name.rpartition("/")
    sample, _, kind = last.partition(".")
    return folder + slash + sample, kind.lower()
