"""The attacks in short: some rounds of each. The long form is `python -m tests.attack`."""

import numpy as np

from tests.attack import checkpoints, inputs, kills
from tests.helpers import STEPS
from tests.processes import finish


def test_damaged_inputs_are_refused_in_one_line_or_read(run_module, finished_run, images, tmp_path):
    good = tmp_path / "good"
    good.mkdir()
    targets = inputs.make_targets(run_module, good, run=finished_run, images=images)
    damaged = tmp_path / "damaged"
    attack = inputs.attack(run_module, targets, damaged, rounds=len(targets), seed=1)
    faults = [(x.name, what, y.fault, y.err[-500:]) for x, what, y in attack if y.fault]
    assert not faults


def test_damaged_checkpoints_fall_back_or_are_refused_in_one_line(
    run_module, finished_run, images, tmp_path
):
    attack = checkpoints.attack(
        run_module, finished_run, images, tmp_path / "damaged", rounds=6, seed=1
    )
    faults = [(name, what, x.fault, x.err[-500:]) for name, what, x in attack if x.fault]
    assert not faults


def test_run_killed_at_random_ends_in_the_same_bits(run_module, tmp_path):
    num_steps = 4 * STEPS
    once, often = tmp_path / "once", tmp_path / "often"
    finish(run_module("epsilon_vae.main", *kills.run_flags(once, num_steps)))
    kills.kill_at_random(
        run_module,
        often,
        num_steps=num_steps,
        kills=3,
        seconds=6,
        rng=np.random.default_rng(1),
    )
    kills.assert_same_run(often, once, num_steps)
