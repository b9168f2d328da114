"""Draws a run's held-out PSNR and LPIPS: `python -m benchmarks.curve WORKDIR OUT.png`."""

import argparse
import csv
import pathlib

import matplotlib.pyplot as plt


def main() -> None:
    """Reads `metrics.csv` and writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdir", type=pathlib.Path)
    parser.add_argument("output", type=pathlib.Path)
    arguments = parser.parse_args()
    with (arguments.workdir / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["eval/psnr"]]
    steps = [int(row["step"]) for row in rows]
    figure, axes = plt.subplots(1, 2, figsize=(8, 2.8), layout="constrained")
    lpips = next(name for name in rows[0] if name.startswith("eval/lpips"))
    for axis, name, label in zip(axes, ("eval/psnr", lpips), ("PSNR, dB", "LPIPS"), strict=True):
        axis.plot(steps, [float(row[name]) for row in rows], marker="o", markersize=3)
        axis.set(xlabel="step", ylabel=label, ylim=(0, None))
        axis.grid(alpha=0.3)
    figure.savefig(arguments.output, dpi=120)


if __name__ == "__main__":
    main()
