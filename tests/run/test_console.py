"""Lines on the console: their width, the time left, and the bar of a terminal."""

import fcntl
import os
import pty
import struct
import sys
import termios

import pytest

from epsilon_vae.run.console import LOSSES, Console, duration, legend, scores_line, step_line
from tests import micro

LONG = {"images_per_second": 9999.4, "wait_percent": 12.3}


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0:00"),
        (39.9, "0:39"),
        (725, "12:05"),
        (3600, "1h 0m"),
        (18_720, "5h 12m"),
        (273_600, "3d 4h"),
        (8_640_000, "100d 0h"),
    ],
)
def test_durations_in_days_and_hours(seconds, words):
    assert duration(seconds) == words


@pytest.mark.parametrize("kind", ["flow", "reconstruction"])
def test_lines_of_a_long_run_fit(kind):
    losses = {f"loss/{name}": 0.0123456 for name in (kind, "lpips", "adv", "disc", "r1")}
    line = step_line(999_900, 1_000_000, losses | LONG, 99 * 86400 + 80_000)
    assert len(line) <= 100 and "step 999900/1M  " in line and line.endswith("ETA 99d 22h")
    assert all(len(line) <= 100 for line in legend(losses).splitlines())
    scores = {"psnr": 23.456, "ssim": -0.0123456, "ssim_range2": 0.5, "lpips_alexnet": 0.0123456}
    assert len(scores_line(micro.get_config(), 1_000_000, scores)) <= 100


def test_large_losses_stay_readable():
    line = step_line(5, 9, {"loss/flow": 12345.678, "loss/disc": -3.0} | LONG, 1)
    assert "flow 1.235e+04  disc -3.000" in line


def test_legend_explains_the_words_of_the_lines_alone():
    words = [line.split()[0] for line in legend(["loss/flow", "loss/disc"]).splitlines()]
    assert words == ["flow", "disc", "wait", "goodput"]
    assert len(legend([f"loss/{name}" for name in LOSSES]).splitlines()) == len(LOSSES) + 2


def test_bar_of_a_terminal_has_no_time_of_its_own():
    """And goes once the run has ended: the last lines say what to do."""
    child, terminal = pty.fork()
    if child == 0:
        fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
        sys.stdout = sys.stderr = os.fdopen(1, "w", buffering=1)
        console = Console(0, 4)
        console.line("Compiling")
        for _ in range(4):
            console.advance()
        console.line("step 4/4  ETA 0:00")
        console.close()
        os._exit(0)
    shown = b""
    while chunk := _read(terminal):
        shown += chunk
    os.waitpid(child, 0)
    text = shown.decode()
    assert text.startswith("Compiling\r\n") and "4/4 steps" in text and text.count("ETA") == 1
    assert "it/s" not in text and "?" not in text
    assert not text.rpartition("\r")[2].strip() and "steps" not in text.split("\r")[-2]


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # the other side is closed
        return b""
