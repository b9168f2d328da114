"""How soon a killed run resumes, over how soon it first began: the compilation cache's worth.

`python -m benchmarks.restart` starts `tiny` in a new workdir, kills it after its first checkpoint,
starts it again, and prints the seconds from each command to its first finished step, and the ratio.
"""

import os
import subprocess
import sys
import tempfile
import time


def seconds_to_first_step(folder: str, until: str) -> float:
    """Runs `tiny` until it prints `until`, kills it, and returns when its first step was done.

    The run, and the programs that it compiles, lie in `folder`.
    """
    command = [
        *(sys.executable, "-m", "epsilon_vae.main", "--config=configs/tiny.py"),
        f"--workdir={folder}/run",
        "--config.checkpoint.every_steps=1",
        "--config.log.every_steps=1",
    ]
    start = time.monotonic()
    environment = {**os.environ, "XDG_CACHE_HOME": f"{folder}/caches"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    first_step = None
    for line in process.stdout:
        if "compiled and done" in line:
            first_step = time.monotonic() - start
        if until in line:
            break
    process.kill()
    process.wait()
    if first_step is None:
        sys.exit("the run ended before its first step; its message is above")
    return first_step


def main() -> None:
    """Prints both times and their ratio."""
    with tempfile.TemporaryDirectory() as folder:
        first = seconds_to_first_step(folder, until="step 4/")
        again = seconds_to_first_step(folder, until="compiled and done")
    print(f"first start {first:.1f} s, restart {again:.1f} s, ratio {again / first:.2f}")


if __name__ == "__main__":
    main()
