"""The training loop: restore, iterate, step, log, evaluate, save.

To resume, run the same command. Data order and randomness are functions of the step alone, so a run
that was killed and started again ends in the state of one that was not.
"""

import contextlib
import functools
import pathlib
import signal
import time

import jax
import ml_collections
import numpy as np

from epsilon_vae import builders
from epsilon_vae.autoencoder import Autoencoder
from epsilon_vae.checkpoint import Checkpointer, load_config, load_parts
from epsilon_vae.config import differences
from epsilon_vae.data.pipeline import evaluation_batches, training_batches
from epsilon_vae.data.sources import open_source
from epsilon_vae.evaluation.reconstruction import evaluate, grid, make_image_metrics
from epsilon_vae.parallel.mesh import batch_sharding, make_mesh, replicated
from epsilon_vae.parallel.sharding import infer_sharding
from epsilon_vae.pretrained import lpips
from epsilon_vae.training.logging import RunLog, write_run_files
from epsilon_vae.training.state import TrainState, init_state

LOSSES = ("flow", "lpips", "adv", "disc", "r1")
EVAL_METRICS = ("psnr", "ssim", "lpips")
SPEED_METRICS = ("images_per_second", "wait_percent")
GRID_IMAGES = 8
EVAL_BATCH_SIZE = 64


class NonFiniteError(FloatingPointError):
    """A loss or gradient is NaN or infinite; the message names the step and the term."""


def train(config: ml_collections.ConfigDict, workdir: str) -> bool:
    """Trains from the newest checkpoint in `workdir`, or from the start, to `config.num_steps`.

    Returns:
      True when done; False when stopped by SIGTERM or Ctrl-C, with everything saved.

    Raises:
      ConfigError, DataError, CheckpointError: before anything expensive starts.
      NonFiniteError: nothing of the bad step was saved.
    """
    pathlib.Path(workdir).mkdir(parents=True, exist_ok=True)
    if not jax.config.jax_compilation_cache_dir:  # the user's, from the environment
        cache = pathlib.Path(workdir).absolute() / "compilation_cache"
        jax.config.update("jax_compilation_cache_dir", str(cache))
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.space)
    with jax.set_mesh(mesh), StopSignal() as stop, contextlib.ExitStack() as to_close:
        # The parts.
        train_step = builders.train_step(config)
        frozen = jax.device_put(builders.frozen_weights(config), replicated(mesh))
        batches = training_batches(
            open_source(config.data.source, config.data.path, "train"),
            config.batch_size,
            config.data.resolution,
            config.seed,
            config.data.crop,
            config.data.flip,
            jax.process_index(),
            jax.process_count(),
        )
        evaluation = Evaluation(config)

        # The state: restored, or begun.
        checkpointer = Checkpointer(
            workdir, config.checkpoint.keep, config.checkpoint.permanent_every_steps
        )
        to_close.callback(checkpointer.close)  # a save under way ends, whatever ends the run
        make_state = functools.partial(
            init_state,
            objective=train_step.objective,
            optimizer=train_step.optimizer,
            discriminator_optimizer=train_step.discriminator_optimizer,
            image_size=config.data.resolution,
        )
        key = jax.random.key(config.seed)
        shapes = jax.eval_shape(make_state, key)
        shardings = infer_sharding(shapes, mesh)
        target = jax.tree.map(_with_sharding, shapes, shardings)
        restored = checkpointer.restore_newest(target)
        if restored is None:
            state, start_step = jax.jit(make_state, out_shardings=shardings)(key), 0
            if config.init_from:
                state = init_from(state, target, config.init_from)
        else:
            state, start_step = restored.state, restored.step
            batches.set_state(restored.data)

        # The step, compiled at its first call; metrics on every device, state where it was.
        step_fn = jax.jit(
            train_step,
            in_shardings=(shardings, replicated(mesh), batch_sharding(mesh)),
            out_shardings=(shardings, replicated(mesh)),
            donate_argnums=0,
        )
        images_shape = (config.batch_size, config.data.resolution, config.data.resolution, 3)
        images = jax.ShapeDtypeStruct(images_shape, np.float32)
        names = list(jax.eval_shape(train_step, shapes, frozen, images)[1])
        columns = [*names, *SPEED_METRICS, *(f"eval/{name}" for name in EVAL_METRICS)]
        write_run_files(workdir, config, state.params)
        log = RunLog(workdir, columns, start_step, config.num_steps)
        to_close.callback(log.close)
        log.console.line(_opening_line(config, restored, workdir))

        nfe = config.flow.nfe
        stopping = False
        clock = Clock(config.batch_size)
        window = MetricsWindow()
        for step in range(start_step + 1, config.num_steps + 1):
            with clock.waiting():
                images = jax.make_array_from_process_local_data(batch_sharding(mesh), next(batches))
            state, metrics = step_fn(state, frozen, images)
            window.add(step, metrics)
            log.console.advance()
            if step == start_step + 1:
                window.settle()
                clock.start()
                log.console.line(f"step {step}: compiled and done, {clock.since_launch():.1f} s in")

            stopping = stop.requested and step < config.num_steps
            last = step == config.num_steps or stopping
            if step % config.log.every_steps == 0 or last:
                means = window.means()
                means |= clock.read(step - start_step)
                log.scalars(step, means)
                log.console.line(_step_line(config, step, means, clock))
            if step % config.eval.every_steps == 0 or step == config.num_steps:
                with clock.paused():
                    window.settle()
                    scores, picture = evaluation(state.ema)
                    log.scalars(step, {f"eval/{name}": value for name, value in scores.items()})
                    log.picture(step, picture)
                    words = "  ".join(f"{name} {value:.4g}" for name, value in scores.items())
                    log.console.line(f"step {step}: held-out photos, NFE {nfe}: {words}")
            if step % config.checkpoint.every_steps == 0 or last:
                with clock.paused():
                    window.settle()  # Nothing non-finite is ever saved.
                    checkpointer.save(step, state, batches.get_state(), config)
            if stopping:
                break

        return not stopping


class Evaluation:
    """Scores and a picture of EMA parameters on the held-out photos."""

    def __init__(self, config: ml_collections.ConfigDict):
        self._config = config
        self._networks = builders.networks(config)
        self._process = builders.process(config)
        self._image_metrics = make_image_metrics(config.loss.lpips_net)
        self._lpips_params = jax.device_put(lpips.load(config.loss.lpips_net))
        source = open_source(config.data.source, config.data.path, "val")
        resolution = config.data.resolution
        self._batches = list(evaluation_batches(source, EVAL_BATCH_SIZE, resolution))
        self._autoencoder = None

    def __call__(self, params: dict) -> tuple[dict[str, float], np.ndarray]:
        """Mean PSNR, SSIM and LPIPS; and the grid of original, NFE 1 and NFE 3."""
        if self._autoencoder is None:
            spacing = self._config.flow.spacing
            self._autoencoder = Autoencoder(self._networks, self._process, spacing, params)
        self._autoencoder.params = params
        scores = evaluate(
            self._autoencoder,
            self._batches,
            self._image_metrics,
            self._lpips_params,
            self._config.flow.nfe,
        )
        return scores, grid(self._autoencoder, self._batches[0][:GRID_IMAGES])


def init_from(state: TrainState, target: TrainState, workdir: str) -> TrainState:
    """`state` with another run's EMA weights and discriminator; fresh optimizers, step 0.

    Raises:
      CheckpointError: no checkpoint there, or of another model.
    """
    _, step = load_config(workdir)
    wanted = {"ema": target.ema}
    if state.discriminator:
        wanted["discriminator"] = target.discriminator
    loaded = load_parts(workdir, step, wanted)
    return state.replace(
        params=jax.tree.map(jax.numpy.copy, loaded["ema"]),
        ema=loaded["ema"],
        discriminator=loaded.get("discriminator", state.discriminator),
    )


class StopSignal(contextlib.AbstractContextManager):
    """Turns SIGTERM and the first Ctrl-C into a request, which the loop meets after its step."""

    def __init__(self):
        self.requested = False
        self._previous = {}

    def __enter__(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *exc_info):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _request(self, number, frame):
        del frame
        name = signal.Signals(number).name
        print(f"{name}: saving after this step; once more to quit at once.", flush=True)
        self.requested = True
        signal.signal(number, signal.SIG_DFL)


class MetricsWindow:
    """Metrics of the steps since the last log line, checked to be finite one step behind.

    Waiting for the step before the newest keeps the device busy and the check close.
    """

    def __init__(self):
        self._done: list[dict[str, float]] = []
        self._pending = None

    def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Takes a step's metrics, and waits for those of the step before."""
        self.settle()
        self._pending = (step, metrics)

    def settle(self) -> None:
        """Waits for all metrics.

        Raises:
          NonFiniteError: one is NaN or infinite.
        """
        if self._pending is None:
            return
        step, metrics = self._pending
        self._pending = None
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        bad = [f"{name} = {value}" for name, value in values.items() if not np.isfinite(value)]
        if bad:
            raise NonFiniteError(
                f"step {step}: {', '.join(bad)}. Nothing of it was saved; the checkpoints before "
                "are good. A lower optim.lr, optim.clip_norm or float32 may help."
            )
        self._done.append(values)

    def means(self) -> dict[str, float]:
        """Mean of each metric over the window, which is then emptied."""
        self.settle()
        means = {name: float(np.mean([m[name] for m in self._done])) for name in self._done[0]}
        self._done = []
        return means


class Clock:
    """Speed and time left, without compilation and pauses.

    Args:
      batch_size: images a step.
    """

    def __init__(self, batch_size: int):
        self._batch_size = batch_size
        self._launched = time.monotonic()
        self._started = None
        self._pause_seconds = self._wait_seconds = self._window_wait_seconds = 0.0
        self._last = (0.0, 1)

    def since_launch(self) -> float:
        """Seconds since the clock was made."""
        return time.monotonic() - self._launched

    def start(self) -> None:
        """Called when the first step is done: what came before was compilation."""
        self._started = time.monotonic()
        self._pause_seconds = self._window_wait_seconds = 0.0

    @contextlib.contextmanager
    def paused(self):
        """Time spent inside does not count."""
        begin = time.monotonic()
        yield
        self._pause_seconds += time.monotonic() - begin

    @contextlib.contextmanager
    def waiting(self):
        """Time spent inside counts as waiting for data."""
        begin = time.monotonic()
        yield
        self._window_wait_seconds += time.monotonic() - begin

    def read(self, steps_done: int) -> dict[str, float]:
        """Images a second, and per cent of the time spent waiting for data, since the last call."""
        seconds = self._productive_seconds()
        last_seconds, last_steps = self._last
        elapsed = max(seconds - last_seconds, 1e-9)
        rate = (steps_done - last_steps) * self._batch_size / elapsed
        wait = min(100.0, 100 * self._window_wait_seconds / elapsed) if rate else 0.0
        self._last = (seconds, steps_done)
        self._window_wait_seconds = 0.0
        return {"images_per_second": rate, "wait_percent": wait}

    def seconds_left(self, steps_left: int) -> float:
        """At the mean speed since the first step; NaN before the second."""
        seconds, steps_done = self._last
        return seconds / (steps_done - 1) * steps_left if steps_done > 1 else float("nan")

    def _productive_seconds(self) -> float:
        return time.monotonic() - self._started - self._pause_seconds


def _with_sharding(leaf: jax.ShapeDtypeStruct, sharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _opening_line(config: ml_collections.ConfigDict, restored, workdir: str) -> str:
    if restored is None:
        return f"Training from the start to step {config.num_steps}, into {workdir}"
    line = f"Resuming from step {restored.step} of {config.num_steps}, in {workdir}"
    changed = list(differences(restored.config, config))
    return "\n  config changed since: ".join([line, *changed])


def _step_line(
    config: ml_collections.ConfigDict, step: int, metrics: dict[str, float], clock: Clock
) -> str:
    losses = "  ".join(
        f"{name} {metrics['loss/' + name]:.4f}" for name in LOSSES if f"loss/{name}" in metrics
    )
    left = clock.seconds_left(config.num_steps - step)
    eta = "" if np.isnan(left) else f"  ETA {left // 60:.0f}:{left % 60:02.0f}"
    return (
        f"step {step}/{config.num_steps}  {losses}  {metrics['images_per_second']:.1f} images/s  "
        f"wait {metrics['wait_percent']:.1f} %{eta}"
    )
