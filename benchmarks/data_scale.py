"""Shows that neither the size of a data set nor the step at which a run resumes costs anything.

`python -m benchmarks.data_scale` writes ArrayRecords of ten thousand and of a million tiny images,
and prints the peak memory of a process that reads 200 batches of each, and the time from a restart
at step 10 and at step 100,000 to its first batch.
"""

import io
import resource
import statistics
import subprocess
import sys
import tempfile
import time

from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from epsilon_vae.data.array_records import ArrayRecords
from epsilon_vae.data.pipeline import BadRecords, TrainingBatches
from epsilon_vae.data.records import Record, pack

BATCH_SIZE = 64
SIZES = {"10 thousand": 10_000, "1 million": 1_000_000}
RECORDS_PER_SHARD = 4096  # as epsilon_vae.data.prepare has it
STEPS = (10, 100_000)
ROUNDS = 9


def write(folder: str, num_records: int) -> None:
    """Shards of images of one pixel."""
    buffer = io.BytesIO()
    Image.new("RGB", (1, 1), (90, 80, 70)).save(buffer, "PNG")
    for first in range(0, num_records, RECORDS_PER_SHARD):
        shard = f"{folder}/train-{first // RECORDS_PER_SHARD:05}.array_record"
        writer = ArrayRecordWriter(shard, "group_size:1,uncompressed")
        for index in range(first, min(first + RECORDS_PER_SHARD, num_records)):
            writer.write(pack(Record(buffer.getvalue(), index % 1000, f"{index:08}.png")))
        writer.close()


def make_batches(folder: str) -> TrainingBatches:
    """The pipeline at 32 px, by threads."""
    source = ArrayRecords(folder, "train")
    return TrainingBatches(
        source,
        BATCH_SIZE,
        resolution=32,
        seed=0,
        crop="random",
        flip=True,
        reduced_jpeg=True,
        bad_records=BadRecords(0, 1),
    )


def peak_megabytes(folder: str) -> float:
    """Measures a process that opens the shards and reads 200 batches."""
    command = [sys.executable, "-m", "benchmarks.data_scale", folder]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_peak_megabytes(folder: str) -> None:
    """Runs in the process that `peak_megabytes` starts."""
    batches = make_batches(folder)
    for _ in range(200):
        next(batches)
    batches.close()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def seconds_to_go_on(folder: str, step: int) -> float:
    """Measures the time from the command to resume at a step to its batch."""
    start = time.monotonic()
    batches = make_batches(folder)
    batches.set_state({"position": step * BATCH_SIZE})
    next(batches)
    seconds = time.monotonic() - start
    batches.close()
    return seconds


def main() -> None:
    """Prints both measurements and their ratios."""
    with tempfile.TemporaryDirectory() as small, tempfile.TemporaryDirectory() as large:
        folders = dict(zip(SIZES, (small, large), strict=True))
        for name, folder in folders.items():
            write(folder, SIZES[name])
        peaks = {name: peak_megabytes(folder) for name, folder in folders.items()}
        for name, peak in peaks.items():
            print(f"{name} records: peak memory {peak:.0f} MB")
        print(f"ratio {peaks['1 million'] / peaks['10 thousand']:.3f}")

        seconds: dict[int, list[float]] = {step: [] for step in STEPS}
        for _ in range(ROUNDS):
            for step in STEPS:
                seconds[step].append(seconds_to_go_on(large, step))
        for step in STEPS:
            print(f"resuming at step {step}: {1000 * statistics.median(seconds[step]):.0f} ms")
        pairs = zip(*seconds.values(), strict=True)
        print(f"ratio {statistics.median(b / a for a, b in pairs):.2f}")


if __name__ == "__main__":
    print_peak_megabytes(sys.argv[1]) if len(sys.argv) > 1 else main()
