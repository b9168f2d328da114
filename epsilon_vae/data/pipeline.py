"""Batches in an order that is a function of the seed and the position alone.

Position p of training is image p of the endless sequence of epochs, each shuffled anew. Global
batch k is positions k B … (k + 1) B - 1, of which each process reads the places that its devices
hold. So neither processes, workers nor restarts change what a batch holds, and resuming at a
position costs the same wherever it is.
"""

import contextlib
import functools
import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import resource_tracker

import grain
import numpy as np
from absl import logging
from grain.experimental import index_shuffle

from epsilon_vae.data import transforms
from epsilon_vae.data.decode import DEFAULT, DataError, DecodeError, EncodedImage, ImageDecoding
from epsilon_vae.data.records import Record
from epsilon_vae.names import printable

# Batches ready ahead of the step, and threads that make them (in each worker process, if there are
# any). PIL lets go of Python's lock.
PREFETCHED_BATCHES = 4
THREADS = 4
# Bad records one after another, whose place the next good one takes.
MAX_BAD_IN_A_ROW = 100

# A file's name, and more; of one length, so that names of a batch can be stacked, and pass between
# processes.
_NAME_LENGTH = 300
_NAME = f"U{_NAME_LENGTH}"

Batch = dict[str, np.ndarray]


class Positions(Sequence[int]):
    """Global positions of the images that one process reads, from `start` on, without an end."""

    def __init__(self, batch_size: int, local_indices: Sequence[int], start: int = 0):
        self._batch_size, self._start = batch_size, start
        self._local_indices = [int(place) for place in local_indices]

    def __len__(self) -> int:
        return 2**60

    def __getitem__(self, index: int) -> int:
        batch, i = divmod(index, len(self._local_indices))
        return self._start + batch * self._batch_size + self._local_indices[i]


class BadRecords:
    """Counts records that cannot be used, logs each once, and raises when there are too many.

    Each process counts what it meets, from its start on.

    Args:
      max_share: of the data set that may be bad; 0 raises at the first.
      num_records: of the data set.
      hint: what to do about the first, where none may be bad; for the message.
    """

    def __init__(
        self,
        max_share: float,
        num_records: int,
        hint: str = "replace it, or set config.data.on_bad_record = skip",
    ):
        self._max_share, self._num_records, self._hint = max_share, num_records, hint
        self._messages: set[str] = set()

    def __len__(self) -> int:
        return len(self._messages)

    def report(self, message: str) -> None:
        """Takes note of a bad record.

        Raises:
          DataError: more than the share are bad.
        """
        if message in self._messages:
            return
        self._messages.add(message)
        if self._max_share == 0:
            raise DataError(f"{message}; {self._hint}")
        if len(self) > self._max_share * self._num_records:
            raise DataError(
                f"{len(self)} of {self._num_records} records cannot be used, more than "
                f"config.data.max_bad_share = {self._max_share:g} allows; the last: {message}"
            )
        logging.warning("Left out: %s", printable(message))


class EndlessBatches(Iterator[Batch]):
    """Endless batches of one process, each full: an epoch's last records share one with the next's.

    Args:
      load: position → element, which may use `record_at`; batches are elements, stacked.
      batch_size: B, of all processes together.
      workers: processes that load, which need absl's flags parsed; 0 for threads of this one.
      local_indices: which P places of each batch, in 0 … B - 1, this process reads; None for all.
    """

    def __init__(
        self,
        load: grain.transforms.Map | Callable[[int], Batch],
        batch_size: int,
        *,
        workers: int = 0,
        local_indices: Sequence[int] | None = None,
    ):
        self._load, self._batch_size, self._workers = load, batch_size, workers
        self._local_indices = range(batch_size) if local_indices is None else local_indices
        self._position = 0
        self._batches: grain.DatasetIterator | None = None

    def __next__(self) -> Batch:
        if self._batches is None:
            positions = Positions(self._batch_size, self._local_indices, self._position)
            self._batches = _iterate(positions, self._load, len(self._local_indices), self._workers)
        try:
            batch = next(self._batches)
        except RuntimeError as error:
            if "terminated unexpectedly" not in str(error):
                raise
            raise DataError(
                f"config.data.workers = {self._workers}: one of them was killed; if memory ran "
                "out, fewer will do"
            ) from error
        self._position += self._batch_size
        return batch

    def get_state(self) -> dict[str, int]:
        """The position where the next batch begins, in records; the same for all processes."""
        return {"position": self._position}

    def set_state(self, state: dict[str, int]) -> None:
        """Resumes there, whatever the batch size and the number of processes were."""
        self.close()
        self._position = state["position"]

    def close(self) -> None:
        """Ends worker processes and threads."""
        if self._batches is not None:
            self._batches.close()
            self._batches = None


class TrainingBatches(EndlessBatches):
    """Endless batches of images; see `EndlessBatches`.

    A batch is `image`, float32 `[P, resolution, resolution, 3]` in [-1, 1], and `label`, int32
    `[P]`, -1 where there is none. Augmentation depends on (seed, epoch, record index) alone.

    Args:
      source: of the images.
      batch_size: B, of all processes together.
      resolution: of the crops.
      seed: of order and augmentation.
      crop: one of `transforms.TRAINING_CROPS`.
      flip: every second image, by chance, is mirrored.
      reduced_jpeg: see `transforms.render`.
      decoding: of the images' files.
      permute_colors: red, green and blue are exchanged by chance, in each of the six orders alike:
        for sets of so few photos that some colors are rare in them.
      bad_records: where records that cannot be used are reported; their neighbour stands in.
      workers: processes that decode, which need absl's flags parsed; 0 for threads of this one.
      local_indices: which P places of each batch, in 0 … B - 1, this process reads; None for all.

    Attributes:
      source: of the images.

    Raises:
      DataError: while iterating; a record cannot be used, or too many cannot.
    """

    def __init__(
        self,
        source: Sequence[Record],
        batch_size: int,
        *,
        resolution: int,
        seed: int,
        crop: str,
        flip: bool,
        reduced_jpeg: bool,
        bad_records: BadRecords,
        decoding: ImageDecoding = DEFAULT,
        permute_colors: bool = False,
        workers: int = 0,
        local_indices: Sequence[int] | None = None,
    ):
        load = _TrainingImage(
            source,
            resolution,
            seed=seed,
            crop=crop,
            flip=flip,
            reduced_jpeg=reduced_jpeg,
            decoding=decoding,
            permute_colors=permute_colors,
        )
        super().__init__(load, batch_size, workers=workers, local_indices=local_indices)
        self.source, self._bad_records = source, bad_records

    def __next__(self) -> Batch:
        return _finish(super().__next__(), self._bad_records)

    @property
    def num_bad_records(self) -> int:
        """How many records this process has met that cannot be used."""
        return len(self._bad_records)


def record_at(position: int, size: int, seed: int) -> tuple[int, int]:
    """Epoch, and index of the record, at a position of a set of `size`, shuffled in each epoch."""
    epoch, place = divmod(position, size)
    return epoch, index_shuffle(place, size - 1, _shuffle_seed(seed, epoch), rounds=4)


def evaluation_batches(
    source: Sequence[Record],
    batch_size: int,
    *,
    resolution: int,
    crop: str,
    bad_records: BadRecords | None,
    decoding: ImageDecoding = DEFAULT,
    workers: int = 0,
    local_indices: Sequence[int] | None = None,
) -> Iterator[Batch]:
    """Batches that hold each record of the source exactly once, in its order.

    As `TrainingBatches`, and with `name`, strings `[P]`, of the record, the last of it if it is
    long; and `mask`, bool `[P]`: False where a batch is filled up to its size, or a record cannot
    be used. All processes get the same number of batches.

    Args:
      crop: one of `transforms.EVALUATION_CROPS`.
      bad_records: where records that cannot be used are reported; None leaves them out silently.

    The others are those of `TrainingBatches`.

    Raises:
      DataError: while iterating; a record cannot be used, or too many cannot.
    """
    load = _EvaluationImage(source, resolution, crop=crop, decoding=decoding)
    local_indices = range(batch_size) if local_indices is None else local_indices
    batches = _iterate(Positions(batch_size, local_indices), load, len(local_indices), workers)
    with contextlib.closing(batches):
        for _ in range(math.ceil(len(source) / batch_size)):
            yield _finish(next(batches), bad_records)


class _TrainingImage(grain.transforms.Map):
    """Position → image, label and, where a record was bad, what is wrong with it."""

    def __init__(
        self,
        source: Sequence[Record],
        resolution: int,
        *,
        seed: int,
        crop: str,
        flip: bool,
        reduced_jpeg: bool,
        decoding: ImageDecoding,
        permute_colors: bool,
    ):
        self._source, self._resolution, self._seed = source, resolution, seed
        self._crop, self._flip = transforms.TRAINING_CROPS[crop], flip
        self._reduced_jpeg, self._permute_colors = reduced_jpeg, permute_colors
        self._decoding = decoding

    def map(self, position: int) -> Batch:
        size = len(self._source)
        epoch, first = record_at(position, size, self._seed)
        message = ""
        for attempt in range(min(size, MAX_BAD_IN_A_ROW)):
            # A bad record's neighbour stands in: which one that is depends on the record alone.
            try:
                return self._load((first + attempt) % size, epoch) | {"bad": _as_array(message)}
            except DataError as error:
                message = message or str(error)
        rest = f"; nor can the {attempt} records after it be used" if attempt else ""
        raise DataError(f"{message}{rest}; check the files and config.data.path")

    def _load(self, index: int, epoch: int) -> Batch:
        record = self._source[index]
        rng = np.random.default_rng((self._seed, epoch, index))
        with _named(record):
            encoded = EncodedImage(record.data, self._decoding)
            box = self._crop(*encoded.size, rng)
            flip = self._flip and rng.random() < 0.5
            image = transforms.render(
                encoded, box, size=self._resolution, flip=flip, reduced_jpeg=self._reduced_jpeg
            )
            if self._permute_colors:
                image = image[..., rng.permutation(3)]
        return {"image": image, "label": _label(record)}


class _EvaluationImage(grain.transforms.Map):
    """Position → image, label, mask and, where the record is bad, what is wrong with it."""

    def __init__(
        self, source: Sequence[Record], resolution: int, *, crop: str, decoding: ImageDecoding
    ):
        self._source, self._resolution, self._decoding = source, resolution, decoding
        self._crop = transforms.EVALUATION_CROPS[crop]

    def map(self, position: int) -> Batch:
        message = ""
        if position < len(self._source):
            try:
                return self._load(position) | {"mask": np.array(True), "bad": _as_array("")}
            except DataError as error:
                message = str(error)
        empty = np.zeros((self._resolution, self._resolution, 3), np.uint8)
        label, mask, name = np.int32(-1), np.array(False), np.array("", _NAME)
        bad = _as_array(message)
        return {"image": empty, "label": label, "name": name, "mask": mask, "bad": bad}

    def _load(self, index: int) -> Batch:
        record = self._source[index]
        with _named(record):
            encoded = EncodedImage(record.data, self._decoding)
            image = self._crop(encoded.rgb(), self._resolution)
        name = np.array(record.name[-_NAME_LENGTH:], _NAME)
        return {"image": image, "label": _label(record), "name": name}


def _iterate(
    positions: Positions,
    load: grain.transforms.Map | Callable[[int], Batch],
    batch_size: int,
    workers: int,
) -> grain.DatasetIterator:
    dataset = grain.MapDataset.source(positions).map(load).batch(batch_size)
    dataset = dataset.to_iter_dataset(grain.ReadOptions(THREADS, PREFETCHED_BATCHES))
    if workers:
        # multiprocessing's helper ignores the other signals that a terminal sends to the group.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGHUP,))
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        options = grain.MultiprocessingOptions(num_workers=workers)
        dataset = dataset.mp_prefetch(options, _init_worker)
    return iter(dataset)


def _init_worker(index: int, count: int) -> None:
    """A worker leaves signals to the run, which saves, and ends when the run does, or is killed."""
    del index, count
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)  # The run was killed: nobody reads what this worker makes.


def _finish(batch: Batch, bad_records: BadRecords | None) -> Batch:
    """The batch in float32, without its messages, which are reported.

    Workers hand over uint8, a quarter of the bytes, in shared memory, which is copied here.
    """
    for message in batch.pop("bad"):
        if message and bad_records is not None:
            bad_records.report(str(message))
    images = np.asarray(batch.pop("image"))
    floats = np.empty(images.shape, np.float32)
    for index, image in enumerate(images):  # one fits into the processor's cache, a batch does not
        floats[index] = transforms.to_float(image)
    return {"image": floats} | {name: np.array(values) for name, values in batch.items()}


def _as_array(message: str) -> np.ndarray:
    """Makes an array of one length: messages of a batch stack, and pass between processes."""
    return np.array(message, dtype="U1000")


def _label(record: Record) -> np.int32:
    return np.int32(-1 if record.label is None else record.label)


@functools.lru_cache(maxsize=4)
def _shuffle_seed(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0])


@contextlib.contextmanager
def _named(record: Record) -> Iterator[None]:
    """Errors inside say which record they are about."""
    try:
        yield
    except DecodeError as error:
        raise DataError(f"{record.name}: not a readable image ({error})") from error
