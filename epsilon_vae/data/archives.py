"""Images as they are downloaded: a folder of them, tars, parquet files, or a set of the Hub's."""

import collections
import os
import re

import numpy as np
from absl import logging

from epsilon_vae.data.decode import DataError, read_file
from epsilon_vae.data.files import LeftOut, filesystem, list_files
from epsilon_vae.data.formats import SUFFIXES
from epsilon_vae.data.images import Images, reading, to_labels
from epsilon_vae.data.parquet import PARQUET_SUFFIX, is_parquet, parquet_images
from epsilon_vae.data.splits import of_split, split_of
from epsilon_vae.data.tars import TAR_SUFFIXES, tar_images
from epsilon_vae.hub import PREFIX, Repository
from epsilon_vae.names import printable

_ADDRESS = re.compile(
    r"hf://datasets/(?P<name>[^/@]+/[^/@]+)"
    r"(?:@(?P<revision>refs/(?:convert|pr)/[^/]+|[^/]+))?(?:/(?P<inside>.+))?"
)


def find_images(*paths: str, split: str = "", image_key: str = "", class_key: str = "") -> Images:
    """The images of an input; what is left out of it is logged in a line.

    Left out are names that do not end as images do, and those with a part that begins with a dot.

    Args:
      paths: a folder of images, whose first subfolder is the class; a folder of tars or of parquet
        files; such files themselves; or one `hf://datasets/OWNER/NAME`.
      split: of a folder of tars or parquet files with several, 'train' or 'val'; '' for all.
      image_key: which of several images of a row or sample: a column's name, or what follows the
        first dot of a name; '' where there is one.
      class_key: a column's name, or a key of .json; '' for `label` and .cls.

    Raises:
      DataError: there is no such input, it is none of these, cannot be read, or holds no image.
      HubError: the Hub does not give it, or huggingface_hub is not installed.
    """
    path = paths[0] if len(paths) == 1 else os.path.commonpath(list(map(os.path.abspath, paths)))
    if len(paths) == 1 and paths[0].startswith(PREFIX):
        path = paths[0]
        files = _download(path, split)
    elif len(paths) == 1 and os.path.isdir(paths[0]):
        left_out = LeftOut()
        with reading(path):
            entries = list_files(*filesystem(path), path, left_out=left_out)
        if found := left_out.images_of(entries):
            left_out.log(path)
            return _folder_images(path, found)
        files = [f"{path.rstrip('/')}/{name}" for name in _archives(path, list(entries), split)]
    else:
        files = list(paths)
    keys = {"image_key": image_key, "class_key": class_key}
    kinds = collections.defaultdict(list)
    for file in files:
        with reading(file):
            kinds[is_parquet(file)].append(file)
    if len(kinds) > 1:
        raise DataError(f"{kinds[True][0]} is parquet, {kinds[False][0]} is not; name one kind")
    images = (parquet_images if True in kinds else tar_images)(files, path, **keys)
    if not images.names:
        raise DataError(f"{path}: no image in it; looked for {', '.join(SUFFIXES)}")
    return images


def _archives(path: str, names: list[str], split: str) -> list[str]:
    """The tars or parquet files, of a split, among the names of a folder that has no images."""
    tars = sorted(name for name in names if name.endswith(TAR_SUFFIXES))
    tables = sorted(name for name in names if name.endswith(PARQUET_SUFFIX))
    if tars and tables:
        raise DataError(f"{path}: {tars[0]} and {tables[0]} in one folder; name files of one kind")
    if not (tars or tables):
        counts = collections.Counter(os.path.splitext(name)[1] or "no suffix" for name in names)
        there = ", ".join(f"{count} {kind}" for kind, count in counts.most_common(5))
        raise DataError(
            f"{path}: no image in it; looked for {', '.join(SUFFIXES)}, for tars and parquet"
            + (f"; there are {there}" if there else "")
        )
    found = of_split(tars or tables, split, path)
    others = [x for x in names if x not in found and not (x in (tars or tables) and split_of(x))]
    if others:
        words = printable(f"{path}: files left out: {len(others)}, as {others[0]}")
        logging.warning("%s", words)
    folders = sorted({os.path.dirname(name) for name in found})
    if tables and len(folders) > 1:
        raise DataError(
            f"{path}: parquet files in several folders, {folders[0] or '.'} and {folders[1]}, of "
            "several sets perhaps; name one folder, or the files"
        )
    return found


def _download(url: str, split: str) -> list[str]:
    """Brings a data set's files of a split from the Hub, and returns their paths.

    Raises:
      DataError: another address, or no tars or parquet files there.
      HubError: as `Repository.files`.
    """
    address = _ADDRESS.fullmatch(url.rstrip("/").replace("%2F", "/"))
    if not address:
        raise DataError(
            f"{url}: no data set; name one as hf://datasets/OWNER/NAME, with @REVISION and the "
            "path of a folder or file where need be"
        )
    name, revision, inside = address.group("name", "revision", "inside")
    names, repository = Repository(name=name, kind="dataset", revision=revision).files()
    within = [name for name in names if not inside or name.startswith(f"{inside}/")]
    chosen = [inside] if inside in names else _archives(url, within, split)
    folder = repository.download(chosen)
    return [str(folder / name) for name in chosen]


def _folder_images(path: str, entries: dict[str, dict]) -> Images:
    """Classes and labels of folders, as `sources.Folder` has them."""
    names = list(entries)

    def read(index: int) -> bytes:
        with reading(f"{path}/{names[index]}"):
            return read_file(f"{path}/{names[index]}")

    classes, labels = to_labels([x.split("/")[0] if "/" in x else None for x in names], path)
    sizes = np.array([entries[name]["size"] for name in names], np.int64)
    return Images(path=path, names=names, sizes=sizes, classes=classes, labels=labels, read=read)
