"""Damages a run's newest checkpoint in random ways, and has commands read it."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import safetensors.numpy

from tests.attack.commands import Outcome, RunModule, run_watched
from tests.attack.mutations import mutate_bytes
from tests.helpers import STEPS, flags
from tests.processes import finish

Command = Callable[[Path, Path], Sequence[str]]


def delete(path: Path, rng: np.random.Generator) -> None:
    """Removes a file."""
    path.unlink()


def empty(path: Path, rng: np.random.Generator) -> None:
    """Leaves a file of no bytes."""
    path.write_bytes(b"")


def become_folder(path: Path, rng: np.random.Generator) -> None:
    """Puts a folder where a file was."""
    path.unlink()
    path.mkdir()


def lose_folder(path: Path, rng: np.random.Generator) -> None:
    """Removes the folder that a file is in, or the file, if that is the whole checkpoint."""
    if path.parent.name.isdigit():
        path.unlink()
    else:
        shutil.rmtree(path.parent)


def change(path: Path, rng: np.random.Generator) -> None:
    """Changes bytes, as `mutate_bytes` does."""
    path.write_bytes(mutate_bytes(path.read_bytes(), rng))


DAMAGES = (change, change, change, delete, empty, become_folder, lose_folder)


def commands(images: Path) -> dict[str, Command]:
    """Each reader of checkpoints: (workdir, a path for its output) → module and arguments.

    Those that write a file have it at the output's path.
    """
    picture = next(images.rglob("*.png"))

    def reconstruct(workdir: Path, out: Path) -> tuple:
        to = f"--output={out.with_suffix('.png')}"
        return "epsilon_vae.reconstruct", f"--workdir={workdir}", picture, to

    def convert(workdir: Path, out: Path) -> tuple:
        return "epsilon_vae.convert", f"--workdir={workdir}", f"--to={out}.safetensors"

    def encode(workdir: Path, out: Path) -> tuple:
        data = (f"--data={images}", f"--output={out}")
        return "epsilon_vae.encode", f"--workdir={workdir}", *data

    def evaluate(workdir: Path, out: Path) -> tuple:
        protocol = "--protocol=local,features=alexnet,num_images=2"
        steps = ("--steps=1", f"--output={out}")
        return "epsilon_vae.evaluate", f"--workdir={workdir}", protocol, *steps

    def init_from(workdir: Path, out: Path) -> tuple:
        first = (f"--config.init_from={workdir}", "--config.num_steps=1")
        return "epsilon_vae.main", *flags(out, *first)

    def resume(workdir: Path, out: Path) -> tuple:
        return "epsilon_vae.main", *flags(workdir)

    readers = (reconstruct, convert, encode, evaluate, init_from, resume)
    return {reader.__name__: reader for reader in readers}


def attack(
    run_module: RunModule, run: Path, images: Path, folder: Path, *, rounds: int, seed: int
) -> Iterator[tuple[str, str, Outcome]]:
    """Damages the newest checkpoint `rounds` times, each time read by the next command.

    Yields the reader, the damage, and the outcome. It is a fault if a command takes neither this
    checkpoint as it was nor, with a warning, the one before.

    Args:
      run_module: starts a command.
      run: a finished run with two checkpoints; not written to.
      images: a folder of images.
      folder: for copies and outputs; what is in it is removed.
      rounds: how many times.
      seed: of all choices.
    """
    readers = commands(images)
    expected = _expected(run_module, run, readers, folder)
    for round_ in range(rounds):
        rng = np.random.default_rng([seed, round_])
        name = list(readers)[round_ % len(readers)]
        shutil.rmtree(folder, ignore_errors=True)
        workdir = folder / "run"
        shutil.copytree(run / "checkpoints", workdir / "checkpoints")
        step = workdir / "checkpoints" / str(STEPS)
        files = sorted(path for path in step.rglob("*") if path.is_file())
        file = files[rng.integers(len(files))]
        damage = DAMAGES[rng.integers(len(DAMAGES))]
        damage(file, rng)
        module, *arguments = readers[name](workdir, folder / "out")
        outcome = run_watched(run_module, module, *map(str, arguments))
        yield (
            name,
            f"{damage.__name__} {file.relative_to(step)}",
            _judged(outcome, folder, expected.get(name)),
        )


def _expected(
    run_module: RunModule, run: Path, readers: dict[str, Command], folder: Path
) -> dict[str, tuple[dict, dict]]:
    """What `reconstruct` and `convert` write of the newest checkpoint, and of the one before."""
    found = {}
    for name in ("reconstruct", "convert"):
        written = []
        for step in (STEPS, STEPS - 2):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            module, *arguments = readers[name](run, folder / "out")
            finish(run_module(module, *map(str, arguments), f"--checkpoint_step={step}"))
            written.append(_written(folder))
        found[name] = tuple(written)
    return found


def _written(folder: Path) -> dict[str, bytes]:
    """The arrays of a file of weights, whose header's order is chance, or a picture."""
    (file,) = folder.glob("out.*")
    data = file.read_bytes()
    if file.suffix != ".safetensors":
        return {file.name: data}
    return {name: array.tobytes() for name, array in safetensors.numpy.load(data).items()}


def _judged(outcome: Outcome, folder: Path, expected: tuple[dict, dict] | None) -> Outcome:
    """The outcome, with a fault where a wrong checkpoint was taken in silence."""
    if outcome.fault or outcome.code or expected is None:
        return outcome
    is_warned = "is damaged and left out, for" in outcome.err
    if _written(folder) != expected[is_warned]:
        return outcome.with_fault("another result than that of the checkpoint")
    return outcome
