"""Records: encoded images as they are stored, and how shards pack them."""

from collections.abc import Sequence
from typing import NamedTuple

import msgpack

from epsilon_vae.data.decode import DataError

# First bytes of what `pack` writes, and of a tf.train.Example; no image begins with either.
PACKED, TF_EXAMPLE = b"\x83", b"\x0a"


class Record(NamedTuple):
    """One image as it is stored: the file's bytes, its class if any, and a name for messages."""

    data: bytes
    label: int | None
    name: str


def pack(record: Record) -> bytes:
    """A record as `array_record` shards hold it."""
    return pack_fields({"image": record.data, "label": record.label, "name": record.name})


def pack_fields(fields: dict[str, bytes | int | str | None]) -> bytes:
    """Packs fields by name, of which texts may be names of files, which are bytes."""
    return msgpack.packb(fields, unicode_errors="surrogateescape")


def unpack_fields(data: bytes, kinds: dict[str, type]) -> dict[str, bytes | int | str | None]:
    """Reads what `pack_fields` wrote.

    Args:
      data: packed.
      kinds: the types of the fields by name, besides those of every record: 'name' and 'label'.

    Raises:
      ValueError: it is something else, or was damaged.
    """
    try:
        fields = msgpack.unpackb(data, unicode_errors="surrogateescape")
    except (TypeError, msgpack.UnpackException, RecursionError) as error:
        raise ValueError(error) from error
    kinds = {"name": str, **kinds}
    if not isinstance(fields, dict) or fields.keys() != {"label", *kinds}:
        raise ValueError("other fields")
    for name, kind in kinds.items():
        if not isinstance(fields[name], kind):
            raise ValueError(f"{name} is a {type(fields[name]).__name__}, not a {kind.__name__}")
    label = fields["label"]
    if label is not None and (type(label) is not int or not 0 <= label < 2**31):
        raise ValueError(f"label is {label!r:.50}, not a whole number from 0 on")
    return fields


def check_label(label: int | None, classes: Sequence[str], name: str) -> None:
    """Raises `DataError` for the label of a record that is none of the classes, if there are any.

    Args:
      label: of the record; None for none.
      classes: of the data set; none where they are not known.
      name: of the record.
    """
    if classes and label is not None and label >= len(classes):
        raise DataError(f"{name}: is of class {label}, the data set has {len(classes)}, from 0 on")


def unpack(data: bytes, name: str) -> Record:
    """Reads what `pack` wrote; bytes that it did not write are the image itself, called `name`.

    Raises:
      DataError: a damaged record, or one of TensorFlow Datasets.
    """
    if data.startswith(TF_EXAMPLE):
        raise DataError(f"{name}: a tf.train.Example; read it with config.data.source = tfds")
    if not data.startswith(PACKED):
        return Record(data, None, name)
    try:
        fields = unpack_fields(data, {"image": bytes})
        return Record(fields["image"], fields["label"], fields["name"])
    except ValueError as error:
        raise DataError(f"{name}: not a record of epsilon_vae.data.prepare ({error})") from error
