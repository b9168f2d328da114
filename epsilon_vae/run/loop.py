"""The training loop: restore, iterate, step, log, evaluate, save.

To resume, run the same command. Data order and randomness are functions of the step alone, so a run
that was killed and started again ends in the state of one that was not.
"""

import contextlib
import signal
from collections.abc import Sequence

import jax
import ml_collections
import numpy as np

from epsilon_vae.checkpoint import Checkpointer, Restored, load_config
from epsilon_vae.config import differences
from epsilon_vae.parallel import hosts
from epsilon_vae.parallel.mesh import batch_sharding, make_mesh, replicated
from epsilon_vae.parallel.sharding import global_batch, local_batch_indices
from epsilon_vae.run.initialize import restore_or_init
from epsilon_vae.run.kinds import kind_of
from epsilon_vae.run.logging import RunLog, write_run_files
from epsilon_vae.run.monitor import (
    SPEED_METRICS,
    Clock,
    MetricsWindow,
    StepProfiler,
    StopSignal,
    memory_metrics,
)
from epsilon_vae.run.rescue import LastStep
from epsilon_vae.run.workdir import open_workdir
from epsilon_vae.step_folders import CheckpointError, absolute, load, newest_step, saved_steps
from epsilon_vae.training.build import build_train_step, frozen_inputs
from epsilon_vae.training.sharded import batch_shapes, jit_step
from epsilon_vae.training.state import TrainState

LOSSES = ("flow", "reconstruction", "lpips", "adv", "disc", "r1")


def train(config: ml_collections.ConfigDict, workdir: str) -> signal.Signals | None:
    """Trains from the newest checkpoint in `workdir`, or from the start, to `config.num_steps`.

    All processes call it alike, and go through the same steps, evaluations and checkpoints;
    process 0 writes the logs.

    Returns:
      None when done, also if it was before; SIGTERM or SIGINT when stopped, with everything saved.

    Raises:
      WorkdirError, ConfigError, DataError, CheckpointError: before the first step.
      NonFiniteError: nothing of the bad step was saved.
      FailedError: another failure after the first step, which the message says is saved or not.
    """
    clock, window = Clock(config.batch_size), MetricsWindow()
    if _is_finished(config, workdir):
        return None
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.space)
    with jax.set_mesh(mesh), StopSignal() as stop, contextlib.ExitStack() as to_close:
        heartbeat = open_workdir(workdir)
        to_close.callback(heartbeat.close)
        _use_compilation_cache(workdir)

        # The parts, and the state: restored, or new.
        kind = kind_of(config)
        train_step = build_train_step(config)
        frozen = jax.device_put(frozen_inputs(config), replicated(mesh))
        shapes = batch_shapes(train_step, config.batch_size, mesh)
        local_indices = local_batch_indices(batch_sharding(mesh), config.batch_size)
        batches = kind.open_batches(config, local_indices)
        to_close.callback(batches.close)
        evaluation = kind.open_evaluation(config, mesh, batches)
        checkpointer = Checkpointer(
            workdir, config.checkpoint.keep, config.checkpoint.permanent_every_steps
        )
        to_close.callback(checkpointer.close)  # a save under way ends, whatever ends the run
        state, restored = restore_or_init(config, train_step, checkpointer=checkpointer, mesh=mesh)
        start_step = restored.step if restored else 0
        if restored:
            batches.set_state(restored.data)
            window.resumed = _resumed_words(start_step, workdir)
        num_saves = -(-(config.num_steps - start_step) // config.checkpoint.every_steps)
        checkpointer.check_space(state, num_saves)

        # The step, compiled at its first call, and where its numbers go.
        step_fn = jit_step(train_step, state, mesh)
        columns = _columns(step_fn, state, frozen, shapes, evaluation.names)
        networks = state.params | {"discriminator": state.discriminator}
        write_run_files(workdir, config, networks)
        log = RunLog(
            workdir,
            columns,
            start_step=start_step,
            num_steps=config.num_steps,
            heartbeat=heartbeat,
        )
        to_close.callback(log.close)
        log.line(_opening_line(config, restored, workdir))

        # One trace: two processes on a host would write to the same file.
        start_profile = config.profile.start_step if hosts.is_first() else 0
        profiler = StepProfiler(workdir, start_profile, config.profile.num_steps)
        to_close.callback(profiler.close)

        last = to_close.enter_context(LastStep(checkpointer, config, window))
        step, stopped_by = start_step, stop.stop_requested(start_step)
        while step < config.num_steps and not stopped_by:
            step += 1
            with clock.waiting():
                batch = _global_batch(next(batches), shapes, local_indices)
            with profiler.step(step, window):
                state, metrics = step_fn(state, frozen, batch)
                last.done(step, state, batches.get_state())
                window.add(step, metrics)
            log.advance()
            heartbeat.check()
            checkpointer.check()
            if step == start_step + 1:
                window.sync()
                clock.start()
                stop.listen_to_interrupts()
                log.line(f"step {step}: compiled and done, {clock.since_launch():.1f} s in")

            done = step == config.num_steps
            stopped_by = None if done else stop.stop_requested(step)
            if step % config.log.every_steps == 0 or done or stopped_by:
                means = window.means() | clock.read(step - start_step) | memory_metrics()
                means["bad_records"] = hosts.total(batches.num_bad_records)
                log.scalars(step, means)
                log.line(_step_line(config, step, means, clock))
                log.beat(step)
            is_saving = step % config.checkpoint.every_steps == 0 or done or stopped_by
            if is_saving:
                with clock.paused():
                    window.check_state(step, state)  # Nothing non-finite is ever saved.
            if step % config.eval.every_steps == 0 or done:
                with clock.paused():
                    window.sync()
                    _log_evaluation(log, config, step=step, found=evaluation(state.ema))
            if is_saving:
                with clock.paused():
                    data = batches.get_state() | (evaluation.latents(state.ema) if done else {})
                    checkpointer.save(step, state, data=data, config=config)
            if stopped_by:
                log.line(f"step {step}: {stopped_by.name}, saving")
        if clock.goodput_percent():
            log.line(_closing_line(clock))
        return stopped_by


def _global_batch(
    local: dict[str, np.ndarray], shapes: dict[str, jax.ShapeDtypeStruct], local_indices: np.ndarray
) -> dict[str, jax.Array]:
    """The batch of all processes, sharded as `shapes`, of which this one has `local`."""
    return {
        name: global_batch(x.sharding, x.shape[0], local_indices=local_indices, local=local[name])
        for name, x in shapes.items()
    }


def _log_evaluation(
    log: RunLog,
    config: ml_collections.ConfigDict,
    *,
    step: int,
    found: tuple[dict[str, float], np.ndarray | None],
) -> None:
    """Writes an evaluation's scores and its picture."""
    scores, picture = found
    if scores:
        log.scalars(step, {f"eval/{name}": x for name, x in scores.items()})
        log.line(_scores_line(config, step, scores))
    if picture is not None:
        log.picture(step, picture)


def _is_finished(config: ml_collections.ConfigDict, workdir: str) -> bool:
    """Whether nothing is left to do, which is then said; nothing is built or written."""
    step = newest_step(workdir) or 0
    if step < config.num_steps:
        return False
    try:
        load(workdir, load_config, step=step)
        is_readable = True
    except CheckpointError:  # an older one is resumed from, which is said then
        is_readable = False
    is_finished = hosts.all_agree(is_readable)
    if is_finished and hosts.is_first():
        print(
            f"{workdir} is trained: it has step {step}, and config.num_steps = {config.num_steps}. "
            "With a larger config.num_steps it trains further.",
            flush=True,
        )
    return is_finished


def _use_compilation_cache(workdir: str) -> None:
    """Compiled programs go to the user's cache (JAX_COMPILATION_CACHE_DIR), or the workdir's."""
    if not jax.config.jax_compilation_cache_dir:
        cache = absolute(workdir) / "compilation_cache"
        jax.config.update("jax_compilation_cache_dir", str(cache))


def _columns(
    step_fn, state: TrainState, frozen: dict, batch: dict, scores: Sequence[str]
) -> list[str]:
    """Names of all scalars that the run will write.

    `batch` has the shardings of the first call, which then need not trace the step again.
    """
    _, metrics = jax.eval_shape(step_fn, state, frozen, batch)
    held_out = (f"eval/{name}" for name in scores)
    return [*metrics, *SPEED_METRICS, *memory_metrics(), "bad_records", *held_out]


def _opening_line(
    config: ml_collections.ConfigDict, restored: Restored | None, workdir: str
) -> str:
    if restored is None:
        return f"Training from the start to step {config.num_steps}, into {workdir}"
    line = f"Resuming from step {restored.step} of {config.num_steps}, in {workdir}"
    changed = list(differences(restored.config, config))
    return "\n  config changed since: ".join([line, *changed])


def _resumed_words(step: int, workdir: str) -> str:
    """What to say of a run that was resumed from a step and fails."""
    older = max((x for x in saved_steps(workdir) if x < step), default=None)
    way = "there is none before: train anew in another workdir"
    if older is not None:
        way = f"to resume from {older} instead, move {workdir}/checkpoints/{step} away"
    return f" The run was resumed from checkpoint {step}, as it would be again; {way}."


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


def _scores_line(config: ml_collections.ConfigDict, step: int, scores: dict[str, float]) -> str:
    words = "  ".join(f"{name} {value:.4g}" for name, value in scores.items())
    return f"step {step}: held-out photos, NFE {config.flow.nfe}: {words}"


def _closing_line(clock: Clock) -> str:
    seconds = clock.since_launch()
    return (
        f"{seconds // 60:.0f}:{seconds % 60:02.0f} in all, goodput {clock.goodput_percent():.1f} % "
        "(time in steps, without starting, compiling, evaluating, saving, waiting for data)"
    )
