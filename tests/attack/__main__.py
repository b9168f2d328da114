"""Attacks by real processes: `python -m tests.attack --rounds=N`.

Kills a run N times at random moments; damages N × 5 checkpoints and N × 10 small inputs, and has
commands read them. Prints each fault and a table; ends with 1 if there was a fault. N = 20, the
default, takes a quarter of an hour of two CPU cores.
"""

import argparse
import collections
import os
import pathlib
import sys
import tempfile
import time

import numpy as np

from tests.attack import checkpoints, inputs, kills
from tests.helpers import flags, write_images
from tests.processes import ForkServer, finish

SECONDS_TO_A_KILL = 9  # at most: several steps, an evaluation and a checkpoint


def main() -> int:
    """Runs all three attacks; returns the number of faults."""
    parser = argparse.ArgumentParser(prog="python -m tests.attack")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    server = ForkServer()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder / "compiled")
        run, images = folder / "run", folder / "images"
        write_images(images, 16)
        finish(server.run("epsilon_vae.main", *flags(run)))
        try:
            faults = attack_inputs(server, folder, run, images, options)
            faults += attack_checkpoints(server, folder, run, images, options)
            kill(server, folder, options)
        finally:
            server.close()
    return faults


def attack_inputs(server, folder, run, images, options) -> int:
    """Damaged inputs through their commands."""
    good, damaged = folder / "good", folder / "damaged"
    good.mkdir()
    targets = inputs.make_targets(server.run, good, run=run, images=images)
    attack = inputs.attack(
        server.run, targets, damaged, rounds=10 * options.rounds, seed=options.seed
    )
    return report("inputs", ((target.name, what, outcome) for target, what, outcome in attack))


def attack_checkpoints(server, folder, run, images, options) -> int:
    """Damaged checkpoints through all readers."""
    attack = checkpoints.attack(
        server.run, run, images, folder / "damaged", rounds=5 * options.rounds, seed=options.seed
    )
    return report("checkpoints", attack)


def report(title: str, attack) -> int:
    """Prints faults as they come, and then, for each kind, how often commands ended in what way."""
    counts: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    start = time.monotonic()
    for kind, what, outcome in attack:
        is_fallback = "is damaged and left out, for" in outcome.err
        way = "fault" if outcome.fault else "fell back" if is_fallback else f"code {outcome.code}"
        counts[kind][way] += 1
        if outcome.fault:
            print(f"FAULT {kind}, {what}: {outcome.fault}\n{outcome.err[-2000:]}", flush=True)
    print(f"{title}, {time.monotonic() - start:.0f} s")
    for kind, ways in counts.items():
        print(f"  {kind:14} " + ", ".join(f"{way}: {n}" for way, n in sorted(ways.items())))
    return sum(ways["fault"] for ways in counts.values())


def kill(server, folder, options) -> None:
    """Kills at random moments; raises AssertionError where the run is not that without kills."""
    num_steps = max(24, 15 * options.rounds)
    undisturbed, killed = folder / "undisturbed", folder / "killed"
    finish(server.run("epsilon_vae.main", *kills.run_flags(undisturbed, num_steps)))
    last_lines = kills.kill_at_random(
        server.run,
        killed,
        num_steps=num_steps,
        kills=options.rounds,
        seconds=SECONDS_TO_A_KILL,
        rng=np.random.default_rng(options.seed),
    )
    print(f"kills: {len(last_lines)}, after these lines:", *last_lines, sep="\n  ")
    kills.assert_same_run(killed, undisturbed, num_steps)
    print("  the same bits, rows and pictures as without them")


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
