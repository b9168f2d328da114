"""A run's lines on the console, none longer than 100 columns where names are not; and its bar."""

import shlex
import sys
from collections.abc import Container

import ml_collections
import numpy as np
from etils import epath
from tqdm import tqdm

from epsilon_vae.config import differences, is_latent_diffusion
from epsilon_vae.metrics.labels import label
from epsilon_vae.names import printable
from epsilon_vae.run.metrics_csv import best_score, read_scores

# The losses of a step's line: what they are called there, and what they are.
LOSSES = {
    "flow": ("flow", "error of what the network predicts, the noise or the velocity"),
    "reconstruction": ("error", "of the decoded image"),
    "lpips": ("lpips", "perceptual distance of the image and its estimate"),
    "adv": ("adv", "the GAN's loss of the decoder: low where estimates pass for images"),
    "disc": ("disc", "the discriminator's own loss: low where it tells them apart"),
}
SPEEDS = {
    "wait": "share of the time that steps wait for data",
    "goodput": "share of all time that is spent in steps, not in compiling, evaluating, saving",
}


class Console:
    """A progress bar on a terminal, plain lines elsewhere."""

    def __init__(self, start_step: int, num_steps: int):
        self._step, self._num_steps = start_step, num_steps
        self._bar: tqdm | None = None

    def advance(self) -> None:
        """One step done; the bar begins with the first, once that is compiled."""
        if self._bar is None:
            tqdm.monitor_interval = 0  # it would draw the bar again while nothing happens
            self._bar = tqdm(
                total=self._num_steps,
                initial=self._step,
                dynamic_ncols=True,
                leave=False,
                disable=not sys.stderr.isatty(),
                # The time left is on the lines: the bar's own would count pauses.
                bar_format="{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} steps",
            )
        self._bar.update()

    def line(self, text: str) -> None:
        """Prints a line, above the bar if there is one."""
        tqdm.write(text)
        sys.stdout.flush()

    def close(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.close()


def duration(seconds: float) -> str:
    """'0:39', '12:05', '5h 12m', '3d 4h'."""
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if days:
        return f"{days:.0f}d {hours % 24:.0f}h"
    if hours:
        return f"{hours:.0f}h {minutes % 60:.0f}m"
    return f"{minutes:.0f}:{int(seconds) % 60:02}"


def opening_lines(
    config: ml_collections.ConfigDict,
    workdir: str,
    *,
    start_step: int,
    before: ml_collections.ConfigDict | None,
) -> str:
    """Where the run starts and what has changed, and what the words of its lines mean.

    Args:
      config: of the run.
      workdir: of the run.
      start_step: that it is resumed from, or 0.
      before: the config of the checkpoint that it is resumed from, or None.
    """
    if before is None:
        lines = [f"Training from the start to step {config.num_steps}, into {workdir}"]
    else:
        lines = [f"Resuming from step {start_step} of {config.num_steps}, in {workdir}"]
        lines += [f"config changed since: {change}" for change in differences(before, config)]
    return "\n  ".join(lines)


def legend(columns: Container[str]) -> str:
    """What the words of a step's line mean, of those that are among the columns of metrics.csv."""
    words = dict(LOSSES[name] for name in LOSSES if f"loss/{name}" in columns) | SPEEDS
    return "\n".join(f"  {name:<8} {text}" for name, text in words.items())


def step_line(step: int, num_steps: int, metrics: dict[str, float], seconds_left: float) -> str:
    """The numbers since the last such line, and the time left without pauses.

    Args:
      step: that is done.
      num_steps: of the run.
      metrics: by name, means since the last line.
      seconds_left: NaN where it is not known.
    """
    losses = "  ".join(
        f"{word} {_short(metrics[f'loss/{name}'])}"
        for name, (word, _) in LOSSES.items()
        if f"loss/{name}" in metrics
    )
    is_long = num_steps >= 10**5 and num_steps % 10**4 == 0
    total = f"{num_steps / 10**6:g}M" if is_long else num_steps
    line = f"step {step}/{total}  {losses}"
    if np.isnan(seconds_left):  # after the first step, which was compiled
        return line
    rate = metrics["images_per_second"]
    speed = f"{rate:.1f}" if rate < 100 else f"{rate:.0f}"
    wait = f"wait {metrics['wait_percent']:.0f} %"
    return f"{line}  {speed} img/s  {wait}  ETA {duration(seconds_left)}"


def _short(loss: float) -> str:
    """In six characters, as far as it goes."""
    return f"{loss:.3f}" if abs(loss) < 10 else f"{loss:.4g}"


def scores_line(config: ml_collections.ConfigDict, step: int, scores: dict[str, float]) -> str:
    """The scores of an evaluation."""
    what = "photos" if config.data.source == "photos" else "images"
    shown = (name for name in scores if name != "ssim_range2")  # which is SSIM of another range
    words = "  ".join(f"{label(name)} {scores[name]:.4g}" for name in shown)
    return f"step {step}: held-out {what}, NFE {config.flow.nfe}: {words}"


def closing_lines(
    config: ml_collections.ConfigDict, workdir: str, *, step: int, kept: int | None
) -> str:
    """The last and the best scores, where everything lies, and what to do with it.

    Args:
      config: of the run.
      workdir: of the run.
      step: the last.
      kept: the step whose checkpoint is kept as the best, if any.
    """
    folder, lines, by = epath.Path(workdir), [], config.checkpoint.keep_best
    for metric, measured in read_scores(folder / "metrics.csv").items():
        at, best = best_score(metric, measured)
        lines.append(f"  {label(metric):<14} {measured[-1][1]:.4g}, best {best:.4g} at step {at}")
    if (folder / "samples").is_dir():
        lines.append(f"  samples        {workdir}/samples")
    steps = f"{step}, the newest" + (f"; {kept}, the best by {by}" if kept else "")
    lines.append(f"  checkpoints    {workdir}/checkpoints: {steps}")
    run = f"--workdir={shlex.quote(workdir)}"
    output = f"--output={shlex.quote(f'{workdir}_out')}"
    if is_latent_diffusion(config):
        decoder = shlex.quote(config.autoencoder.workdir or "AUTOENCODER")
        commands = [f"generate {run} --autoencoder={decoder} {output}"]
    else:
        commands = [
            f"reconstruct {run} photo.jpg --output=out.png",
            f"evaluate {run} --protocol=local {output}",
        ]
    chosen = f" --checkpoint_step={kept}" if kept and kept != step else ""
    commands = [f"  python -m epsilon_vae.{command}{chosen}" for command in commands]
    return "\n".join(map(printable, [*lines, "Next:", *commands]))
