"""The training loop: restore, iterate, step, log, evaluate, save.

To resume, run the same command. Data order and randomness are functions of the step alone, so a run
that was killed and started again ends in the state of one that was not.
"""

import contextlib
import signal
from collections.abc import Iterable

import jax
import ml_collections
import numpy as np

from epsilon_vae.checkpoint import Checkpointer, load_config
from epsilon_vae.parallel import devices, hosts
from epsilon_vae.parallel.mesh import batch_sharding, make_mesh, replicated
from epsilon_vae.parallel.programs import keep_programs
from epsilon_vae.parallel.sharding import global_batch, local_batch_indices
from epsilon_vae.run.console import duration, legend, opening_lines, scores_line, step_line
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
from epsilon_vae.training.build import build_learning_rates, build_train_step, frozen_inputs
from epsilon_vae.training.sharded import batch_shapes, jit_step


def train(
    config: ml_collections.ConfigDict, workdir: str, logger: str | None = None
) -> signal.Signals | None:
    """Trains from the newest checkpoint in `workdir`, or from the start, to `config.num_steps`.

    All processes call it alike, and go through the same steps, evaluations and checkpoints;
    process 0 writes the logs.

    Args:
      config: of the run.
      workdir: of the run.
      logger: 'wandb', beside CSV and TensorBoard.

    Returns:
      None when done, also if it was before; SIGTERM or SIGINT when stopped, with everything saved.

    Raises:
      WorkdirError, ConfigError, DataError, CheckpointError, WandbError: before the first step.
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
        _say_devices()
        keep_programs(absolute(workdir))

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
            workdir,
            config.checkpoint.keep,
            config.checkpoint.permanent_every_steps,
            keep_best=config.checkpoint.keep_best,
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
        # With the shardings of the first call, which then need not trace the step again.
        _, metrics = jax.eval_shape(step_fn, state, frozen, shapes)
        rates = build_learning_rates(config, has_discriminator=bool(state.discriminator))
        columns = _columns(metrics, rates, evaluation.names)
        networks = state.params | {"discriminator": state.discriminator}
        write_run_files(workdir, config, networks)
        log = RunLog(
            workdir,
            config,
            columns=columns,
            start_step=start_step,
            heartbeat=heartbeat,
            logger=logger,
        )
        to_close.callback(log.close)
        before = restored.config if restored else None
        log.line(opening_lines(config, workdir, start_step=start_step, before=before))
        log.line(legend(columns))
        log.line(
            "Compiling the step: half a minute for tiny, or seconds if it has been compiled before"
        )

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
                means |= {f"lr/{name}": float(rate(step - 1)) for name, rate in rates.items()}
                log.scalars(step, means)
                seconds_left = clock.seconds_left(config.num_steps - step)
                log.line(step_line(step, config.num_steps, means, seconds_left))
                log.beat(step)
            is_saving = step % config.checkpoint.every_steps == 0 or done or stopped_by
            is_evaluating = step % config.eval.every_steps == 0 or done
            scores = {}
            if is_saving or is_evaluating:
                with clock.paused():
                    window.check_state(step, state)  # Nothing non-finite is ever saved.
            if is_evaluating:
                with clock.paused():
                    scores, picture = evaluation(state.ema, step)
                    _log_evaluation(log, config, step=step, scores=scores, picture=picture)
            if is_saving or checkpointer.is_best(scores):
                with clock.paused():
                    data = batches.get_state() | (evaluation.latents(state.ema) if done else {})
                    checkpointer.save(step, state, data=data, config=config, scores=scores)
            if stopped_by:
                log.line(f"step {step}: {stopped_by.name}, saving")
        checkpointer.wait()
        heartbeat.end({None: "done", signal.SIGINT: "stopped"}.get(stopped_by, "preempted"))
        if clock.goodput_percent():
            words = f"goodput {clock.goodput_percent():.1f} %"
            log.line(f"Step {step} is saved, {duration(clock.since_launch())} in all, {words}")
        if not stopped_by:
            log.done(step, checkpointer.best_step())
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
    scores: dict[str, float],
    picture: np.ndarray | None,
) -> None:
    """Writes an evaluation's scores and its picture."""
    if scores:
        log.scalars(step, {f"eval/{name}": x for name, x in scores.items()})
        log.line(scores_line(config, step, scores))
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


def _say_devices() -> None:
    if hosts.is_first():
        print(f"Running on {devices.in_words()}", flush=True)
        if unused := devices.unused_gpu():
            print(unused, flush=True)


def _columns(metrics: Iterable[str], rates: Iterable[str], scores: Iterable[str]) -> list[str]:
    """Names of all scalars that the run will write."""
    held_out = (f"eval/{name}" for name in scores)
    others = [*SPEED_METRICS, *memory_metrics(), "bad_records"]
    return [*metrics, *others, *(f"lr/{name}" for name in rates), *held_out]


def _resumed_words(step: int, workdir: str) -> str:
    """What to say of a run that was resumed from a step and fails."""
    older = max((x for x in saved_steps(workdir) if x < step), default=None)
    way = "there is none before: train anew in another workdir"
    if older is not None:
        way = f"to resume from {older} instead, move {workdir}/checkpoints/{step} away"
    return f" The run was resumed from checkpoint {step}, as it would be again; {way}."
