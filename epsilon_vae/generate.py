"""Generates images: `python -m epsilon_vae.generate --workdir=DIT --autoencoder=DIR --output=DIR2`.

Image i is of class `classes[i mod len(classes)]`, and a function of (seed, i) alone. Writes PNGs,
or with --format=npz one file as ADM's evaluator reads it; a grid of the first; and generation.json,
which says what made them. Stopped or killed, it resumes when the same command is run again. On
several processes, each runs the command. Exit codes: 0 done; 1 stopped, or another process was
lost; 2 the command cannot run, or had to end, as on a full disk.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from absl import app, flags, logging
from etils import epy

from epsilon_vae import command_line
from epsilon_vae.command_line import UsageError, exit_codes, parse_flags
from epsilon_vae.config import check_guidance, flatten
from epsilon_vae.keys import DDPM_STEPS
from epsilon_vae.names import printable

with epy.lazy_imports():  # of what takes seconds, and is not needed for flags
    import jax

    from epsilon_vae import resumable
    from epsilon_vae.diffusion import guidance
    from epsilon_vae.inference import generation, latent_diffusion, restoring
    from epsilon_vae.parallel import batch, hosts, mesh

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a latent diffusion model's run.")
STEP = flags.DEFINE_integer(
    "checkpoint_step", None, "Of the latent diffusion model; the newest by default."
)
AUTOENCODER = flags.DEFINE_string(
    "autoencoder", None, "Folder of the autoencoder's run; by default the config's."
)
AUTOENCODER_STEP = flags.DEFINE_integer(
    "autoencoder_step", None, "Of the autoencoder's checkpoint; the newest by default."
)
OUTPUT = flags.DEFINE_string("output", None, "Folder to write.")
CLASSES = flags.DEFINE_string(
    "classes", "all", "In turn: all, or names or numbers, as 207,360 or tench,goldfish."
)
NUM = flags.DEFINE_integer("num", 64, "Images; 50,000 for an FID.", lower_bound=1)
GUIDANCE = flags.DEFINE_float("guidance", 1.0, "Classifier-free; 1 is none.", lower_bound=0)
INTERVAL = flags.DEFINE_list(
    "guidance_interval", ["0", "1"], "Times t that are guided, from 0, data, to 1, noise."
)
STEPS = flags.DEFINE_integer(
    "steps",
    None,
    "Of the latent diffusion model (NFE without guidance); the config's by default.",
    1,
)
DECODER_STEPS = flags.DEFINE_integer(
    "decoder_steps", None, "Of the decoder (NFE); its run's by default.", 1
)
SEED = flags.DEFINE_integer("seed", 0, "Seed of all noise.", lower_bound=0)
FORMAT = flags.DEFINE_enum("format", "png", ["png", "npz"], "How images are written.")
IMAGES_PER_PART = flags.DEFINE_integer(
    "images_per_part", 256, "After a kill, an unfinished part is drawn anew.", lower_bound=1
)
HOSTS = command_line.HostFlags()


def check_flags() -> None:
    """Raises `UsageError` for flags that are missing or do not fit."""
    if WORKDIR.value is None:
        raise UsageError("--workdir is missing: name the folder of a latent diffusion model's run")
    if OUTPUT.value is None:
        raise UsageError("--output is missing: name a folder for the images")
    if "://" in OUTPUT.value:
        raise UsageError(f"--output={OUTPUT.value}: not a folder of this machine; name one")
    _interval()
    command_line.check_folder(WORKDIR)


def _interval() -> tuple[float, float]:
    text = ",".join(INTERVAL.value)
    try:
        low, high = map(float, INTERVAL.value)
    except ValueError:
        raise UsageError(f"--guidance_interval={text}: expected two times, as 0.2,0.7") from None
    if not 0 <= low < high <= 1:
        raise UsageError(f"--guidance_interval={text}: expected 0 <= LOW < HIGH <= 1")
    return low, high


def main(argv: Sequence[str]) -> None:
    """Joins the other processes, if any, and generates."""
    del argv
    logging.set_verbosity(logging.WARNING)
    with exit_codes(OSError, hints={resumable.OtherPlanError: "name another --output"}):
        HOSTS.start()
        num_generated = _generate()
        if hosts.is_first():
            print(
                f"{printable(OUTPUT.value)}: {'done' if num_generated else 'was done already'}: "
                f"{NUM.value} images, {num_generated} generated now, and grid.png"
            )


def _generate() -> int:
    devices = mesh.make_mesh(devices=jax.local_devices())
    before = generation.existing_plan(OUTPUT.value) if hosts.is_first() else {}
    before = before.get("generator", {})
    preferred = before["step"] if before.get("workdir") == WORKDIR.value else None
    trained = latent_diffusion.restore_latent_diffusion(
        WORKDIR.value, STEP.value, mesh=devices, preferred=preferred
    )
    _check_sampling(trained)
    workdir = AUTOENCODER.value or trained.config.autoencoder.workdir
    if not workdir:
        raise UsageError("--autoencoder is missing: name the folder of the autoencoder's run")
    vae = restoring.restore(
        workdir,
        AUTOENCODER_STEP.value,
        mesh=devices,
        preferred=restoring.step_that_made(trained.metadata.provenance, workdir),
        group_size=batch.IMAGES_PER_DEVICE,
        tile=0,
    )
    plan = generation.plan_generation(
        trained,
        vae,
        workdir=WORKDIR.value,
        autoencoder_workdir=workdir,
        classes=_classes(trained),
        num_images=NUM.value,
        seed=SEED.value,
        nfe=STEPS.value or trained.config.flow.nfe,
        guidance=guidance.Guidance(GUIDANCE.value, _interval()),
        decoder_nfe=vae.nfe(DECODER_STEPS.value or vae.config.flow.nfe),
        file_format=FORMAT.value,
        images_per_part=IMAGES_PER_PART.value,
    )
    return generation.generate_images(trained, vae, plan=plan, output=OUTPUT.value)


def _check_sampling(trained: latent_diffusion.TrainedLatentDiffusion) -> None:
    """Raises `ConfigError` for guidance that cannot be, `UsageError` for too many steps."""
    flat = flatten(trained.config)
    check_guidance("--guidance", GUIDANCE.value, flat)
    if flat["flow.process"] == "ddpm" and (STEPS.value or 0) > DDPM_STEPS:
        raise UsageError(f"--steps={STEPS.value}: DDPM has {DDPM_STEPS}")


def _classes(trained: latent_diffusion.TrainedLatentDiffusion) -> list[int]:
    """Numbers of the classes that are asked for; none where the latent diffusion model has none.

    Raises:
      UsageError: there is no such class, or the latent diffusion model has none.
    """
    count, names = trained.config.model.latent_diffusion.num_classes, trained.metadata.classes
    if CLASSES.value == "all":
        return list(range(count))
    if not count:
        raise UsageError(
            f"--classes={CLASSES.value}: {WORKDIR.value} was trained without classes; leave it out"
        )
    found = []
    for name in CLASSES.value.split(","):
        if name in names:
            found.append(names.index(name))
        elif re.fullmatch(r"\d+", name) and int(name) < count:
            found.append(int(name))
        else:
            known = f", or names as {', '.join(names[:3])}" if names else ""
            raise UsageError(
                f"--classes: there is no class {name!r}; expected numbers from 0 to {count - 1}"
                f"{known}"
            )
    return found


if __name__ == "__main__":
    app.run(main, flags_parser=lambda argv: parse_flags(argv, check_flags))
