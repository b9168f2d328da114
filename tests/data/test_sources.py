"""Where records come from, and what is said when they do not."""

import contextlib
import io
import json
import os
import pickle
import re
import subprocess
import sys
import tarfile

import fsspec
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from configs import common, latent_diffusion
from epsilon_vae.data.decode import DataError, read_image
from epsilon_vae.data.named import Data, open_part
from epsilon_vae.data.records import Record, pack, unpack
from epsilon_vae.data.sources import (
    PHOTOS,
    Photos,
    Subset,
    evenly_spaced,
    open_source,
    part_by_hash,
)
from tests.processes import ROOT


def write_image(path, value: int = 7) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (40, 30), value).save(path)
    return path.read_bytes()


def write_shard(path, records: list[bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


@pytest.fixture
def no_rights():
    """As a user whom permissions bind, should the tests run as root."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    yield
    if root:
        os.seteuid(0)


def test_embedded_photos_are_there_and_apart():
    assert not set(PHOTOS["train"]) & set(PHOTOS["val"])
    for split in ("train", "val"):
        for path in Photos(split).paths:
            assert min(read_image(path).shape[:2]) >= 256


def test_folder_is_in_order_with_subfolders_as_classes(tmp_path):
    data = {
        name: write_image(tmp_path / "train" / name, value)
        for value, name in enumerate(("b/x.png", "a/y.JPG", "a/deep/z.webp", "top.jpeg"))
    }
    (tmp_path / "train" / "a" / "note.txt").write_text("no picture")
    write_image(tmp_path / "train" / "b" / "._x.png")
    source = open_source("folder", str(tmp_path), split="train")
    assert source.classes == ("a", "b")
    assert list(source) == [
        Record(data[name], label, f"{tmp_path}/train/{name}")
        for name, label in (("a/deep/z.webp", 0), ("a/y.JPG", 0), ("b/x.png", 1))
    ] + [Record(data["top.jpeg"], None, f"{tmp_path}/train/top.jpeg")]


def test_folder_in_a_bucket():
    """fsspec's own in-memory file system takes the way that gs:// takes."""
    files = fsspec.filesystem("memory")
    files.pipe_file("/bucket/val/cats/1.png", b"one")
    source = open_source("folder", "memory://bucket", split="val")
    assert source[0] == Record(b"one", 0, "memory://bucket/val/cats/1.png")
    before = source.files_hash()
    files.pipe_file("/bucket/val/cats/1.png", b"two, and longer")
    assert source.files_hash() != before


def test_hash_changes_with_the_files(tmp_path):
    image, shard = tmp_path / "val" / "a.png", tmp_path / "val-00000.array_record"
    data = write_image(image)
    write_shard(shard, [pack(Record(data, None, "a"))])
    for file, kind in ((image, "folder"), (shard, "array_record")):
        before = open_source(kind, str(tmp_path), split="val").files_hash()
        assert open_source(kind, str(tmp_path), split="val").files_hash() == before
        os.utime(file, (0, 0))
        assert open_source(kind, str(tmp_path), split="val").files_hash() != before


def test_folder_follows_links_once(tmp_path):
    data = write_image(tmp_path / "elsewhere" / "x.png")
    (tmp_path / "train" / "cats").mkdir(parents=True)
    (tmp_path / "train" / "dogs").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "train" / "cats" / "loop").symlink_to(tmp_path / "train")
    source = open_source("folder", str(tmp_path), split="train")
    assert list(source) == [Record(data, 0, f"{tmp_path}/train/dogs/x.png")]


def test_missing_and_empty_folders_are_named(tmp_path):
    with pytest.raises(
        DataError, match=r"train: no such folder; .*subfolders, and config.data.val_split"
    ):
        open_source("folder", str(tmp_path), split="train")
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match="train: no image in it"):
        open_source("folder", str(tmp_path), split="train")


def open_parts(path, make_config=common.get_config, **changes) -> dict[str, Data]:
    data = make_config().data
    data.source, data.path = "folder", str(path)
    data.update(changes)
    return {part: open_part(data, part) for part in ("train", "val")}


def names_of(data: Data) -> list[str]:
    return [record.name for record in data.source]


def test_splits_may_have_other_names(tmp_path):
    """As COCO's folder."""
    for split in ("train2017", "val2017", "annotations"):
        write_image(tmp_path / split / "0.jpg")
    splits = {"train_split": "train2017", "val_split": "val2017"}
    for part, data in open_parts(tmp_path, **splits).items():
        assert names_of(data) == [f"{tmp_path}/{part}2017/0.jpg"] and not data.note
    words = "no folder train in it, but train2017, val2017; name them in config.data.train_split"
    with pytest.raises(DataError, match=words):
        open_parts(tmp_path)
    with pytest.raises(DataError, match="val: no such folder; .*config.data.val_split or train_s"):
        open_parts(tmp_path, train_split="train2017")


def test_a_folder_without_splits_holds_some_out_by_names(tmp_path):
    for number in range(60):
        write_image(tmp_path / ("a", "b")[number % 2] / f"{number}.png")
    for make_config in (common.get_config, latent_diffusion.get_config):
        parts = open_parts(tmp_path, make_config, held_out=0.2)
        train, val = names_of(parts["train"]), names_of(parts["val"])
        assert len(train) + len(val) == len({*train, *val}) == 60 and 4 <= len(val) <= 20
        assert parts["train"].source.classes == parts["val"].source.classes == ("a", "b")
        assert parts["train"].note == (
            f"{tmp_path}: no splits in it; {len(train)} images are train, and {len(val)} the other "
            "part, by the hash of their names (config.data.held_out = 0.2)"
        )
    write_image(tmp_path / "b" / "new.png")  # moves none of the others
    parts = open_parts(tmp_path, held_out=0.2)
    assert {*train} <= {*names_of(parts["train"])} and {*val} <= {*names_of(parts["val"])}
    assert parts["val"].metadata() != parts["train"].metadata()


@pytest.mark.parametrize("held_out", [1e-9, 0.05, 0.999999])
def test_no_part_is_empty(tmp_path, held_out):
    names = ["a.jpg", "b.jpg", os.fsdecode(b"caf\xe9.jpg")]
    for count in (2, 3):
        parts = part_by_hash(names[:count], held_out)
        assert sorted(parts["train"] + parts["val"]) == sorted(names[:count])
        assert parts["train"] and parts["val"]
    write_image(tmp_path / "a.png")
    with pytest.raises(DataError, match="one image alone; to hold one out, there must be two"):
        open_parts(tmp_path, held_out=held_out)


def test_folder_and_file_without_permission_are_named(tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("rights")
    for parent in (folder, *folder.parents[:2]):
        parent.chmod(0o755)
    write_image(folder / "train" / "open" / "x.png")
    write_image(folder / "train" / "shut" / "y.png")
    (folder / "train" / "open" / "x.png").chmod(0)
    source = open_source("folder", str(folder), split="train")
    (folder / "train" / "shut").chmod(0)
    request.getfixturevalue("no_rights")
    with pytest.raises(DataError, match=r"open/x.png: cannot be read \(Permission denied\)"):
        source[0]
    for path in (folder, folder / "train" / "shut"):
        with pytest.raises(
            DataError, match=r"cannot be read \(Permission denied\); check its rights"
        ):
            open_source("folder", str(path), split="train")


@pytest.mark.parametrize(
    ("path", "words"),
    [("gopher://x", "Protocol not known: gopher"), ("s3://x", "s3fs")],
)
def test_urls_that_nothing_reads_say_what_is_missing(path, words):
    with contextlib.suppress(ImportError):
        import s3fs  # noqa: F401

        pytest.skip("s3fs is installed")
    with pytest.raises(DataError, match=words):
        open_source("folder", path, split="train")


def test_packed_records_and_bare_images():
    record = Record(b"\xff\xd8bytes", 3, "n01/a.JPEG")
    assert unpack(pack(record), "shard[0]") == record
    assert unpack(b"\xff\xd8bytes", "shard[0]") == Record(b"\xff\xd8bytes", None, "shard[0]")
    with pytest.raises(DataError, match=r"shard\[0\]: not a record"):
        unpack(pack(record)[:9], "shard[0]")
    with pytest.raises(DataError, match="config.data.source = tfds"):
        unpack(b"\x0a\x10", "shard[0]")


def test_array_record_shards_with_and_without_a_list(tmp_path):
    records = [Record(bytes([255, i]), i, f"image {i}") for i in range(5)]
    packed = [pack(record) for record in records]
    write_shard(tmp_path / "train-00000.array_record", packed[:3])
    write_shard(tmp_path / "train-00001.array_record", packed[3:])
    assert list(open_source("array_record", str(tmp_path), split="train")) == records
    listed = {"shards": {"train-00001.array_record": 2}, "classes": list("abcde")}
    (tmp_path / "train.json").write_text(json.dumps(listed))
    source = open_source("array_record", str(tmp_path), split="train")
    assert list(source) == records[3:] and source.classes == tuple("abcde")
    assert list(pickle.loads(pickle.dumps(source))) == records[3:]


def test_array_record_says_what_is_wrong(tmp_path):
    with pytest.raises(DataError, match=r"no \*train\*array_record\*"):
        open_source("array_record", str(tmp_path), split="train")
    (tmp_path / "train.unfinished.json").write_text("{}")
    with pytest.raises(DataError, match="'train' is unfinished; run epsilon_vae.data.prepare"):
        open_source("array_record", str(tmp_path), split="train")
    shard = tmp_path / "train-00000.array_record"
    write_shard(shard, [b"\xff\xd8"])
    listed = tmp_path / "train.json"
    listed.write_text(json.dumps({"shards": {shard.name: 2}, "classes": []}))
    with pytest.raises(DataError, match="00000.array_record: 1 records .* 2 are listed"):
        open_source("array_record", str(tmp_path), split="train")
    listed.write_text(json.dumps({"shards": {"train-00007.array_record": 1}, "classes": []}))
    with pytest.raises(DataError, match="train-00007.array_record: no records .* 1 are listed"):
        open_source("array_record", str(tmp_path), split="train")
    listed.write_text("{")
    with pytest.raises(DataError, match="train.json and its shards cannot be read"):
        open_source("array_record", str(tmp_path), split="train")


def test_damaged_shard_is_named(tmp_path):
    shard = tmp_path / "train-00000.array_record"
    write_shard(shard, [os.urandom(1000) for _ in range(100)])
    shard.write_bytes(shard.read_bytes()[:50_000])
    with pytest.raises(DataError, match="train-00000.array_record: no records can be read; check"):
        open_source("array_record", str(tmp_path), split="train")


def test_more_shards_than_files_that_may_be_open(tmp_path):
    """As ImageNet's may be, where the soft limit is 1024."""
    for index in range(200):
        write_shard(tmp_path / f"train-{index:05}.array_record", [b"\xff\xd8"])
    read = (
        "import resource, sys; hard = int(sys.argv[2]);"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (150, hard));"
        "from epsilon_vae.data.sources import open_source;"
        "print(len(list(open_source('array_record', sys.argv[1], split='train'))))"
    )
    for hard, words in ((2000, "200\n"), (300, "200 shards need 712 open files, .* allows 300")):
        command = [sys.executable, "-c", read, str(tmp_path), str(hard)]
        process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert re.search(words, process.stdout + process.stderr)


def test_evenly_spaced_records():
    source = [Record(b"", i, "") for i in range(10)]
    for count, expected in ((4, [0, 3, 6, 9]), (40, list(range(10)))):
        assert [r.label for r in Subset(source, evenly_spaced(10, count))] == expected


BUILD_TFDS = """
import sys, numpy as np, tensorflow_datasets as tfds
folder = sys.argv[1]
class Tiny:
    VERSION = tfds.core.Version("1.0.0")
    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({
            self.feature: tfds.features.Image(encoding_format="png"),
            "objects": tfds.features.Sequence({"bbox": tfds.features.BBoxFeature()}),
            "label": tfds.features.ClassLabel(num_classes=9)}))
    def _split_generators(self, manager):
        return {"train": self._generate_examples(6), "validation": self._generate_examples(2)}
    def _generate_examples(self, count):
        for i in range(count):
            image = np.full((8, 9, 3), 20 * i, np.uint8)
            yield i, {self.feature: image, "label": i, "objects": []}
def build(name, feature, file_format):
    bases = Tiny, tfds.core.GeneratorBasedBuilder
    builder = type(name, bases, {"feature": feature, "name": name, "pkg_dir_path": None})
    builder(data_dir=folder, file_format=file_format).download_and_prepare()
build("tiny", "image", "array_record")
build("no_image", "picture", "array_record")
build("as_tfrecord", "image", "tfrecord")
class Downloads(tfds.download.DownloadManager):
    def download_and_extract(self, urls):
        return {key: folder + "/coco" for key in urls}
coco = tfds.builder("coco/2017", data_dir=folder, file_format="array_record")
coco._make_download_manager = lambda **options: Downloads(download_dir=folder)
coco.download_and_prepare()
imagenet = tfds.builder("imagenet2012", data_dir=folder, file_format="array_record")
manual = tfds.download.DownloadConfig(manual_dir=folder + "/tars")
imagenet.download_and_prepare(download_config=manual)
"""

READ_TFDS = """
import pickle, sys
from epsilon_vae.data.decode import EncodedImage
from epsilon_vae.data.sources import open_source
for split in ("train", "validation"):
    source = open_source("tfds", sys.argv[1], split=split, tfds_name=sys.argv[2])
    for record in pickle.loads(pickle.dumps(source)):
        print(split, record.label, EncodedImage(record.data).rgb().getpixel((0, 0))[0], record.name)
print("tensorflow" in sys.modules)
"""


IMAGENET_IMAGES = {"n01440764": [40, 80], "n15075141": [120]}


def write_coco(folder) -> None:
    """Its archives, unpacked: an image in each of three splits."""
    (folder / "annotations").mkdir(parents=True)
    categories = [{"id": index, "name": f"thing {index}"} for index in range(80)]
    cat = {"id": 9, "image_id": 1, "category_id": 3, "bbox": [1, 2, 9, 9], "area": 81, "iscrowd": 0}
    for value, split in enumerate(("train2017", "val2017", "test2017")):
        (folder / split).mkdir()
        Image.new("RGB", (20, 16), (60 * value,) * 3).save(folder / split / "1.jpg")
        image = {"id": 1, "file_name": "1.jpg", "height": 16, "width": 20}
        content = {"images": [image], "categories": categories, "annotations": [cat]}
        kind = "image_info" if split == "test2017" else "instances"
        (folder / "annotations" / f"{kind}_{split}.json").write_text(json.dumps(content))


def write_jpegs(tar_path, images: dict[str, int]) -> dict[str, bytes]:
    """A tar of JPEGs of one grey each; what it holds."""
    written = {}
    with tarfile.open(tar_path, "w") as tar:
        for name, value in images.items():
            buffer = io.BytesIO()
            Image.new("RGB", (20, 16), (value,) * 3).save(buffer, "JPEG")
            member = tarfile.TarInfo(name)
            member.size = len(buffer.getvalue())
            tar.addfile(member, io.BytesIO(buffer.getvalue()))
            written[name] = buffer.getvalue()
    return written


@pytest.fixture(scope="module")
def tfds_folder(tmp_path_factory):
    """Sets of TFDS, built by TFDS itself; imagenet2012 and coco/2017 from small downloads."""
    folder = tmp_path_factory.mktemp("tfds")
    write_coco(folder / "coco")
    tars = folder / "tars"
    tars.mkdir()
    with tarfile.open(tars / "ILSVRC2012_img_train.tar", "w") as train:
        for wnid, values in IMAGENET_IMAGES.items():
            inner = tars / f"{wnid}.tar"
            write_jpegs(inner, {f"{wnid}_{i}.JPEG": value for i, value in enumerate(values)})
            train.add(inner, inner.name)
    write_jpegs(tars / "ILSVRC2012_img_val.tar", {"ILSVRC2012_val_00000001.JPEG": 200})
    command = [sys.executable, "-c", BUILD_TFDS, str(folder)]
    built = subprocess.run(command, capture_output=True, cwd=folder, text=True)
    assert built.returncode == 0, built.stderr[-3000:]
    return folder


def read_tfds(folder, name: str) -> list[list[str]]:
    command = [sys.executable, "-c", READ_TFDS, str(folder), name]
    read = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert read.returncode == 0, read.stderr[-3000:]
    *records, tensorflow = read.stdout.splitlines()
    assert tensorflow == "False"
    return [line.split() for line in records]


def test_tfds_is_read_without_tensorflow(tfds_folder):
    rows = read_tfds(tfds_folder, "tiny")
    assert [row[0] for row in rows] == ["train"] * 6 + ["validation"] * 2
    assert all(int(pixel) == 20 * int(label) for _, label, pixel, _ in rows)
    assert sorted(row[1] for row in rows[:6]) == list("012345")
    assert rows[0][3] == "tiny/train[0]" and rows[6][3] == "tiny/validation[0]"


def test_imagenet2012_of_tfds(tfds_folder):
    rows = read_tfds(tfds_folder, "imagenet2012")
    assert sorted((split, label, pixel) for split, label, pixel, _ in rows[:3]) == [
        ("train", "0", "40"),
        ("train", "0", "80"),
        ("train", "999", "120"),
    ]
    assert rows[3][0] == "validation" and rows[3][2] == "200" and len(rows) == 4


def test_coco_2017_of_tfds(tfds_folder):
    assert read_tfds(tfds_folder, "coco/2017") == [
        ["train", "None", "0", "coco/2017/train[0]"],
        ["validation", "None", "60", "coco/2017/validation[0]"],
    ]


@pytest.mark.parametrize(
    ("name", "split", "words"),
    [
        ("imagenot", "train", "not prepared in .*tfds build imagenot --file_format=array_record"),
        ("no_image", "train", "has no feature 'image', but .*picture"),
        ("tiny", "val", "no split 'val'; there are train, validation; .*config.data.val_split"),
        ("as_tfrecord", "train", "not as ArrayRecord; tfds build as_tfrecord --file_format"),
    ],
)
def test_tfds_says_what_is_wrong(tfds_folder, name, split, words):
    with pytest.raises(DataError, match=words):
        open_source("tfds", str(tfds_folder), split=split, tfds_name=name)
