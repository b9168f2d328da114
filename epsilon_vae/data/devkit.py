"""The labels of ImageNet's validation images, which its devkit has apart from them."""

import dataclasses
import io
from typing import NamedTuple

from epsilon_vae.data.decode import DataError, check_size
from epsilon_vae.data.images import Images
from epsilon_vae.data.tars import members, open_tar
from epsilon_vae.errors import reason

# What each validation image is, by ILSVRC2012_ID, and what the IDs stand for.
GROUND_TRUTH = "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"
SYNSETS = "ILSVRC2012_devkit_t12/data/meta.mat"


class Devkit(NamedTuple):
    """The classes of ImageNet's validation images.

    Attributes:
      path: of the file.
      classes: WNIDs, sorted, as the inner tars of the train tar are.
      labels: index into the classes of each image, in the order of the file names.
    """

    path: str
    classes: tuple[str, ...]
    labels: list[int]


def read_devkit(path: str) -> Devkit:
    """Reads them from ILSVRC2012_devkit_t12.tar.gz.

    Raises:
      DataError: another file, or a damaged one.
    """
    from scipy.io import loadmat  # which only the devkit's users should wait for

    try:
        found = {}
        with open_tar(path) as file:
            for member, content in members(file):
                if member.name in (SYNSETS, GROUND_TRUTH):
                    check_size(member.size)
                    found[member.name] = content.read()
        synsets = loadmat(io.BytesIO(found[SYNSETS]), squeeze_me=True)
        truth = [int(line) for line in found[GROUND_TRUTH].split()]
        wnids = {
            int(synset["ILSVRC2012_ID"]): str(synset["WNID"])
            for synset in synsets["synsets"]
            if synset["num_children"] == 0  # the others are groups of classes
        }
        classes = tuple(sorted(wnids.values()))
        return Devkit(path, classes, [classes.index(wnids[image_id]) for image_id in truth])
    except Exception as error:  # scipy's, of many kinds
        raise DataError(
            f"{path}: not ILSVRC2012_devkit_t12.tar.gz ({reason(error)}); download it again"
        ) from error


def label(images: Images, devkit: Devkit) -> Images:
    """ImageNet's validation images, labelled.

    Raises:
      DataError: the devkit is for another number of images, or they have classes.
    """
    if images.classes:
        raise DataError(
            f"{devkit.path}: the images of {images.path} have classes, their folders; leave the "
            "devkit out"
        )
    if len(devkit.labels) != len(images):
        raise DataError(
            f"{devkit.path}: labels {len(devkit.labels)} images, but {images.path} has "
            f"{len(images)}; use both as they are downloaded"
        )
    labels: list[int | None] = [None] * len(images)
    # A tar's order need not be that of the names.
    in_order = sorted(range(len(images)), key=images.names.__getitem__)
    for place, devkit_label in zip(in_order, devkit.labels, strict=True):
        labels[place] = devkit_label
    return dataclasses.replace(images, classes=devkit.classes, labels=labels)
