"""Images in parquet files, as data sets of the Hugging Face Hub have them.

A column holds structs of `bytes` and `path`, or bytes. Names, classes and numbers of rows are read
first, from other columns and the files' ends; bytes are read later, a row group after the other.
"""

import json
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from absl import logging

from epsilon_vae.data.decode import DataError, check_regular
from epsilon_vae.data.images import ChoiceError, ClassKeyError, Images, progress, to_labels
from epsilon_vae.data.webdataset import as_class
from epsilon_vae.errors import reason
from epsilon_vae.names import printable

if TYPE_CHECKING:
    import pyarrow

PARQUET_SUFFIX = ".parquet"

_MAGIC = b"PAR1"
_IMAGE_NAMES = ("image", "img", "jpg", "jpeg", "png", "webp")
_CLASS_NAMES = ("label", "cls")
_ROWS_AT_A_TIME = 16


class _Columns(NamedTuple):
    """What of a file's columns is read.

    Attributes:
      image: name of the images' column.
      is_struct: whether it has `bytes` and perhaps `path`, or is bytes itself.
      has_path: whether it has `path`.
      label: name of the classes' column, or None.
      classes: what numbers in that column stand for; empty where the file does not say.
    """

    image: str
    is_struct: bool
    has_path: bool
    label: str | None
    classes: tuple[str, ...]


def is_parquet(path: str) -> bool:
    """Whether a file begins as parquet does.

    Raises:
      OSError: it cannot be read.
    """
    check_regular(path)
    with open(path, "rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def parquet_images(
    paths: Sequence[str], path: str, *, image_key: str = "", class_key: str = ""
) -> Images:
    """The images of parquet files, one after the other, row by row.

    Args:
      paths: of the files.
      path: of the input.
      image_key: name of the images' column; '' for the one that is of images.
      class_key: name of the classes' column; '' for `label`, or the one that is of classes.

    Raises:
      DataError: a file cannot be read, has other columns, or pyarrow is not installed.
    """
    try:
        import pyarrow.parquet  # an extra, and slow
    except ImportError as error:
        raise DataError(f"{path}: needs pyarrow, pip install -e '.[parquet]'") from error
    names: list[str] = []
    found: list[str | int | None] = []
    sizes, starts, columns = [], [0], None
    for one in progress(iter(paths)):
        try:
            check_regular(one)
            with pyarrow.parquet.ParquetFile(one) as file:
                own = _find_columns(file.schema_arrow, one, image_key, class_key)
                if columns is None:
                    columns = own
                    _log_others(file.schema_arrow, own, path)
                if columns != own:
                    raise DataError(
                        f"{one}: other columns or classes than {paths[0]} has; name one set"
                    )
                rows = _name_rows(file, os.path.basename(one), own)
                for name, label in rows:
                    names.append(name)
                    found.append(label)
                sizes.append(_sizes(file.metadata, own.image))
                starts.append(starts[-1] + file.metadata.num_rows)
        except DataError:
            raise
        except Exception as error:  # pyarrow's, of many kinds
            raise DataError(f"{one}: cannot be read ({reason(error)})") from error
    classes, labels = to_labels(found, path)
    if columns.classes:
        if len(classes) > len(columns.classes):
            last = len(classes) - 1
            raise DataError(f"{path}: a row of class {last}; it names {len(columns.classes)}")
        classes = columns.classes
    return Images(
        path=path,
        names=names,
        sizes=np.concatenate(sizes),
        classes=classes,
        labels=labels,
        read=_Reader(paths, starts, columns),
    )


class _Reader:
    """Reads images of parquet files: going on in a row group from one to a later one is cheap."""

    def __init__(self, paths: Sequence[str], starts: Sequence[int], columns: _Columns):
        self._paths, self._starts, self._columns = paths, np.array(starts), columns
        self._images: Iterator[bytes | None] = iter(())
        self._next, self._end = 0, 0  # rows: of `_images`, and of its row group

    def __call__(self, index: int) -> bytes:
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        path = self._paths[number]
        try:
            if not self._next <= index < self._end:
                self._open(path, int(self._starts[number]), index)
            while self._next <= index:
                self._next += 1
                data = next(self._images)
        except Exception as error:  # pyarrow's, of many kinds
            self._end = 0
            where = f"{path}[{index - self._starts[number]}]"
            raise DataError(f"{where}: cannot be read ({reason(error)})") from error
        if data is None:
            raise DataError(f"{path}[{index - self._starts[number]}]: has no bytes")
        return data

    def _open(self, path: str, start: int, index: int) -> None:
        """Begins the row group of a file, whose rows are those from `start` on, that has a row."""
        import pyarrow.parquet

        file = pyarrow.parquet.ParquetFile(path, memory_map=True)
        for group in range(file.num_row_groups):
            end = start + file.metadata.row_group(group).num_rows
            if index < end:
                break
            start = end
        self._images, self._next, self._end = self._read(file, group), start, end

    def _read(self, file: "pyarrow.parquet.ParquetFile", group: int) -> Iterator[bytes | None]:
        image = self._columns.image
        column = f"{image}.bytes" if self._columns.is_struct else image
        with file:
            for batch in file.iter_batches(_ROWS_AT_A_TIME, row_groups=[group], columns=[column]):
                for value in batch.column(image):
                    scalar = value["bytes"] if self._columns.is_struct and value.is_valid else value
                    yield scalar.as_py() if scalar.is_valid else None


def _find_columns(schema: "pyarrow.Schema", path: str, image_key: str, class_key: str) -> _Columns:
    """The columns to read, by their names, types and what the Hub's metadata says of them."""
    import pyarrow.types as kinds

    def is_bytes(kind: "pyarrow.DataType") -> bool:
        return kinds.is_binary(kind) or kinds.is_large_binary(kind)

    features = _features(schema)
    structs, binaries = {}, []
    for field in schema:
        if features.get(field.name, {}).get("_type", "Image") != "Image":
            continue  # sound is stored alike
        inside = {child.name: child.type for child in _children(field.type)}
        if is_bytes(inside.get("bytes", field.type)):
            binaries += [] if inside else [field.name]
            structs |= {field.name: "path" in inside} if inside else {}
    likely = list(structs) or [x for x in binaries if x in _IMAGE_NAMES] or binaries
    columns = ", ".join(f"{field.name} ({field.type})" for field in schema)
    if image_key:
        likely = [x for x in (*structs, *binaries) if x == image_key]
    elif len(likely) > 1:
        likely = [x for x in likely if x in _IMAGE_NAMES] or likely
    if not likely:
        raise ChoiceError(f"{path}: no column {image_key or 'of images'} in bytes; has {columns}")
    if len(likely) > 1:
        raise ChoiceError(f"{path}: images could be the columns {', '.join(likely)}")
    label = _find_label(schema, features, class_key)
    if class_key and label is None:
        raise ClassKeyError(f"{path}: no column {class_key!r} of classes; has {columns}")
    names = features.get(label, {}).get("names") or []
    if not isinstance(names, list) or len({str(name) for name in names}) < len(names):
        raise DataError(f"{path}: the names of {label}'s classes are not a list of different names")
    image = likely[0]
    return _Columns(
        image, image in structs, structs.get(image, False), label, tuple(map(str, names))
    )


def _find_label(schema: "pyarrow.Schema", features: dict[str, dict], class_key: str) -> str | None:
    import pyarrow.types as kinds

    def is_class(kind: "pyarrow.DataType") -> bool:
        is_text = kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_dictionary(kind)
        return is_text or kinds.is_integer(kind) or kinds.is_boolean(kind) or kinds.is_null(kind)

    able = [field.name for field in schema if is_class(field.type)]
    declared = [name for name in able if features.get(name, {}).get("_type") == "ClassLabel"]
    wanted = [class_key] if class_key else _CLASS_NAMES
    return next((name for name in wanted if name in able), None) or (
        declared[0] if len(declared) == 1 and not class_key else None
    )


def _children(kind: "pyarrow.DataType") -> list["pyarrow.Field"]:
    import pyarrow.types as kinds

    return [kind.field(i) for i in range(kind.num_fields)] if kinds.is_struct(kind) else []


def _features(schema: "pyarrow.Schema") -> dict[str, dict]:
    """What the Hub's metadata says of columns; empty where there is none that can be read."""
    try:
        info = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: feature for name, feature in info.items() if isinstance(feature, dict)}
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def _log_others(schema: "pyarrow.Schema", columns: _Columns, path: str) -> None:
    others = [x for x in schema.names if x not in (columns.image, columns.label)]
    if others:
        words = printable(f"{path}: columns left out: {', '.join(others)}")
        logging.warning("%s", words)


def _name_rows(
    file: "pyarrow.parquet.ParquetFile", title: str, columns: _Columns
) -> Iterator[tuple[str, str | int | None]]:
    """A name and the class of each row; the name has its number, as paths need not differ."""
    wanted = [f"{columns.image}.path"] if columns.has_path else []
    wanted += [columns.label] if columns.label else []
    digits = len(str(max(file.metadata.num_rows - 1, 0)))
    if not wanted:
        for row in range(file.metadata.num_rows):
            yield f"{title}/{row:0{digits}d}", None
        return
    row = 0
    for batch in file.iter_batches(columns=wanted):
        for values in batch.to_pylist():
            path = (values.get(columns.image) or {}).get("path") or ""
            last = f"/{os.path.basename(path)[-200:]}" if path else ""
            yield f"{title}/{row:0{digits}d}{last}", as_class(values.get(columns.label))
            row += 1


def _sizes(metadata: "pyarrow.parquet.FileMetaData", image: str) -> np.ndarray:
    """Bytes of each row's image, of which the file tells the mean in a row group."""
    sizes = []
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        columns = map(group.column, range(group.num_columns))
        total = sum(
            column.total_uncompressed_size
            for column in columns
            if column.path_in_schema.split(".")[0] == image
        )
        sizes.append(np.full(group.num_rows, total // max(group.num_rows, 1), np.int64))
    return np.concatenate(sizes) if sizes else np.zeros(0, np.int64)
