"""Images as they are named: by a command line's `--data` and `--split`, or by a config."""

from collections.abc import Sequence
from typing import NamedTuple

import ml_collections

from epsilon_vae.data.array_records import ArrayRecords
from epsilon_vae.data.decode import DataError
from epsilon_vae.data.files import filesystem
from epsilon_vae.data.records import Record
from epsilon_vae.data.sources import PHOTOS, Folder, has_splits, open_source


class Data(NamedTuple):
    """Images, how they were named, and what else is to be said of them, if anything."""

    source: Sequence[Record]
    name: str
    note: str = ""

    def metadata(self) -> dict[str, str]:
        """What can be told of the files without reading them: 'files_hash'."""
        known = isinstance(self.source, (Folder, ArrayRecords))
        return {"files_hash": self.source.files_hash()} if known else {}


def open_data(text: str, split: str) -> Data:
    """The images of 'photos', 'array_record:DIR', 'tfds:NAME', or of a folder.

    Args:
      text: which.
      split: of the sets that have several.

    Raises:
      DataError: they cannot be read.
    """
    kind, _, rest = text.partition(":")
    if text == "photos" and split not in PHOTOS:
        raise DataError(f"split {split}: photos have {' and '.join(PHOTOS)}")
    if text == "photos":
        return Data(open_source("photos", "", split=split), f"photos, {split}")
    if kind == "array_record" and rest:
        return Data(open_source("array_record", rest, split=split), f"{text}, {split}")
    if kind == "tfds" and rest:
        return Data(open_source("tfds", "", split=split, tfds_name=rest), f"{text}, {split}")
    files, root = filesystem(text)
    if not files.isdir(root):
        what = "a file, not a folder" if files.exists(root) else "no such folder"
        raise DataError(
            f"{text}: {what}; name one with images, photos, array_record:DIR or tfds:NAME"
        )
    return Data(Folder(text), text)


def open_part(data: ml_collections.ConfigDict, part: str) -> Data:
    """The images that a run trains on, 'train', or that its evaluations measure, 'val'.

    A folder without splits is both: a part is held out by the hash of the names, and noted.

    Args:
      data: `config.data`.
      part: which.

    Raises:
      DataError: they cannot be read.
    """
    splits = {"train": data.train_split, "val": data.get("val_split", "val")}
    if data.source == "folder" and not has_splits(data.path, list(splits.values())):
        source = Folder(data.path, part=part, held_out=data.held_out)
        words = f"config.data.held_out = {data.held_out:g}"
        note = (
            f"{data.path}: no splits in it; {len(source)} images are {part}, and "
            f"{source.num_others} the other part, by the hash of their names ({words})"
        )
        return Data(source, f"folder {data.path}, {part} of {words}", note)
    split = splits[part]
    source = open_source(data.source, data.path, split=split, tfds_name=data.tfds_name)
    return Data(source, " ".join(filter(None, (data.source, data.tfds_name, data.path, split))))
