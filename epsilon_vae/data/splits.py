"""Which split a file or folder is of, by its name."""

import re
from collections.abc import Sequence

from epsilon_vae.data.decode import DataError

# Words of names, as data sets of the Hub have them.
_WORDS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}


class SplitError(DataError):
    """Files none of which is of the split that was asked for; the message says which there are."""


def split_of(path: str) -> str | None:
    """The split that a path names, 'train', 'val' or 'test', as train2017/a.tar; None for none.

    The last part of the path that names one counts.
    """
    for part in reversed(path.lower().split("/")):
        words = re.split(r"[^a-z]+", part)
        for split, names in _WORDS.items():
            if any(name in words for name in names):
                return split
    return None


def of_split(names: Sequence[str], split: str, path: str) -> list[str]:
    """Those files of an input that are of a split; all of them where no name says of which it is.

    Args:
      names: paths in the input.
      split: as `split_of` has it; '' for all.
      path: of the input, for the message.

    Raises:
      SplitError: none is.
    """
    found = {name: split_of(name) for name in names}
    if not split or not any(found.values()):
        return list(names)
    chosen = [name for name in names if found[name] == split]
    if not chosen:
        others = ", ".join(f"{name} of {found[name] or 'no split'}" for name in list(names)[:3])
        raise SplitError(
            f"{path}: no file of split {split}; there are {others}{'…' * (len(names) > 3)}"
        )
    return chosen
