"""Looks at images before they are trained on: `python -m epsilon_vae.data.check SOURCE…`.

SOURCE is what `epsilon_vae.data.prepare` takes, or photos, array_record:DIR or tfds:NAME. Decodes
every image; prints numbers, sizes, classes, formats, color profiles and broken files; and draws a
contact sheet of center crops. Tars and parquet files that are named are one set, and a folder of
train and val is two. Exit codes: 0 all images can be used; 1 some are broken, or stopped; 2 a
source cannot be used.
"""

import collections
import dataclasses
import io
import itertools
import os
import pathlib
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from absl import app, flags, logging
from etils import epy
from PIL import Image, ImageCms
from tqdm import tqdm

from epsilon_vae.command_line import UsageError, exit_codes, exit_with, parse_flags
from epsilon_vae.data.archives import find_images
from epsilon_vae.data.decode import DEFAULT, DataError, DecodeError, EncodedImage, ImageDecoding
from epsilon_vae.data.formats import is_named_as
from epsilon_vae.data.images import ChoiceError, ClassKeyError
from epsilon_vae.data.records import Record
from epsilon_vae.data.splits import split_of
from epsilon_vae.data.transforms import center_crop_adm
from epsilon_vae.names import printable
from epsilon_vae.output import write_whole

with epy.lazy_imports():  # of what takes seconds, and is not needed for flags
    from epsilon_vae.data import named, shards, sources

SHEET = flags.DEFINE_string(
    "sheet", None, "PNG file for the contact sheet; check.png unless that exists, then check-2.png…"
)
SPLIT = flags.DEFINE_string("split", "", "Of sources with several; all, or train, without it.")
IMAGE_KEY = flags.DEFINE_string("image_key", "", "As of epsilon_vae.data.prepare.")
CLASS_KEY = flags.DEFINE_string("class_key", "", "As of epsilon_vae.data.prepare.")
MAX_PIXELS = flags.DEFINE_integer(
    "max_pixels", DEFAULT.max_pixels, "Of the largest image, as config.data.max_pixels.", 1
)

# Of the contact sheet.
CROP, COLUMNS, ROWS = 128, 12, 8
# Short sides in pixels, as training has its crops.
RESOLUTIONS = (128, 256, 512)
SHOWN = 10  # lines about broken files, and entries of a list


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seen:
    """What is told of an image.

    Attributes:
      size: width and height, upright; None of one that is broken.
      problem: what is wrong with it, or ''.
      traits: its format, mode and profile, and what else is special, by kind.
      label: its class, if any.
      crop: for the contact sheet, if asked for.
    """

    size: tuple[int, int] | None = None
    problem: str = ""
    traits: dict[str, str]
    label: int | None = None
    crop: np.ndarray | None = None


def look_at(record: Record, *, decoding: ImageDecoding, is_shown: bool) -> Seen:
    """Decodes a record in full, and tells of it.

    Args:
      record: an image as it is stored.
      decoding: how training will decode it.
      is_shown: whether its crop is wanted.
    """
    traits = {}
    try:
        image = EncodedImage(record.data, decoding)
        traits = _traits(image, record.name)
        pixels = image.rgb() if is_shown else image.rgb_reduced(1 / 8)[0]
        crop = center_crop_adm(pixels, CROP) if is_shown else None
    except DecodeError as error:
        return Seen(traits=traits, problem=f"{record.name}: {error}", label=record.label)
    return Seen(size=image.size, traits=traits, label=record.label, crop=crop)


def _traits(image: EncodedImage, name: str) -> dict[str, str]:
    header = image.header
    traits = {"formats": header.format, "modes": header.mode}
    profile = header.info.get("icc_profile")
    traits["profiles"] = _profile_name(profile) if profile else "none"
    if image.format != "PPM" and not is_named_as(name, image.format):  # as `Photos` are
        suffix = os.path.splitext(name)[1].lower()
        traits["named otherwise"] = f"{image.format} called {suffix}"
    if header.has_transparency_data:
        traits["transparent"] = "yes"
    return traits


def _profile_name(profile: bytes) -> str:
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.getProfileDescription(opened).strip()[:80] or "without a name"
    except (OSError, ValueError, ImageCms.PyCMSError):
        return "cannot be read"


def look_at_all(
    source: Sequence[Record], shown: Sequence[int], decoding: ImageDecoding
) -> Iterator[Seen]:
    """Tells of each image of a source, in order, and gives crops of those that are `shown`."""

    def read(index: int) -> Record | DataError:
        try:
            return source[index]
        except DataError as error:
            return error

    def look(job: tuple[int, Record | DataError]) -> Seen:
        index, record = job
        if isinstance(record, DataError):
            return Seen(traits={}, problem=str(record))
        return look_at(record, decoding=decoding, is_shown=index in wanted)

    wanted = set(map(int, shown))
    hidden = not sys.stderr.isatty()
    with ThreadPoolExecutor(shards.THREADS) as pool:
        jobs = ((index, read(index)) for index in range(len(source)))
        found = shards.map_ahead(pool, look, items=jobs, ahead=2 * shards.THREADS)
        yield from tqdm(found, total=len(source), unit="image", disable=hidden, leave=False)


class Summary:
    """Numbers of a source, for the console.

    Attributes:
      crops: of the images that are shown.
      problems: of those that are broken.
    """

    def __init__(self, classes: Sequence[str]):
        self._classes = classes
        self._sizes: list[tuple[int, int]] = []
        self._labels: collections.Counter[int | None] = collections.Counter()
        self._traits: dict[str, collections.Counter[str]] = {}
        self.crops: list[np.ndarray] = []
        self.problems: list[str] = []

    def add(self, seen: Seen) -> None:
        """Counts an image."""
        self._labels[seen.label] += 1
        if seen.problem:
            self.problems.append(seen.problem)
            return
        self._sizes.append(seen.size)
        for kind, value in seen.traits.items():
            self._traits.setdefault(kind, collections.Counter())[value] += 1
        if seen.crop is not None:
            self.crops.append(seen.crop)

    def lines(self, title: str) -> Iterator[str]:
        """What was found, a line each."""
        good, bad = len(self._sizes), len(self.problems)
        yield f"{title}: {good + bad} images, {bad} broken"
        if good:
            yield f"  sizes: {self._size_words()}"
        yield f"  classes: {self._class_words()}"
        for kind, counts in self._traits.items():
            yield f"  {kind}: {_counted(counts)}"
        for problem in self.problems[:SHOWN]:
            yield f"  broken: {problem}"
        if bad > SHOWN:
            yield f"  broken: {bad - SHOWN} more"

    def _size_words(self) -> str:
        short = np.sort([min(size) for size in self._sizes])
        least, median, most = short[0], short[len(short) // 2], short[-1]
        words = f"short side {least} to {most} px, median {median}"
        for resolution in RESOLUTIONS:
            below = int(np.searchsorted(short, resolution))
            words += f"; {below} below {resolution}" if below else ""
        distinct = collections.Counter(f"{width}x{height}" for width, height in self._sizes)
        return f"{words}; {_counted(distinct, 3)}"

    def _class_words(self) -> str:
        if not self._classes:
            return "none"
        counts = {name: self._labels[label] for label, name in enumerate(self._classes)}
        least, most = min(counts, key=counts.get), max(counts, key=counts.get)
        words = f"{len(counts)}, {counts[least]} ({least}) to {counts[most]} ({most}) images each"
        return words + (f"; {self._labels[None]} without one" if self._labels[None] else "")


def _counted(counts: collections.Counter[str], most: int = SHOWN) -> str:
    common = counts.most_common(most)
    if [value for value, _ in common] == ["yes"]:
        return str(common[0][1])
    rest = f", and {len(counts) - most} more" if len(counts) > most else ""
    return ", ".join(f"{count} {value}" for value, count in common) + rest


def make_sheet(crops: Sequence[np.ndarray]) -> bytes:
    """A PNG of crops `[CROP, CROP, 3]`, row by row."""
    columns = min(COLUMNS, len(crops))
    rows = -(-len(crops) // columns)
    sheet = Image.new("RGB", (columns * CROP, rows * CROP), "white")
    for place, crop in enumerate(crops):
        row, column = divmod(place, columns)
        sheet.paste(Image.fromarray(crop), (column * CROP, row * CROP))
    file = io.BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()


def open_sources(names: Sequence[str]) -> Iterator[tuple[str, Sequence[Record]]]:
    """The sets that are named, each with a title.

    Raises:
      DataError: one cannot be read.
    """
    keys = {"image_key": IMAGE_KEY.value, "class_key": CLASS_KEY.value, "split": SPLIT.value}
    files = [name for name in names if os.path.isfile(name)]
    if files:
        images = find_images(*files, **keys)
        yield images.path, images
    for name in names:
        if name == "photos" or name.partition(":")[0] in ("array_record", "tfds"):
            yield name, named.open_data(name, SPLIT.value or "train").source
        elif name not in files:
            for folder in _splits(name) or [name]:
                yield folder, find_images(folder, **keys)


def _splits(name: str) -> list[str]:
    """Subfolders of a folder that are splits; what else is in it is logged, if there are any."""
    entries = sorted(os.listdir(name)) if os.path.isdir(name) else []
    paths = [os.path.join(name, entry) for entry in entries]
    splits = [x for x in paths if os.path.isdir(x) and split_of(os.path.basename(x))]
    others = [path for path in paths if path not in splits]
    if splits and others:
        words = printable(f"{name}: not checked: {', '.join(others)}"[:500])
        logging.warning("%s", words)
    return splits


def sheet_path() -> pathlib.Path:
    """Where the contact sheet goes: to a file that is not there.

    Raises:
      UsageError: the one that was named is.
    """
    if SHEET.value is None:
        names = itertools.chain(["check.png"], (f"check-{i}.png" for i in itertools.count(2)))
        return next(path for path in map(pathlib.Path, names) if not path.exists())
    path = pathlib.Path(SHEET.value)
    if path.exists():
        raise UsageError(f"--sheet={path}: exists already; name another file")
    return path


def main(argv: Sequence[str]) -> None:
    """Checks one source after the other, then writes the contact sheet."""
    logging.set_verbosity(logging.WARNING)
    hints = {
        ChoiceError: "name one with --image_key",
        ClassKeyError: f"--class_key={CLASS_KEY.value} must name one of these",
    }
    decoding = ImageDecoding(max_pixels=MAX_PIXELS.value)
    crops, num_bad = [], 0
    with exit_codes(OSError, hints=hints):
        if len(argv) < 2:
            raise UsageError("name what to check: a folder, tars, parquet files, array_record:DIR")
        path = sheet_path()
        for title, source in list(open_sources(argv[1:])):
            summary = Summary(getattr(source, "classes", ()))
            shown = sources.evenly_spaced(len(source), ROWS * COLUMNS)
            for seen in look_at_all(source, shown, decoding):
                summary.add(seen)
            for line in summary.lines(title):
                print(printable(line), flush=True)
            crops += summary.crops
            num_bad += len(summary.problems)
        if crops:
            write_whole(path, make_sheet(crops))
            print(printable(f"contact sheet: {path}"))
    if num_bad:
        exit_with(1, f"{num_bad} broken images; replace them, or leave them out")


if __name__ == "__main__":
    app.run(main, flags_parser=lambda argv: parse_flags(argv, lambda: None, takes_arguments=True))
