"""Sources of images: random access to encoded images, on disk or in a bucket.

Every source is a sequence of `Record`s, picklable, for worker processes. Paths may be URLs, as
gs://BUCKET/FOLDER (`pip install gcsfs`).
"""

import functools
import hashlib
import importlib.metadata
import io
import os
import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from epsilon_vae.data.array_records import ArrayRecords, allow_open_files
from epsilon_vae.data.decode import MAX_FILE_BYTES, DataError, check_size, read_file
from epsilon_vae.data.files import filesystem, find_image_files, hash_files, list_files
from epsilon_vae.data.formats import SUFFIXES
from epsilon_vae.data.records import Record, check_label
from epsilon_vae.data.splits import split_of
from epsilon_vae.errors import reason

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

    Images directly in the folder have no class. Names that begin with a dot are left out, and a
    line is logged of all that is.

    Args:
      path: of the folder.
      part: 'train' or 'val' of a folder without splits, see `part_by_hash`; '' for all.
      held_out: share of val.

    Attributes:
      classes: names of the subfolders that hold images, sorted; a label is an index into them.
      num_others: images of the other part.

    Raises:
      DataError: no such folder, one that may not be read, or no image in it.
    """

    def __init__(self, path: str, *, part: str = "", held_out: float = 0.0):
        self.path = path.rstrip("/")
        self._files, self._root = filesystem(path)
        entries = find_image_files(self._files, self._root, path)
        self._images = list(entries)
        self._is_local = "file" in self._files.protocol
        sizes = {name: entry.get("size") or 0 for name, entry in entries.items()}
        self._large = {p: size for p, size in sizes.items() if size > MAX_FILE_BYTES}
        if not self._images:
            raise DataError(f"{path}: no image in it; looked for {', '.join(SUFFIXES)}")
        self.classes = tuple(sorted({p.split("/")[0] for p in self._images if "/" in p}))
        self._labels = {name: label for label, name in enumerate(self.classes)}
        num_images = len(self._images)
        if part:
            if num_images < 2:
                raise DataError(f"{path}: one image alone; to hold one out, there must be two")
            self._images = part_by_hash(self._images, held_out)[part]
        self.num_others = num_images - len(self._images)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Record:
        image = self._images[index]
        name = f"{self.path}/{image}"
        try:
            data = self._read(image)
        except Exception as error:  # a cloud's client raises its own kinds
            raise DataError(f"{name}: cannot be read ({reason(error)})") from error
        return Record(data, self._labels.get(image.split("/")[0]), name)

    def _read(self, image: str) -> bytes:
        path = f"{self._root}/{image}"
        if self._is_local:
            return read_file(path)
        check_size(self._large.get(image, 0))
        return self._files.cat_file(path)

    def files_hash(self) -> str:
        """`hash_files` of the images as they are now."""
        entries = list_files(self._files, self._root, self.path)
        return hash_files({image: entries[image] for image in self._images if image in entries})


def part_by_hash(names: Sequence[str], held_out: float) -> dict[str, list[str]]:
    """Names of 'train' and of 'val', which has those whose hash is small, and neither is empty.

    Where a name belongs does not depend on the others, unless a part would be empty.

    Args:
      names: at least two.
      held_out: share of val.
    """
    hashes = {name: hashlib.sha256(os.fsencode(name)).digest()[:8] for name in names}
    least, *_, greatest = sorted(names, key=hashes.get)
    limit = int(held_out * 2**64)
    in_val = {name for name in names if int.from_bytes(hashes[name]) < limit}
    in_val = (in_val | {least}) - {greatest}
    parts = {"train": [], "val": []}
    for name in names:
        parts["val" if name in in_val else "train"].append(name)
    return parts


def has_splits(path: str, splits: Sequence[str]) -> bool:
    """Whether a folder has one of the splits as a subfolder; else it is images alone.

    Raises:
      DataError: it has other splits, by their names.
    """
    files, root = filesystem(path)
    try:
        entries = files.ls(root, detail=True) if files.isdir(root) else []
        folders = [e["name"].rstrip("/") for e in entries if files.isdir(e["name"])]
    except Exception as error:  # a cloud's client raises its own kinds
        raise DataError(f"{path}: cannot be read ({reason(error)}); check its rights") from error
    names = sorted(name.rsplit("/", 1)[-1] for name in folders)
    if not entries or set(names) & set(splits):
        return True
    others = [name for name in names if split_of(name)]
    if others:
        raise DataError(
            f"{path}: no folder {splits[0]} in it, but {', '.join(others[:5])}; name them in "
            "config.data.train_split and config.data.val_split"
        )
    return False


class TFDS(Sequence[Record]):
    """A set of TensorFlow Datasets with an `image` feature, prepared as ArrayRecord.

    Reading does not import TensorFlow.

    Args:
      name: as 'imagenet2012' or 'coco/2017'.
      data_dir: TFDS's folder; '' for its default.
      split: of the set.

    Attributes:
      classes: names of the classes, if the set has them.

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
            raise DataError(f"{name}: {data_dir} cannot be read ({reason(error)})") from error
        features, splits = builder.info.features, builder.info.splits
        if "image" not in features:
            raise DataError(f"{name}: has no feature 'image', but {', '.join(features)}")
        if split not in splits:
            raise DataError(
                f"{name}: no split {split!r}; there are {', '.join(splits)}; name the held-out one "
                "in config.data.val_split"
            )
        decoders = {"image": tfds.decode.SkipDecoding()}
        allow_open_files(splits[split].num_shards)
        try:
            self._examples = builder.as_data_source(split, decoders=decoders)
        except NotImplementedError as error:
            raise DataError(f"{name}: prepared, but not as ArrayRecord; {build}") from error
        # Some sets call other things than a class a label.
        self._has_class = "label" in features and isinstance(
            features["label"], tfds.features.ClassLabel
        )
        self.classes = tuple(features["label"].names) if self._has_class else ()

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Record:
        name = f"{self._name}[{index}]"
        if index >= len(self):
            raise IndexError(name)  # iteration ends here
        try:
            example = self._examples[index]
        except Exception as error:  # the C++ reader's, of many kinds
            raise DataError(f"{name}: cannot be read ({reason(error)})") from error
        label = int(example["label"]) if self._has_class else -1
        label = None if label < 0 else label  # -1, as some sets' test split has it
        check_label(label, self.classes, name)
        return Record(example["image"], label, name)


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


def open_source(source: str, path: str, *, split: str, tfds_name: str = "") -> Sequence[Record]:
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
