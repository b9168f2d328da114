"""Lists training runs: `python -m epsilon_vae.runs FOLDER…`, a line for each run in it.

A run is running; done; stopped, by Ctrl-C; preempted; or failed, which is killed too. The best
score is that of `config.checkpoint.keep_best`, else of PSNR, with its step. The size is of all that
the run has written. Exit codes: 0 done; 2 there is no run, or a folder cannot be read.
"""

import json
import os
import re
import socket
import time
from collections.abc import Iterator, Sequence

from absl import app
from etils import epath

from epsilon_vae.command_line import UsageError, exit_codes, parse_flags
from epsilon_vae.metrics.labels import label
from epsilon_vae.names import printable
from epsilon_vae.run.metrics_csv import best_score, read_scores

COLUMNS = ("run", "config", "step", "state", "best", "size")
UNKNOWN = "–"
# As `run/workdir.py` has it: a run that has been silent for so long is gone.
STALE_SECONDS = 60


def main(argv: Sequence[str]) -> None:
    """Prints the table."""
    with exit_codes(OSError):
        if len(argv) < 2:
            raise UsageError("name a folder of runs, as runs")
        rows = [COLUMNS]
        for name in argv[1:]:
            folder = epath.Path(name)
            if not folder.is_dir():
                raise UsageError(f"{name}: no such folder")
            found = [describe(run, os.path.relpath(run, folder)) for run in find_runs(folder)]
            if not found:
                raise UsageError(f"{name}: no run in it")
            rows += found
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            print("  ".join(cells).rstrip())


def find_runs(folder: epath.Path) -> Iterator[epath.Path]:
    """The folder itself if it is a run's, else the runs in it, at any depth, by name."""
    inside = {path.name: path for path in folder.iterdir()}
    if {"config.json", "heartbeat.json"} <= inside.keys():
        yield folder
        return
    for name, path in sorted(inside.items()):
        if not name.startswith(".") and path.is_dir() and not _is_link(path):
            yield from find_runs(path)


def _is_link(path: epath.Path) -> bool:
    return "://" not in str(path) and os.path.islink(path)


def describe(run: epath.Path, name: str) -> tuple[str, ...]:
    """A run's line of the table."""
    config, heartbeat = _read(run / "config.json"), _read(run / "heartbeat.json")
    steps, num_steps = _saved_steps(run), config.get("num_steps")
    step = max([heartbeat.get("step") or 0, *steps])
    return (
        printable(run.name if name == "." else name),
        printable(_config_name(run, config)),
        f"{step}/{num_steps or UNKNOWN}",
        _state(heartbeat, is_done=num_steps is not None and max(steps, default=0) >= num_steps),
        _best(run, config),
        _in_words(_size(run)),
    )


def _read(path: epath.Path) -> dict:
    """What a JSON file holds; nothing where it is missing or broken."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _saved_steps(run: epath.Path) -> list[int]:
    folder = run / "checkpoints"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return [int(name) for name in names if re.fullmatch("[0-9]{1,18}", name)]


def _config_name(run: epath.Path, config: dict) -> str:
    """The config file as the command had it; for other runs the decoder or the DiT."""
    arguments = str(_read(run / "versions.json").get("arguments", ""))
    named = re.search(r"--?config[= ]('[^']*'|\S+)", arguments)
    if named:
        return re.sub(r"\.py(?=:|$)", "", named[1].strip("'").rpartition("/")[2])
    model = config.get("model", {})
    network = model.get("decoder") or model.get("latent_diffusion") or {}
    return "-".join(str(network[key]) for key in ("name", "size") if key in network) or UNKNOWN


def _state(heartbeat: dict, *, is_done: bool) -> str:
    if not heartbeat.get("training"):
        return "done" if is_done else heartbeat.get("ended") or "stopped"
    here = heartbeat.get("host") == socket.gethostname()
    is_gone = here and not os.path.exists(f"/proc/{heartbeat.get('process')}")
    is_silent = time.time() - heartbeat.get("alive_unix_seconds", 0) > STALE_SECONDS
    return "failed" if is_gone or is_silent else "running"


def _best(run: epath.Path, config: dict) -> str:
    path = run / "metrics.csv"
    scores = read_scores(path) if path.exists() else {}
    wanted = config.get("checkpoint", {}).get("keep_best", "none")
    wanted = "psnr" if wanted == "none" else wanted
    metric = next((metric for metric in scores if metric.startswith(wanted)), None)
    if metric is None:
        return UNKNOWN
    step, score = best_score(metric, scores[metric])
    return f"{label(metric)} {score:.4g} at {step}"


def _size(folder: epath.Path) -> int:
    """Bytes of all files in it; of what is removed meanwhile, nothing."""
    size = 0
    try:
        for path in folder.iterdir():
            size += _size(path) if path.is_dir() else path.stat().length
    except FileNotFoundError:
        pass
    return size


def _in_words(size: int) -> str:
    return f"{size / 2**20:.0f} MiB" if size < 2**30 else f"{size / 2**30:.1f} GiB"


if __name__ == "__main__":
    app.run(main, flags_parser=lambda argv: parse_flags(argv, lambda: None, takes_arguments=True))
