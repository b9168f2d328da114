"""WebDataset's shards, parquet files and data sets of the Hub, as people have them, as shards."""

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from epsilon_vae.data.archives import find_images
from epsilon_vae.data.decode import DataError
from epsilon_vae.data.images import ClassKeyError, Images
from epsilon_vae.data.shards import ShardWriter
from epsilon_vae.data.splits import SplitError, of_split, split_of
from tests.data.test_prepare import PREPARE, read, shards
from tests.hub_server import serve
from tests.processes import ROOT, start_alone


def picture(seed: int, kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 24, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.suffix != ".tar" else "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def write_shards(folder: Path, *, numbers=(0, 1), suffix: str = ".tar", **others: bytes) -> None:
    """Two WebDataset shards of two samples, whose classes are 10 and 2; `others` are in each."""
    for shard in numbers:
        members = {}
        for place in range(2):
            sample = f"s{shard}{place}"
            members[f"{sample}.jpg"] = picture(10 * shard + place)
            members[f"{sample}.cls"] = b"10" if place else b" 2\n"
            members[f"{sample}.json"] = json.dumps({"wnid": f"n{place}", "ok": True}).encode()
            members |= {f"{sample}.{kind}": data for kind, data in others.items()}
        write_tar(folder / f"set-train-{shard:06d}{suffix}", members)


def write_parquet(path: Path, rows: list[dict], features: dict | None = None, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.Table.from_pylist(rows)
    if features:
        info = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": info})
    pyarrow.parquet.write_table(table, path, **options)


def rows_of_images(count: int, start: int = 0, **columns) -> list[dict]:
    return [
        {"image": {"bytes": picture(i, "PNG"), "path": f"{i}.png"}, "label": i % 2} | columns
        for i in range(start, start + count)
    ]


NAMES = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}


def classes_of(images: Images) -> list[str | None]:
    return [None if label is None else images.classes[label] for label in images.labels]


def contents(images: Images) -> list[bytes]:
    return [images.read(index) for index in range(len(images))]


def convert(images: Images, output: Path, records_per_shard: int = 3) -> dict:
    output.mkdir(exist_ok=True)
    writer = ShardWriter(output, "train", images=images, records_per_shard=records_per_shard)
    writer.write(skip_bad=False)
    return writer.manifest


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tgz"])
def test_webdataset_has_its_classes_in_cls(tmp_path, run_module, suffix):
    write_shards(tmp_path / "wds", suffix=suffix, txt=b"a caption")
    arguments = ("--split=train", f"--output={tmp_path}/out", "--records_per_shard=3")
    process = run_module(PREPARE, f"{tmp_path}/wds", *arguments)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    # The numbers are the classes, so that those of val are the same.
    assert "4 images, 11 classes (0, 1, 2, …)" in out
    assert "wds: 8 left out (4 .json, 4 .txt)" in err
    expected = [
        (f"set-train-{s:06d}{suffix}/s{s}{p}.jpg", picture(10 * s + p), "10" if p else "2")
        for s in range(2)
        for p in range(2)
    ]
    assert read(tmp_path / "out") == expected
    tars = sorted(map(str, (tmp_path / "wds").iterdir()))
    assert classes_of(find_images(*tars)) == ["2", "10", "2", "10"]
    assert classes_of(find_images(tars[1])) == ["2", "10"]


def test_webdataset_has_its_classes_in_a_key_of_json(tmp_path, run_module):
    write_shards(tmp_path / "wds")
    images = find_images(f"{tmp_path}/wds", class_key="wnid")
    assert images.classes == ("n0", "n1") and images.labels == [0, 1, 0, 1]
    with pytest.raises(ClassKeyError, match="no class under 'label'; its .json have wnid, ok"):
        find_images(f"{tmp_path}/wds", class_key="label")
    flags = ("--split=train", f"--output={tmp_path}/out", "--class_key=label")
    _, err = run_module(PREPARE, f"{tmp_path}/wds", *flags).communicate(timeout=60)
    assert err.endswith("have wnid, ok; --class_key=label must name one of these\n")


def test_webdataset_of_captions_has_no_classes(tmp_path):
    """As LAION's: numbered shards are no classes, nor are they where images are all there is."""
    members = {"0.jpg": picture(0), "0.txt": b"a cat", "1.jpg": picture(1), "1.txt": b"a dog"}
    for name in ("cats", "dogs"):
        write_tar(tmp_path / "captions" / f"{name}.tar", members)
        write_tar(tmp_path / "one" / f"{name}.tar", {"0.jpg": picture(0)})
    for number in range(2):
        write_tar(tmp_path / "images" / f"{number:05d}.tar", {"0.jpg": picture(0)})
        write_tar(tmp_path / "n" / f"n0144{number:04d}.tar", {"0.JPEG": picture(0)})
    assert find_images(f"{tmp_path}/captions").classes == ()
    assert find_images(f"{tmp_path}/images").classes == ()
    # As the tar of such a folder has it, and ImageNet's where it was unpacked once.
    assert find_images(f"{tmp_path}/one").classes == ("cats", "dogs")
    assert find_images(f"{tmp_path}/n").classes == ("n01440000", "n01440001")


def test_a_text_beside_folders_makes_no_samples_of_them(tmp_path):
    write_tar(tmp_path / "a.tar", {f"a/x.{i}.jpg": picture(i) for i in (1, 2)} | {"READ.txt": b""})
    assert classes_of(find_images(f"{tmp_path}/a.tar")) == ["a", "a"]


def test_samples_of_several_images_ask_which(tmp_path, run_module):
    for number in range(2):
        members = {"a.jpg": picture(1), "a.seg.png": picture(2, "PNG"), "a.cls": b"0"}
        write_tar(tmp_path / "wds" / f"{number}.tar", members)
    flags = ("--split=train", f"--output={tmp_path}/out")
    process = run_module(PREPARE, f"{tmp_path}/wds", *flags)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert err.endswith("a has several images, .jpg and .seg.png; name one with --image_key\n")
    process = run_module(PREPARE, f"{tmp_path}/wds", *flags, "--image_key=jpg")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and "2 images, 1 classes (0)" in out
    assert "2 left out (2 .png)" in err


BAD_CLASSES = [
    (b"1 2", "2", ("1 2", "2")),  # names, then
    (b"-1", "0", (None, "0")),
    (b"", "0", (None, "0")),
    (b"caf\xe9", "a", ("caf\udce9", "a")),
]


@pytest.mark.parametrize(("first", "second", "expected"), BAD_CLASSES)
def test_classes_as_texts_have_them(tmp_path, first, second, expected):
    members = {"0.jpg": picture(0), "0.cls": first, "1.jpg": picture(1), "1.cls": second.encode()}
    write_tar(tmp_path / "a.tar", members)
    assert tuple(classes_of(find_images(f"{tmp_path}/a.tar"))) == expected


@pytest.mark.parametrize(
    ("name", "data", "key", "words"),
    [
        ("0.cls", b"2000000000", "", "an image of class 2000000000; classes are 0 to 1048575"),
        ("0.cls", b"x" * 2**21, "", "no class can be read from 0.cls .more than 1048576 bytes"),
        ("0.json", b"[1]", "label", "no class can be read from 0.json .a list, not keys"),
        ("0.json", b"{", "label", "no class can be read from 0.json .Expecting"),
        ("0.json", b"[" * 10**5, "label", "no class can be read from 0.json .maximum rec"),
        ("0.json", b'{"label": 0.5}', "label", "a float, not a number or a name"),
    ],
)
def test_classes_that_are_none_are_named(tmp_path, name, data, key, words):
    write_tar(tmp_path / "a.tar", {"0.jpg": picture(0), name: data})
    with pytest.raises(DataError, match=words):
        find_images(f"{tmp_path}/a.tar", class_key=key)


def test_parquet_of_the_hub(tmp_path, run_module):
    """Classes by the metadata's names, rows in order, over files and row groups."""
    folder = tmp_path / "hf" / "data"
    rows = rows_of_images(7, caption="x")
    write_parquet(folder / "train-00000-of-00002.parquet", rows[:5], NAMES, row_group_size=2)
    write_parquet(folder / "train-00001-of-00002.parquet", rows[5:], NAMES)
    write_parquet(folder / "test-00000-of-00001.parquet", rows_of_images(1, 9), NAMES)
    (tmp_path / "hf" / "README.md").write_text("card")
    arguments = (f"--output={tmp_path}/out", "--records_per_shard=3")
    process = run_module(PREPARE, f"{tmp_path}/hf", *arguments, "--split=train")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "train is done: 7 images, 2 classes (cat, dog), shards: 3" in out
    assert "hf: columns left out: caption" in err and "files left out: 1, as README.md" in err
    found = read(tmp_path / "out")
    assert [record[1] for record in found] == [row["image"]["bytes"] for row in rows]
    assert [record[2] for record in found] == [("cat", "dog")[i % 2] for i in range(7)]
    assert found[5][0] == "train-00001-of-00002.parquet/0/5.png"
    process = run_module(PREPARE, f"{tmp_path}/hf", *arguments, "--split=val")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2 and "no file of split val; there are data/test-00000" in err
    assert err.endswith("name those files that are --split=val\n")
    test = f"{tmp_path}/hf/data/test-00000-of-00001.parquet"
    _, err = run_module(PREPARE, test, *arguments, "--split=val").communicate(timeout=60)
    assert read(tmp_path / "out", "val") == [
        ("test-00000-of-00001.parquet/0/9.png", picture(9, "PNG"), "dog")
    ]


def test_parquet_is_read_at_any_place_and_resumed(tmp_path):
    rows = rows_of_images(50)
    write_parquet(tmp_path / "in" / "a.parquet", rows, NAMES, row_group_size=20)
    images = find_images(f"{tmp_path}/in")
    for index in (49, 3, 4, 21, 20, 0, 39, 40, 39):
        assert images.read(index) == rows[index]["image"]["bytes"]
    convert(images, tmp_path / "out")
    before = shards(tmp_path / "out")
    (tmp_path / "out" / "train-00007.array_record").unlink()
    convert(find_images(f"{tmp_path}/in"), tmp_path / "out")
    assert shards(tmp_path / "out") == before


COLUMNS = [
    ([{"img": picture(0), "cls": 1}], None, {}, ("1",)),  # bare bytes
    ([{"image": {"bytes": picture(0)}, "label": "cat"}], None, {}, ("cat",)),
    ([{"image": {"bytes": picture(0), "path": None}}], None, {}, (None,)),
    ([{"image": {"bytes": picture(0), "path": "a/b.jpg"}, "label": -1}], NAMES, {}, (None,)),
    ([{"image": {"bytes": picture(0)}, "label": [1, 2]}], None, {}, (None,)),  # of several things
    (
        [{"img": {"bytes": picture(0), "path": ""}, "fine_label": 1, "coarse_label": 0}],
        None,
        {"class_key": "fine_label"},
        ("1",),
    ),
    (
        [{"image": {"bytes": picture(0)}, "mask": {"bytes": picture(1)}, "label": 0}],
        NAMES | {"mask": {"_type": "Image"}},
        {},
        ("cat",),
    ),
    (
        [{"speech": {"bytes": b"x", "path": "a.wav"}, "photo": {"bytes": picture(0), "path": "a"}}],
        {"speech": {"_type": "Audio"}, "photo": {"_type": "Image"}},
        {},
        (None,),
    ),
    (
        [{"image": {"bytes": picture(0)}, "dish": 1}],
        NAMES | {"dish": NAMES["label"]},
        {},
        ("dog",),
    ),
]


@pytest.mark.parametrize(("rows", "features", "keys", "expected"), COLUMNS)
def test_columns_as_data_sets_have_them(tmp_path, rows, features, keys, expected):
    write_parquet(tmp_path / "a.parquet", rows, features)
    images = find_images(f"{tmp_path}/a.parquet", **keys)
    assert contents(images) == [picture(0)]
    assert tuple(classes_of(images)) == expected


REFUSED = [
    ([{"text": "a"}], None, {}, "no column of images in bytes; has text .string"),
    ([{"a": {"bytes": b"x"}, "b": {"bytes": b"x"}}], None, {}, "could be the columns a, b"),
    ([{"image": {"path": "a.jpg"}}], None, {}, "no column of images in bytes; has image .struct"),
    (rows_of_images(1), None, {"image_key": "img"}, "no column img in bytes; has image"),
    (rows_of_images(1), None, {"class_key": "x"}, "no column 'x' of classes; has image"),
    (rows_of_images(1, label=2), NAMES, {}, "a row of class 2; it names 2"),
    (rows_of_images(1), NAMES | {"label": {"names": ["a", "a"]}}, {}, "not a list of different"),
]


@pytest.mark.parametrize(("rows", "features", "keys", "words"), REFUSED)
def test_columns_that_will_not_do_are_named(tmp_path, rows, features, keys, words):
    write_parquet(tmp_path / "a.parquet", rows, features)
    with pytest.raises(DataError, match=f"a.parquet: .*{words}"):
        find_images(f"{tmp_path}/a.parquet", **keys)


def test_broken_parquet_is_named(tmp_path):
    write_parquet(tmp_path / "whole.parquet", rows_of_images(40), row_group_size=10)
    data = (tmp_path / "whole.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(data[:-50])
    with pytest.raises(DataError, match="cut.parquet: cannot be read"):
        find_images(f"{tmp_path}/cut.parquet")
    rows = rows_of_images(2)
    rows[0]["image"]["bytes"] = None
    write_parquet(tmp_path / "empty.parquet", rows)
    images = find_images(f"{tmp_path}/empty.parquet")
    with pytest.raises(DataError, match=r"empty.parquet\[0\]: has no bytes"):
        images.read(0)
    assert images.read(1) == rows[1]["image"]["bytes"]


def test_folders_of_several_things_are_named(tmp_path):
    write_parquet(tmp_path / "two" / "a" / "0.parquet", rows_of_images(1))
    write_parquet(tmp_path / "two" / "b" / "0.parquet", rows_of_images(1))
    with pytest.raises(DataError, match="in several folders, a and b, .*name one folder"):
        find_images(f"{tmp_path}/two")
    write_tar(tmp_path / "both" / "0.tar", {"0.jpg": picture(0)})
    write_parquet(tmp_path / "both" / "0.parquet", rows_of_images(1))
    with pytest.raises(DataError, match="0.tar and 0.parquet in one folder"):
        find_images(f"{tmp_path}/both")
    with pytest.raises(DataError, match="0.parquet is parquet, .*0.tar is not; name one kind"):
        find_images(f"{tmp_path}/both/0.tar", f"{tmp_path}/both/0.parquet")
    for number, features in enumerate((None, NAMES)):
        write_parquet(tmp_path / "mixed" / f"{number}.parquet", rows_of_images(1), features)
    with pytest.raises(DataError, match="1.parquet: other columns or classes than .*0.parquet has"):
        find_images(f"{tmp_path}/mixed")
    (tmp_path / "zips").mkdir()
    (tmp_path / "zips" / "a.zip").write_bytes(b"x")
    with pytest.raises(DataError, match=r"zips: no image in it; .*; there are 1 .zip"):
        find_images(f"{tmp_path}/zips")


def test_splits_by_names():
    names = {
        "train": ["train2017/0.jpg", "data/train-00000-of-00001.parquet", "x/set-training-0.tar"],
        "val": ["val2017", "default/validation/0000.parquet", "DEV/a", "imagenet1k-valid-00.tar"],
        "test": ["test-00000.parquet", "train/test.tar"],
        None: ["00000.tar", "trained.tar", "evaluate", "latest/0"],
    }
    for split, paths in names.items():
        assert [split_of(path) for path in paths] == [split] * len(paths)
    assert of_split(["0.tar", "1.tar"], "val", "in") == ["0.tar", "1.tar"]
    with pytest.raises(
        SplitError, match="in: no file of split val; there are train-0.tar of train"
    ):
        of_split(["train-0.tar"], "val", "in")


@pytest.fixture
def hub(tmp_path) -> Iterator[dict[str, str]]:
    """The environment in which a server of this machine is the Hub, with `tmp_path / 'hub'`."""
    with serve(tmp_path / "hub", tmp_path / "home") as environment:
        yield environment


def test_data_set_of_the_hub(tmp_path, run_module, hub):
    rows = rows_of_images(3)
    folder = tmp_path / "hub" / "me" / "set"
    write_parquet(folder / "data" / "train-00000-of-00001.parquet", rows, NAMES)
    write_parquet(folder / "data" / "validation-00000-of-00001.parquet", rows[:1], NAMES)
    (folder / "README.md").write_text("card")
    flags = ("--split=train", f"--output={tmp_path}/out")
    process = run_module(PREPARE, "hf://datasets/me/set", *flags, **hub)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "hf://datasets/me/set: 3 images, 2 classes (cat, dog)" in out
    assert [record[1] for record in read(tmp_path / "out")] == contents(
        find_images(f"{folder}/data", split="train")
    )
    fetched = {path.name for path in (tmp_path / "home").rglob("*.parquet")}
    assert fetched == {"train-00000-of-00001.parquet"}
    process = run_module(PREPARE, "hf://datasets/me/other", *flags, **hub)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2 and len(err.splitlines()) == 1
    assert "me/other: taken for a repository of the Hugging Face Hub" in err
    assert "hf auth login" in err


@pytest.mark.parametrize(
    ("url", "module", "words"),
    [
        (
            "hf://datasets/me/set",
            "huggingface_hub",
            "pip install -e '.[hub]', or elsewhere `hf download me/set",
        ),
        ("{}/a.parquet", "pyarrow", "needs pyarrow, pip install -e '.[parquet]'"),
    ],
)
def test_what_is_not_installed_is_named(tmp_path, url, module, words):
    write_parquet(tmp_path / "a.parquet", rows_of_images(1))
    blocked = tmp_path / "blocked" / module
    blocked.mkdir(parents=True)
    (blocked / "__init__.py").write_text("raise ImportError('not installed')")
    flags = ("--split=train", f"--output={tmp_path}/out")
    path = f"{blocked.parent}:{ROOT}"
    process = start_alone(PREPARE, url.format(tmp_path), *flags, PYTHONPATH=path)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2 and len(err.splitlines()) == 1 and words in err, err


def test_address_of_no_data_set_is_named():
    for url in ("hf://me/set", "hf://datasets/set", "hf://datasets/"):
        with pytest.raises(DataError, match=f"{url}: no data set; name one as hf://datasets/OW"):
            find_images(url)
