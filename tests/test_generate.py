"""A latent diffusion model trained on real latents, and its images, by the commands."""

import json
import os
import shutil
import signal
import time
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import epsilon_vae
from configs import dit_tiny
from epsilon_vae import checkpoint, checksums
from epsilon_vae.checkpoint import CheckpointError
from epsilon_vae.config import ConfigError
from epsilon_vae.data.decode import DataError
from epsilon_vae.data.named import open_data
from epsilon_vae.diffusion.guidance import Guidance
from epsilon_vae.inference.encoding import encode_data
from epsilon_vae.inference.latent_diffusion import TrainedLatentDiffusion, restore_latent_diffusion
from epsilon_vae.run import captions, loop
from epsilon_vae.run.batches import open_latents
from epsilon_vae.run.initialize import load_init_weights
from epsilon_vae.step_folders import find_step
from tests.helpers import assert_same_metrics, read_metrics, state_shapes
from tests.processes import finish, partial_path, start_together

MODULE = "epsilon_vae.generate"
STEPS = 6
GUIDANCE = 30.0  # of a model that has hardly learned: labels then change the images


@pytest.fixture(scope="module")
def latents(finished_run, images, tmp_path_factory) -> Path:
    """Of the images of two classes, by the finished run's encoder: 8 x 8 x 8."""
    folder, workdir = tmp_path_factory.mktemp("latents"), str(finished_run)
    data, autoencoder = open_data(str(images), "train"), epsilon_vae.restore(workdir)
    encode_data(
        autoencoder,
        workdir,
        data=data,
        output=str(folder),
        resolution=32,
        crop="center_crop_adm",
        dtype="float16",
        records_per_shard=64,
    )
    return folder


def overrides(latents: Path, finished_run, num_steps: int = STEPS) -> dict[str, object]:
    return {
        "data.path": str(latents),
        "data.resolution": 32,
        "autoencoder.workdir": str(finished_run),
        "model.latent_diffusion.size": "micro",
        "model.latent_diffusion.num_classes": 2,
        "loss.label_dropout": 0.1,
        "batch_size": 8,
        "flow.nfe": 3,
        "optim.warmup_steps": 0,
        "optim.lr": 3e-2,
        "optim.ema_decay": 0.5,
        "num_steps": num_steps,
        "checkpoint.every_steps": 4,
        "eval.every_steps": 100,
        "eval.num_images": 5,
        "eval.guidance": 2.0,
        "log.every_steps": 1,
    }


def config_of(changes: dict[str, object]):
    config = dit_tiny.get_config()
    config.update_from_flattened_dict(changes)
    return config


def as_flags(changes: dict[str, object]) -> list[str]:
    return [f"--config.{key}={value}" for key, value in changes.items()]


@pytest.fixture(scope="module")
def run(latents, finished_run, tmp_path_factory) -> Path:
    """Workdir of a latent diffusion model, trained for some steps in one go."""
    workdir = tmp_path_factory.mktemp("generator")
    assert loop.train(config_of(overrides(latents, finished_run)), str(workdir)) is None
    return workdir


@pytest.fixture(scope="module")
def trained(run) -> TrainedLatentDiffusion:
    return restore_latent_diffusion(str(run))


def test_run_has_what_runs_have(run, trained):
    picture = np.asarray(Image.open(run / "samples" / "00000006.png"))
    cells = 5 * 32 + captions.GAP  # five of 32 px, in threes, five times as large
    assert picture.shape[1] == 3 * cells - captions.GAP + 2 * captions.MARGIN
    last = picture[captions.LINE + 160 + captions.LINE :, captions.MARGIN + 2 * cells :]
    assert picture[:, :cells].std() > 0 and (last == 255).all()
    rows = read_metrics(run)
    assert len(rows) == STEPS and 0 < float(rows[-1]["loss/flow"]) < 5
    assert float(rows[-1]["grad_norm/generator"]) > 0 and "grad_norm/discriminator" not in rows[0]
    assert trained.metadata.classes == ["cat", "dog"] and trained.step == STEPS


def test_resumed_on_a_mesh_it_is_the_run_in_one_go(
    run, latents, finished_run, run_module, tmp_path
):
    """Four steps here, two on eight devices: data 2, fsdp 2, rows of tokens 2."""
    shutil.copytree(run, tmp_path / "b")
    shutil.rmtree(tmp_path / "b" / "checkpoints" / str(STEPS))
    shapes = ("--config.mesh.fsdp=2", "--config.mesh.space=2")
    changes = as_flags(overrides(latents, finished_run))
    workdir = f"--workdir={tmp_path / 'b'}"
    config = "--config=configs/dit_tiny.py"
    process = run_module(
        "epsilon_vae.main", config, workdir, *changes, *shapes, JAX_NUM_CPU_DEVICES="8"
    )
    assert "Resuming from step 4" in finish(process)[0]
    assert_same_metrics(read_metrics(tmp_path / "b"), read_metrics(run))
    step, other = (find_step(str(w)) for w in (run, tmp_path / "b"))
    assert checkpoint.load_data(step) == checkpoint.load_data(other)


def test_damaged_checkpoint_is_left_out(run, tmp_path, caplog):
    shutil.copytree(run / "checkpoints", tmp_path / "checkpoints")
    file = tmp_path / "checkpoints" / str(STEPS) / "state" / "manifest.ocdbt"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert restore_latent_diffusion(str(tmp_path), preferred=STEPS).step == 4
    assert "Checkpoint 6 is damaged and left out, for 4: state/manifest.ocdbt" in caplog.text
    with pytest.raises(CheckpointError, match=r"steps that can be read: \[4\]"):
        restore_latent_diffusion(str(tmp_path), step=STEPS)


def test_run_whose_config_has_older_names_is_used_and_resumed(
    run, latents, finished_run, tmp_path, capsys
):
    shutil.copytree(run, tmp_path / "run")
    workdir = str(tmp_path / "run")
    saved = find_step(workdir) / "config" / "metadata"
    values = json.loads(saved.read_text())
    for group in ("init", "model"):
        values[group]["generator"] = values[group].pop("latent_diffusion")
    saved.write_text(json.dumps(values))
    checksums.write(saved.parent.parent)
    trained = restore_latent_diffusion(workdir)
    assert trained.config.model.latent_diffusion.size == "micro"
    config = config_of(overrides(latents, finished_run, STEPS + 1))
    loaded = load_init_weights(state_shapes(config), workdir, **config.init)
    assert loaded["params"].keys() == loaded["ema"].keys() == {"generator"}
    jax.tree.map(np.testing.assert_array_equal, loaded["params"]["generator"], trained.params)
    assert loop.train(config, workdir) is None
    out = capsys.readouterr().out
    assert "Resuming from step 6" in out and "config changed since: num_steps: 6 -> 7" in out
    assert "generator" not in out


def test_latents_of_another_encoder_do_not_go_on(run, latents, finished_run, tmp_path):
    copy = tmp_path / "latents"
    shutil.copytree(latents, copy)
    index = json.loads((copy / "latents.json").read_text())
    index["checkpoint"] |= {"encoder_sha256": "0" * 64}
    (copy / "latents.json").write_text(json.dumps(index))
    shutil.copytree(run, tmp_path / "run")
    changes = overrides(copy, finished_run, STEPS + 1)
    with pytest.raises(DataError, match="this decoder's encoder is another"):
        loop.train(config_of(changes), str(tmp_path / "run"))
    with pytest.raises(
        DataError, match=r"latents of .*, but this decoder's encoder is another \(0"
    ):
        loop.train(config_of(changes | {"autoencoder.workdir": ""}), str(tmp_path / "run"))


def test_latents_of_another_shape_are_refused(latents, finished_run, tmp_path):
    wrong = {"data.resolution": (64, "latents of 8x8x8, where .* make 16x16x8")}
    wrong["model.latent_diffusion.num_classes"] = (3, "num_classes = 3: .* has 2 classes")
    for key, (value, words) in wrong.items():
        with pytest.raises(ConfigError, match=words):
            changes = overrides(latents, finished_run) | {key: value}
            open_latents(config_of(changes), np.arange(8))


def test_images_encoded_as_they_come_are_latents_of_their_crops(finished_run, tmp_path):
    """Embedded photos; the same statistics of mean and deviation are restored."""
    changes = overrides(Path(), finished_run) | {
        "data.source": "photos",
        "data.path": "",
        "data.crop": "random",
        "model.latent_diffusion.num_classes": 0,
        "eval.guidance": 1.0,
    }
    config = config_of(changes)
    batches = open_latents(config, np.arange(8))
    batch = next(batches)
    assert batch["latents"].shape == (8, 8, 8, 8) and batch["latents"].dtype == np.float32
    assert (batch["label"] == -1).all() and abs(batch["latents"].mean()) < 0.3
    assert 0.5 < batch["latents"].std() < 2
    state = batches.get_state()
    assert state["position"] == 8
    again = open_latents(config, np.arange(8))
    metadata = batches.metadata._replace(mean=[1.0] * 8, std=[2.0] * 8, classes=["gone"])
    again.set_state({"position": 0, "latents": metadata._asdict()})
    assert again.metadata == metadata._replace(classes=[])
    expected = batches.metadata.normalization.denormalize(batch["latents"])
    np.testing.assert_allclose(
        metadata.normalization.denormalize(next(again)["latents"]), expected, atol=1e-5
    )
    batches.close(), again.close()


def test_images_encoded_as_they_come_have_the_factors_of_their_autoencoder(finished_run, tmp_path):
    shutil.copytree(finished_run / "checkpoints", tmp_path / "run" / "checkpoints")
    saved = find_step(str(tmp_path / "run")) / "config" / "metadata"
    values = json.loads(saved.read_text())
    values["model"]["bottleneck"] |= {"scaling_factor": 2.0, "shift_factor": 0.25}
    saved.write_text(json.dumps(values))
    checksums.write(saved.parent.parent)
    changes = overrides(Path(), tmp_path / "run") | {
        "data.source": "photos",
        "data.path": "",
        "model.latent_diffusion.num_classes": 0,
        "eval.guidance": 1.0,
    }
    batches = open_latents(config_of(changes), np.arange(8))
    assert (batches.metadata.mean, batches.metadata.std) == ([0.25] * 8, [0.5] * 8)
    batches.close()


def test_ddpm_with_a_variance_on_images_encoded_as_they_come(images, finished_run, tmp_path):
    """Two classes, guided; stopped and resumed."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train").symlink_to(images)
    changes = overrides(tmp_path / "data", finished_run, 1) | {
        "data.source": "folder",
        "data.crop": "random",
        "flow.process": "ddpm",
        "flow.time_sampling": "whole_steps",
        "flow.spacing": "respaced",
        "model.latent_diffusion.learned_sigma": True,
    }
    workdir = str(tmp_path / "run")
    for num_steps in (1, 2):
        assert loop.train(config_of(changes | {"num_steps": num_steps}), workdir) is None
    rows = read_metrics(tmp_path / "run")
    assert [row["step"] for row in rows] == ["1", "2"]
    assert 0.5 < float(rows[0]["loss/flow"]) < 1.5  # the noise's square, at first
    assert Image.open(tmp_path / "run" / "samples" / "00000002.png").size == (504, 394)
    trained = restore_latent_diffusion(workdir)
    assert trained.metadata.classes == ["cat", "dog"] and trained.step == 2
    assert trained.model.process.variance == "learned"


def test_a_sample_is_of_seed_number_and_label_alone(trained):
    sampler = trained.sampler(2, Guidance(3.0))
    numbers = np.arange(20)
    all_of_them = sampler(trained.params, numbers, labels=numbers % 2, seed=5)
    some = np.array([17, 3])
    np.testing.assert_array_equal(
        sampler(trained.params, some, labels=some % 2, seed=5), all_of_them[some]
    )
    assert (
        np.abs(sampler(trained.params, some, labels=some % 2, seed=6) - all_of_them[some]).min() > 0
    )
    other = sampler(trained.params, some, labels=1 - some % 2, seed=5)
    assert np.abs(other - all_of_them[some]).max() > 0
    # Latents are given in the decoder's scale.
    assert np.allclose(
        all_of_them.mean((0, 1, 2)), trained.metadata.mean, atol=np.max(trained.metadata.std)
    )


@pytest.fixture(scope="module")
def arguments(run) -> list[str]:
    """Twenty images, in five parts."""
    flags = ("--num=20", "--images_per_part=4", "--steps=2", "--seed=3", f"--guidance={GUIDANCE}")
    return [f"--workdir={run}", *flags]


@pytest.fixture(scope="module")
def generated(run_module, arguments, tmp_path_factory) -> Path:
    """The folder of images generated in one go on one device."""
    output = tmp_path_factory.mktemp("generated")
    out, _ = finish(run_module(MODULE, *arguments, f"--output={output}"))
    assert f"{output}: done: 20 images, 20 generated now, and grid.png" in out
    return output


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*.png"))}


def test_images_are_those_of_the_sampler_and_the_decoder(generated, trained, finished_run):
    numbers = np.arange(20)
    sampler = trained.sampler(2, Guidance(GUIDANCE))
    vae = epsilon_vae.restore(str(finished_run))

    def draw(labels: np.ndarray) -> np.ndarray:
        images = vae.decode(
            sampler(trained.params, numbers, labels=labels, seed=3), steps=3, seed=3
        )
        return np.clip(np.rint((images + 1) * 127.5), 0, 255)

    expected = draw(numbers % 2)
    # So that a wrong label would be seen.
    differences = np.abs(draw(1 - numbers % 2) - expected).max((1, 2, 3))
    assert differences.min() > 3, differences
    found = sorted((generated / "images").rglob("*.png"))
    assert [path.stem for path in found] == [f"{i:08d}" for i in numbers]
    pictures = np.stack([np.asarray(Image.open(path)) for path in found])
    # Sixteen are decoded together, which rounds some pixels to the other side.
    assert np.abs(pictures - expected).max() <= 1 and np.mean(pictures != expected) < 1e-3
    grid = np.asarray(Image.open(generated / "grid.png"))
    np.testing.assert_array_equal(grid[32:64, 64:96], pictures[5 + 2])  # the second row has 5
    plan = json.loads((generated / "generation.json").read_text())
    assert (plan["classes"], plan["nfe"], plan["decoder_nfe"]) == ([0, 1], 2, 3)
    assert plan["generator"]["step"] == STEPS and {"jax", "git_commit"} <= plan["versions"].keys()


def test_killed_it_goes_on_on_two_devices_to_the_same_bytes(
    generated, run_module, arguments, tmp_path
):
    process = run_module(MODULE, *arguments, f"--output={tmp_path}")
    first = tmp_path / "images" / "part-00000"
    while not first.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    num_done = 4 * len(list((tmp_path / "images").glob("part-?????")))
    assert num_done < 20
    before = tmp_path / "images" / "part-00009.unfinished"  # as earlier versions called it
    before.mkdir()
    (before / "00000036.png").touch()
    again = run_module(MODULE, *arguments, f"--output={tmp_path}", JAX_NUM_CPU_DEVICES="2")
    out, _ = finish(again)
    assert f"{20 - num_done} generated now" in out
    assert files(tmp_path) == files(generated) and not before.exists()


def test_two_processes_write_what_one_does(generated, run_module, arguments, tmp_path):
    output = f"--output={tmp_path}"
    outs = [finish(p)[0] for p in start_together(run_module, *arguments, output, module=MODULE)]
    assert "done: 20 images, 20 generated now" in outs[0] and "done" not in outs[1]
    assert files(tmp_path) == files(generated)


def test_one_npz_for_adms_evaluator_after_a_full_disk(generated, run_module, arguments, tmp_path):
    plan = json.loads((generated / "generation.json").read_text()) | {"format": "npz"}
    (tmp_path / "generation.json").write_text(json.dumps(plan))
    shutil.copytree(generated / "images", tmp_path / "images")
    command = (*arguments, "--format=npz", f"--output={tmp_path}")
    process = run_module(MODULE, *command)
    # The kernel's own ENOSPC.
    partial_path(tmp_path / "images.npz", process.pid).symlink_to("/dev/full")
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out) == (2, "")
    [line] = err.strip().splitlines()
    assert "images.npz: cannot be written (No space left" in line and "run the same" in line
    assert files(tmp_path / "images") == files(generated / "images")
    finish(run_module(MODULE, *command))
    assert not (tmp_path / "images").exists()
    with zipfile.ZipFile(tmp_path / "images.npz") as archive:
        assert archive.namelist() == ["arr_0.npy"]
    images = np.load(tmp_path / "images.npz")["arr_0"]
    found = sorted((generated / "images").rglob("*.png"))
    np.testing.assert_array_equal(images, np.stack([Image.open(path) for path in found]))
    assert "was done already" in finish(run_module(MODULE, *command))[0]


def test_bad_input_is_one_line(
    generated, run_module, arguments, finished_run, latents, run, tmp_path
):
    output = f"--output={tmp_path}/x"
    commands = {
        "there is no class 'fish'; expected numbers from 0 to 1, or names as cat, dog": (
            *arguments,
            output,
            "--classes=cat,fish",
        ),
        "there is no class '2'": (*arguments, output, "--classes=2"),
        "but this decoder's encoder is another": (*arguments, output, "--autoencoder_step=4"),
        "is of an autoencoder; name one of a latent": (f"--workdir={finished_run}", output),
        "was started with seed = 3, now it is 4; name another --output": (
            *arguments,
            f"--output={generated}",
            "--seed=4",
        ),
        "no generation.json": (*arguments, f"--output={latents}"),
        "expected 0 <= LOW < HIGH <= 1": (*arguments, output, "--guidance_interval=0.5,0.2"),
    }
    processes = {words: run_module(MODULE, *command) for words, command in commands.items()}
    picture = str(next((generated / "images").rglob("*.png")))
    command = (f"--workdir={run}", picture, output)
    processes["is of a latent diffusion model; name one"] = run_module(
        "epsilon_vae.reconstruct", *command
    )
    for words, process in processes.items():
        out, err = process.communicate(timeout=300)
        assert (process.returncode, out) == (2, ""), (words, err)
        [line] = err.strip().splitlines()
        assert line.startswith("epsilon_vae: ") and words in line, line
    assert not (tmp_path / "x").exists()
    assert len(files(generated)) == 21
