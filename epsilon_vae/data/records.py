"""Records: encoded images as they are stored, and how shards pack them."""

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
    return msgpack.packb({"image": record.data, "label": record.label, "name": record.name})


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
        fields = msgpack.unpackb(data)
        return Record(fields["image"], fields["label"], fields["name"])
    except (ValueError, KeyError, msgpack.UnpackException) as error:
        raise DataError(f"{name}: not a record of epsilon_vae.data.prepare ({error})") from error
