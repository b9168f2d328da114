"""Folders, tars and ImageNet's tars as shards: what is read back, after kills, and refusals."""

import gzip
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from epsilon_vae.data.archives import find_images
from epsilon_vae.data.decode import DataError
from epsilon_vae.data.devkit import label, read_devkit
from epsilon_vae.data.shards import ShardWriter, write_shard
from epsilon_vae.data.sources import open_source
from epsilon_vae.output import OutputError, write_whole
from epsilon_vae.resumable import OtherPlanError
from tests.processes import ROOT, partial_path

PREPARE = "epsilon_vae.data.prepare"
# ILSVRC2012_ID to WNID: the IDs are not in the order of the WNIDs, and group 5 is no class.
WNIDS = {1: "n02119789", 2: "n02100735", 3: "n01440764", 4: "n01443537", 5: "n00001740"}
CLASSES = ("n01440764", "n01443537", "n02100735", "n02119789")
TRUTH = (3, 1, 4, 2, 2, 3)


def test_a_shard_has_its_name_once_the_disk_holds_it(tmp_path, monkeypatch):
    """Its bytes first, then the name, then the folder: what a machine that loses power keeps."""
    events = []

    def fsync(descriptor: int) -> None:
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        events.append((name, (tmp_path / "a.array_record").exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    assert write_shard(tmp_path / "a.array_record", [b"one", b"two"]) == 2
    partial = partial_path(tmp_path / "a.array_record", os.getpid()).name
    assert events == [(partial, False), (tmp_path.name, True)]
    events.clear()
    write_whole(tmp_path / "b.json", b"{}")
    partial = partial_path(tmp_path / "b.json", os.getpid()).name
    assert [name for name, _ in events] == [partial, tmp_path.name]


def jpeg(seed: int, size: tuple[int, int] = (24, 16)) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def tar(members: dict[str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, format=tarfile.GNU_FORMAT) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def train_images() -> dict[str, bytes]:
    return {
        f"{wnid}.tar/{wnid}_{number}.JPEG": jpeg(10 * place + number)
        for place, wnid in enumerate(CLASSES)
        for number in (18, 5, 7)
    }


def train_tar() -> bytes:
    inner: dict[str, dict[str, bytes]] = {}
    for name, data in train_images().items():
        outer, member = name.split("/")
        inner.setdefault(outer, {})[member] = data
    return tar({name: tar(members) for name, members in inner.items()})


def val_images() -> dict[str, bytes]:
    return {
        f"ILSVRC2012_val_{number:08d}.JPEG": jpeg(100 + number)
        for number in range(1, len(TRUTH) + 1)
    }


def devkit(truth=TRUTH) -> bytes:
    fields = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O")]
    fields += [("num_children", "O"), ("children", "O"), ("wordnet_height", "O")]
    fields += [("num_train_images", "O")]
    synsets = np.zeros((len(WNIDS), 1), fields)
    for row, (image_id, wnid) in enumerate(WNIDS.items()):
        is_group = image_id == 5
        children = [1, 2, 3, 4] if is_group else []
        synsets[row, 0] = (image_id, wnid, "a, b", "c", len(children), children, is_group, 1300)
    meta = io.BytesIO()
    savemat(meta, {"synsets": synsets})
    lines = "".join(f"{image_id}\n" for image_id in truth).encode()
    root = "ILSVRC2012_devkit_t12"
    return tar(
        {
            f"{root}/readme.txt": b"ImageNet",
            f"{root}/data/ILSVRC2012_validation_ground_truth.txt": lines,
            f"{root}/data/meta.mat": meta.getvalue(),
        },
        "w:gz",
    )


def write_imagenet(folder: Path) -> None:
    folder.mkdir()
    (folder / "ILSVRC2012_img_train.tar").write_bytes(train_tar())
    (folder / "ILSVRC2012_img_val.tar").write_bytes(tar(val_images()))
    (folder / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(devkit())


def prepare(path, output: Path, split="train", records_per_shard=4, skip_bad=False) -> dict:
    """As the command does it, in this process; the manifest."""
    output.mkdir(exist_ok=True)
    writer = ShardWriter(
        output, split, images=find_images(str(path)), records_per_shard=records_per_shard
    )
    writer.write(skip_bad=skip_bad)
    return writer.manifest


def read(path: Path, split="train", source="array_record") -> list[tuple]:
    """Name, bytes and class of all records."""
    records = open_source(source, str(path), split=split)
    classes = (*records.classes, None)
    found = [records[index] for index in range(len(records))]
    return [(r.name, r.data, classes[-1 if r.label is None else r.label]) for r in found]


def shards(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(output.iterdir())}


def tutorial_commands() -> list[str]:
    page = (ROOT / "docs/tutorials/imagenet.md").read_text()
    section = page.split("\n## ImageNet from zero\n")[1]
    block = re.search(r"```bash\n(.*?)```", section, re.DOTALL)[1]
    return block.replace("\\\n", " ").splitlines()


def test_tutorial_takes_imagenet_from_its_tars_to_training(tmp_path):
    """The tutorial's commands as they stand, but for the model that is trained, and how long."""
    write_imagenet(tmp_path / "data")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    environment = {"PYTHONPATH": str(ROOT)}
    outputs = []
    commands = tutorial_commands()
    assert [shlex.split(command)[2] for command in commands] == [
        PREPARE,
        PREPARE,
        "epsilon_vae.main",
    ]
    small = shlex.join([f"--config={ROOT}/tests/micro.py", "--config.num_steps=1"])
    commands[-1] = commands[-1].replace("--config=configs/sd_m.py", small)
    for command in commands:
        words = [sys.executable if w == "python" else w for w in shlex.split(command)]
        ended = subprocess.run(
            words,
            cwd=tmp_path,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert ended.returncode == 0, ended.stderr
        outputs.append(ended.stdout)
    assert (
        "train is done: 12 images, 4 classes (n01440764, n01443537, n02100735, …), shards: 1"
        in (outputs[0])
    )
    assert "val is done: 6 images, 4 classes" in outputs[1]
    for output in outputs[:2]:  # the flags that it prints are those that the tutorial trains with
        assert output.splitlines()[2] in " ".join(shlex.split(commands[-1]))
    assert "Training needs val too" in outputs[0] and "needs" not in outputs[1]

    assert "step 1/1" in outputs[2] and "step 1: held-out images" in outputs[2]
    config = json.loads((tmp_path / "runs" / "sd_m" / "config.json").read_text())
    data = tmp_path / config["data"]["path"]
    source = config["data"]["source"]
    for split in ("train", "val"):
        assert open_source(source, str(data), split=split).classes == CLASSES
    train, val = read(data, "train", source), read(data, "val", source)
    assert train == [(n, data, n.split(".")[0]) for n, data in train_images().items()]
    wnids = [WNIDS[image_id] for image_id in TRUTH]
    assert val == [(*image, wnid) for image, wnid in zip(val_images().items(), wnids, strict=True)]


def test_killed_and_gone_on_with_gives_the_same_bytes(tmp_path, run_module):
    kinds = [jpeg(seed, (96, 64)) for seed in range(20)]
    members = {f"{i % 7}/{i:05d}.jpg": kinds[i % 20] for i in range(6000)}
    (tmp_path / "many.tar").write_bytes(tar(members))
    output = tmp_path / "killed"
    arguments = (str(tmp_path / "many.tar"), "--split=train", "--records_per_shard=100")
    process = run_module(PREPARE, *arguments, f"--output={output}")
    while not (output / "train-00001.array_record").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (output / "train.json").exists()
    first = output / "train-00000.array_record"
    written = first.stat().st_mtime_ns
    with pytest.raises(DataError, match="is unfinished; run epsilon_vae.data.prepare again"):
        open_source("array_record", str(output), split="train")

    process = run_module(PREPARE, *arguments, f"--output={output}")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "train is done: 6000 images, 7 classes (0, 1, 2, …), shards: 60" in out
    assert first.stat().st_mtime_ns == written
    prepare(tmp_path / "many.tar", tmp_path / "whole", records_per_shard=100)
    assert shards(output) == shards(tmp_path / "whole")
    assert [r[:2] for r in read(output)] == list(members.items())


def test_again_over_a_finished_split_writes_nothing(tmp_path, run_module):
    (tmp_path / "a.tar").write_bytes(train_tar())
    output = tmp_path / "out"
    manifest = prepare(tmp_path / "a.tar", output, records_per_shard=4096)
    before = {path: path.stat().st_mtime_ns for path in output.iterdir()}
    process = run_module(PREPARE, str(tmp_path / "a.tar"), f"--output={output}", "--split=train")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "train was done already: 12 images" in out
    assert f"--config.data.source=array_record --config.data.path={output}" in out
    assert {path: path.stat().st_mtime_ns for path in output.iterdir()} == before
    assert json.loads((output / "train.json").read_text()) == manifest
    assert manifest["shards"] == {"train-00000.array_record": 12}


def test_damaged_and_missing_shards_are_written_anew(tmp_path):
    (tmp_path / "a.tar").write_bytes(train_tar())
    prepare(tmp_path / "a.tar", tmp_path / "out")
    before = shards(tmp_path / "out")
    (tmp_path / "out" / "train-00000.array_record").unlink()
    (tmp_path / "out" / "train-00001.array_record").write_bytes(b"short")
    prepare(tmp_path / "a.tar", tmp_path / "out")
    assert shards(tmp_path / "out") == before


@pytest.mark.parametrize("kind", ["folder", "tar", "tar.gz", "dotted tar", "tar of a folder"])
def test_folder_and_tar_keep_bytes_and_classes(tmp_path, kind):
    images = {"cat/b.jpg": jpeg(1), "cat/deep/a.PNG": jpeg(2), "dog/c.jpeg": jpeg(3)}
    rest = {"README": b"x", "cat/a.xml": b"x", "cat/._b.jpg": b"x", ".git/d.jpg": b"x"}
    rest |= {"._a.tar": b"x"}
    prefix = {"dotted tar": "./", "tar of a folder": "pets/"}.get(kind, "")
    path = tmp_path / "in"
    if kind == "folder":
        for name, data in (images | rest).items():
            (path / "train" / name).parent.mkdir(parents=True, exist_ok=True)
            (path / "train" / name).write_bytes(data)
        path = path / "train"
    else:
        members = {prefix + name: data for name, data in (rest | images).items()}
        path.write_bytes(tar(members, "w:gz" if kind == "tar.gz" else "w"))
    prepare(path, tmp_path / "out", records_per_shard=2)
    kept = prefix.removeprefix("./")
    expected = [(kept + name, data, name.split("/")[0]) for name, data in images.items()]
    assert read(tmp_path / "out") == expected
    if kind == "folder":
        folder = read(tmp_path / "in", source="folder")
        assert [record[1:] for record in folder] == [record[1:] for record in expected]


def test_images_in_no_folder_have_no_class(tmp_path):
    (tmp_path / "a.tar").write_bytes(tar({"b.jpg": jpeg(1), "a.jpg": jpeg(2)}))
    manifest = prepare(tmp_path / "a.tar", tmp_path / "out")
    assert read(tmp_path / "out") == [("b.jpg", jpeg(1), None), ("a.jpg", jpeg(2), None)]
    assert manifest["classes"] == []


def test_truth_goes_by_the_names_in_a_tar_of_any_order(tmp_path):
    (tmp_path / "val.tar").write_bytes(tar(dict(reversed(val_images().items()))))
    (tmp_path / "devkit").write_bytes(devkit())
    images = label(find_images(str(tmp_path / "val.tar")), read_devkit(str(tmp_path / "devkit")))
    assert [images.classes[i] for i in images.labels] == [WNIDS[i] for i in reversed(TRUTH)]


def test_what_a_tar_holds_twice_counts_as_it_is_extracted(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for data in (jpeg(1), jpeg(2)):
            info = tarfile.TarInfo("a.jpg")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    prepare(tmp_path / "a.tar", tmp_path / "out")
    assert read(tmp_path / "out") == [("a.jpg", jpeg(2), None)]


def test_name_that_is_no_utf8(tmp_path):
    name = os.fsdecode(b"caf\xe9/a.jpg")
    (tmp_path / "a.tar").write_bytes(tar({name: jpeg(1)}))
    prepare(tmp_path / "a.tar", tmp_path / "out")
    assert read(tmp_path / "out")[0][:2] == (name, jpeg(1))


def broken_images() -> dict[str, bytes]:
    """Two good ones, and one, then a whole shard of two, that are bad."""
    bad = {"b.jpg": jpeg(1)[:-200], "c.png": b"\x89PNG no", "d.jpg": b""}
    return {"0.jpg": jpeg(1), **bad, "e.jpg": jpeg(2)}


def test_bad_image_is_named_and_finished_shards_are_of_use(tmp_path):
    (tmp_path / "a.tar").write_bytes(tar({"1.jpg": jpeg(3), "2.jpg": jpeg(4)} | broken_images()))
    with pytest.raises(DataError, match=r"a.tar: b.jpg: not a readable image \(.*truncated"):
        prepare(tmp_path / "a.tar", tmp_path / "out", records_per_shard=2)
    assert sorted(shards(tmp_path / "out")) == ["train-00000.array_record", "train.unfinished.json"]
    manifest = prepare(tmp_path / "a.tar", tmp_path / "out", records_per_shard=2, skip_bad=True)
    assert manifest["skipped"] == ["b.jpg", "c.png", "d.jpg"]
    assert [r[0] for r in read(tmp_path / "out")] == ["1.jpg", "2.jpg", "0.jpg", "e.jpg"]
    assert list(manifest["shards"].values()) == [2, 1, 1]


def test_skipped_images_are_logged_once_and_listed(tmp_path, run_module):
    (tmp_path / "a.tar").write_bytes(tar(broken_images()))
    arguments = (str(tmp_path / "a.tar"), "--split=val", f"--output={tmp_path}/out")
    _, err = run_module(PREPARE, *arguments, "--records_per_shard=1").communicate(timeout=60)
    assert "a.tar: b.jpg: not a " in err and "; replace it, or set --on_bad_record=skip\n" in err
    _, err = run_module(PREPARE, *arguments, "--records_per_shard=2").communicate(timeout=60)
    assert "now it is 2; name another --output, or remove val*.json there to" in err
    process = run_module(PREPARE, *arguments, "--on_bad_record=skip", "--records_per_shard=1")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert err.count("Left out: ") == 3 and err.count("d.jpg: not a readable image (zero") == 1
    assert "2 images, no classes" in out and "3 left out, see val.json" in out
    assert [r[0] for r in read(tmp_path / "out", "val")] == ["0.jpg", "e.jpg"]


def test_images_that_are_all_bad(tmp_path):
    (tmp_path / "a.tar").write_bytes(tar({"a.jpg": b"x"}))
    with pytest.raises(DataError, match="a.tar: no image that can be decoded"):
        prepare(tmp_path / "a.tar", tmp_path / "out", skip_bad=True)


def test_another_input_or_setting_is_refused(tmp_path):
    (tmp_path / "a.tar").write_bytes(train_tar())
    shutil.copy(tmp_path / "a.tar", tmp_path / "b.tar")
    prepare(tmp_path / "a.tar", tmp_path / "out")
    with pytest.raises(OtherPlanError, match="train.json: .* input = 'a.tar', now it is 'b.tar"):
        prepare(tmp_path / "b.tar", tmp_path / "out")
    with pytest.raises(OtherPlanError, match="records_per_shard = 4, now it is 5"):
        prepare(tmp_path / "a.tar", tmp_path / "out", records_per_shard=5)
    (tmp_path / "out" / "val.json").write_text('{"images": []}')
    with pytest.raises(OtherPlanError, match="val.json: not written by epsilon_vae"):
        prepare(tmp_path / "a.tar", tmp_path / "out", split="val")


def test_too_small_a_disk_is_refused(tmp_path, monkeypatch):
    (tmp_path / "a.tar").write_bytes(train_tar())
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DataError, match=r"0.0 GiB are free, .* GiB of images .* another disk"):
        prepare(tmp_path / "a.tar", tmp_path / "out")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_disk_that_fills_is_one_line_and_finished_shards_stay(tmp_path):
    (tmp_path / "a.tar").write_bytes(train_tar())
    (tmp_path / "out").mkdir()
    shard = tmp_path / "out" / "train-00001.array_record"
    partial_path(shard, os.getpid()).symlink_to("/dev/full")
    with pytest.raises(OutputError, match="00001.array_record: cannot be written .*No space left"):
        prepare(tmp_path / "a.tar", tmp_path / "out")
    assert sorted(shards(tmp_path / "out")) == ["train-00000.array_record", "train.unfinished.json"]
    prepare(tmp_path / "a.tar", tmp_path / "out")
    prepare(tmp_path / "a.tar", tmp_path / "whole")
    assert shards(tmp_path / "out") == shards(tmp_path / "whole")


def cut_inside() -> bytes:
    whole = tar({"a/1.tar": tar({"x.jpg": jpeg(1)})[:700]})
    return tar({"0.jpg": jpeg(0)})[:1536] + whole


INPUTS = [
    ("text", b"<html>Sign in</html>" * 99, "neither a folder nor a tar"),
    ("zero bytes", b"", "neither a folder nor a tar"),
    ("empty tar", tar({}), "no image in it"),
    ("no image", tar({"README": b"x"}), "no image in it"),
    ("cut in an image", train_tar()[:3000], "unexpected end of data.*; download it again"),
    ("cut in a header", tar({"a.jpg": b"x" * 512, "b.jpg": b"x"})[:1100], "damaged or cut off"),
    ("cut after an image", tar({"a.jpg": b"x" * 512})[:1024], "damaged or cut off"),
    ("damaged header", tar({"a.jpg": b"x"})[:1024] + b"x" * 9000, "damaged or cut off"),
    ("cut gzip", gzip.compress(train_tar())[:-3000], "damaged or cut off"),
    ("cut inner tar", cut_inside(), "a/1.tar: damaged or cut off"),
]


@pytest.mark.parametrize(("data", "words"), [i[1:] for i in INPUTS], ids=[i[0] for i in INPUTS])
def test_unusable_input_is_named(tmp_path, data, words):
    (tmp_path / "in.tar").write_bytes(data)
    with pytest.raises(DataError, match=f"in.tar: .*{words}"):
        find_images(str(tmp_path / "in.tar"))


def test_missing_and_empty_inputs_are_named(tmp_path):
    with pytest.raises(DataError, match="nowhere: no such file or folder"):
        find_images(str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="no image in it"):
        find_images(str(tmp_path))


def test_wrong_devkits_are_named(tmp_path):
    path = tmp_path / "devkit.tar.gz"
    (tmp_path / "val.tar").write_bytes(tar(val_images()))
    for data in (b"no tar", train_tar(), devkit()[:-100], devkit((1, 5))):
        path.write_bytes(data)
        with pytest.raises(DataError, match="not ILSVRC2012_devkit_t12.tar.gz .*again"):
            read_devkit(str(path))
    path.write_bytes(devkit(TRUTH[:-1]))
    with pytest.raises(DataError, match="labels 5 images, but .*val.tar has 6"):
        label(find_images(str(tmp_path / "val.tar")), read_devkit(str(path)))
    (tmp_path / "train.tar").write_bytes(train_tar())
    with pytest.raises(DataError, match="have classes, their folders; leave the devkit out"):
        label(find_images(str(tmp_path / "train.tar")), read_devkit(str(path)))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere", "--output={}/out", "--split=val"), "nowhere: no such file or folder"),
        (("README.md", "--output={}/out", "--split=val"), "README.md: neither a folder nor a tar"),
        (("docs", "--output=README.md", "--split=val"), "--output=README.md: cannot be made"),
        (("docs", "--output=gs://bucket/x", "--split=val"), "gcloud storage cp -r it"),
        (("docs", "--split=val"), "--output is missing"),
        (("docs", "--output={}/out", "--split=test"), "should be one of <train|val>"),
        (("--output={}/out", "--split=val"), "name a folder, tars or parquet files"),
    ],
)
def test_refusal_is_one_line_and_code_2(run_module, tmp_path, arguments, words):
    process = run_module(PREPARE, *(argument.format(tmp_path) for argument in arguments))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2, err
    assert len(err.splitlines()) == 1 and err.startswith("epsilon_vae: ") and words in err
