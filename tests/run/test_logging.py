"""What TensorBoard gets of a run."""

from clu import metric_writers
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from epsilon_vae.run.logging import RunLog


def test_events_beyond_the_step_resumed_from_are_purged(tmp_path):
    def steps() -> list[int]:
        files = sorted(tmp_path.glob("events.out.tfevents.*"))
        return [
            event.step
            for file in files
            for event in EventFileLoader(str(file)).Load()
            if event.HasField("summary")
        ]

    for part in (range(1, 4), range(3, 6)):
        writer = metric_writers.SummaryWriter(str(tmp_path))
        for step in part:
            writer.write_scalars(step, {"loss": 1 / step})
        writer.flush()
    for file in tmp_path.iterdir():
        file.write_bytes(file.read_bytes() + b"half")  # of an event, as a kill leaves it
    RunLog(str(tmp_path), ["loss"], start_step=3, num_steps=9, heartbeat=None).close()
    assert steps() == [1, 2, 3, 3]
    RunLog(str(tmp_path), ["loss"], start_step=0, num_steps=9, heartbeat=None).close()
    assert steps() == []
