"""Where images come from: random access to encoded images, on disk or in a bucket.

Every source is a sequence of `Record`s, picklable, for worker processes. Paths may be URLs, as
gs://BUCKET/FOLDER (`pip install gcsfs`).
"""

import fnmatch
import functools
import hashlib
import importlib.metadata
import io
import json
import os
import pathlib
import resource
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

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
# Shards that are opened at the same time, since those of a bucket answer slowly.
_OPENING_THREADS = 64
# Files that a process has open besides its shards, with room to spare.
_OTHER_OPEN_FILES = 512
# What tells that a file has changed, of local ones and those of buckets.
_FILE_FACTS = ("size", "mtime", "updated", "LastModified")
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
        relative = list_files(self._files, self._root, path)
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
        except Exception as error:  # a cloud's client raises its own kinds
            raise DataError(f"{name}: cannot be read ({_reason(error)})") from error
        return Record(data, self._labels.get(image.split("/")[0]), name)

    def files_hash(self) -> str:
        """`hash_files` of the images as they are now."""
        entries = list_files(self._files, self._root, self.path)
        return hash_files({image: entries[image] for image in self._images if image in entries})


def hash_files(entries: Mapping[str, Mapping[str, Any]]) -> str:
    """Another one when files come, go or change, as far as is seen without reading them.

    Args:
      entries: of files by path, as their file system lists them.
    """
    facts = {path: [str(entry.get(key)) for key in _FILE_FACTS] for path, entry in entries.items()}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def list_files(files: fsspec.AbstractFileSystem, root: str, path: str) -> dict[str, dict]:
    """What the file system says of the files below `root` that are not hidden, as their 'size'.

    By their paths relative to `root`; links are followed.

    Args:
      files: file system.
      root: in it.
      path: how the user names it.

    Raises:
      DataError: no such folder, or one that may not be read.
    """
    # Not files.walk: that keeps silent about subfolders that may not be read.
    root = root.rstrip("/")
    found, folders, seen = {}, [root], {os.path.realpath(root)}
    try:
        if files.info(root)["type"] != "directory":
            raise FileNotFoundError(root)
        while folders:
            folder = folders.pop()
            for entry in files.ls(folder, detail=True):
                name = entry["name"].rstrip("/")
                if name == folder or name.rsplit("/", 1)[-1].startswith("."):
                    continue
                is_link = entry.get("islink", False)
                if entry["type"] != "directory" and not (is_link and files.isdir(name)):
                    found[name[len(root) + 1 :]] = entry
                elif not is_link or os.path.realpath(name) not in seen:
                    folders.append(name)
                    seen.add(os.path.realpath(name) if is_link else name)
    except FileNotFoundError:
        raise DataError(
            f"{path}: no such folder; config.data.path needs the splits, train and val, as "
            "subfolders, and config.data.val_split says if val has another name"
        ) from None
    except Exception as error:  # a cloud's client raises its own kinds
        raise DataError(f"{path}: cannot be read ({_reason(error)}); check its rights") from error
    return found


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
        counts, self.classes = _find_shards(*filesystem(path), path, split)
        self._shards = tuple(counts)
        self._title = f"{self.path}/{split}"
        self._records = ShardRecords(path, counts, self._title, "epsilon_vae.data.prepare")

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        return unpack(self._records[index], f"{self._title}[{index}]")

    def files_hash(self) -> str:
        """`hash_files` of the shards as they are now."""
        entries = list_files(*filesystem(self.path), self.path)
        return hash_files({name: entries[name] for name in self._shards if name in entries})


class ShardRecords(Sequence[bytes]):
    """Records of a folder's ArrayRecord shards, as they are stored.

    Args:
      path: of the folder.
      counts: shards by name, with their numbers of records where these are known.
      title: of the whole, for messages.
      made_by: the module that makes such shards, for messages.

    Raises:
      DataError: a shard that is missing, unreadable or of another length.
    """

    def __init__(self, path: str, counts: Mapping[str, int | None], title: str, made_by: str):
        files, root = filesystem(path.rstrip("/"))
        urls = [_url(files, f"{root}/{name}") for name in counts]
        _check_shards(urls, list(counts.values()), made_by)
        self._title = title
        self._records = grain.sources.ArrayRecordDataSource(urls)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> bytes:
        name = f"{self._title}[{index}]"
        if index >= len(self):
            raise IndexError(name)  # iteration ends here
        try:
            return self._records[index]
        except Exception as error:  # the C++ reader's, of many kinds
            raise DataError(f"{name}: cannot be read ({_reason(error)})") from error


def _find_shards(
    files: fsspec.AbstractFileSystem, root: str, path: str, split: str
) -> tuple[dict[str, int | None], tuple[str, ...]]:
    """Shards by name, with their numbers of records where a list has them; and the classes."""
    try:
        names = [name.rsplit("/", 1)[-1] for name in files.ls(root, detail=False)]
        if f"{split}.json" in names:
            listed = json.loads(files.cat_file(f"{root}/{split}.json"))
            return listed["shards"], tuple(listed["classes"])
    except FileNotFoundError:
        raise DataError(f"{path}: no such folder; epsilon_vae.data.prepare makes one") from None
    except Exception as error:  # not JSON, or what a cloud's client raises
        raise DataError(
            f"{path}: {split}.json and its shards cannot be read ({_reason(error)})"
        ) from error
    if f"{split}.unfinished.json" in names:
        raise DataError(
            f"{path}: split {split!r} is unfinished; run epsilon_vae.data.prepare again"
        )
    shards = sorted(fnmatch.filter(names, f"*{split}*array_record*"))
    if not shards:
        raise DataError(
            f"{path}: no *{split}*array_record*; epsilon_vae.data.prepare makes them, and "
            "config.data.val_split says if val has another name"
        )
    return dict.fromkeys(shards), ()


def _check_shards(urls: list[str], counts: list[int | None], made_by: str) -> None:
    """Raises `DataError` for a shard that cannot be read, or holds another number of records."""
    _allow_open_files(len(urls))
    with ThreadPoolExecutor(_OPENING_THREADS) as pool:
        for url, listed, found in zip(urls, counts, pool.map(count_records, urls), strict=True):
            if found == 0 or listed not in (None, found):
                raise DataError(
                    f"{url}: {found or 'no'} records can be read"
                    + (f", {listed} are listed" if listed else "")
                    + f"; check its rights, copy it again, or run {made_by} again"
                )


def count_records(path: str) -> int:
    """Of a shard; 0 of one that is missing, damaged or not to be read: no reader raises."""
    reader = ArrayRecordReader(path)
    return reader.num_records() if reader.ok() else 0


def _allow_open_files(num_shards: int) -> None:
    """ArrayRecord keeps each shard open; many systems allow 1024 files until asked for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = num_shards + _OTHER_OPEN_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        if hard != resource.RLIM_INFINITY and hard < wanted:
            raise DataError(
                f"{num_shards} shards need {wanted} open files, the system allows {hard}: raise it "
                "(ulimit -Hn), or prepare with more --records_per_shard"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


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
        except Exception as error:  # TensorFlow's, whose client reads TFDS's files in a bucket
            raise DataError(f"{name}: {data_dir} cannot be read ({_reason(error)})") from error
        features, splits = builder.info.features, builder.info.splits
        if "image" not in features:
            raise DataError(f"{name}: has no feature 'image', but {', '.join(features)}")
        if split not in splits:
            raise DataError(
                f"{name}: no split {split!r}; there are {', '.join(splits)}; name the held-out one "
                "in config.data.val_split"
            )
        decoders = {"image": tfds.decode.SkipDecoding()}
        _allow_open_files(splits[split].num_shards)
        try:
            self._examples = builder.as_data_source(split, decoders=decoders)
        except NotImplementedError as error:
            raise DataError(f"{name}: prepared, but not as ArrayRecord; {build}") from error
        # Some sets call other things than a class a label.
        self._has_class = "label" in features and isinstance(
            features["label"], tfds.features.ClassLabel
        )

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Record:
        name = f"{self._name}[{index}]"
        if index >= len(self):
            raise IndexError(name)  # iteration ends here
        try:
            example = self._examples[index]
        except Exception as error:  # the C++ reader's, of many kinds
            raise DataError(f"{name}: cannot be read ({_reason(error)})") from error
        return Record(example["image"], int(example["label"]) if self._has_class else None, name)


class Subset(Sequence[Record]):
    """Some records of a source, by their indices in it, in the order given."""

    def __init__(self, source: Sequence[Record], indices: Sequence[int]):
        self._source, self._indices = source, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Record:
        return self._source[int(self._indices[index])]


def evenly_spaced(size: int, count: int) -> np.ndarray:
    """`count` indices, evenly spaced over 0 … size - 1; all of them if there are no more."""
    return np.linspace(0, size - 1, min(count, size), dtype=int)


def open_source(source: str, path: str, split: str, tfds_name: str = "") -> Sequence[Record]:
    """The source of that name: photos, folder, array_record or tfds.

    Args:
      source: its name.
      path: folder that holds the splits; for tfds its data_dir.
      split: as 'train' or 'val'.
      tfds_name: of the set, for tfds.

    Raises:
      DataError: it cannot be read.
    """
    if source == "photos":
        return Photos(split)
    if source == "folder":
        return Folder(f"{path.rstrip('/')}/{split}")
    if source == "array_record":
        return ArrayRecords(path, split)
    return TFDS(tfds_name, path, split)


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


def _reason(error: Exception) -> str:
    """The system's words, or the first line of what a library says."""
    words = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
    return words.splitlines()[0]
