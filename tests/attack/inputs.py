"""Damages small inputs of all kinds, and gives them to the commands that read them."""

import dataclasses
import io
import json
import shutil
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image

from epsilon_vae import restore
from tests.attack import mutations
from tests.attack.commands import Outcome, RunModule, run_watched
from tests.helpers import FLOW_ALONE, STEPS, flags
from tests.processes import finish


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """A kind of input, and a command that reads it.

    Attributes:
      name: of the kind.
      source: a good input, a file or a folder.
      pattern: the files in it that are damaged.
      mutate: how; files of JSON as such.
      command: (damaged copy, a path for outputs) → module and arguments.
    """

    name: str
    source: Path
    pattern: str
    mutate: mutations.Mutator = mutations.mutate_bytes
    command: Callable[[Path, Path], Sequence[str]]


def make_targets(run_module: RunModule, folder: Path, *, run: Path, images: Path) -> list[Target]:
    """Makes a good input of each kind.

    Args:
      run_module: starts a command.
      folder: for the inputs.
      run: a finished run of `tests/micro.py`; not written to.
      images: a folder of images.
    """
    makers = (_images, _tars, _parquet, _records, _latents, _weights, _samples, _run_files)
    paths = (folder, run, images)
    return [target for make in makers for target in make(run_module, *paths)]


def attack(
    run_module: RunModule, targets: Sequence[Target], folder: Path, *, rounds: int, seed: int
) -> Iterator[tuple[Target, str, Outcome]]:
    """Damages one file of one target after the other, `rounds` in all.

    Yields the target, what was damaged, and the outcome.

    Args:
      run_module: starts a command.
      targets: of `make_targets`.
      folder: for damaged copies and outputs; what is in it is removed.
      rounds: how many files are damaged.
      seed: of all choices.
    """
    for round_ in range(rounds):
        rng = np.random.default_rng([seed, round_])
        target = targets[round_ % len(targets)]
        shutil.rmtree(folder, ignore_errors=True)
        copy = folder / target.source.name
        folder.mkdir(parents=True)
        if target.source.is_dir():
            shutil.copytree(target.source, copy)
        else:
            shutil.copy(target.source, copy)
        files = sorted(copy.rglob(target.pattern)) if copy.is_dir() else [copy]
        file = files[rng.integers(len(files))]
        mutate = mutations.mutate_json if file.suffix == ".json" else target.mutate
        file.write_bytes(mutate(file.read_bytes(), rng))
        module, *arguments = target.command(copy, folder / "out")
        yield target, file.name, run_watched(run_module, module, *map(str, arguments))


def _prepare(source: Path, out: Path) -> tuple[str, ...]:
    return ("epsilon_vae.data.prepare", str(source), f"--output={out}", "--split=train")


def _images(run_module, folder: Path, run: Path, images: Path) -> list[Target]:
    picture = Image.open(next(images.rglob("*.png"))).convert("RGB")
    targets = []
    for kind in ("png", "jpeg", "webp", "bmp", "gif", "tiff"):
        source = folder / kind
        source.mkdir()
        picture.save(source / f"image.{kind}")
        picture.save(source / "other.png")
        targets.append(Target(name=kind, source=source, pattern=f"image.{kind}", command=_prepare))
    stream = mutations.mutate_png
    targets.append(dataclasses.replace(targets[0], name="png's pixels", mutate=stream))
    return targets


def _tars(run_module, folder: Path, run: Path, images: Path) -> list[Target]:
    source = folder / "images.tar"
    with tarfile.open(source, "w") as archive:
        for path in sorted(images.rglob("*.png"))[:4]:
            archive.add(path, arcname=str(path.relative_to(images)))
    packed = folder / "images.tar.gz"
    with tarfile.open(packed, "w:gz") as archive:
        data = next(images.rglob("*.png")).read_bytes()
        _add(archive, "cat/a.png", data)
    dataset = folder / "webdataset.tar"
    with tarfile.open(dataset, "w") as archive:
        for name in "abc":
            _add(archive, f"{name}.png", data)
            _add(archive, f"{name}.cls", b"1")
            _add(archive, f"{name}.json", b'{"wnid": "n01"}')

    def prepare_json(copy: Path, out: Path) -> tuple[str, ...]:
        return (*_prepare(copy, out), "--class_key=wnid")

    kinds = {"pattern": "*", "mutate": mutations.mutate_tar}
    return [
        Target(name="tar", source=source, command=_prepare, **kinds),
        Target(name="tar.gz", source=packed, pattern="*", command=_prepare),
        Target(name="WebDataset", source=dataset, command=_prepare, **kinds),
        Target(name="WebDataset's json", source=dataset, command=prepare_json, **kinds),
    ]


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def _parquet(run_module, folder: Path, run: Path, images: Path) -> list[Target]:
    source = folder / "train.parquet"
    paths = sorted(images.rglob("*.png"))[:6]
    rows = [{"bytes": path.read_bytes(), "path": path.name} for path in paths]
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["a", "b"]}}
    table = pyarrow.table({"image": rows, "label": [0, 1] * 3})
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    table = table.replace_schema_metadata(metadata)
    pyarrow.parquet.write_table(table, source, row_group_size=2)
    return [Target(name="parquet", source=source, pattern="*", command=_prepare)]


def _records(run_module, folder: Path, run: Path, images: Path) -> list[Target]:
    source = folder / "records"
    for split in ("train", "val"):
        module, *arguments, _ = _prepare(images, source)
        finish(run_module(module, *arguments, f"--split={split}"))

    def train(copy: Path, out: Path) -> tuple[str, ...]:
        data = ("--config.data.source=array_record", f"--config.data.path={copy}")
        return ("epsilon_vae.main", *flags(out, *FLOW_ALONE, *data, "--config.num_steps=1"))

    return [
        Target(name="records", source=source, pattern="*.array_record", command=train),
        Target(name="split file", source=source, pattern="train.json", command=train),
    ]


def _latents(run_module, folder: Path, run: Path, images: Path) -> list[Target]:
    source = folder / "latents"
    arguments = (f"--workdir={run}", f"--data={images}", f"--output={source}")
    finish(run_module("epsilon_vae.encode", *arguments))

    def train(copy: Path, out: Path) -> tuple[str, ...]:
        return (
            "epsilon_vae.main",
            "--config=configs/dit_tiny.py",
            f"--workdir={out}",
            f"--config.data.path={copy}",
            "--config.data.resolution=32",
            "--config.model.latent_diffusion.size=micro",
            "--config.batch_size=8",
            "--config.num_steps=1",
        )

    return [
        Target(name="latents", source=source, pattern="*.array_record", command=train),
        Target(name="latents.json", source=source, pattern="latents.json", command=train),
    ]


def _weights(run_module, folder: Path, run: Path, images: Path) -> list[Target]:
    source = folder / "weights.safetensors"
    finish(run_module("epsilon_vae.convert", f"--workdir={run}", f"--to={source}"))

    def convert(copy: Path, out: Path) -> tuple[str, ...]:
        return ("epsilon_vae.convert", f"--from={copy}", f"--workdir={out}")

    shared = folder / "shared"
    restore(str(run)).save_pretrained(str(shared))
    return [
        Target(name="weights", source=source, pattern="*", command=convert),
        Target(name="shared folder", source=shared, pattern="*.json", command=convert),
    ]


def _samples(run_module, folder: Path, run: Path, images: Path) -> list[Target]:
    source = folder / "samples.npz"
    arrays = [np.asarray(Image.open(path)) for path in sorted(images.rglob("*.png"))[:12]]
    np.savez_compressed(source, arr_0=np.stack(arrays))

    def evaluate(copy: Path, out: Path) -> tuple[str, ...]:
        protocol = "--protocol=local,features=alexnet"
        sets = (f"--samples={copy}", f"--reference={images}")
        return ("epsilon_vae.evaluate", *sets, protocol, f"--output={out}")

    return [Target(name="samples", source=source, pattern="*", command=evaluate)]


def _run_files(run_module, folder: Path, run: Path, images: Path) -> list[Target]:
    """What a run writes beside its checkpoints, as a power cut leaves it."""
    source = folder / "run"
    shutil.copytree(run, source, ignore=shutil.ignore_patterns("compilation_cache", "plugins"))

    def resume(copy: Path, out: Path) -> tuple[str, ...]:
        return ("epsilon_vae.main", *flags(copy), f"--config.num_steps={STEPS + 1}")

    names = ("metrics.csv", "heartbeat.json")
    return [Target(name=name, source=source, pattern=name, command=resume) for name in names]
