"""Images as a command line names them, by `--data` and `--split`."""

from collections.abc import Sequence
from typing import NamedTuple

from epsilon_vae.data.array_records import ArrayRecords
from epsilon_vae.data.decode import DataError
from epsilon_vae.data.files import filesystem
from epsilon_vae.data.records import Record
from epsilon_vae.data.sources import PHOTOS, Folder, open_source


class Data(NamedTuple):
    """Images, and how they were named."""

    source: Sequence[Record]
    name: str

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
        raise DataError(
            f"{text}: no such folder; name one with images, photos, array_record:DIR or tfds:NAME"
        )
    return Data(Folder(text), text)
