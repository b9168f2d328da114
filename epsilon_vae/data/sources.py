"""Where images come from: random access to encoded images, on disk or in a bucket.

Every source is a sequence of `Record`s, picklable, for worker processes. Paths may be URLs, as
gs://BUCKET/FOLDER (`pip install gcsfs`).
"""

import contextlib
import functools
import importlib.metadata
import io
import json
import pathlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import fsspec
import grain
import msgpack
import numpy as np
from array_record.python.array_record_module import ArrayRecordReader
from PIL import Image

from epsilon_vae.data.decode import SUFFIXES, DataError

PHOTOS = {
    "train": (
        ("scikit-learn", "sklearn/datasets/images/china.jpg"),
        ("scikit-learn", "sklearn/datasets/images/flower.jpg"),
        ("scikit-image", "skimage/data/motorcycle_left.png"),
        ("scikit-image", "skimage/data/motorcycle_right.png"),
        ("scikit-image", "skimage/data/rocket.jpg"),
        ("scikit-image", "skimage/data/hubble_deep_field.jpg"),
        ("scikit-image", "skimage/data/ihc.png"),
        ("scikit-image", "skimage/data/retina.jpg"),
        ("scikit-image", "skimage/data/camera.png"),
        ("scikit-image", "skimage/data/brick.png"),
        ("scikit-image", "skimage/data/grass.png"),
        ("scikit-image", "skimage/data/gravel.png"),
        ("scikit-image", "skimage/data/moon.png"),
        ("scikit-image", "skimage/data/coins.png"),
    ),
    "val": (
        ("scikit-image", "skimage/data/astronaut.png"),
        ("scikit-image", "skimage/data/chelsea.png"),
        ("scikit-image", "skimage/data/coffee.png"),
    ),
}
# Data sets that have no 'val' call it so.
OTHER_NAMES = {"val": "validation"}
# Shards that are opened at the same time, since those of a bucket answer slowly.
_OPENING_THREADS = 64
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
    """What `pack` wrote; bytes that it did not write are the image itself, called `name`.

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


class Photos(Sequence[Record]):
    """The embedded photos of 'train' or 'val'.

    So few that they are kept uncompressed, as PPM: else a step would wait for large PNGs.
    """

    def __init__(self, split: str):
        self.paths = tuple(
            pathlib.Path(importlib.metadata.distribution(package).locate_file(file))
            for package, file in PHOTOS[split]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Record:
        path = self.paths[index]
        return Record(_as_ppm(path), None, str(path))


@functools.cache
def _as_ppm(path: pathlib.Path) -> bytes:
    buffer = io.BytesIO()
    Image.open(path).convert("RGB").save(buffer, "PPM")
    return buffer.getvalue()


class Folder(Sequence[Record]):
    """All images below a folder, in the order of their paths; the class is the subfolder.

    Images directly in the folder have no class. Names that begin with a dot are left out.

    Attributes:
      classes: names of the subfolders that hold images, sorted; a label is an index into them.

    Raises:
      DataError: no such folder, one that may not be read, or no image in it.
    """

    def __init__(self, path: str):
        self.path = path.rstrip("/")
        self._files, self._root = filesystem(path)
        try:
            relative = _list_files(self._files, self._root)
        except FileNotFoundError:
            raise DataError(
                f"{path}: no such folder; config.data.path needs subfolders train and val"
            ) from None
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error}); check its permissions") from error
        self._images = sorted(p for p in relative if p.lower().endswith(SUFFIXES))
        if not self._images:
            raise DataError(f"{path}: no image in it; looked for {', '.join(SUFFIXES)}")
        self.classes = tuple(sorted({p.split("/")[0] for p in self._images if "/" in p}))
        self._labels = {name: label for label, name in enumerate(self.classes)}

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Record:
        image = self._images[index]
        name = f"{self.path}/{image}"
        try:
            data = self._files.cat_file(f"{self._root}/{image}")
        except OSError as error:
            raise DataError(f"{name}: cannot be read ({error.strerror or error})") from error
        return Record(data, self._labels.get(image.split("/")[0]), name)


def _list_files(files: fsspec.AbstractFileSystem, root: str) -> list[str]:
    """Paths relative to `root` of the files below it that are not hidden."""
    if not files.isdir(root):
        raise FileNotFoundError(root)
    # Not files.walk: that keeps silent about subfolders that may not be read.
    found, folders = [], [root.rstrip("/")]
    while folders:
        folder = folders.pop()
        for entry in files.ls(folder, detail=True):
            path = entry["name"].rstrip("/")
            if path == folder or path.rsplit("/", 1)[-1].startswith("."):
                continue
            (folders if entry["type"] == "directory" else found).append(path)
    start = len(root.rstrip("/")) + 1
    return [path[start:] for path in found]


class ArrayRecords(Sequence[Record]):
    """Shards of `epsilon_vae.data.prepare`, or of bare encoded images.

    Args:
      path: folder of `SPLIT-00000.array_record`… and `SPLIT.json`, which lists them; without that
        list, of all `*SPLIT*array_record*`.
      split: name of the split.

    Attributes:
      classes: names of the classes, if the list has them.

    Raises:
      DataError: no shards, or one that is missing, unreadable or of another length than listed.
    """

    def __init__(self, path: str, split: str):
        self.path, self.split = path.rstrip("/"), split
        self.classes: tuple[str, ...] = ()
        files, root = filesystem(path)
        listed = _read_manifest(files, f"{root}/{split}.json")
        if listed is None:
            if files.exists(f"{root}/{split}.unfinished.json"):
                raise DataError(
                    f"{path}: split {split!r} is unfinished; run epsilon_vae.data.prepare again"
                )
            shards = sorted(files.glob(f"{root}/*{split}*array_record*"))
            if not shards:
                raise DataError(f"{path}: no *{split}*array_record*; epsilon_vae.data.prepare")
        else:
            shards = [f"{root}/{name}" for name in listed["shards"]]
            self.classes = tuple(listed["classes"])
        urls = [_url(files, shard) for shard in shards]
        with ThreadPoolExecutor(_OPENING_THREADS) as pool:
            counts = list(pool.map(_count_records, urls))
        for url, count, shard in zip(urls, counts, shards, strict=True):
            wanted = listed["shards"][shard.rsplit("/", 1)[-1]] if listed else count
            if count == 0 or count != wanted:
                raise DataError(
                    f"{url}: {count or 'no'} records can be read"
                    + (f", {split}.json lists {wanted}" if listed else "")
                    + "; run epsilon_vae.data.prepare again, or copy it again"
                )
        self._records = grain.sources.ArrayRecordDataSource(urls)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        name = f"{self.path}/{self.split}[{index}]"
        if index >= len(self):
            raise IndexError(name)  # iteration ends here
        try:
            data = self._records[index]
        except Exception as error:  # the C++ reader's, of many kinds
            raise DataError(f"{name}: cannot be read ({_first_line(error)})") from error
        return unpack(data, name)


def _read_manifest(files: fsspec.AbstractFileSystem, path: str) -> dict | None:
    try:
        return json.loads(files.cat_file(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error


def _count_records(path: str) -> int:
    """0 of a shard that is missing or damaged: the reader does not raise."""
    reader = ArrayRecordReader(path)
    return reader.num_records() if reader.ok() else 0


class TFDS(Sequence[Record]):
    """A set of TensorFlow Datasets with an `image` feature, prepared as ArrayRecord.

    Reading does not import TensorFlow.

    Args:
      name: as 'imagenet2012' or 'coco/2017'.
      data_dir: TFDS's folder; '' for its default.
      split: of the set.

    Raises:
      DataError: not prepared, not as ArrayRecord, no such split, or no `image` in it.
    """

    def __init__(self, name: str, data_dir: str, split: str):
        import tensorflow_datasets as tfds  # takes seconds, which only its users should wait
        from tensorflow_datasets.core import read_only_builder

        self._name = f"{name}/{split}"
        build = f"tfds build {name} --file_format=array_record"
        build += f" --data_dir={data_dir}" if data_dir else ""
        try:
            # From what is on disk: the code of some sets, as coco, imports TensorFlow.
            builder = read_only_builder.builder_from_files(name, data_dir=data_dir or None)
        except tfds.core.DatasetNotFoundError as error:
            where = data_dir or tfds.core.constants.DATA_DIR
            raise DataError(f"{name}: not prepared in {where}; {build}") from error
        features, splits = builder.info.features, builder.info.splits
        if "image" not in features:
            raise DataError(f"{name}: has no feature 'image', but {', '.join(features)}")
        if split not in splits:
            raise DataError(f"{name}: no split {split!r}; there are {', '.join(splits)}")
        decoders = {"image": tfds.decode.SkipDecoding()}
        try:
            self._examples = builder.as_data_source(split, decoders=decoders)
        except NotImplementedError as error:
            raise DataError(f"{name}: prepared, but not as ArrayRecord; {build}") from error

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Record:
        if index >= len(self):
            raise IndexError(self._name)  # iteration ends here
        example = self._examples[index]
        label = int(example["label"]) if "label" in example else None
        return Record(example["image"], label, f"{self._name}[{index}]")


class EvenlySpaced(Sequence[Record]):
    """`count` records of a source, evenly spaced over it; all of them if it has no more."""

    def __init__(self, source: Sequence[Record], count: int):
        self._source = source
        self._indices = np.linspace(0, len(source) - 1, min(count, len(source)), dtype=int)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Record:
        return self._source[int(self._indices[index])]


def open_source(source: str, path: str, split: str, tfds_name: str = "") -> Sequence[Record]:
    """The source of that name: photos, folder, array_record or tfds.

    Args:
      source: its name.
      path: folder that holds the splits; for tfds its data_dir.
      split: 'train' or 'val', which in the data may be called 'validation'.
      tfds_name: of the set, for tfds.

    Raises:
      DataError: it cannot be read.
    """

    def open_split(split: str) -> Sequence[Record]:
        if source == "photos":
            return Photos(split)
        if source == "folder":
            return Folder(f"{path.rstrip('/')}/{split}")
        if source == "array_record":
            return ArrayRecords(path, split)
        return TFDS(tfds_name, path, split)

    try:
        return open_split(split)
    except DataError:
        if split in OTHER_NAMES:
            with contextlib.suppress(DataError):
                return open_split(OTHER_NAMES[split])
        raise


def filesystem(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of a path or URL, and the path in it.

    Raises:
      DataError: what reads such URLs is not installed, or knows none of this kind.
    """
    try:
        return fsspec.core.url_to_fs(path)
    except (ImportError, ValueError) as error:
        raise DataError(f"{path}: {error}") from error


def _url(files: fsspec.AbstractFileSystem, path: str) -> str:
    return path if "file" in files.protocol else files.unstrip_protocol(path)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
